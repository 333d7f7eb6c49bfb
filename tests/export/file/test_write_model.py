"""Files that are written array by array: what comes back is what `save_objects` would have packed."""

import numpy as np
import pytest
from file_graphs import FileGraph

from tfprune.export import Runner
from tfprune.export.file import container
from tfprune.export.file.document import load_objects
from tfprune.export.file.reader import long_vectors, read


@pytest.fixture
def file():
    graph = FileGraph(0)
    graph.content(graph.dense(graph.flatten(graph.convolution(graph.input, 5)), 7))
    return graph


def test_the_same_file_as_packed_at_once(file, tmp_path):
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    packed = file.content(*file.graph.outputs)
    container.write_model(file.model, tmp_path / "model.tflite")
    written = (tmp_path / "model.tflite").read_bytes()
    assert read(written) == read(packed)
    for ours, theirs in zip(load_objects(written).buffers, load_objects(packed).buffers, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)
    np.testing.assert_array_equal(Runner(written).predict(x), Runner(packed).predict(x))
    weights = long_vectors(written, smallest=500)
    assert len(weights) == 2 and all(vector.start % 16 == 0 for vector in weights)


def test_arrays_of_any_layout(file, tmp_path):
    tensor = max(file.graph.tensors, key=lambda each: np.prod(each.shape) * bool(each.buffer))
    rows = np.asarray(file.model.buffers[tensor.buffer].data).view("<f4").reshape(tensor.shape)
    packed = file.content(*file.graph.outputs)
    file.model.buffers[tensor.buffer].data = np.asfortranarray(rows)
    container.write_model(file.model, tmp_path / "model.tflite")
    data = load_objects((tmp_path / "model.tflite").read_bytes()).buffers[tensor.buffer].data
    np.testing.assert_array_equal(data, load_objects(packed).buffers[tensor.buffer].data)


def test_a_file_above_the_limit_is_not_begun(file, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "LARGEST_FILE", 9000)
    with pytest.raises(ValueError, match=r"less than 2 GB. Received: one of 0\.00 GB"):
        container.write_model(file.model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
