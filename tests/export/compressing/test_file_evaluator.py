"""What is measured of a file, by the interpreter that it is made for."""

import csv
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from small_search import evaluator, made
from tiers import first

import tfprune
from tfprune.base.limit import GroupLimits, Limit
from tfprune.export import Runner, micro_support
from tfprune.export.compressing import evaluate as evaluate_module
from tfprune.export.compressing.evaluate import FileEvaluator, FileMetric
from tfprune.export.compressing.trials import Recipe
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.keras_side.ask import Vela
from tfprune.export.micro.interpreter import run_files
from tfprune.export.micro.micro import Micro

HALF = Recipe(0.5, 0.5, "unstructured", False, 600, 19, 1, 1e-3, 3)
ARENA = 1_100  # bytes: the dense file takes more


def test_a_recipe_is_exported_in_the_formats_that_it_can_have():
    rounds = replace(HALF, quantize_aware=True)
    assert [evaluator().formats(recipe) for recipe in (None, HALF, rounds)] == [
        (None, "int8"),
        (None, "int8"),
        ("int8",),
    ]
    for target in ({"micro": Micro()}, {"npu": Vela("ethos-u55-128")}):
        measure = replace(evaluator(), **target)
        assert [measure.formats(recipe) for recipe in (None, HALF, rounds)] == [("int8",)] * 3


@pytest.mark.programs
def test_the_worst_class_of_a_file_is_that_of_its_answers():
    model, _, (x, y), _ = made()
    limits = GroupLimits.of(Limit(max_drop_per_class=0.1), np.eye(2)[y], y)  # the first model gets all right
    file, _ = replace(evaluator(), limits=limits).measure(model, None, quantize=None, batch_size=32)
    answers = model.predict(x, verbose=0).argmax(axis=1)
    expected = max(np.mean(answers[y == label] != label) for label in (0, 1))
    assert file.worst_group.drop == pytest.approx(expected) and file.worst_group.name.startswith("class ")


@pytest.mark.programs
def test_a_file_is_timed_if_time_counts():
    measure = evaluator(optimize="latency")
    file, content = measure.measure(made()[0], None, quantize=None, batch_size=32)
    assert file.latency_ms is None
    assert all(timed.latency_ms > 0 for timed in measure.timed([file, file], [content, content]))
    assert evaluator().timed([file], [content]) == [file], "it is not timed where size counts"
    (limited,) = replace(evaluator(), times_all=True).timed([file], [content])
    assert limited.latency_ms > 0
    assert file.bytes == content.size
    assert "optimize='latency'" in file.code


def images_network():
    """A CNN of 3x3 convolutions with 90 % zeros and an open batch."""
    keras.utils.set_random_seed(0)
    convolutions = [keras.layers.Conv2D(48, 3, padding="same", activation="relu") for _ in range(4)]
    layers = [keras.Input((12, 12, 3)), *convolutions, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    model = tfprune.wrap(keras.Sequential(layers))
    tfprune.update_masks(model, 0.9)
    return tfprune.strip(model)


class Board:
    """A device of an architecture."""

    def __init__(self, machine):
        self.machine = machine


@pytest.mark.parametrize(("machine", "batch"), [("aarch64, Raspberry Pi 4", 1), ("x86_64, Some CPU", None)])
def test_files_for_arm_take_one_image_at_a_time(machine, batch, monkeypatch):
    monkeypatch.setattr(evaluate_module, "benchmark", lambda *_, on, **settings: on)
    assert evaluate_module.batch_for(images_network(), [Board(machine)]) == batch
    monkeypatch.setattr(evaluate_module, "has_avx", lambda: machine.startswith("x86"))
    assert evaluate_module.batch_for(images_network(), None) == batch
    assert evaluate_module.batch_for(made()[0], Board(machine)) is None, "nothing to gain without convolutions"


@pytest.mark.programs
def test_a_search_for_the_fewest_milliseconds_knows_that_zeros_of_a_cnn_are_fast():
    x, y = np.random.default_rng(0).random((8, 12, 12, 3), np.float32), np.arange(8) % 2
    measure = FileEvaluator(x, (x, y), FileMetric(), 0.5, "latency", batch=1)
    file, content = measure.measure(images_network(), None, quantize=None, batch_size=8)
    assert ModelFile(content.tobytes()).inference.active and "batch=1" in file.code


@pytest.mark.programs
@pytest.mark.parametrize(("units", "fits"), first((24, False), (4, True)))
def test_files_for_a_board_are_measured_as_it_runs_them(units, fits, tmp_path, monkeypatch):
    """A file that takes more than its budget is measured all the same, and its program says no budget."""
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(units, "relu"), keras.layers.Dense(2, "softmax")]
    model = made()[0] if units == 24 else keras.Sequential([keras.Input((12,), name="sample"), *layers], name="tiny")
    measure = evaluator(micro=Micro(arena=ARENA))
    file, content = measure.measure(model, None, quantize="int8", batch_size=32)
    content = content.tobytes()
    _, (x, _), (valid_x, valid_y), test = made()
    (run,) = run_files([content], [valid_x])
    assert file.score == pytest.approx(np.mean(run.outputs[0].argmax(axis=1) == valid_y))
    (run,) = run_files([content], [test[0]])
    assert measure.score(content, test) == pytest.approx(np.mean(run.outputs[0].argmax(axis=1) == test[1]))
    assert (len(content), micro_support(content).arena) == (file.bytes, file.arena_bytes)
    assert read(content).inputs[0].dtype == "int8"
    assert file.latency_ms is None
    assert (file.arena_bytes <= ARENA, f"arena={ARENA}" in file.code) == (fits, fits)
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    exec(file.code.replace("x, y = ...", "pass"), {"x": x})
    assert (tmp_path / "model.tflite").read_bytes() == content


@pytest.mark.programs
def test_files_for_an_npu_have_the_cycles_that_its_compiler_writes_into_its_table(tmp_path, monkeypatch):
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed (extra `vela`)")
    measure = replace(evaluator(optimize="latency"), npu=Vela("ethos-u55-128"))
    model, (x, _), (valid_x, valid_y), _ = made()
    file, content = measure.measure(model, None, quantize="int8", batch_size=32)
    (tmp_path / "file.tflite").write_bytes(content.tobytes())
    command = [sys.executable, "-m", "ethosu.vela", "file.tflite", "--accelerator-config", "ethos-u55-128"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (table,) = tmp_path.glob("output/*_summary_*.csv")
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert file.cycles == int(row["cycles_total"])
    graph = read(content.tobytes())
    assert {info.dtype for info in (*graph.inputs, *graph.outputs)} == {"int8"} and graph.inputs[0].shape[0] == 1
    answers = Runner(content.tobytes()).predict(valid_x).argmax(axis=1)
    assert file.score == pytest.approx(np.mean(answers == valid_y))
    assert measure.timed([file], [content]) == [file], "nothing is timed here"
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    exec(file.code.replace("x, y = ...", "pass"), {"x": x})
    assert (tmp_path / "model.tflite").read_bytes() == content.tobytes()


def test_operators_that_the_npu_leaves_to_the_processor_are_named_once():
    report = SimpleNamespace(cycles=7, on_cpu={"GATHER": 2}, accelerator="ethos-u55-128")
    measure = replace(evaluator(), npu=SimpleNamespace(report=lambda content: report))
    with pytest.warns(UserWarning, match="all run on ethos-u55-128. Received: .* GATHER run on the processor"):
        assert measure._cycles(b"", is_original=True) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure._cycles(b"", is_original=False) == 7
