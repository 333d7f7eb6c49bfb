"""Labels and metadata of a file stay in what each function makes of it. The truth is the standard library's zip."""

import inspect as python_inspect
import io
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
from tiers import in_test_ci

from tfprune import export
from tfprune.export.file.container import read_model
from tfprune.export.file.document import read_metadata, with_metadata

LABELS = {"labels.txt": b"zero\none\n"}
MODEL_METADATA = {"TFLITE_METADATA": b"describes labels.txt", "extra": b"\x07"}
READ_ONLY = {
    *(
        "benchmark",
        "c_array",
        "check",
        "component",
        "damage",
        "evaluate",
        "inspect",
        "latency",
        "micro_support",
        "quantization_error",
    ),
    *("sparse_inference", "vela", "verify"),
}
CHANGES_LABELS = {"add_metadata"}  # test_add_metadata.py is about it


def labeled(data):
    """Add metadata, and an archive as TFLite's metadata tools do."""
    stream = io.BytesIO(with_metadata(data, MODEL_METADATA))
    with zipfile.ZipFile(stream, mode="a") as archive:
        for name, content in LABELS.items():
            archive.writestr(name, content)
    return stream.getvalue()


class Files(NamedTuple):
    floats: bytes
    integers: bytes
    images: np.ndarray
    small: bytes
    scenes: np.ndarray


@pytest.fixture(scope="module")
def files(exports):
    floats, integers = exports("mixed", "float32"), exports("mixed", "int8")
    small = exports("unpruned", "float32")  # with 2,400 inputs of a layer, as `mixed` has, pruning takes long
    return Files(labeled(floats.data), labeled(integers.data), floats.inputs, labeled(small.data), small.inputs)


def rewritten(**settings):
    return lambda files, path: export.rewrite(files.floats, path, check_on=files.images, **settings)


def returned(function, *names, **settings):
    return lambda files, path: path.write_bytes(function(*(getattr(files, name) for name in names), **settings))


FUNCTIONS = {
    "rewrite": rewritten(),
    "rewrite fast": rewritten(optimize="latency"),
    "rewrite packed": rewritten(compress="packed"),
    "rewrite batch": rewritten(batch=1),
    "rewrite dense": rewritten(optimize="dense"),
    "sparsify": returned(lambda source: export.sparsify(source).data, "floats"),
    "share_weights": returned(export.share_weights, "integers"),
    "correct_biases": returned(export.correct_biases, "floats", "integers", "images"),
    "pack": returned(export.pack, "floats"),
    "unpack": returned(lambda source: export.unpack(export.pack(source)), "floats"),
    "prune_tflite": lambda files, path: export.prune_tflite(files.small, path, files.scenes, sparsity=0.5),
    "shrink_tflite": lambda files, path: export.shrink_tflite(files.small, path, files.scenes, flops=0.9),
}


@pytest.mark.parametrize("name", [in_test_ci(name) if name.endswith("_tflite") else name for name in FUNCTIONS])
def test_labels_stay(name, files, tmp_path):
    path = tmp_path / ("after.tfz" if name == "rewrite packed" else "after.tflite")
    FUNCTIONS[name](files, path)
    after = read_model(path)
    with zipfile.ZipFile(io.BytesIO(after)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == LABELS
    assert read_metadata(after).items() >= MODEL_METADATA.items()


@pytest.mark.programs
def test_files_for_microcontrollers_leave_out_what_their_interpreter_never_reads(files, tmp_path):
    export.rewrite(files.floats, tmp_path / "micro.tflite", target="micro", check_on=files.images[:1])
    assert b"labels.txt" not in (tmp_path / "micro.tflite").read_bytes()


def test_no_function_is_missing_above():
    functions = {name for name in export.__all__ if python_inspect.isfunction(getattr(export, name))}
    arguments = {name: {*python_inspect.signature(getattr(export, name)).parameters} for name in functions}
    from_files = {name for name, words in arguments.items() if words & {"source", "quantized", "packed"}}
    assert from_files - READ_ONLY - CHANGES_LABELS == {name.split()[0] for name in FUNCTIONS}
