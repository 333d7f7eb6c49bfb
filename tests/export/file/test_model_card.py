"""Model cards, read back with a parser of Markdown that knows nothing of this library."""

from __future__ import annotations

from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from tfprune.export import BenchmarkReport, CompressReport, ExportReport, SparseInferenceReport
from tfprune.export.compressing.trials import MeasuredFile, Recipe
from tfprune.export.file.report import _escaped, model_card
from tfprune.export.rewriting.rewrite import AccuracyDrop, Candidate

NASTY = "a_b*c*`d`<script>|\\x|[l](http://e.com) ~~s~~ &amp; $m$ # h\n\n# h1\x1b[2J www.e.com @me"
RECIPE = Recipe(0.5, 0.9, "unstructured", True, 1000, 50, 4, 1e-3, 0)


def texts(markdown):
    """Return the kinds and the texts of a page's tokens, without its front matter."""
    body = markdown.split("---\n", 2)[2]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    return [(token.type, [(child.type, child.content) for child in token.children or []]) for token in tokens]


def cells(markdown):
    """Return the text of each cell and heading."""
    return ["".join(text for _, text in inside) for kind, inside in texts(markdown) if kind == "inline"]


def test_whatever_a_name_holds_is_shown_as_it_is_and_starts_nothing():
    card = model_card(NASTY, [("Size", [["", ""], [NASTY, "1"]])])
    shown = NASTY.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert cells(card) == [shown, "A TFLite file, made with tfprune.", "Size", "", "", shown, "1"]
    kinds = {kind for _, inside in texts(card) for kind, _ in inside}
    assert kinds <= {"text", "text_special"}, "no link, no HTML, no emphasis, no code"
    assert "http://" not in _escaped(NASTY) and "www.e" not in _escaped(NASTY), "which GitHub would link to"


@pytest.fixture
def report():
    """What `to_tflite` reports."""
    rows = (Candidate("int8", 9000, 8000, True, "larger"), Candidate("int8, sparse", 5000, 4000, True))
    return ExportReport(
        path="/home/somebody/digits.tfz",
        bytes=4000,
        tflite_bytes=5000,
        nnz=100,
        size=1000,
        sparsity=0.9,
        max_abs_diff=0.01,
        tolerance=0.1,
        ops={"SOFTMAX": 1},
        candidates=rows,
        runtime="ai-edge-litert 2.3.0",
        sparse_inference=SparseInferenceReport(False, False, 0.0, 0.5, (), (), (), ""),
        source="digits_cnn",
    )


def test_the_card_of_an_export_has_what_is_known_and_no_section_for_the_rest(report):
    shown = cells(report.card())
    assert {
        "digits.tfz",
        "digits_cnn",
        "int8, sparse",
        "4,000",
        "5,000",
        "0.01 (limit: 0.1 x the largest output)",
    } <= {*shown}
    assert not {"Accuracy", "Latency", "metrics:"} & {*shown, *report.card().splitlines()}
    assert "somebody" not in report.card()
    assert "base model" not in replace(report, source="").card()
    lost = replace(report, lost=(AccuracyDrop("accuracy", 0.9712, 0.97, 0.0012),)).card()
    assert (
        "---\nlibrary_name: tfprune\ntags:\n- tflite\n- litert\n- tfprune\nmetrics:\n- accuracy\nmodel-index:\n"
        in lost
    )
    assert {"Accuracy", "0.9712", "0.9700"} <= {*cells(lost)}
    time = BenchmarkReport(
        0.5, 0.4, 0.6, 0.7, 0.3, None, 4000, "litert", "Pi 4", runs=9, warmup=1, threads=2, batch_size=1
    )
    assert {"Latency", "0.500 ms, batch 1, threads 2", "Pi 4"} <= {*cells(report.card(latency=time))}


def test_the_card_of_a_searched_file_has_its_recipe_and_a_program_that_no_text_can_end():
    dense = MeasuredFile(None, None, 8000, 7000, score=0.9, drop=0.0)
    best = MeasuredFile(
        RECIPE, "int8", 2000, 1500, score=0.895, drop=0.005, code="x = '''\n````\n'''", file="01.tflite"
    )
    report = CompressReport(
        "searched", "accuracy", 0.01, "size", None, dense, (best, dense), 1, (), (dense, best), 9.0, "cnn"
    )
    shown = cells(report.card())
    assert {"01.tflite", "cnn", "90.0%, unstructured", "300", "int8", "2,000 (25.0% of the dense file)"} <= {*shown}
    assert {"0.9000", "0.8950 (a drop of +0.0050)", "0.01 of accuracy"} <= {*shown}
    assert [kind for kind, _ in texts(report.card())].count("fence") == 1
    assert "Program" not in cells(report.card(dense)) and "zeros" not in cells(report.card(dense))
