"""Eight- and four-bit weights of a float file: values by hand, and the file's own scores."""

from __future__ import annotations

import numpy as np
import pytest

from tfprune.export.device.writer_file import InterpretedFile, Signatures
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import read
from tfprune.export.rewriting import weights

pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra `hub`)")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(weights, "_LEAST_ENTRIES", 256)


def quantized(data, bits=8):
    model = load_objects(data)
    weights.narrow_weights(model, bits=bits)
    return save_objects(model)


def scores(path, tokens):
    text = Signatures(InterpretedFile(str(path), threads=1)).begin()
    text.prefill(tokens[:-1])
    return text.decode(tokens[-1])


def test_all_matrices_of_a_language_model(writer, small, tmp_path):
    before, after = read(writer.read_bytes()), quantized(writer.read_bytes())
    matrices = {tensor.shape for tensor in before.weights if len(tensor.shape) == 2 and tensor.size >= 256}
    eight = [tensor for tensor in read(after).weights if tensor.dtype == "int8"]
    assert {tensor.shape for tensor in eight} == matrices
    assert sum(tensor.shape[0] == 50 for tensor in eight) == 1, "the vocabulary is one tensor"
    assert read(after).ops["EMBEDDING_LOOKUP"] == before.ops["GATHER"]
    (tmp_path / "int8.tflite").write_bytes(after)
    expected, int8_scores = scores(writer, [3, 9, 2]), scores(tmp_path / "int8.tflite", [3, 9, 2])
    assert 0 < np.abs(int8_scores - expected).max() < 0.05 * np.abs(expected).max()


def vocabulary(data):
    """Return the values of the largest table, and its scales."""
    model = load_objects(data)
    tensors = [each for each in model.subgraphs[0].tensors if each.shape is not None]
    tensor = next(each for each in tensors if list(each.shape) == [50, 16])
    values = np.asarray(model.buffers[tensor.buffer].data)
    return values, np.asarray(tensor.quantization.scale if tensor.quantization else None)


def test_each_row_has_its_own_scale(writer, small):
    rows = vocabulary(writer.read_bytes())[0].view("<f4").reshape(50, 16)
    integers, scales = vocabulary(quantized(writer.read_bytes()))
    integers = integers.view(np.int8).reshape(50, 16)
    np.testing.assert_allclose(scales, np.abs(rows).max(axis=1) / 127, rtol=1e-6)
    assert (np.abs(integers).max(axis=1) == 127).all()
    assert (np.abs(integers * scales[:, None] - rows) <= scales[:, None] * 0.501).all()


def test_small_weights_stay(writer):
    assert not [tensor for tensor in read(quantized(writer.read_bytes())).weights if tensor.dtype == "int8"]


def test_four_bits_have_a_scale_for_each_block(writer, small, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_BLOCK", 16)  # the vocabulary has rows of 16
    rows = vocabulary(writer.read_bytes())[0].view("<f4").reshape(-1, 16)
    model = load_objects(quantized(writer.read_bytes(), bits=4))
    graph = model.subgraphs[0]
    tensor = next(each for each in graph.tensors if each.shape is not None and list(each.shape) == [50, 16])
    data = np.asarray(model.buffers[tensor.buffer].data)
    halves = np.stack([data & 15, data >> 4], axis=1).reshape(-1, 16).astype(int)
    integers = np.where(halves > 7, halves - 16, halves)
    details = tensor.quantization.details
    scales = np.asarray(model.buffers[graph.tensors[details.scales].buffer].data).view(np.float16).astype(float)
    assert details.blockSize == 16 and list(graph.tensors[details.scales].shape) == [50, 1]
    largest = np.abs(rows).max(axis=1)
    assert (np.abs(integers) <= 7).all() and (scales >= 0.49 * largest / 7).all()
    error = np.square(integers * scales[:, None] - rows).sum(axis=1)
    step = largest[:, None] / 7
    assert (error <= np.square(np.rint(rows / step) * step - rows).sum(axis=1) * 1.1).all()
