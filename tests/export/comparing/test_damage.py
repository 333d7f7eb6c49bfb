"""What a model lost: counted anew from the outputs, and what is refused."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, brier_score_loss, mean_absolute_error

from tfprune.export import damage, to_tflite

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 600)
LOGITS = RNG.normal(size=(600, 5)) + 3 * np.eye(5)[LABELS]
WORSE = LOGITS + 0.5 * RNG.normal(size=LOGITS.shape)
WORSE[LABELS == 3, 3] -= 2
BEFORE, AFTER = softmax(LOGITS, axis=1), softmax(WORSE, axis=1)
SPEAKERS = RNG.choice(["ada", "bo", "cy"], 600)
REPORT = damage(BEFORE, AFTER, (None, LABELS), groups={"speaker": SPEAKERS}, max_drop_per_group=0.05)


def test_scores_are_those_of_scikit_learn():
    for quality, chances in ((REPORT.before, BEFORE), (REPORT.after, AFTER)):
        assert quality.score == pytest.approx(accuracy_score(LABELS, chances.argmax(axis=1)), abs=1e-9)
        assert quality.brier == pytest.approx(brier_score_loss(LABELS, chances), abs=1e-9)
        assert quality.confidence == pytest.approx(chances.max(axis=1).mean(), abs=1e-9)


def test_each_row_is_counted_from_the_outputs():
    masks = {f"class {label}": label == LABELS for label in range(5)}
    masks |= {f"speaker {name}": name == SPEAKERS for name in ("ada", "bo", "cy")}
    assert {row.name for row in REPORT.rows} == set(masks)
    right = [side.argmax(axis=1) == LABELS for side in (BEFORE, AFTER)]
    for row in REPORT.rows:
        before, after = (side[masks[row.name]] for side in right)
        assert row.samples == masks[row.name].sum()
        assert (row.before, row.after) == pytest.approx((before.mean(), after.mean()), abs=1e-9)
        assert (row.lost, row.gained) == ((before & ~after).sum(), (~before & after).sum())
        assert row.drop == pytest.approx(before.mean() - after.mean(), abs=1e-9)
        assert row.low <= row.drop <= row.high


def test_the_class_that_was_harmed_comes_first():
    assert REPORT.harmed == ("class 3",)
    assert REPORT.rows[0].name == "class 3"
    assert str(REPORT).index("class 3") < str(REPORT).index("class 0")
    assert not REPORT.passed
    assert "class 3 lost" in REPORT.broken[0]


def test_flips_begin_with_the_most_confident_losses():
    lost = [flip for flip in REPORT.flips if flip.lost]
    assert len(lost) == REPORT.lost
    assert len(REPORT.flips) == REPORT.lost + REPORT.gained
    assert list(REPORT.flips[: REPORT.lost]) == lost == sorted(lost, key=lambda flip: -flip.confidence_before)
    for flip in lost[:5]:
        assert int(flip.label) == LABELS[flip.index] == BEFORE[flip.index].argmax() != AFTER[flip.index].argmax()
        assert flip.confidence_before == pytest.approx(BEFORE[flip.index].max())


def test_equal_models_lost_nothing():
    report = damage(BEFORE, BEFORE, (None, LABELS), groups=SPEAKERS)
    assert (report.drop, report.lost, report.gained, report.p_value) == (0, 0, 0, 1)
    assert report.harmed == report.flips == ()
    assert report.passed


def test_forms_of_outputs_and_labels_agree():
    one_hot = damage(BEFORE, AFTER, (None, np.eye(5)[LABELS]), groups={"speaker": SPEAKERS}, max_drop_per_group=0.05)
    assert one_hot == REPORT
    logits = damage(LOGITS, WORSE, (None, LABELS[:, None]), groups={"speaker": SPEAKERS.tolist()})
    assert logits.rows == REPORT.rows
    assert "logits" in logits.notes[0]
    batches = [(np.zeros((300, 2)), LABELS[:300]), (np.zeros((300, 2)), LABELS[300:])]
    assert damage(BEFORE, AFTER, batches, groups={"speaker": SPEAKERS}).rows == REPORT.rows
    several = damage({"a": BEFORE, "b": LOGITS}, {"a": AFTER, "b": WORSE}, (None, LABELS), output="a")
    assert (
        several.before == damage([BEFORE, LOGITS], [AFTER, WORSE], (None, LABELS), output=0).before == REPORT.before
    )


def test_a_class_without_samples_keeps_no_limit_and_is_named():
    present = LABELS != 4
    sides = BEFORE[present], BEFORE[present]
    report = damage(*sides, (None, LABELS[present]), class_names=["a", "b", "c", "d", "e"])
    assert report.passed and report.without_samples == ("e",) and "class e" in str(report)
    limited = damage(*sides, (None, LABELS[present]), max_drop_per_group=0.05)
    assert not limited.passed and limited.broken == ("no samples of class 4, so nobody knows what they lost",)
    assert REPORT.without_samples == ()


def test_labels_that_are_wrong_before_and_after_keep_no_limit():
    wrong = (BEFORE.argmax(axis=1) + 1) % 5
    report = damage(BEFORE, AFTER, (None, wrong), max_drop=0.01)
    assert report.before.score == 0 and not report.passed and "before" in report.broken[0]


def test_two_classes_in_one_output():
    labels = LABELS == 3
    report = damage(BEFORE[:, 3:4], AFTER[:, 3], (None, labels), class_names=["other", "three"])
    assert report.after.score == pytest.approx(np.mean((AFTER[:, 3] > 0.5) == labels))
    assert report.before.brier == pytest.approx(2 * brier_score_loss(labels, BEFORE[:, 3]), abs=1e-9)
    assert report.rows[0].name == "class three"


def test_without_labels_agreement_is_compared():
    report = damage(BEFORE, AFTER, (None, None), groups={"speaker": SPEAKERS})
    assert report.task == "agreement"
    assert report.after.score == pytest.approx(np.mean(BEFORE.argmax(axis=1) == AFTER.argmax(axis=1)))
    assert (report.before.score, report.gained, report.before.brier) == (1, 0, None)
    assert damage(LOGITS, WORSE, (None, None), task="classification").after.score == report.after.score


def test_errors_of_numbers_by_group():
    truth = RNG.normal(size=(600, 2, 3))
    before, after = (truth + scale * RNG.normal(size=truth.shape) for scale in (0.1, 0.12))
    after[SPEAKERS == "bo"] += 0.5
    report = damage(before, after, (None, truth), groups=SPEAKERS, max_drop=0.01)
    assert report.task == "regression"
    assert report.harmed == ("group bo",)
    assert report.rows[0].after == pytest.approx(
        mean_absolute_error(truth[SPEAKERS == "bo"].ravel(), after[SPEAKERS == "bo"].ravel()), abs=1e-9
    )
    assert SPEAKERS[report.flips[0].index] == "bo"
    assert "mean absolute error" in str(report)
    assert not report.passed


def test_few_samples_are_named_and_their_interval_is_wide():
    rare = np.where(np.arange(600) < 3, "rare", "other")
    report = damage(BEFORE, AFTER, (None, LABELS), groups={"kind": rare})
    (row,) = [row for row in report.rows if row.value == "rare"]
    assert row.high - row.low > 0.5
    assert "kind rare (3)" in report.notes[-1]


def test_a_report_turns_into_json_and_pictures(tmp_path):
    names = ["<b>shirt</b>", "a", "b", "c", "d"]
    images = RNG.random((600, 8, 8, 1))
    report = damage(BEFORE, AFTER, (images, LABELS), class_names=names, groups={"</td>": SPEAKERS})
    fields = json.loads(json.dumps(report.as_dict()))
    assert fields["rows"][0]["drop"] == report.rows[0].drop
    assert fields["harmed"] == list(report.harmed)
    report.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>shirt" not in page
    assert "&lt;b&gt;shirt" in page
    assert "</td> ada" not in page
    assert page.count("data:image/png;base64") == 24
    assert "http" not in page.replace("http-equiv", "")
    report.plot(tmp_path / "drops.png")
    assert (tmp_path / "drops.png").read_bytes().startswith(b"\x89PNG")


def test_series_are_drawn_as_lines(tmp_path):
    report = damage(BEFORE, AFTER, (RNG.normal(size=(600, 300, 2)), LABELS))
    report.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<polyline") == 2 * 24


def test_files_and_models_are_run(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="softmax")])
    x, y = RNG.normal(size=(50, 8)).astype(np.float32), RNG.integers(0, 4, 50)
    to_tflite(model, tmp_path / "model.tflite")
    from_file = damage(model, tmp_path / "model.tflite", (x, y))
    assert from_file.lost == from_file.gained == 0
    assert damage(model.predict(x, verbose=0), model, (x, y)).before == from_file.before
    zeros = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="softmax")])
    zeros.layers[0].kernel.assign(np.zeros((8, 4)))
    assert damage((tmp_path / "model.tflite").read_bytes(), zeros, (x, y)).after.score == np.mean(y == 0)


WITHOUT_KERAS = """
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = None  # importing them fails
import numpy as np
from tfprune.export import damage
x, y = np.load("x.npy"), np.load("y.npy")
report = damage("model.tflite", np.load("recorded.npy"), (x, y))
print(report.lost, report.gained, report.samples)
"""


@pytest.mark.programs
def test_neither_keras_nor_tensorflow_is_needed(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="softmax")])
    x = RNG.normal(size=(50, 8)).astype(np.float32)
    to_tflite(model, tmp_path / "model.tflite")
    arrays = {"x": x, "y": RNG.integers(0, 4, 50), "recorded": model.predict(x, verbose=0)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    command = [sys.executable, "-c", WITHOUT_KERAS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "50"]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"groups": {"speaker": SPEAKERS[:5]}}, ValueError, r"each of the 600 samples in groups\['speaker'\]"),
        ({"groups": {"age": RNG.random(600)}}, TypeError, "bins first"),
        ({"groups": {"class": SPEAKERS}}, ValueError, "another name than 'class'"),
        ({"after": AFTER[:5]}, ValueError, r"\(600, 5\) from `before` and \(5, 5\) from `after`"),
        ({"after": WORSE}, ValueError, "probabilities from `before` .* and logits from `after`"),
        ({"after": np.where(np.arange(600)[:, None] == 7, np.nan, AFTER)}, ValueError, "first of them sample 7"),
        ({"after": "nowhere.tflite", "data": (np.zeros((600, 2)), LABELS)}, ValueError, "nowhere.tflite"),
        ({"after": "nowhere.tflite"}, ValueError, "Expected samples for `after`"),
        ({"after": object()}, TypeError, "recorded outputs"),
        ({"data": (None, LABELS[:9])}, ValueError, "label for each of the 600"),
        ({"data": (None, LABELS + 1)}, ValueError, "from 0 to 4, .* from 1 to 5"),
        ({"data": (None, LABELS + 0.5)}, ValueError, "numbers of classes"),
        ({"data": "x.npy"}, TypeError, "tuple"),
        ({"before": LABELS, "after": LABELS}, ValueError, "before argmax"),
        ({"before": [BEFORE, BEFORE]}, ValueError, "output=None"),
        ({"class_names": ["a"]}, ValueError, "name for each of the 5"),
        ({"task": "guess"}, ValueError, "task"),
        ({"confidence": 1.0}, ValueError, r"`confidence` to be a number in \(0, 1\)"),
        ({"max_drop": -1}, ValueError, "max_drop"),
        ({"max_drop": 5}, ValueError, r"For 5 % pass 0\.05\."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(settings, error, text):
    with pytest.raises(error, match=text):
        damage(**{"before": BEFORE, "after": AFTER, "data": (None, LABELS)} | settings)
