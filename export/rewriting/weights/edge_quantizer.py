"""EdgeQuantizer: a recipe of AI Edge Quantizer, which another Python applies to a float file."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tfprune.export.device.processes.child_process import run_program
from tfprune.export.device.processes.job_files import write_job
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import with_values_inside
from tfprune.export.file.tflite.model import Model, Tensor
from tfprune.export.rewriting.weights import edge_quantizer_child as child

TIMEOUT = 3600.0  # seconds; GPTQ on a large network takes minutes
RECIPE_NAME = re.compile(r"\w{1,100}")
BITS = {"INT8": 8, "INT4": 4, "INT2": 2}  # of weights in blocks, by their types in the format
INSTALL = (
    "Make an environment for it: python -m venv edge; edge/bin/pip install ai-edge-quantizer, and give "
    "edge/bin/python as its Python"
)


@dataclass(frozen=True)
class EdgeQuantizer:
    """A recipe of AI Edge Quantizer, as the number format of a file.

    Pass it as `quantize=` to `to_tflite`, or in `Search(formats=...)` to `compress`, for formats that tfprune does
    not have, such as 4-bit weights with a scale for each block. The package runs in a process of its own, and may be
    installed in another environment. The file that comes back is refused if a zero of a weight is not a zero there,
    or if its outputs differ too much.

    Args:
        recipe: The name of a recipe of the package, such as `"dynamic_wi4b32_afp32"`, or a recipe as its JSON files
            hold it: a list of dicts with `"regex"`, `"operation"`, `"algorithm_key"` and `"op_config"`.
        python: The path of the Python that has the package, such as `"edge/bin/python"`. None (the default) is the
            one that runs now.

    Raises:
        TypeError: If `recipe` is neither a name nor a list of dicts, or `python` is not a string.
        ValueError: If `recipe` is not the name of a recipe, is empty, or is not JSON.

    Example:
        >>> EdgeQuantizer("dynamic_wi4b32_afp32", python="edge/bin/python").name
        'dynamic_wi4b32_afp32'
    """

    recipe: str | Sequence[Mapping[str, Any]]
    python: str | None = None

    # What other number formats may have.
    scheme: ClassVar[str] = "recipe"
    levels: ClassVar[None] = None
    skip: ClassVar[None] = None
    allow_float: ClassVar[bool] = False

    def __post_init__(self) -> None:
        is_list = isinstance(self.recipe, Sequence) and all(isinstance(entry, Mapping) for entry in self.recipe)
        if not (isinstance(self.recipe, str) or is_list):
            raise TypeError(
                f"Expected `recipe` to be a name, or a list of dicts. Received: recipe={self.recipe!r} of type "
                f"{type(self.recipe).__name__}. Read a recipe in a file with json.load."
            )
        if not isinstance(self.python, str | None):
            raise TypeError(f"Expected `python` to be the path of a Python. Received: python={self.python!r}.")
        if not self.recipe or (isinstance(self.recipe, str) and not RECIPE_NAME.fullmatch(self.recipe)):
            raise ValueError(
                f"Expected the name of a recipe, such as 'dynamic_wi4_afp32', or a list of dicts. Received: "
                f"recipe={self.recipe!r}. Read a recipe in a file with json.load."
            )
        try:
            json.dumps(self.recipe)
        except TypeError as error:
            raise ValueError(f"Expected a recipe of values that JSON has. Received: {error}. Change them.") from error

    @property
    def name(self) -> str:
        """The name of the recipe, or `recipe`."""
        return self.recipe if isinstance(self.recipe, str) else self.scheme


def edge_quantized(form: EdgeQuantizer, file: ModelFile, *, samples: Sequence[Mapping[str, np.ndarray]]) -> ModelFile:
    """Quantize a float file.

    Args:
        form: The recipe, and the Python that has the package.
        file: The file.
        samples: Calibration data, a dict of arrays by input for each run; empty for a recipe without need of it.

    Returns:
        The new file, in which each zero of a weight is a zero.

    Raises:
        ValueError: If the Python or the package is missing, the recipe is refused or changes no weight, or zeros
            are lost.
    """
    signature = next(iter(file.signatures), "")
    settings = {"recipe": form.recipe, "samples": len(samples), "signature": signature}
    arrays = {f"{row}/{name}": array for row, sample in enumerate(samples) for name, array in sample.items()}
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        Path(folder, child.FLOAT).write_bytes(file.content)
        write_job(folder, child.JOB, settings=settings, arrays=arrays)
        result = _run_recipe(form, Path(folder))
    quantized = ModelFile(with_values_inside(result)).after(_make_scales_positive)
    _check(form, file.graph, quantized.graph)
    return quantized


def _run_recipe(form: EdgeQuantizer, folder: Path) -> bytes:
    python = form.python or sys.executable
    command = [python, "-I", child.__file__, str(folder)]  # without the packages of this environment
    try:
        completed = run_program(command, folder, timeout=TIMEOUT)
    except OSError as error:
        raise ValueError(
            f"Expected a Python that has AI Edge Quantizer. Received: {python!r}: {error.strerror}. {INSTALL}."
        ) from error
    if completed.ok:
        return Path(folder, child.QUANTIZED).read_bytes()
    reason = completed.reason.strip().rstrip(".")
    if reason.startswith("Expected"):
        raise ValueError(f"{reason}. Nothing was written.")
    if "No module named" in reason:
        raise ValueError(f"Expected a Python that has AI Edge Quantizer. Received: {python!r}: {reason}. {INSTALL}.")
    raise ValueError(
        f"Expected a recipe that AI Edge Quantizer takes for this model. Received: {form.name!r}: "
        f"{reason}. Nothing was written."
    )


def _check(form: EdgeQuantizer, before: Model, after: Model) -> None:
    """Refuse a file with the weights as they were, or without all of their zeros."""
    if {weight.dtype for weight in after.weights} <= {weight.dtype for weight in before.weights}:
        raise ValueError(
            f"Expected a recipe that quantizes a weight of the model. Received: {form.name!r}, which leaves all "
            f"in floats: the package has no kernel for such weights. Nothing was written. Try another granularity."
        )
    if lost := lost_zeros(before, after):
        raise ValueError(
            f"Expected a recipe that keeps the zeros of the weights. Received: {form.name!r}: {'; '.join(lost)}. "
            f"Nothing was written. Algorithms that rotate weights lose zeros, and GPTQ may: take "
            f"'min_max_uniform_quantize', 'OCTAV' or 'OSCAR' as the algorithm."
        )


def lost_zeros(before: Model, after: Model) -> list[str]:
    """Find weights whose zeros are not zeros in another file, entry by entry.

    Args:
        before: A file.
        after: Another one, with weights of the same names.

    Returns:
        One sentence for each weight that lost zeros; empty if none did.
    """
    named = {tensor.name: tensor for part in after.subgraphs for tensor in part.tensors if tensor.weight}
    problems = []
    for weight in before.weights:
        zeros = weight.size - (weight.nnz or 0)
        other = named.get(weight.name)
        if not zeros:
            continue
        if other is None or other.size != weight.size:
            problems.append(f"weight {weight.name!r} with {zeros:,} zeros is not there")
        elif count := int(np.count_nonzero(_marks(other) & ~_marks(weight))):
            problems.append(f"weight {weight.name!r} has {zeros:,} zeros, of which {count:,} are lost")
    return problems


def _marks(weight: Tensor) -> np.ndarray:
    """Tell for each entry of a weight whether it is not zero."""
    marks = np.zeros(weight.size, bool)
    for positions, _ in weight.values.pieces() if weight.values is not None else ():
        marks[positions] = True
    return marks


def _make_scales_positive(model: schema.ModelT) -> bool:
    """Give blocks of zeros the scale 1: the package gives them 0, which XNNPACK does not take.

    Their integers become 0; the package has divided by the scale.
    """
    kind = schema.QuantizationDetails.BlockwiseQuantization
    widths = {getattr(schema.TensorType, name, None): bits for name, bits in BITS.items()}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.quantization is None or tensor.quantization.detailsType != kind or tensor.type not in widths:
                continue
            details = tensor.quantization.details
            buffer, scales = (model.buffers[each] for each in (tensor.buffer, graph.tensors[details.scales].buffer))
            values = np.asarray(scales.data).view("<f2").copy()
            empty = ~(values > 0)
            integers = np.asarray(buffer.data).reshape(-1, details.blockSize * widths[tensor.type] // 8).copy()
            integers[empty], values[empty] = 0, 1
            buffer.data, scales.data = integers.ravel(), values.view(np.uint8)
    return True
