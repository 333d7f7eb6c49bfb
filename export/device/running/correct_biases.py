"""Win back what 8 bits moved: each channel of an int8 file gets the mean that it has in the float file."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.inputs import inputs_to_job
from tfprune.export.device.running.quantization_error import FILES, Pair, names_of, run_both
from tfprune.export.file.files.model_file import read_model
from tfprune.export.file.files.source import Source
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import load_with_graph, save_objects
from tfprune.export.file.tflite.model import Operator, Subgraph
from tfprune.export.file.tflite.reader import read

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
CORRECTED = "corrected.tflite"


def correct_biases(reference: Source, quantized: Source, samples: Any) -> bytes:
    """Move the biases of an 8-bit file, so that each channel has the mean that it has in the float file.

    Rounding moves the means of channels, and layers behind them never see the right ones. Use it where
    `quantization_error` shows an error that training did not remove; it needs no training and no labels, and the
    file keeps its size and speed. Layers are corrected in their order, each after those before it. Measure the
    accuracy afterwards.

    Args:
        reference: The float32 file, as `to_tflite(model, path)` writes it: a path or the bytes.
        quantized: The file with 8-bit weights and activations, of the same model.
        samples: About 100 samples of real data, in the forms that `Runner.predict` takes.

    Returns:
        The corrected file. Layers without a bias stay as they are.

    Raises:
        TypeError: If a source is neither a path nor bytes.
        ValueError: If a file cannot be read or does not run, or the two have no layers in common.

    Reference:
        Nagel, M., van Baalen, M., Blankevoort, T. and Welling, M. Data-Free Quantization Through Weight Equalization
        and Bias Correction. ICCV 2019. arXiv:1906.04721, section 4.2.1, on data.

    Example:
        >>> data = correct_biases("digits.tflite", "digits_int8.tflite", images)
        >>> tfprune.export.quantization_error("digits.tflite", data, images).rows[-1].error < 0.1
        True
    """
    contents = [read_model(source) for source in (reference, quantized)]
    form, arrays = inputs_to_job(samples)
    graph, names = read(contents[1]).subgraphs[0], names_of(contents[0])
    if not any(_name(graph, layer, names) for layer in _layers(graph)):
        raise ValueError(
            "Expected a float file and an int8 file of the same model. Received: two without an 8-bit layer in "
            "common. Export both from one model, the second with quantize='int8'."
        )
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        write_job(folder, "job", settings={"form": form}, arrays=arrays)
        run_both(contents, folder, work=_run_job)
        return Path(folder, CORRECTED).read_bytes()


def _layers(graph: Subgraph) -> list[Operator]:
    """Return the layers that compute with 8-bit activations."""
    layers = [operator for operator in graph.operators if operator.name in LAYERS and len(operator.inputs) > 2]
    return [layer for layer in layers if graph.tensors[layer.inputs[0]].dtype == "int8"]


def _name(graph: Subgraph, layer: Operator, names: set[str]) -> str:
    """Return the name that the output of a layer has in the float file, too; an empty string if it has none there."""
    ends = [layer.outputs[0]]
    for operator in graph.operators:
        if operator.name in ("RESHAPE", "DEQUANTIZE") and operator.inputs[0] in ends:
            ends.append(operator.outputs[0])
    return next((graph.tensors[end].name for end in ends if graph.tensors[end].name in names), "")


def _with_bias(graph: Subgraph) -> list[Operator]:
    """Return the layers that have a bias of their own."""
    layers = [layer for layer in _layers(graph) if layer.inputs[2] >= 0]
    uses = Counter(layer.inputs[2] for layer in layers)
    own = [layer for layer in layers if uses[layer.inputs[2]] == 1 and graph.tensors[layer.inputs[2]].constant]
    return [layer for layer in own if graph.tensors[layer.inputs[2]].dtype == "int32"]


def _move(model: schema.ModelT, layer: Operator, difference: np.ndarray) -> None:
    tensor = model.subgraphs[0].tensors[layer.inputs[2]]
    steps = np.rint(difference / tensor.quantization.scale)
    values = np.asarray(model.buffers[tensor.buffer].data).view("<i4") + steps
    limits = np.iinfo(np.int32)
    moved = np.ascontiguousarray(values.clip(limits.min, limits.max).astype("<i4")).view(np.uint8)
    holders = [each for graph in model.subgraphs for each in graph.tensors if each.buffer == tensor.buffer]
    if len(holders) > 1:  # the others keep the old values
        tensor.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
    model.buffers[tensor.buffer].data = moved


def _run_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    reference, quantized = ((folder / name).read_bytes() for name in FILES)
    whole, model = load_with_graph(quantized)
    graph, names = whole.subgraphs[0], names_of(reference)
    for layer in _with_bias(graph):
        name = _name(graph, layer, names)
        total, rows = np.zeros(1), 0
        for _, right, outputs, _ in Pair(reference, save_objects(model)).compared(
            settings["form"], arrays, {name} - {""}
        ):
            channels = right.shape[-1]
            total = total + (right.astype(np.float64) - outputs.reshape(right.shape)).reshape(-1, channels).sum(
                axis=0
            )
            rows += right.size // channels
        if rows:
            _move(model, layer, total / rows)
    (folder / CORRECTED).write_bytes(save_objects(model))
