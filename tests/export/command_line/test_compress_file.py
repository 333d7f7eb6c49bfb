"""`tfprune compress`, on a saved model and samples in files: what the search is asked for. Its trials are made up."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from stub_trials import SCORE, StubRunner, stubbed

import tfprune.export.compressing.compress as compressing
from tfprune.export import EdgeQuantizer
from tfprune.export.command_line.cli import main
from tfprune.export.keras_side.ask import vela
from tfprune.export.micro.micro import Micro


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a compiled model, and samples whose class is the sign of a sum, so that labels tell their row."""
    folder = tmp_path_factory.mktemp("trained")
    x = np.random.default_rng(0).normal(size=(300, 6)).astype("float32")
    y = (x[:, :3].sum(axis=1) > 0).astype(int)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")])
    keras.Sequential.from_config(model.get_config()).save(folder / "uncompiled.keras")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.save(folder / "model.keras")
    for name, array in {"x": x, "y": y, "none": x[:0], "no": y[:0], "beyond": y + 9}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def run(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)

    def run_command(line, runner=None):
        with stubbed(runner):
            code = main(["compress", *line.split()])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


def test_a_tenth_of_the_samples_judges_files(run, trained):
    runner = StubRunner()
    options = "--max-drop 0.5 --trials 3 --folder found --test x.npy,y.npy --seed 4 --batch-size 16"
    code, out, err = run(f"model.keras --train x.npy,y.npy {options} --formats int8 int4 --json", runner)
    report = json.loads(out)
    assert (code, err, report["trials"], report["max_drop"]) == (0, "", 3, 0.5)
    x, y = np.load("x.npy"), np.load("y.npy")
    (train_x, train_y), (valid_x, valid_y) = runner.train_data, runner.evaluator.validation
    assert (len(train_x), len(valid_x)) == (270, 30)
    assert np.array_equal(np.unique(np.concatenate([train_x, valid_x]), axis=0), np.unique(x, axis=0))
    for part, labels in ((train_x, train_y), (valid_x, valid_y)):
        assert np.array_equal(labels, part[:, :3].sum(axis=1) > 0)
    assert all(np.array_equal(part, whole) for part, whole in zip(runner.evaluator.scored[-1], (x, y), strict=True))
    assert (runner.batch_size, runner.ran[1].seed) == (16, 4)
    assert runner.evaluator.number_formats == ("int8", "int4")
    assert {row["file"] for row in report["front"]} == {path.name for path in (trained / "found").glob("*.tflite")}
    assert all(row["test_score"] == pytest.approx(row["score"] - 0.01) for row in report["front"])
    assert (trained / "found" / "report.html").exists()


def test_a_recipe_of_edge_quantizer_is_one_more_format(run, trained):
    rules = [{"regex": ".*", "operation": "*", "algorithm_key": "OCTAV", "op_config": {}}]
    (trained / "rules.json").write_text(json.dumps(rules))
    runner = StubRunner()
    line = (
        "model.keras --train x.npy,y.npy --trials 1 --folder recipes --recipe rules.json --recipe-python edge/python"
    )
    assert run(line, runner)[0] == 0
    assert runner.evaluator.number_formats == ("float32", "int8", EdgeQuantizer(rules, python="edge/python"))
    (trained / "rules.json").write_text("{}")
    code, _, err = run(line)
    assert (
        code == 2 and "in JSON with --recipe. Received: 'rules.json': Expected a list of dicts. Received: dict" in err
    )


def test_samples_that_are_named_judge_files(run):
    runner = StubRunner()
    run("model.keras --train x.npy,y.npy --validation x.npy,y.npy --trials 1 --folder named", runner)
    assert len(runner.train_data[0]) == len(runner.evaluator.validation[0]) == 300


def test_for_a_microcontroller(run, trained, monkeypatch):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    monkeypatch.setattr(compressing, "micro_support", lambda model: SimpleNamespace(runs=True))
    runner = StubRunner(formats=("int8",))
    options = "--max-drop 1 --trials 1 --folder micro --json"
    line = f"model.keras --train x.npy,y.npy --target micro --arena 60000 --flash 90000 {options}"
    code, out, _ = run(line, runner)
    assert code == 0
    row, *_ = json.loads(out)["front"]
    assert (trained / "micro" / row["file"]).exists()
    assert row["arena_bytes"] <= 60_000
    assert runner.evaluator.micro == Micro(arena=60_000, flash=90_000)


def test_limits_of_size_and_of_a_share_of_the_metric(run):
    runner = StubRunner()
    limits = "--optimize latency --max-relative-drop 0.02 --max-bytes 40000 --max-latency-ms 0.3"
    line = f"model.keras --train x.npy,y.npy --folder limits --trials 12 {limits} --json"
    code, out, err = run(line, runner)
    assert err == ""
    report = json.loads(out)
    assert (code, report["max_drop"]) == (0, pytest.approx(0.02 * SCORE)), "a relative limit stands alone"
    assert all(row["bytes"] <= 40_000 and row["latency_ms"] <= 0.3 for row in report["front"])
    code, out, _ = run(f"{line} --max-drop 0.01".replace("limits", "both", 1), runner)
    assert json.loads(out)["max_drop"] == 0.01, "both hold"


def test_for_an_npu_with_a_limit_of_cycles(run):
    pytest.importorskip("ethosu", reason="ethos-u-vela is not installed (extra `vela`)")
    runner = StubRunner(formats=("int8",))
    line = "model.keras --train x.npy,y.npy --max-drop 0.03 --trials 9 --folder npu --max-cycles 40000"
    code, out, err = run(f"{line} --target ethos-u85-256 --json", runner)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["target"] == "ethos-u85-256" and runner.evaluator.npu == vela("ethos-u85-256")
    assert report["front"] and all(row["cycles"] <= 40_000 for row in report["front"])
    code, out, err = run(line, runner)
    assert (code, out) == (2, "") and "Expected an NPU as --target with" in err


def test_a_metric_of_one_output(run, trained):
    inputs = keras.Input((6,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("size", "price")}
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", metrics={"price": [keras.metrics.CosineSimilarity(name="angle")]})
    model.save(trained / "two.keras")
    y = np.load("x.npy")
    np.savez(trained / "both.npz", size=y[:, :1], price=y[:, 1:2])
    runner = StubRunner()
    line = "two.keras --train x.npy,both.npz --folder two --trials 1 --max-relative-drop 0.5"
    code, out, err = run(f"{line} --metric mae --output price", runner)
    assert (code, err) == (0, "")
    assert runner.evaluator.metric.name == "price_mae" and runner.evaluator.metric.mode == "min"
    assert "price_mae" in out


def test_a_search_without_time_for_a_recipe_is_not_taken_for_one(run, trained):
    line = "model.keras --train x.npy,y.npy --minutes 10 --folder slow"
    code, out, err = run(line, StubRunner(file_seconds=870))
    assert code == 1
    assert err.startswith(
        "tfprune: warning: Expected time for 3 recipes or more. Received: --minutes 10, which was over"
    )
    assert out.startswith("No recipe was tried: the search was over after 870 s")
    assert "The files are those of the original model. Search again with several times as many minutes" in out
    assert "No recipe was tried" in (trained / "slow" / "report.html").read_text()
    code, out, _ = run(line.replace("10", "600"), StubRunner(file_seconds=870))
    assert code == 0
    assert "No recipe" not in out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model.keras --train x.npy,y.npy --arena 9000", "Expected --target micro with --arena"),
        ("model.keras --train x.npy", "Expected samples and labels, --train X,Y. Received: 'x.npy'"),
        ("model.keras --train x.npy,beyond.npy", "Expected labels from 0 to 1"),
        ("uncompiled.keras --train x.npy,y.npy", "Expected a compiled model"),
        ("model.keras --train x.npy,y.npy --max-drop -1", "--max-drop"),
        ("model.keras --train x.npy,y.npy --minutes 0", "--minutes"),
        ("model.keras --train x.npy,y.npy --trials 0", "trials"),
        ("model.keras --train x.npy,y.npy --jobs 0", "jobs"),
        ("model.keras --train x.npy,y.npy --optimize latency --jobs 2", "--jobs 1"),
        ("model.keras --train x.npy,y.npy --metric exactness", "Expected --metric to be 'accuracy', 'acc',"),
        ("model.keras --train x.npy,y.npy --validation none.npy,no.npy", "--validation"),
        ("model.keras --train x.npy,y.npy --metric mae --mode max", "Expected --mode min for 'mae'"),
        ("model.keras --train x.npy,y.npy --max-bytes 0", "Expected --max-bytes to be an integer of at least 1"),
        ("model.keras --train x.npy,y.npy --max-latency-ms 0", "--max-latency-ms"),
        ("model.keras --train x.npy,y.npy --max-latency-ms 2 --jobs 2", "files are timed on one machine"),
        ("model.keras --train x.npy,y.npy --max-bytes 9 --target micro", "the budgets of a microcontroller"),
        ("nothing.keras --train x.npy,y.npy", "which does not exist"),
    ],
)
def test_wrong_options_are_named(run, trained, line, words):
    code, out, err = run(f"{line} --folder refused")
    assert (code, out) == (2, "")
    assert words in err
    assert not (trained / "refused").exists()
