"""add_metadata. The truth is the zip of the standard library, and what inspect, Runner and flatbuffers read."""

import io
import zipfile

import numpy as np
import pytest

from tfprune.export.device.runner import Runner
from tfprune.export.file.container import read_model
from tfprune.export.file.document import (
    ENTRY,
    MetadataTable,
    load_objects,
    read_metadata,
    read_model_metadata,
    save_objects,
    with_metadata,
    write_model_metadata,
)
from tfprune.export.file.inspect import inspect
from tfprune.export.file.report import make_archive, read_archive
from tfprune.export.rewriting.share_weights import add_metadata

NAMES = ["cat", "a élan", "dog"]


def archive_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        return {name: archive.read(name) for name in archive.namelist()}


def fields_of(content, side, index=0):
    (graph,) = read_model_metadata(read_metadata(content)[ENTRY]).tables("subgraph_metadata")
    return graph.tables(f"{side}_tensor_metadata")[index].fields


@pytest.fixture(scope="module")
def classifier(cases):
    """Return the file of a float input of 8 x 8 x 3 with three outputs, and inputs."""
    export = cases["int8_float_io"]
    assert [info.shape for info in inspect(export.data).inputs] == [(None, 8, 8, 3)]
    return export


def written(tmp_path, source, name="labeled.tflite", **arguments):
    add_metadata(source, tmp_path / name, **arguments)
    return read_model(tmp_path / name)


def names_for(content, of=0):
    return [f"class {index}" for index in range(inspect(content).outputs[of].shape[-1])]


def test_labels_and_normalization_are_written_and_read(classifier, tmp_path):
    content = written(tmp_path, classifier.data, class_names=NAMES, mean=127.5, std=[64, 32, 16])
    assert archive_of(content) == {"labels.txt": "cat\na élan\ndog\n".encode()}
    taken, made = fields_of(content, "input"), fields_of(content, "output")
    assert taken["content"].fields["content_properties"].kind == "ImageProperties"
    properties = taken["content"].fields["content_properties"].fields
    assert properties["color_space"] == 1 and properties["default_size"].fields == {"width": 8, "height": 8}
    (unit,) = taken["process_units"]
    assert unit.fields["options"].fields["mean"].tolist() == [127.5] * 3
    np.testing.assert_allclose(taken["stats"].fields["max"], 127.5 / np.array([64, 32, 16]))
    np.testing.assert_allclose(taken["stats"].fields["min"], -127.5 / np.array([64, 32, 16]))
    (labels,) = made["associated_files"]
    assert (labels.fields["name"], labels.fields["type"]) == (b"labels.txt", 2)
    report = inspect(content)
    assert [*report.labels.values()] == [tuple(NAMES)] and not report.metadata_problem
    assert [*report.normalization.values()] == [((127.5,) * 3, (64.0, 32.0, 16.0))]
    assert "output_0: 3, 'cat' to 'dog'" in str(report)
    np.testing.assert_array_equal(
        Runner(content).predict(classifier.inputs[:1]), Runner(classifier.data).predict(classifier.inputs[:1])
    )


def test_other_metadata_and_files_stay_and_labels_are_replaced(classifier, tmp_path):
    model = load_objects(with_metadata(classifier.data, {"extra": b"\x07"}))
    model.archive = make_archive({"notes.txt": b"kept", "old.txt": b"x\n"})
    old = MetadataTable("AssociatedFile", {"name": b"old.txt", "type": 2, "locale": b"fr"})
    table = MetadataTable("TensorMetadata", {"name": b"scores", "associated_files": [old]})
    taken = MetadataTable("TensorMetadata", {"description": b"a photo"})
    graph = MetadataTable("SubGraphMetadata", {"input_tensor_metadata": [taken], "output_tensor_metadata": [table]})
    root = MetadataTable("ModelMetadata", {"author": b"somebody", "subgraph_metadata": [graph]})
    described = with_metadata(save_objects(model), {ENTRY: write_model_metadata(root)})
    names = names_for(classifier.data)
    content = written(tmp_path, described, class_names=names)
    assert {*archive_of(content)} == {"notes.txt", "labels.txt"} and archive_of(content)["notes.txt"] == b"kept"
    assert read_metadata(content)["extra"] == b"\x07"
    root = read_model_metadata(read_metadata(content)[ENTRY])
    assert root.fields["author"] == b"somebody" and root.fields["min_parser_version"] == b"1.5.0"
    assert fields_of(content, "output")["name"] == b"scores"
    assert fields_of(content, "input")["description"] == b"a photo"
    again = written(tmp_path, content, "again.tflite", class_names=names[::-1], mean=0, std=255)
    assert [*inspect(again).labels.values()] == [tuple(names[::-1])]
    assert {*archive_of(again)} == {"notes.txt", "labels.txt"}
    third = written(tmp_path, again, "third.tflite", mean=1, std=2)
    assert inspect(third).labels == inspect(again).labels
    assert [*inspect(third).normalization.values()] == [((1.0,), (2.0,))]
    assert len(load_objects(third).buffers) == len(load_objects(content).buffers)


def test_outputs_are_chosen_by_name_or_index_and_each_has_its_labels(cases, tmp_path):
    content, outputs = cases["two"].data, inspect(cases["two"].data).outputs
    assert len(outputs) == 2
    first, second = (names_for(content, of=index) for index in (0, 1))
    content = written(tmp_path, content, class_names=first, output=0)
    content = written(tmp_path, content, class_names=second, output=outputs[1].name)
    assert inspect(content).labels == {outputs[0].name: tuple(first), outputs[1].name: tuple(second)}
    assert len(archive_of(content)) == 2
    with pytest.raises(ValueError, match="choose one of the outputs"):
        add_metadata(content, tmp_path / "x.tflite", class_names=first)
    with pytest.raises(ValueError, match="one input"):
        add_metadata(content, tmp_path / "x.tflite", mean=0, std=1)


@pytest.mark.parametrize("suffix", [".tfz", ".gz"])
def test_the_suffix_says_how_the_file_is_packed(classifier, tmp_path, suffix):
    plain = written(tmp_path, classifier.data, mean=0, std=1)
    assert written(tmp_path, classifier.data, f"packed{suffix}", mean=0, std=1) == plain
    assert (tmp_path / f"packed{suffix}").read_bytes()[:4] != plain[:4]


def test_integer_images(cases, tmp_path):
    content = written(tmp_path, cases["int8"].data, mean=127.5, std=127.5)
    taken = fields_of(content, "input")
    assert "stats" not in taken and taken["content"].fields["content_properties"].kind == "ImageProperties"
    vectors = written(tmp_path, cases["dense"].data, mean=1, std=2)
    assert fields_of(vectors, "input")["content"].fields["content_properties"].kind == "FeatureProperties"


WRONG = {
    "nothing": ({}, ValueError, "none of them"),
    "too few": ({"class_names": ["a"]}, ValueError, "Received: 1 names"),
    "one text": ({"class_names": "abcd"}, TypeError, "a list of strings"),
    "numbers": ({"class_names": [1, 2, 3, 4]}, TypeError, "a list of strings"),
    "line break": ({"class_names": ["a\n", "b", "c"]}, ValueError, "texts of one line"),
    "separator": ({"class_names": ["a\u2028b", "b", "c"]}, ValueError, "texts of one line"),
    "empty": ({"class_names": ["a", "", "c"]}, ValueError, "at index 1"),
    "surrogate": ({"class_names": ["a", "\ud800", "c"]}, ValueError, "UTF-8"),
    "mean alone": ({"mean": 1}, ValueError, "Expected both"),
    "std of 0": ({"mean": 1, "std": 0}, ValueError, "std"),
    "negative std": ({"mean": 1, "std": [1, -1, 1]}, ValueError, "std"),
    "std too small": ({"mean": 1, "std": 1e-60}, ValueError, "float32"),
    "mean too large": ({"mean": 1e60, "std": 1}, ValueError, "float32"),
    "not a number": ({"mean": float("nan"), "std": 1}, ValueError, "a number"),
    "text": ({"mean": "1", "std": 1}, TypeError, "mean"),
    "two channels": ({"mean": [1, 2], "std": 1}, ValueError, "3 channels"),
    "no channels": ({"mean": [], "std": 1}, ValueError, "3 channels"),
    "output alone": ({"mean": 1, "std": 1, "output": 0}, ValueError, "class_names"),
    "no such output": ({"class_names": ["a"], "output": 7}, ValueError, "choose one of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_and_nothing_is_written(classifier, tmp_path, name):
    arguments, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        add_metadata(classifier.data, tmp_path / "x.tflite", **arguments)
    assert not [*tmp_path.iterdir()]


def test_a_path_of_another_kind_of_file_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match=r"Let the path end in .tflite"):
        add_metadata(classifier.data, tmp_path / "model.keras", mean=0, std=1)


def test_damaged_metadata_and_archives_are_refused_and_inspect_says_so(classifier, tmp_path):
    damaged = with_metadata(classifier.data, {ENTRY: b"describes labels.txt"})
    with pytest.raises(ValueError, match="damaged or newer"):
        add_metadata(damaged, tmp_path / "x.tflite", mean=0, std=1)
    assert "damaged or newer" in str(inspect(damaged))
    content = written(tmp_path, classifier.data, class_names=names_for(classifier.data))
    at = content.rindex(b"class 0\n")
    broken = content[:at] + b"CLASS" + content[at + 5 :]
    assert "CRC" in inspect(broken).metadata_problem
    with pytest.raises(ValueError, match="a whole archive"):
        add_metadata(broken, tmp_path / "x.tflite", class_names=names_for(classifier.data))
    model = load_objects(content)
    model.archive = b""
    assert "'labels.txt', which they name, is missing" in inspect(save_objects(model)).metadata_problem


def test_metadata_of_another_graph_are_refused(cases, classifier, tmp_path):
    of_two = written(tmp_path, cases["two"].data, class_names=names_for(cases["two"].data), output=0)
    foreign = with_metadata(classifier.data, {ENTRY: read_metadata(of_two)[ENTRY]})
    with pytest.raises(ValueError, match="an entry for each of its 1 tensors"):
        add_metadata(foreign, tmp_path / "x.tflite", mean=0, std=1)
    assert "they describe 2 of 1 tensors" in inspect(foreign).metadata_problem


def test_archives_that_are_bombs_or_name_a_file_twice_are_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(2**26 + 1))
    with pytest.raises(ValueError, match="67,108,865 bytes, and at most"):
        read_archive(stream.getvalue())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("labels.txt", b"a")
        archive.writestr("labels.txt", b"b")
    with pytest.raises(ValueError, match="twice"):
        read_archive(stream.getvalue())
