"""Fix the batch of a .tflite file: the shapes of its tensors, and the numbers that it computes from shapes only.

LiteRT.js cannot resize an input. Nor can it bind an output whose shape is computed while the model runs, as by the
RESHAPE at the end of Keras' MobileNet: it then returns zeros without an error. So shapes become constants.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.interpreter import interpreter_module
from tfprune.export.device.processes.child_process import run_job
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.quantization_error import plain_interpreter
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import TensorInfo, open_batch, shape_text
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import add_values, numbers_operators, operator_name
from tfprune.export.rewriting.shapes.one_pixel import lengths_of, shape_of

MODEL, FIXED = "model.tflite", "fixed.tflite"
TIMEOUT = 600.0  # seconds for two runs of the file
MOST_NUMBERS = 4096  # in a constant that is computed from shapes
SOURCES = {"SHAPE", "RANK"}
# Operators of shapes: they draw no random numbers and keep no state.
OF_SHAPES = {
    *("STRIDED_SLICE", "SLICE", "PACK", "UNPACK", "CONCATENATION", "GATHER", "GATHER_ND", "SPLIT", "REVERSE_V2"),
    *("CAST", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "TILE", "FILL", "BROADCAST_TO", "BROADCAST_ARGS"),
    *("ADD", "SUB", "MUL", "DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM", "NEG", "ABS", "RANGE"),
    *("REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "SUM", "SELECT", "SELECT_V2", "PAD", "PADV2"),
    *("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"),
    *("LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT"),
}
ADVICE = "Convert the model again with this batch."

Tensors = dict[tuple[int, int], np.ndarray]  # by the number of the graph, and where in it


def check_batch(file: ModelFile, batch: int) -> None:
    """Refuse a file that takes another number of samples at once.

    Raises:
        ValueError: Naming the inputs.
    """
    for _, infos in _starts(file):
        wrong = [info for info in infos if info.shape and info.shape[0] != batch]
        if wrong and not open_batch(infos):
            named = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in wrong)
            raise ValueError(
                f"Expected a file that leaves its batch open, or has a batch of {batch}. Received: "
                f"batch={batch}, and a file with the inputs {named}. {ADVICE}"
            )


def fix_batch(file: ModelFile, batch: int) -> ModelFile:
    """Fix the batch of all signatures that leave it open.

    The file runs twice on inputs of this batch, in a process of its own. Every tensor gets the shape that it has
    there, and numbers that depend on shapes only become constants.

    Args:
        file: The file.
        batch: The number of samples that the new file takes at once.

    Returns:
        The next file; the one given where no batch is open.

    Raises:
        ValueError: If another dimension is open, the file does not run with this batch, or a shape depends on the
            values of the inputs.
    """
    infos = [info for _, each in _starts(file) for info in each]
    if not open_batch(infos):
        return file
    others = [info for info in infos if None in info.shape[1:]]
    if others:
        named = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in others)
        raise ValueError(
            f"Expected a file whose batch alone is open. Received: a file with the inputs {named}. Convert the model "
            "again with fixed lengths."
        )
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        Path(folder, MODEL).write_bytes(file.content)
        write_job(folder, "job", settings={"batch": batch})
        completed = run_job(_run_job, folder, timeout=TIMEOUT, package=interpreter_module())
        if not completed.ok:
            raise ValueError(
                f"Expected a file whose batch can be fixed. Received: batch={batch}, with which this happens: "
                f"{completed.reason}. {ADVICE}"
            )
        return ModelFile(Path(folder, FIXED).read_bytes())


def _starts(file: ModelFile) -> Iterator[tuple[int, tuple[TensorInfo, ...]]]:
    """Yield the graphs that the file or a signature starts at, and their inputs."""
    yield 0, file.graph.inputs
    for signature, number in file.signatures.items():
        if number:
            yield number, file.starting_at(signature).graph.inputs


def _with_batch(file: ModelFile, batch: int) -> ModelFile:
    model = file.objects()
    if numbers_operators(model):
        raise ValueError("its metadata name operators by number, which would change.")
    tensors_of_runs = _tensors_of_runs(file, batch)
    for number, graph in enumerate(model.subgraphs):
        tensors = {index: array for (which, index), array in tensors_of_runs.items() if which == number}
        _fold(model, graph, tensors)
        _fix_shapes(model, graph, tensors)
    return file.saved(model)


def _tensors_of_runs(file: ModelFile, batch: int) -> Tensors:
    """Return the tensors of two runs of each signature, of zeros and of random numbers, whose shapes are alike."""
    numbers = {number: signature for signature, number in file.signatures.items()}
    tensors: Tensors = {}
    for first in sorted({0, *numbers}):
        start = file.starting_at(numbers[first]) if first else file
        of_zeros, of_random = (_run(start, batch, draw=draw) for draw in (np.zeros, _random))
        for number, index in sorted(of_zeros.keys() | of_random.keys()):
            before, array = (run.get((number, index)) for run in (of_zeros, of_random))
            if before is None or array is None or before.shape != array.shape:
                name = start.graph.subgraphs[number].tensors[index].name
                raise ValueError(f"the shape of {name!r} depends on the values of the inputs.")
            tensors[number or first, index] = array
    return tensors


def _run(file: ModelFile, batch: int, *, draw: Callable[[Any, Any], np.ndarray]) -> Tensors:
    """Run a file from its first graph on; return its tensors, large ones as views of one number."""
    interpreter = plain_interpreter(file.content, experimental_preserve_all_tensors=True)
    for detail in interpreter.get_input_details():
        lengths = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
        shape = [batch if length < 0 else int(length) for length in lengths]
        interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], draw(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    tensors: Tensors = {}
    for number, graph in enumerate(file.graph.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            array = None if tensor.constant else _tensor(interpreter, index, number)
            if array is not None:
                is_small = array.size <= MOST_NUMBERS
                tensors[number, index] = array if is_small else np.broadcast_to(array.dtype.type(), array.shape)
    return tensors


def _tensor(interpreter: Any, index: int, number: int) -> np.ndarray | None:
    try:
        return interpreter.get_tensor(index, number)
    except ValueError:  # a graph that did not run, or an output that nothing reads
        return None


def _random(shape: Any, dtype: Any) -> np.ndarray:
    generator = np.random.default_rng(0)
    floats = np.dtype(dtype).kind == "f"
    return (generator.random(shape) if floats else generator.integers(0, 2, shape)).astype(dtype)


def _fold(model: schema.ModelT, graph: schema.SubGraphT, tensors: dict[int, np.ndarray]) -> None:
    """Turn what operators compute from shapes only into constants, and take out these operators."""
    border, results, operators = {*indices_of(graph.inputs), *indices_of(graph.outputs)}, set[int](), []
    constants = {index for index, tensor in enumerate(graph.tensors) if _is_constant(model, tensor)}
    for operator in graph.operators or ():
        kind = operator_name(model, operator)
        inputs, outputs = {*indices_of(operator.inputs)}, {*indices_of(operator.outputs)}
        of_shapes = kind in OF_SHAPES and inputs & results and inputs <= constants
        fits = all(index in tensors and tensors[index].size <= MOST_NUMBERS for index in outputs)
        if not (kind in SOURCES or of_shapes) or outputs & border or not fits:
            operators.append(operator)
            continue
        for index in outputs:
            graph.tensors[index].buffer = add_values(model, tensors[index])
        results |= outputs
        constants |= outputs
    graph.operators = operators


def _fix_shapes(model: schema.ModelT, graph: schema.SubGraphT, tensors: dict[int, np.ndarray]) -> None:
    read_ones = {index for operator in graph.operators for index in indices_of(operator.inputs)}
    read_ones.update(indices_of(graph.outputs))
    for index, tensor in enumerate(graph.tensors):
        if index in tensors and shape_of(tensor) != [*tensors[index].shape]:
            tensor.shape = np.array(tensors[index].shape, np.int32)
        elif index not in tensors and index in read_ones and -1 in lengths_of(tensor):
            raise ValueError(f"no run shows the shape of {(tensor.name or b'').decode()!r}.")
        tensor.shapeSignature = None


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0 and not tensor.isVariable


def _check_outputs(file: ModelFile) -> None:
    """Refuse an output whose shape is not known before the file runs."""
    for signature, number in ({"": 0} | file.signatures).items():
        interpreter = plain_interpreter(file.starting_at(signature if number else "").content)
        interpreter.allocate_tensors()
        for detail in interpreter.get_output_details():
            if _tensor(interpreter, detail["index"], 0) is None:
                raise ValueError(f"the output {detail['name']!r} gets its shape while the model runs.")


def _run_job(folder: Path) -> None:
    file = _with_batch(ModelFile.open(folder / MODEL), read_job(folder, "job")[0]["batch"])
    _check_outputs(file)
    (folder / FIXED).write_bytes(file.content)
