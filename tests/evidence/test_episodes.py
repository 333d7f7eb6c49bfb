"""Episodes: samples in the right order, the same in every pass, and class moments over their true classes."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

import tfprune
from tfprune.criteria import DACIS
from tfprune.evidence import gather
from tfprune.facts import ClassMoments
from tfprune.masking.update_masks import _subjects_of, gatherer_of

GENERATOR = np.random.default_rng(0)
Y = np.repeat([7, 11, 3, 20], 6)
X = Y[:, None] + GENERATOR.uniform(0, 0.5, (24, 2)).astype(np.float32)


def test_an_episode_holds_support_sets_first_and_no_sample_twice():
    for episode in tfprune.few_shot.Episodes(X, Y, ways=3, shots=2, queries=4, episodes=20):
        assert episode.y.tolist() == [0, 0, 1, 1, 2, 2] + [0] * 4 + [1] * 4 + [2] * 4
        assert np.array_equal(episode.classes, np.floor(episode.x[:, 0]))  # made so above
        assert len({tuple(row) for row in episode.x}) == 18
        assert len(set(episode.classes[::2][:3])) == 3


def test_every_pass_and_every_seed():
    def passed(seed):
        return [
            episode.x
            for episode in tfprune.few_shot.Episodes(X, Y, ways=2, shots=1, queries=1, episodes=3, seed=seed)
        ]

    episodes = tfprune.few_shot.Episodes(X, Y, ways=2, shots=1, queries=1, episodes=3)
    assert len(episodes) == 3
    np.testing.assert_array_equal([episode.x for episode in episodes], [episode.x for episode in episodes])
    np.testing.assert_array_equal(passed(0), passed(0))
    assert not np.array_equal(passed(0), passed(1))
    batches = [episode.x for episode in episodes.draw(5, seed=1)]
    assert len(batches) == 5 and episodes.labels == (3, 7, 11, 20)
    np.testing.assert_array_equal(batches[:3], passed(1))


def test_class_moments_compare_true_classes_and_the_loss_gets_those_of_the_episode():
    """NumPy on the same episodes; with the numbers of the episodes as classes, D would be close to 0."""
    model = tfprune.wrap(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="out")]), criterion=DACIS())
    episodes = tfprune.few_shot.Episodes(X, Y, ways=2, shots=3, queries=0, episodes=8)
    seen = []

    def loss(y, outputs):
        seen.append(y.shape)
        return keras.losses.sparse_categorical_crossentropy(y, outputs[:, :2], from_logits=True)

    facts = gather(model, _subjects_of(model), gatherer=gatherer_of(model, episodes, loss=loss))["out/kernel"]
    kernel, bias = (np.asarray(weight, dtype=np.float64) for weight in model.layers[0].layer.get_weights())
    x = np.concatenate([episode.x for episode in episodes])
    classes = np.concatenate([episode.classes for episode in episodes])
    expected = ClassMoments(3)
    expected.add(x @ kernel + bias, classes)
    np.testing.assert_allclose(facts["output_moments"].discrimination(), expected.discrimination(), rtol=1e-4)
    norms = []
    for episode in episodes:
        logits = (episode.x @ kernel + bias)[:, :2]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = (odds / odds.sum(axis=1, keepdims=True) - np.eye(2)[episode.y]) / len(episode.y)
        norms.append(np.append(np.linalg.norm(episode.x.T @ error, axis=0), 0))
    np.testing.assert_allclose(facts["gradient_norms"], np.mean(norms, axis=0), rtol=1e-4)
    assert seen


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shots": 5, "queries": 2}, ValueError, "at least 7 samples of each class, for shots=5 and queries=2. Rec"),
        ({"ways": 5, "queries": 1}, ValueError, "at least ways=5 classes. Received: 4 classes. Pass more classes"),
        ({"ways": 1}, ValueError, "`ways`"),
        ({"shots": 0}, ValueError, "`shots`"),
        ({"queries": -1}, ValueError, "`queries`"),
        ({"shots": 2.5}, TypeError, "`shots`"),
        ({"y": Y[:-1]}, ValueError, "Expected a label for each sample. Received: 24 samples and 23 labels."),
        ({"y": Y + 0.5}, ValueError, "Expected class labels in `data`: integers"),
    ],
)
def test_refusals(arguments, error, message):
    settings = {"x": X, "y": Y, "ways": 2, "shots": 1, "queries": 1} | arguments
    with pytest.raises(error, match=re.escape(message)):
        tfprune.few_shot.Episodes(settings.pop("x"), settings.pop("y"), **settings)
