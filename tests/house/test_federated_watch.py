"""The federated app: how it splits recordings, what a smoke run leaves, and the committed results."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from unittest.mock import Mock

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


@pytest.mark.slow
def test_two_clients_train_under_masks_and_get_their_files(smoke):
    folder, printed = smoke
    lines = [json.loads(line) for line in (folder / "federated_watch.jsonl").read_text().splitlines()]
    ways, names = piece("federated.ways"), [line["way"] for line in lines]
    assert names == [name for way in ways.WAYS for name in ways.names(way)]
    of = dict(zip(names, lines, strict=True))
    dense, masks = of["global"], of["personal masks"]
    assert of["FedMask"]["bytes_by_round"][1] < 0.2 * dense["bytes_by_round"][1]  # bits alone come up
    assert of["common mask"]["zeros"] == of["PruneFL"]["zeros"] == pytest.approx(0.8, abs=0.005)
    assert 0.3 < of["HeteroFL"]["zeros"] < 0.4  # (1 - 0.5 ** 2) / 2 without the first and last layers
    newcomers = [json.loads(line) for line in (folder / "newcomers.jsonl").read_text().splitlines()]
    assert [line["way"] for line in newcomers] == ["dense", *["common mask"] * 2, *["personal masks"] * 3]
    assert masks["bytes_by_round"][1] < 0.25 * dense["bytes_by_round"][1]  # the first one sends everything down
    assert dense["bytes"] < dense["plain_bytes"] and masks["bytes"] < dense["bytes"]
    assert (folder / "federated_watch.md").read_text(encoding="utf-8") in printed
    from tfprune.export import inspect

    kernels = [row for row in inspect(folder / "seed-0" / "personal-masks" / "person-2.tfz").rows if row.size > 100]
    zeros = 1 - sum(row.nnz for row in kernels) / sum(row.size for row in kernels)
    assert zeros == pytest.approx(0.8, abs=0.01)


def test_the_tables_are_those_of_the_results_and_stand_on_the_page():
    lines = piece("study.results").read(RESULTS / "federated_watch.jsonl")
    newcomers = piece("study.results").read(RESULTS / "newcomers.jsonl")
    text = piece("federated.report").text(lines, newcomers)
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


@pytest.mark.programs
def test_the_app_in_this_process_is_a_plain_loop(monkeypatch):
    """The dense rounds on made-up motion, by the grid of this process and by a plain loop over the clients."""
    federated, ways = piece("federated.flower"), piece("federated.ways")
    from flwr.supercore.task_identity import TaskIdentity

    from sample_apps.federated import clients
    from sample_apps.federated.people import people
    from tfprune.federated import Update, masked_average

    for name in ("_run_id", "_node_id", "_task_id"):  # what the app sets is undone
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(clients.tf.config, "threading", Mock())  # this process has its threads already
    watch = clients.trainer(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"source": "", "folder": folder, "clients": 2, "rounds": 2, "epochs": 1, "first-epochs": 1}
        federated.simulate({"ways": "dense", "seed": 0, "sparsity": 0.8, **settings}, with_ray=False)
        stored = (Path(folder) / ways.name_of("dense") / "server.update").read_bytes()
    server = watch.initial
    for turn in (1, 2):
        updates = []
        for number, person in enumerate(people("")[:2]):
            watch.open_masks()
            watch.model.set_weights(server)
            watch.fit(person, epochs=1, seed=(0, number, turn))
            updates.append(watch.model.weights)
        counts = [len(person.x) for person in people("")[:2]]
        server = masked_average(updates, [None] * 2, client_weights=counts, server=server)
    for decoded, weight in zip(Update.decode(stored, like=server).weights, server, strict=True):
        np.testing.assert_allclose(decoded, weight, rtol=0, atol=1e-6)  # sums on several threads


def test_flower_takes_the_configuration_of_the_app():
    config = pytest.importorskip("tomllib").loads((APPS / "federated" / "pyproject.toml").read_text(encoding="utf-8"))
    app = config["tool"]["flwr"]["app"]
    for kind in ("server_app", "client_app"):
        module, _, name = app["components"][kind.replace("_", "")].partition(":")
        assert module == "sample_apps.federated.flower" and hasattr(piece("federated.flower"), name) and name == kind
    given = {"source", "folder", "clients", "rounds", "epochs", "first-epochs", "ways", "seed", "sparsity"}
    assert set(app["config"]) == given
    assert set(app["config"]["ways"].split(",")) <= set(piece("federated.methods").CLIENTS)
    from flwr.common.config import validate_config

    is_valid, errors, warnings = validate_config(config, check_module=False)
    assert is_valid and not errors and not warnings
