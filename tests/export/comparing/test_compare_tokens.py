"""Losses of tokens, against tables by hand, SciPy and Keras."""

import keras
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, softmax

from tfprune.export import damage
from tfprune.export.comparing.damage import _frequency_classes
from tfprune.export.comparing.damage_report import clustered_excess_test, clustered_interval, mean_interval

RNG = np.random.default_rng(0)
TARGETS = np.array([[0, 0, 1, -1], [0, 2, -1, -1], [0, 1, 3, 2]])  # negative: padding
SCORES = RNG.normal(size=(3, 4, 4))
WORSE = SCORES - 2 * np.eye(4)[np.maximum(TARGETS, 0)] * np.isin(TARGETS, (1, 3))[..., None]  # tokens 1 and 3 lose


def losses_of(scores):
    return -np.take_along_axis(log_softmax(scores, axis=-1), np.maximum(TARGETS, 0)[..., None], axis=-1)[..., 0]


def test_the_loss_is_that_of_keras_and_padding_is_ignored():
    report = damage(SCORES, WORSE, (None, TARGETS))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    counted = TARGETS >= 0
    assert (report.task, report.samples) == ("language", 9)
    assert report.before.score == pytest.approx(losses_of(SCORES)[counted].mean(), abs=1e-9)
    assert report.after.score == pytest.approx(float(loss(TARGETS, WORSE.astype("float32"))), abs=1e-5)
    assert (report.lost, report.gained) == (3, 0)  # two tokens 1 and one token 3
    assert "loss per token" in str(report) and "9 tokens" in str(report)
    assert [flip.index for flip in report.flips] == [2, 0]  # text 1 has no such token


def test_probabilities_and_recorded_losses_give_the_same_rows():
    expected = damage(SCORES, WORSE, (None, TARGETS))
    for pair in ((softmax(SCORES, -1), softmax(WORSE, -1)), (losses_of(SCORES), losses_of(WORSE))):
        rows = damage(*pair, (None, TARGETS), task="language").rows
        for row, other in zip(rows, expected.rows, strict=True):
            assert row.name == other.name and row.drop == pytest.approx(other.drop, abs=1e-9)


def test_kinds_of_tokens_and_texts_are_groups():
    kinds = np.array(["word", "name", "word", "digit"])[TARGETS]
    report = damage(SCORES, WORSE, (None, TARGETS), groups={"kind": kinds, "source": ["web", "web", "book"]})
    grown = losses_of(WORSE) - losses_of(SCORES)
    rows = {row.name: row for row in report.rows}
    assert rows["kind name"].drop == pytest.approx((grown[0, 2] + grown[2, 1]) / 2, abs=1e-9)
    assert rows["kind digit"].drop == pytest.approx(grown[2, 2], abs=1e-9)
    assert (rows["kind word"].drop, rows["kind word"].samples) == (0, 6)
    assert rows["source book"].drop == pytest.approx(grown[2].mean(), abs=1e-9)
    assert rows["kind digit"].low is None  # of one text nothing is known about others


def test_frequent_kinds_make_up_half_and_rare_ones_a_tenth():
    targets = np.repeat([7, 3, 5, 9], [50, 30, 12, 8])
    expected = np.repeat(["frequent", "medium", "medium", "rare"], [50, 30, 12, 8])
    np.testing.assert_array_equal(_frequency_classes(targets), expected)
    assert set(_frequency_classes(np.zeros(4, int))) == {"frequent"}


def test_intervals_and_tests_of_clusters_of_one_are_those_of_scipy():
    values, inside, each = RNG.normal(size=40), np.arange(40) < 15, np.arange(40)
    assert clustered_interval(values, clusters=each, level=0.9) == pytest.approx(
        mean_interval(values, level=0.9), abs=1e-9
    )
    # With a cluster for each value, the spread is that of two independent means, with the variances of all values.
    parts = [(part - part.mean()) / len(part) for part in (values[inside], values[~inside])]
    spread = np.sqrt(40 / 39 * sum((part**2).sum() for part in parts))
    t = (values[inside].mean() - values[~inside].mean()) / spread
    assert clustered_excess_test(values, inside, clusters=each) == pytest.approx(stats.t.sf(t, 39), abs=1e-9)
    assert clustered_excess_test(values, ~inside, clusters=each) == pytest.approx(stats.t.sf(-t, 39), abs=1e-9)


def test_repeated_tokens_of_a_text_add_no_certainty():
    values, texts = RNG.normal(size=12), np.arange(12)
    once = clustered_interval(values, clusters=texts, level=0.95)
    assert clustered_interval(np.repeat(values, 9), clusters=np.repeat(texts, 9), level=0.95) == pytest.approx(
        once, abs=1e-9
    )


def test_kinds_drawn_at_random_are_rarely_reported():
    """Texts differ in how much they lose; at a true rate of 5 % of 60 runs, more than 8 have a probability of 1 %."""
    reported = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        grown = random.normal(size=(40, 1)) + random.normal(size=(40, 20))
        targets, kinds = random.integers(0, 50, (40, 20)), random.integers(0, 6, (40, 20))
        report = damage(np.ones((40, 20)), 1 + grown, (None, targets), groups={"kind": kinds}, task="language")
        reported += bool(report.harmed)
    assert reported <= 8


def test_a_kind_that_loses_more_is_found():
    random = np.random.default_rng(0)
    targets = random.integers(0, 50, (60, 30))
    grown = random.normal(0, 0.5, size=(60, 30)) + 0.4 * (targets == 7)
    kinds = np.where(targets == 7, "digit", "word")
    report = damage(np.ones((60, 30)), 1 + grown, (None, targets), groups={"kind": kinds}, task="language")
    assert report.rows[0].name == "kind digit" and report.harmed == ("kind digit",)


@pytest.mark.parametrize(
    ("sides", "y", "settings", "message"),
    [
        ((SCORES, SCORES), TARGETS + 1, {}, "targets below 4"),
        ((SCORES, SCORES), np.full((3, 4), -1), {}, "at least 0 in `y`"),
        ((SCORES, softmax(SCORES, -1)), TARGETS, {}, "probabilities from `after`"),
        ((SCORES, SCORES), TARGETS, {"groups": {"kind": [1, 2]}}, r"groups\['kind'\]. Received: .* \(2,\)"),
        ((SCORES, SCORES), TARGETS[:, :2], {"task": "language"}, r"labels of shape \(3, 2\)"),
        ((SCORES, SCORES), None, {"task": "language"}, r"\(texts, time, vocabulary\).*none"),
    ],
)
def test_other_values_are_refused(sides, y, settings, message):
    with pytest.raises(ValueError, match=message):
        damage(*sides, (None, y), **settings)
