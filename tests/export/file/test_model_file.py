"""A file that is opened once. The truth is what the functions that it stands for say of the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from tfprune.export import to_tflite
from tfprune.export.device.runner import Runner
from tfprune.export.file import container as door
from tfprune.export.file import model_file as module
from tfprune.export.file.container import encode
from tfprune.export.file.document import _CONTROL_DEPENDENCIES, load_objects, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read


@pytest.fixture
def counted(monkeypatch):
    """Count how often a file is parsed, and how often its structure is checked."""
    counts = {"parses": 0, "checks": 0}

    def watched(kind, function):
        def call(*args, **kwargs):
            counts[kind] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(module, "read", watched("parses", module.read))
    monkeypatch.setattr(door, "check_structure", watched("checks", door.check_structure))
    return counts


def test_what_a_file_holds_is_read_once(cases, counted):
    file = ModelFile.open(encode(cases["dense"].data, "gzip"))
    assert file.content == cases["dense"].data
    assert counted == {"parses": 0, "checks": 1}
    assert file.graph == read(cases["dense"].data)
    assert (file.signatures, file.inference.active) == ({"serving_default": 0}, False)
    assert ModelFile.open(file) is file
    file.objects(), file.checked()
    assert counted == {"parses": 1, "checks": 1}


def test_an_edit_gives_the_next_file_and_leaves_the_one_before(cases):
    case = cases["dense"]
    file = ModelFile.open(case.data)
    with file.edit() as edit:
        for buffer in edit.model.buffers:
            buffer.data = None if buffer.data is None else np.zeros_like(buffer.data)
    assert file.content == case.data
    assert edit.file.graph.ops == file.graph.ops
    assert {weight.nnz for weight in edit.file.graph.weights} == {0}
    assert not np.any(Runner(edit.file.content).predict(case.inputs))


def test_passes_run_in_order_on_one_open_file(cases, counted):
    file, seen = ModelFile.open(cases["int8"].data), []

    def first(model):
        seen.append(model)
        return False

    assert file.after(first) is file
    after = file.after(first, lambda model: not seen.append(model))
    assert seen[1] is seen[2]
    assert after.graph == ModelFile(save_objects(load_objects(after.content))).graph
    assert counted["checks"] == 1


def test_a_file_that_names_operators_by_number_keeps_them(cases):
    model = load_objects(cases["int8"].data)
    model.metadata[0].name = _CONTROL_DEPENDENCIES
    file = ModelFile.open(save_objects(model))
    assert file.after(lambda model: pytest.fail("no pass may run")) is file


def test_what_an_edit_breaks_is_refused_before_it_is_written(cases):
    file = ModelFile.open(cases["dense"].data)
    with file.edit() as edit:
        (tensor,) = (each for each in edit.model.subgraphs[0].tensors if each.buffer == _largest(edit.model))
        edit.model.subgraphs[0].operators[0].outputs = np.array(
            [edit.model.subgraphs[0].tensors.index(tensor)], np.int32
        )
    with pytest.raises(ValueError, match=r"Expected a whole TFLite file.*writes over tensor"):
        edit.file.checked()


def test_damage_is_refused_at_the_door_and_by_each_reader(cases):
    data = cases["dense"].data
    with pytest.raises(ValueError, match="damaged or cut short"):
        ModelFile.open(data[: len(data) // 2])
    cut = ModelFile(data[: len(data) // 2])  # as if it had come in by another way
    for use in (lambda: cut.graph, cut.objects, cut.checked, lambda: cut.after(lambda model: True)):
        with pytest.raises(ValueError, match="Expected a whole TFLite file"):
            use()
    with pytest.raises(TypeError, match="path of a TFLite file"):
        ModelFile.open(3)


@pytest.mark.parametrize(("quantize", "most"), [(None, 4), ("int8", 7)])
def test_an_export_reads_each_file_once(tmp_path, counted, quantize, most):
    import keras

    import tfprune

    keras.utils.set_random_seed(0)
    model = tfprune.wrap(
        keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
    )
    tfprune.update_masks(model, 0.9)
    samples = np.random.default_rng(0).random((16, 64), dtype=np.float32)
    calibration = samples if quantize else None
    to_tflite(model, tmp_path / "a.tflite", quantize=quantize, calibration=calibration, check_on=samples)
    assert 2 <= counted["parses"] + counted["checks"] <= most


def _largest(model):
    return max(range(len(model.buffers)), key=lambda index: np.size(model.buffers[index].data))
