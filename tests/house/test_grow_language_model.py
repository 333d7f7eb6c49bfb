"""The app that grows a language model: text, model, compute, a run on made-up text, and committed results."""

from __future__ import annotations

import importlib
import json
import sys
from itertools import chain
from pathlib import Path

import keras
import numpy as np
import pytest
from programs import output_once, printed_by

import tfprune

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
ROOT = Path(__file__).parents[2]
APP = ROOT / "sample_apps" / "grow_language_model.py"
RESULTS = ROOT / "sample_apps" / "growth" / "results"


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def piece(name):
    return importlib.import_module(f"sample_apps.growth.{name}")


# Text.


def test_books_of_the_test_are_not_trained_on():
    books, texts = piece("books"), importlib.import_module("sample_apps.language_model.texts")
    sections = [texts.Section("Ruth", "Ruth 1", "she went to the field " * 40)]
    sections += [texts.Section("Acts", "Acts 1", "xyz zyx " * 400)]
    book = books.read(sections, pieces=20)
    assert book.test.shape[1] == 129 and len(book.test) > 1
    pieces = set(book.train.tolist())
    assert 0 not in pieces and set(book.test.ravel().tolist()) - pieces == {0}  # x, y and z are unknown pieces


def test_each_window_begins_with_the_last_piece_of_the_one_before_and_is_drawn_once():
    books = piece("books")
    text = np.arange(128 * 7)
    windows = books.windows(text)
    assert windows.shape == (6, 129) and (windows[1:, 0] == windows[:-1, -1]).all()
    assert list(chain(windows[0], *windows[1:, 1:])) == list(range(128 * 6 + 1))
    rows = books.shuffled(text, 12, seed=0)
    assert rows.shape == (12, 129) and len({row[0] for row in rows[:5].tolist()}) == 5
    assert (np.diff(rows) == 1).all() and not np.array_equal(rows, books.shuffled(text, 12, seed=1))


# The model.


@pytest.fixture(scope="module")
def model():
    networks = importlib.import_module("sample_apps.growth.networks")
    return networks.build(networks.Size(blocks=2, experts=4, top_k=2, width=8, hidden=6, heads=2), 30, seed=0)


def test_a_mixture_is_the_sum_of_the_experts_that_the_router_chooses(model):
    mixture = model.get_layer("block_0_mixture")
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype("float32")
    router, up, down = (np.asarray(weight) for weight in (mixture.router.kernel, mixture.up, mixture.down))
    expected = np.zeros((5, 8))
    for row, vector in zip(expected, x[0], strict=True):
        scores = vector @ router
        experts = np.argsort(scores)[-2:]
        gates = np.exp(scores[experts]) / np.exp(scores[experts]).sum()
        for gate, expert in zip(gates, experts, strict=True):
            row += gate * (np.maximum(vector @ up[expert], 0) @ down[expert])
    np.testing.assert_allclose(mixture(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_no_piece_sees_those_after_it(model):
    text_before = np.random.default_rng(0).integers(0, 30, (1, 128))
    text_after = np.where(np.arange(128) < 64, text_before, 29 - text_before)
    before, after = (np.asarray(model(text)) for text in (text_before, text_after))
    np.testing.assert_allclose(before[:, :64], after[:, :64], atol=1e-6)
    assert np.abs(before[:, 64:] - after[:, 64:]).max() > 1e-3


def test_compute_is_counted_from_what_a_piece_meets(model):
    compute = piece("compute")
    attention, router, expert, output = 4 * 8 * 8, 8 * 4, 2 * 8 * 6, 8 * 30
    scores = 2 * 2 * 128 * 8  # two products, of 128 vectors of width 8 each
    for all_experts, met in ((False, 2), (True, 4)):
        forward = 2 * (2 * (attention + router + met * expert) + scores) + 2 * output
        assert compute.training_flops(model, all_experts=all_experts) == 3 * forward
    assert compute.training_flops(tfprune.wrap(model)) == compute.training_flops(model)


def test_the_learning_rate_rises_and_falls():
    training, seen = piece("training"), []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    rate = training.Rate(0.5, 100)
    rate.set_model(model)
    for step in range(100):
        rate.on_train_batch_begin(step)
        seen.append(float(model.optimizer.learning_rate))
    np.testing.assert_allclose(seen[:5], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)
    assert max(seen) == 0.5 and seen[5:] == sorted(seen[5:], reverse=True)
    assert seen[-1] == pytest.approx(0.025, rel=0.02)


def test_a_model_built_alike_is_traced_once_and_learns_nothing_from_the_other(model):
    training = piece("training")
    other = keras.models.clone_model(model)
    first, second = training.compiled_like(model), training.compiled_like(other)
    assert first is second
    for mine, theirs in zip(second.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert all(not np.asarray(variable).any() for variable in second.optimizer.variables)


# The program.


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return output_once(tmp_path_factory, "growth", APP)


@pytest.mark.slow
def test_the_app_grows_and_prunes_back(smoke):
    folder, printed = smoke
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:2] == "| "]
    sizes = {row[0]: int(row[4].replace(",", "")) for row in rows if row[4][:1].isdigit()}
    assert sizes["grown, then pruned back"] == sizes["base"] < sizes["grown, interposed"] == sizes["from scratch"]
    assert (folder / "growth.png").stat().st_size


@pytest.mark.slow
def test_results_are_not_overwritten(smoke, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grow_language_model", "--smoke", "--output", str(smoke[0])])
    with pytest.raises(SystemExit, match="Pass --resume"):
        importlib.import_module("sample_apps.grow_language_model").main()


@pytest.mark.programs
def test_a_base_of_half_zeros_grows_with_them(model, tmp_path):
    networks, runs = piece("networks"), piece("runs")
    plan = runs.Plan(networks.Size(2, 4, 2, width=8, hidden=6, heads=2), (1, 1, 1), (0.1, 0.1), tmp_path)
    model.save(plan.path("base", 3))
    grown, before = runs.start(runs.SPARSE, plan, None, seed=3)
    report = tfprune.sparsity_report(grown)
    assert before == pytest.approx(0.5, abs=0.001) and report.sparsity == pytest.approx(0.5, abs=0.001)
    assert all(row.sparsity == pytest.approx(0.5, abs=0.02) for row in report.rows)
    assert sum("mixture/up_kernel" in row.path for row in report.rows) == plan.large.blocks == 4


# Bases of several stages.


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return output_once(tmp_path_factory, "stages", ROOT / "sample_apps" / "growth" / "sunk_cost.py")


@pytest.mark.slow
def test_bases_of_several_stages_are_grown_and_a_stopped_run_goes_on(stages, tmp_path):
    folder, printed = stages
    assert "| interposed |" in printed and "| experts, random router |" in printed
    lines = (folder / "sunk_cost.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for path in folder.glob("*.keras"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sunk_cost.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20], encoding="utf-8")
    again = printed_by(
        ROOT / "sample_apps" / "growth" / "sunk_cost.py", "--smoke", "--resume", "--output", tmp_path, folder=ROOT
    )
    assert again.count("seed 0, ") == 1
    perplexities = [
        json.loads((path / "sunk_cost.jsonl").read_text(encoding="utf-8").splitlines()[-1])["perplexity"]
        for path in (folder, tmp_path)
    ]
    assert perplexities[0] == pytest.approx(perplexities[1], rel=1e-4)


def test_each_base_is_trained_before_its_ways(tmp_path):
    networks, sunk_cost = piece("networks"), piece("sunk_cost")
    plan = sunk_cost.Plan(networks.Size(1, 2, 1, width=8, hidden=8, heads=2), 1, 1, (0.5, 1.0, 2.0), (1, 1), tmp_path)
    runs = list(sunk_cost.runs_of(plan))
    assert len(set(runs)) == len(runs) == 1 + 3 * 4 + 1 + 5
    for index, (way, stage) in enumerate(runs):
        assert way in ("base", "from scratch") or ("base", stage) in runs[:index]


@pytest.mark.programs
def test_a_way_may_take_the_moments_of_the_base_along(model, tmp_path):
    networks, sunk_cost, training = piece("networks"), piece("sunk_cost"), piece("training")
    plan = sunk_cost.Plan(networks.Size(2, 4, 2, width=8, hidden=6, heads=2), 1, 1, (1.0,), (1, 1), tmp_path)
    base = keras.models.clone_model(model)
    base.compile(keras.optimizers.AdamW())
    base.optimizer.build(base.trainable_variables)
    for variable in base.optimizer.variables:
        variable.assign(np.full(variable.shape, 3))
    base.save(plan.path(1.0, 0))
    grown, optimizer = sunk_cost.start("interposed, moments carried", 1.0, plan, None, seed=0)
    assert len(optimizer.variables) == 2 + 2 * len(grown.trainable_variables)
    assert all((np.asarray(variable) == 3).all() for variable in optimizer.variables)
    assert sunk_cost.start("stacked", 1.0, plan, None, seed=0)[1] is None
    assert training.kind_of(grown) != training.kind_of(base)


def test_the_tables_say_which_cells_have_fewer_seeds():
    report = piece("sunk_cost_report")

    def record(way, base, seed, perplexity):
        curve = [[0, perplexity + 10], [1, perplexity]]
        own = {"way": way, "base": base, "seed": seed, "perplexity": perplexity, "curve": curve, "parameters": 1234}
        return own | {"unit": 2e12, "extra": 1.0, "machine": "a machine"}

    records = [
        *(record("from scratch", 0.0, seed, 50.0 + seed) for seed in (0, 2)),
        *(record("interposed", 2.0, seed, 40.0) for seed in (0, 2)),
        record("stacked", 2.0, 0, 30.0),
        record("experts, noise", 1.0, 0, 20.0),
        {"way": "cosines", "base": 1.0, "seed": 0, "cosines": {"base and depth": 0.125}, "machine": "a machine"},
    ]
    text = report.text(records)
    assert "| base trained for | 1 F_c | 2 F_c |" in text
    assert "| interposed | - | 40.00 ± 0.00 |" in text and "| stacked | - | 30.00 |" in text
    assert "| interposed, before training | - | 50.00 ± 0.00 |" in text
    assert "| experts, noise | 30.00 | 20.00 |" in text
    assert "From scratch, 1,234 parameters: 51.00 ± 1.41." in text
    assert "(2; experts, noise 1 F_c: 1; stacked 2 F_c: 1)" in " ".join(text.split())
    assert "(1 seeds): base and depth 0.125." in text


# The committed results.


def test_the_table_is_that_of_the_results_and_stands_on_the_page():
    report, results = piece("report"), importlib.import_module("sample_apps.study.results")
    records = results.read(RESULTS / "growth.jsonl")
    text = report.text(records)
    assert (RESULTS / "growth.md").read_text(encoding="utf-8") == text
    page = (ROOT / "docs" / "gallery" / "grow_language_model.md").read_text(encoding="utf-8")
    assert all(line in page for line in text.splitlines())
    twice = results.read(RESULTS / "from_scratch.jsonl")
    assert f"{report.spread([record['perplexity'] for record in twice])} (`--compute 2.8`;" in page
    for seed in range(2):
        own = {record["way"]: record for record in records if record["seed"] == seed}
        grown, anew = own["grown, interposed"], own["from scratch"]
        assert grown["perplexity"] < twice[seed]["perplexity"] < anew["perplexity"]
        assert grown["flops"] - own["base"]["flops"] == pytest.approx(anew["flops"], rel=0.01)
        assert grown["flops"] == pytest.approx(twice[seed]["flops"], rel=0.01)


def test_the_tables_of_the_stages_are_those_of_the_results_and_stand_on_the_page():
    report, results = piece("sunk_cost_report"), importlib.import_module("sample_apps.study.results")
    records = results.read(RESULTS / "sunk_cost.jsonl")
    text = report.text(records)
    assert (RESULTS / "sunk_cost.md").read_text(encoding="utf-8") == text
    assert text in (ROOT / "docs" / "papers" / "growth.md").read_text(encoding="utf-8")
    own = [record for record in records if record["seed"] == 0 and record["way"] != report.COSINES]
    first = {(record["way"], record["base"]): record["perplexity"] for record in own}
    for stage in (0.25, 0.5, 1.0, 2.0, 4.0):
        assert first["trained further", stage] < first["interposed", stage] < first["from scratch", 0.0]
