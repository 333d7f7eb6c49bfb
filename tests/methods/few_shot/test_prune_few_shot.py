"""Prune, meta-train and prune again: budgets of the first model, recorded gradients, and runs that go on."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest

import tfprune
from tfprune.allocation import LayerThreshold
from tfprune.base.output import Progress
from tfprune.criteria import DACIS
from tfprune.facts import META
from tfprune.methods.few_shot.learners import Episodic, Lessons, _distances, optimizer_of, settings_of
from tfprune.methods.few_shot.prune import _Planner

GENERATOR = np.random.default_rng(0)
Y = np.arange(96) % 8
X = (GENERATOR.normal(size=(8, 6))[Y] + GENERATOR.normal(0, 0.4, (96, 6))).astype("float32")
TASKS = tfprune.few_shot.Episodes(X, Y, ways=3, shots=2, queries=2, episodes=4)
STAGE = tfprune.few_shot.FewShotStage


def embedding():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, activation="relu", name="hidden"), keras.layers.Dense(8, name="out")]
    return keras.Sequential([keras.Input((6,)), *layers])


class Epochs(keras.callbacks.Callback):
    """Notes the epochs that it sees, and the episodes in each."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        self.seen[self.epoch] = batch + 1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch


STAGES = [
    STAGE(None, 3),
    STAGE(tfprune.budget(parameters=0.6, allocation=LayerThreshold(min_units=2)), 4),
    STAGE(tfprune.budget(parameters=0.3), 2),
]


def run(model, folder, callbacks=()):
    taxonomy = tfprune.few_shot.ChannelTaxonomy({label: label % 2 for label in range(8)})
    how = {"taxonomy": taxonomy, "folder": folder, "callbacks": list(callbacks), "verbose": 0}
    return tfprune.few_shot.prune_few_shot(model, TASKS, stages=STAGES, later=TASKS, **how)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder, model, epochs = tmp_path_factory.mktemp("few-shot") / "run", embedding(), Epochs()
    before = model.get_weights()
    smaller, report = run(model, folder, [epochs])
    for weight, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, now)
    return folder, model, smaller, report, epochs


@pytest.mark.programs
def test_fractions_are_of_the_first_model_and_each_stage_is_an_epoch(done):
    _, model, smaller, report, epochs = done
    sizes = [row.plan.parameters_kept for row in report.stages]
    whole = model.count_params()
    assert sizes[0] == whole and 0.3 * whole < sizes[1] <= 0.6 * whole and sizes[2] <= 0.3 * whole
    assert smaller.count_params() == sizes[2] and smaller.output_shape[-1] < 8  # the embedding lost channels, too
    assert epochs.seen == {0: 3, 1: 4, 2: 2}


@pytest.mark.programs
def test_the_report_counts_levels_and_measures(done):
    _, _, _, report, _ = done
    for row in report.stages:
        channels, kept = (sum(getattr(level, name) for level in row.levels) for name in ("channels", "kept"))
        groups = [group for group in row.plan.rows if group.kind == "channels"]
        assert (channels, kept) == (sum(group.channels for group in groups), sum(group.kept for group in groups))
        assert [level.level for level in row.levels] == ["protected", "partly", "prunable"]
    accuracies = np.array(report.accuracies)
    assert report.stability == pytest.approx(1 - accuracies.std() / accuracies.mean())
    assert report.stage_generalization == 1  # the later episodes are the same
    parameters = report.stages[-1].plan.parameters_kept / 1e6
    assert report.deployment_efficiency(fps=7, energy=2) == pytest.approx(accuracies.mean() * 7 / (parameters * 2))
    assert report.accuracy == pytest.approx(report.stages[-1].trained)
    assert "protected" in str(report) and "cross-stage generalization 1.000" in str(report)
    assert report.as_dict()["stages"][0]["levels"][0]["level"] == "protected"


@pytest.mark.programs
def test_a_run_that_was_killed_ends_as_it_would_have(done, tmp_path):
    folder, model, smaller, report, _ = done
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "stage_3.npz").unlink()
    epochs = Epochs()
    again, other = run(model, tmp_path / "copy", [epochs])
    assert epochs.seen == {2: 2} and str(other) == str(report)
    for weight, now in zip(smaller.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, now)


def test_norms_are_those_of_the_gradient_that_was_applied():
    """Of one step of gradient descent, the gradient is what the weights moved, divided by the rate."""
    learner, model = tfprune.few_shot.Prototypes(), embedding()
    headed = learner.headed(model, TASKS)
    before = [weight.copy() for weight in model.get_weights()]
    with Progress(1, verbose=0, unit="episode") as progress:
        Episodic(headed, learner, TASKS).train(
            Lessons(TASKS, 1, 1), optimizer_of(settings_of("sgd"), 0.1), number=1, callbacks=[], progress=progress
        )
    for index in (0, 2):
        moved = (before[index] - model.get_weights()[index]) / 0.1
        norms = getattr(model.trainable_variables[index], META)
        np.testing.assert_allclose(norms, np.linalg.norm(moved, axis=0), rtol=1e-4)
        assert norms.max() > 0


def planned(model, target, **criterion):
    planner = _Planner(TASKS, DACIS(**criterion), None, tfprune.few_shot.Prototypes().embedding)
    return planner.plan(model, target, planner.complexity(model))[0].keep


def test_gradients_of_meta_training_and_thresholds_change_what_goes():
    """In the authors' code, neither does."""
    headed = tfprune.few_shot.Prototypes().headed(embedding(), TASKS)
    budget = tfprune.budget(parameters=0.5)
    without = planned(headed, budget, meta=100.0)  # none were recorded
    np.testing.assert_array_equal(without, planned(headed, budget))
    setattr(headed.trainable_variables[0], META, (~without[:16]).astype(float))
    setattr(headed.trainable_variables[2], META, np.ones(8))
    assert not np.array_equal(without, planned(headed, budget, meta=100.0))
    counts = [planned(headed, LayerThreshold(threshold=base, min_units=1)).sum() for base in (0.1, 0.6, 2.0)]
    assert counts[0] > counts[1] > counts[2] == 2


def test_distances_by_hand():
    embeddings = np.array([[0.0, 0, 0], [2, 0, 0], [0, 4, 0], [0, 6, 0], [1, 1, 2]], dtype=np.float32)
    found = np.asarray(_distances(embeddings, ways=2, shots=2))  # to the means (1, 0, 0) and (0, 5, 0)
    np.testing.assert_allclose(found, [[-1, -25], [-1, -29], [-17, -1], [-37, -1], [-5, -21]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stages": []}, ValueError, "at least one stage"),
        ({"stages": [0.5]}, TypeError, "a list of tfprune.few_shot.FewShotStage"),
        ({"tasks": (X, Y)}, TypeError, "`tasks` to be tfprune.few_shot.Episodes"),
        ({"learner": "maml"}, ValueError, r"one output of shape \(samples, 3\)"),
        ({"learner": "reptile"}, ValueError, "'prototypes', 'maml', or an instance of Learner"),
        ({"taxonomy": tfprune.few_shot.ChannelTaxonomy({0: 0, 1: 1})}, ValueError, r"none for \[2, 3, 4, 5, 6\]"),
        ({"callbacks": [print]}, TypeError, "a list of Keras callbacks"),
        ({"optimizer": 0.1}, TypeError, "a Keras optimizer or its name"),
        (
            {"validation_data": tfprune.few_shot.Episodes(X, Y, ways=2, shots=1, queries=0)},
            ValueError,
            "with queries",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    arguments = {"model": embedding(), "tasks": TASKS, "stages": STAGES, "verbose": 0} | arguments
    with pytest.raises(error, match=message):
        tfprune.few_shot.prune_few_shot(**arguments)


def test_a_budget_that_is_not_a_budget_is_refused():
    with pytest.raises(TypeError, match="a budget, a LayerThreshold or None. Received: budget=0.5"):
        STAGE(0.5)
