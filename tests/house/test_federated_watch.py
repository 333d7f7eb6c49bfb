"""The federated app: how it splits recordings, what a smoke run leaves, and the committed results."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from programs import output_once

pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
ROOT = Path(__file__).parents[2]
APPS = ROOT / "sample_apps"
RESULTS = APPS / "federated" / "results"


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def piece(name):
    return importlib.import_module(f"sample_apps.{name}")


def test_no_sample_is_in_a_window_of_both_halves():
    wrist = piece("data.wrist")
    motion = [np.arange(6 * length).reshape(length, 6) for length in (1000, 1001, 700)]
    watch = wrist.Watch(motion, np.array([3, 5, 6]), np.array([1, 1, 2]), [])
    person = piece("federated.people").split(watch, 1)
    assert person.y.tolist() == [3] * 6 + [5] * 6 and person.test_y.tolist() == [3] * 6 + [5] * 6
    for number in (3, 5):
        seen, kept = (set(x[y == number].ravel()) for x, y in ((person.x, person.y), (person.test_x, person.test_y)))
        assert max(seen) < min(kept)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return output_once(tmp_path_factory, "federated", APPS / "federated_watch.py")


@pytest.mark.programs
def test_two_clients_train_under_masks_and_get_their_files(smoke):
    folder, printed = smoke
    lines = [json.loads(line) for line in (folder / "federated_watch.jsonl").read_text().splitlines()]
    assert [line["way"] for line in lines] == ["global", "global, then own epochs", "personal masks", "local only"]
    dense, masks = lines[0], lines[2]
    assert masks["bytes_by_round"][1] < 0.25 * dense["bytes_by_round"][1]  # the first one sends everything down
    assert dense["bytes"] < dense["plain_bytes"] and masks["bytes"] < dense["bytes"]
    assert (folder / "federated_watch.md").read_text(encoding="utf-8") in printed
    from tfprune.export import inspect

    kernels = [row for row in inspect(folder / "personal-0" / "person-2.tfz").rows if row.size > 100]
    zeros = 1 - sum(row.nnz for row in kernels) / sum(row.size for row in kernels)
    assert zeros == pytest.approx(0.8, abs=0.01)


def test_the_tables_are_those_of_the_results_and_stand_on_the_page():
    lines = piece("study.results").read(RESULTS / "federated_watch.jsonl")
    text = piece("federated.report").text(lines)
    assert (RESULTS / "federated_watch.md").read_text(encoding="utf-8") == text
    page = (ROOT / "docs" / "gallery" / "federated_watch.md").read_text(encoding="utf-8")
    assert all(line in page for line in text.splitlines())


def test_the_bars():
    """Masks with 80 % zeros: at least the mean accuracy of dense FedAvg minus a point, for 25 % of its bytes."""
    lines = piece("study.results").read(RESULTS / "federated_watch.jsonl")
    mean = piece("federated.report").mean
    of = {way: [line for line in lines if line["way"] == way] for way in ("global", "personal masks")}
    assert [[line["seed"] for line in each] for each in of.values()] == [[0, 1, 2]] * 2
    accuracy = {way: np.mean([mean(line) for line in each]) for way, each in of.items()}
    assert accuracy["personal masks"] >= accuracy["global"] - 0.01
    for dense, masks in zip(*of.values(), strict=True):
        assert masks["bytes"] <= 0.25 * dense["bytes"] and masks["sparsity"] == 0.8
