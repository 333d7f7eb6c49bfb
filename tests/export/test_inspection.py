"""inspect. The truth is Keras' weights and the size of the file."""

import sys

import numpy as np
import pytest

from tfprune.export.codec import encode
from tfprune.export.inspection import inspect
from tfprune.export.runtime import MissingPackage, Runner


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


def test_files_that_cannot_be_read_are_refused_by_name(cases, refused, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(cases["dense"].data[:800])
    with pytest.raises(ValueError, match=r"cut\.tflite', which is damaged or cut short"):
        inspect(path)
    path.write_bytes(refused)
    with pytest.raises(ValueError, match=r"Cannot inspect '.*cut\.tflite'.*version is 99"):
        inspect(path)
    with pytest.raises(ValueError, match="does not exist"):
        inspect(tmp_path / "missing")


def test_a_missing_package_is_told_with_what_to_install(cases, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingPackage, match='Run pip install "tfprune'):
        inspect(cases["dense"].path)
