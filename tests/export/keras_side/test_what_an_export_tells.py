"""What is seen of an export while it goes on: a bar on a terminal, and its steps in a log."""

from __future__ import annotations

import contextlib
import json
import logging
import re

import keras
import numpy as np
import pytest
from terminal import Terminal, terminal

from tfprune.export import micro_support, to_tflite
from tfprune.export.command_line.cli import main


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64), keras.layers.Dense(4)])
    model.layers[0].set_weights([np.eye(64), np.zeros(64)])  # worth a sparse form
    return model


def logged(caplog):
    return [record.getMessage() for record in caplog.records]


def test_an_export_logs_its_steps_and_their_sizes_and_prints_nothing(model, caplog, capfd, tmp_path):
    path = tmp_path / "net.tfz"
    with caplog.at_level(logging.INFO, "tfprune"), terminal() as shown:
        report = to_tflite(model, path, compress="packed", verbose=0)
    dense, sparse = report.candidates
    assert (shown.getvalue(), capfd.readouterr().out) == ("", "")
    assert logged(caplog) == [
        f"converted {model.name!r} to float32: {dense.bytes:,} bytes",
        f"checked float32, {dense.bytes:,} bytes: passed",
        f"checked float32, sparse, {sparse.bytes:,} bytes: passed",
        f"wrote {path}: {report.bytes:,} bytes",
    ]


def test_an_export_says_why_it_has_no_form_for_sparse_kernels(model, caplog, tmp_path):
    with caplog.at_level(logging.INFO, "tfprune"):
        to_tflite(model, tmp_path / "net.tflite", optimize="latency", verbose=0)
    assert [entry for entry in logged(caplog) if entry.startswith(f"{model.name!r} has no form for sparse kernels: ")]


def test_an_export_shows_a_bar_on_a_terminal(model, tmp_path):
    with terminal() as shown:
        to_tflite(model, tmp_path / "net.tflite")
    assert [line[:5] for line in shown.seen()] == ["4/4 ━"]


def test_the_command_draws_beside_the_report(model, tmp_path):
    model.save(tmp_path / "net.keras")
    with terminal() as shown, contextlib.redirect_stderr(Terminal()) as beside:
        assert main(["export", str(tmp_path / "net.keras"), str(tmp_path / "net.tflite"), "--json"]) == 0
    assert json.loads(shown.getvalue())["bytes"] == (tmp_path / "net.tflite").stat().st_size
    assert [line[:5] for line in beside.seen()] == ["4/4 ━"]


def test_an_export_that_fails_ends_its_line(model, tmp_path):
    with terminal() as shown, pytest.raises(ValueError, match="Nothing was written"):
        to_tflite(model, tmp_path / "net.tflite", quantize="float16", tolerance=0)
    assert [line[:5] for line in shown.seen()] == ["3/4 ━"]


def test_verbose_is_checked_before_the_export_starts(model, tmp_path):
    with pytest.raises(ValueError, match="Expected `verbose`"):
        to_tflite(model, tmp_path / "net.tflite", verbose="none")


@pytest.mark.programs
def test_a_report_names_unrolled_layers_and_formats_in_which_the_file_would_be_smaller(tmp_path):
    model = keras.Sequential([keras.Input((12, 4)), keras.layers.LSTM(24, name="steps"), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(20, 12, 4)).astype("float32")
    report = to_tflite(model, tmp_path / "int8.tflite", quantize="int8", calibration=x, verbose=0)
    others = [to_tflite(model, tmp_path / "m.tflite", quantize=form, verbose=0) for form in (None, "dynamic")]
    assert report.unrolled == ("steps",)
    assert report.other_bytes == {"float32": others[0].bytes, "dynamic": others[1].bytes}
    assert report.bytes > others[0].bytes > others[1].bytes
    assert re.search(r"^unrolled +steps: the operators are repeated for each step$", str(report), re.MULTILINE)
    smaller = f"float32 {others[0].bytes:,} bytes, dynamic {others[1].bytes:,} bytes"
    assert re.search(rf"^smaller as +{smaller}$", str(report), re.MULTILINE)
    assert (others[0].unrolled, others[0].other_bytes) == ((), {})


@pytest.mark.programs
def test_a_model_for_a_board_names_its_unrolled_layers_and_what_loops_would_take(tmp_path):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.GRU(4, name="steps"), keras.layers.Dense(3)])
    for weight in model.weights:  # biases of zeros would be left out
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    report = micro_support(model, board="nano33")
    assert report.runs and report.unrolled == ("steps",)
    assert "unrolled                  steps: the operators are repeated for each step" in str(report)
    to_tflite(model, tmp_path / "m.tflite", batch=1, optimize="dense", verbose=0)
    loops = micro_support(tmp_path / "m.tflite")
    assert f"as float32                {loops.flash:,} bytes of flash, {loops.arena:,} of RAM" in str(report)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    assert "unrolled" not in str(micro_support(model))
