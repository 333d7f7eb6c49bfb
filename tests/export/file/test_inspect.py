"""inspect. The truth is Keras' weights and the size of the file."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from tfprune.export.device.runner import Runner
from tfprune.export.file import schema
from tfprune.export.file.container import encode
from tfprune.export.file.inspect import _TITLES, Coding, ModelReport, TensorRow, inspect
from tfprune.export.file.report import TensorInfo
from tfprune.export.file.schema import MissingPackage

CODINGS = (
    Coding("dense", 1000, 0),
    Coding("mask", 250, 125),
    Coding("offsets", 251, 157, 5, 1),
    Coding("csr", 250, 261, 8),
    Coding("entropy", 200, 100),
    Coding("file", 1000, 0),
)
MODEL = ModelReport(
    file_bytes=900,
    unpacked_bytes=4000,
    inputs=(TensorInfo("image", (None, 28, 28, 1), "float32"),),
    outputs=(TensorInfo("digit", (None, 10), "float32"),),
    ops={"FULLY_CONNECTED": 1},
    rows=(TensorRow("dense/MatMul", (10, 100), "int8", 1000, 250, 0.75, 1000, False, CODINGS),),
    nnz=250,
    size=1000,
    sparsity=0.75,
    weight_bytes=1000,
    constant_bytes=40,
    other_bytes=2960,
    codings=(*CODINGS, Coding("best", 250, 125)),
)


@pytest.fixture(scope="module")
def strange():
    """Return files of the stock converter, and size and nnz of their kernels: sparse rows and blocks, a loop."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)

    def converted(layers, shape, masks, *optimizations):
        model = keras.Sequential([keras.Input(shape, batch_size=1), *layers])
        for layer, mask in zip(layers, masks, strict=True):
            layer.set_weights([layer.get_weights()[0] * mask, *layer.get_weights()[1:]])
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = list(optimizations)
        kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
        return converter.convert(), [(kernel.size, np.count_nonzero(kernel)) for kernel in kernels]

    rows = generator.random((64, 32)) < 0.05
    blocks = np.repeat(generator.random((16, 32)) < 0.1, 4, axis=0)
    sparse = tf.lite.Optimize.EXPERIMENTAL_SPARSITY
    return {
        "rows": converted([keras.layers.Dense(32)], (64,), [rows], sparse),
        "blocks": converted([keras.layers.Dense(32)], (64,), [blocks], sparse),
        "loop": converted([keras.layers.LSTM(8)], (5, 8), [generator.random((8, 32)) < 0.25]),
    }


@pytest.mark.parametrize("name", ["rows", "blocks", "loop"])
def test_sparse_tensors_and_bodies_of_loops_hold_the_zeros_of_keras(strange, name):
    data, kernels = strange[name]
    report = inspect(data)
    pairs = [(row.size, row.nnz) for row in report.rows]
    assert sorted(pairs) == sorted(kernels + ([(8, 0)] if name == "loop" else []))  # a loop's first state is constant
    assert report.weight_bytes + report.constant_bytes + report.other_bytes == len(data)
    for row in report.rows:
        sizes = {coding.name: coding for coding in row.codings}
        assert sizes["dense"].bytes == 4 * row.size
        assert sizes["mask"].bytes == 4 * row.nnz + row.size // 8
        assert row.sparse == (name != "loop")
        assert sizes["file"].bytes == row.bytes
        assert (row.bytes < sizes["dense"].bytes) == row.sparse
    if name == "rows":
        assert sizes["file"] == Coding("file", sizes["csr"].value_bytes, sizes["csr"].index_bytes)


@pytest.mark.parametrize("name", ["dense", "int8", "two", "tokens"])
def test_the_parts_of_a_file_add_up(cases, name):
    report = inspect(cases[name].path)
    assert report.weight_bytes + report.constant_bytes + report.other_bytes == cases[name].path.stat().st_size
    assert report.codings[0].bytes == sum(row.codings[0].bytes for row in report.rows) == report.weight_bytes
    assert [coding.name for coding in report.codings] == [*_TITLES]


def test_the_tables_show_weights_sums_and_codings():
    weights, storage, totals = str(MODEL).split("\n\n")[2:]
    line = next(line for line in weights.splitlines() if line.startswith("dense/MatMul"))
    assert line.split() == ["dense/MatMul", "10x100", "int8", "1,000", "250", "75.0%", "1,000"]
    assert weights.splitlines()[-1].split() == ["all", "weights", "1,000", "250", "75.0%", "1,000"]
    assert "image ?x28x28x1 float32" in str(MODEL)
    assert "251 + 157 (5 bits)" in storage
    columns = {line.split("  ")[0]: line.split()[-5:] for line in totals.splitlines()[2:]}
    assert columns["CSR, offsets"] == ["251", "157", "408", "40.8%", "1"]
    assert columns["smallest of each weight"] == ["250", "125", "375", "37.5%", "0"]
    assert columns["entropy bound"][1:] == ["200", "100", "300", "30.0%"]
    assert columns["file, unpacked"][1:] == ["1,000", "0", "1,000", "100.0%"]
    assert columns["whole packed file"][-2:] == ["900", "90.0%"]
    assert "Only `file, unpacked` was measured; the rest are estimates." in totals
    assert "whole packed" not in str(replace(MODEL, file_bytes=4000))


def test_the_report_turns_into_json_with_every_coding():
    values = json.loads(json.dumps(MODEL.as_dict()))
    offsets = {"name": "offsets", "value_bytes": 251, "index_bytes": 157, "bits": 5, "padding": 1}
    assert values["rows"][0]["codings"][2] == offsets == values["codings"][2]
    assert values["inputs"] == [{"name": "image", "shape": [None, 28, 28, 1], "dtype": "float32"}]


@pytest.mark.parametrize("name", ["dense", "int8", "int8_float_io", "two", "tokens", "fixed"])
def test_weights_add_up_to_those_of_keras(cases, name):
    report = inspect(cases[name].path)
    kernels = cases[name].kernels
    assert report.size == sum(kernel.size for kernel in kernels)
    assert report.sparsity == 1 - report.nnz / report.size
    assert len(report.rows) == len(kernels)
    assert report.weight_bytes == sum(row.bytes for row in report.rows)
    assert report.inputs == Runner(cases[name].path).inputs
    assert report.outputs == Runner(cases[name].path).outputs


def test_zeros_are_counted(cases):
    report = inspect(cases["dense"].path)
    kernels = cases["dense"].kernels
    assert report.nnz == sum(np.count_nonzero(kernel) for kernel in kernels) == 96
    assert sorted(row.sparsity for row in report.rows) == [0.5, 0.5]
    assert sorted(row.shape for row in report.rows) == sorted(kernel.T.shape for kernel in kernels)
    assert report.weight_bytes == 4 * 192


def test_sizes_of_a_packed_file(cases, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(encode(cases["dense"].data, "xz"))
    report = inspect(path)
    assert report.file_bytes == path.stat().st_size
    assert report.unpacked_bytes == cases["dense"].path.stat().st_size
    assert report.rows == inspect(cases["dense"].data).rows


def test_the_report_reads_well_and_turns_into_json(cases):
    report = inspect(cases["int8"].path)
    text = str(report)
    for part in ("image ?x8x8x3 int8", "CONV_2D", "4x3x3x3", "all weights"):
        assert part in text
    assert report.as_dict()["ops"]["CONV_2D"] == 1


def test_files_that_cannot_be_read_are_refused_by_name(cases, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(cases["dense"].data[:800])
    with pytest.raises(ValueError, match=r"cut\.tflite', which is damaged or cut short"):
        inspect(path)
    with pytest.raises(ValueError, match="does not exist"):
        inspect(tmp_path / "missing")


def test_a_missing_package_is_told_with_what_to_install(cases, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.delitem(vars(schema), "Model", raising=False)  # as where no file was read before
    with pytest.raises(MissingPackage, match='Run pip install "tfprune'):
        inspect(cases["dense"].path)


def test_the_picture_of_the_zeros_has_a_bar_for_each_of_the_largest_weights(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plot`)")
    row = MODEL.rows[0]
    rows = tuple(replace(row, name=f"$w_{number}$", size=1000 + number) for number in range(50))
    replace(MODEL, rows=rows).plot(tmp_path / "zeros.svg")
    drawn = (tmp_path / "zeros.svg").read_text(encoding="utf-8")
    assert "<!-- $w_49$  75% -->" in drawn and "<!-- $w_10$  75% -->" in drawn and "$w_9$ " not in drawn
    assert "75.0% of 1,000 are zero" in drawn
    with pytest.raises(ValueError, match="Received: the report of a file without weights"):
        replace(MODEL, rows=()).plot(tmp_path / "zeros.svg")
