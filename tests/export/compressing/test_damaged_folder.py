"""A search that goes on in a damaged folder: one error that names the file, and nothing outside is touched."""

from __future__ import annotations

import json
import shutil

import damaged
import numpy as np
import pytest
from mutations import places
from stub_trials import stub_search

TRIALS = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "searched"
    stub_search(folder, trials=TRIALS)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "searched")


def rewrite(path, **changes):
    with np.load(path) as stored:
        arrays = {**stored, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def trial_with(path, key, value):
    """Return the text of a stored trial in which the first place of this name has another value."""
    with np.load(path) as stored:
        fields = json.loads(str(stored["trial"]))
    holder, _ = next(place for place in places(fields) if place[1] == key)
    holder[key] = value
    return np.array(json.dumps(fields))


DAMAGE = {
    "no array": ("baseline", {"score": None}, "no array 'score'"),
    "a score that is none": ("baseline", {"score": np.array("high")}, "could not convert"),
    "two scores": ("baseline", {"score": np.ones(2)}, "array"),
    "no text": ("run", {"run": None}, "no array 'run'"),
    "no steps": ("steps", {"steps": np.array(-5)}, "`steps` to be an integer of at least 1"),
    "no trial": ("trial-00001", {"trial": None}, "no array 'trial'"),
    "a trial that is none": ("trial-00001", {"trial": np.array("{")}, "Expected JSON"),
    "a deep trial": ("trial-00001", {"trial": np.array("[" * 100_000)}, "Expected JSON"),
    "a list": ("trial-00001", {"trial": np.array("[]")}, "the fields of a Trial"),
    "a file that is gone": ("trial-00001", {"file_0": None}, "no array 'file_0'"),
    "a file of texts": ("dense", {"file_0": np.array("x")}, "'file_0' to be bytes"),
    "an end that is none": ("dense", {"ended": np.array(np.inf)}, "`ended` to be a number"),
}
VALUES = {
    "sparsity": 1.5,
    "flops": 0,
    "pattern": "../..",
    "learning_rate": float("nan"),
    "steps": -3,
    "rounds": "many",
    "after": {"flops": 1.0},
    "quantize": "../../evil",
    "bytes": 0,
    "latency_ms": "slow",
    "drop": None,
    "tried": [3],
    "seconds": 10**400,
    "recipe": None,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named(name, folder):
    step, changes, words = DAMAGE[name]
    path = folder / "trials" / f"{step}.npz"
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=rf"{path}'.*{words}.*Delete it, and the step is done again"):
        stub_search(folder, trials=TRIALS + 1)


def test_a_damaged_time_of_a_step_is_named(folder):
    path = folder / "trials" / "pace.npz"
    rewrite(path, pace=np.array(np.nan))
    for trial in folder.glob("trials/trial-*.npz"):  # else their times count
        trial.unlink()
    with pytest.raises(ValueError, match=f"{path}'.*`pace` to be a number above 0"):
        stub_search(folder, trials=TRIALS)


@pytest.mark.parametrize("key", VALUES)
def test_a_trial_that_says_nonsense_is_named(key, folder, tmp_path):
    path = folder / "trials" / "trial-00001.npz"
    rewrite(path, trial=trial_with(path, key, VALUES[key]))
    with pytest.raises(ValueError, match=f"{path}'"):
        stub_search(folder, trials=TRIALS)
    assert [each.name for each in tmp_path.iterdir()] == ["searched"]


def test_a_recipe_that_goes_on_from_nowhere_is_named(folder):
    path = folder / "trials" / "trial-00000.npz"
    shutil.copy(folder / "trials" / "trial-00001.npz", path)
    with pytest.raises(ValueError, match=f"{path}'.*goes on from an earlier one"):
        stub_search(folder, trials=TRIALS)


@pytest.mark.parametrize("step", ["run", "baseline", "dense", "trial-00000"])
def test_a_folder_in_the_place_of_a_file_is_named(step, folder):
    path = folder / "trials" / f"{step}.npz"
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=f"{path}'.*Is a directory"):
        stub_search(folder, trials=TRIALS)


REPORTS = [b"", b"{", b"[" * 100_000, b"[]", b'{"front": 3}', b'{"front": [{}]}', b"\xff"]
NAMES = ["..", ".", "", "../outside.tflite", "trials", "mine.tflite", "report.html", None, 3]


@pytest.mark.parametrize("content", [*REPORTS, *(json.dumps({"front": [{"file": name}]}).encode() for name in NAMES)])
def test_what_an_earlier_report_says_removes_nothing(content, folder, tmp_path):
    others = [tmp_path / "outside.tflite", folder / "mine.tflite"]
    for other in others:
        other.write_text("of the user")
    whole = (folder / "report.json").read_bytes()
    (folder / "report.json").write_bytes(content)
    stub_search(folder, trials=TRIALS)
    assert all(other.read_text() == "of the user" for other in others)
    assert json.loads((folder / "report.json").read_bytes())["front"] == json.loads(whole)["front"]


def test_files_that_are_no_longer_the_best_are_removed_and_no_others(folder):
    front = {path.name for path in folder.glob("*.tflite")}
    stale = folder / "07_dense_int8.tflite"
    stale.write_text("of an earlier call")
    others = [folder / name for name in ("07_dense_int9.tflite", "x_dense_int8.tflite", "dense_int8.tflite")]
    for other in others:
        other.write_text("of the user")
    (folder / "07_dense_int8.tflite.md").mkdir()  # where its card would be
    stub_search(folder, trials=TRIALS)
    assert (folder / "07_dense_int8.tflite.md").is_dir()
    assert {path.name for path in folder.glob("*.tflite")} == front | {other.name for other in others}


@pytest.mark.parametrize("name", ["report.json", "report.html", "trials/run.lock", None])
def test_links_to_other_places_are_refused(name, folder, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("of the user")
    path = folder / name if name else next(folder.glob("01_*.tflite"))
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(ValueError, match=f"Received: '{path}', a link to another place. Remove it"):
        stub_search(folder, trials=TRIALS)
    assert outside.read_text() == "of the user"


def test_what_stands_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "searched").write_text("of the user")
    with pytest.raises(ValueError, match=f"a folder to write in. Received: folder='{tmp_path}/searched/trials'"):
        stub_search(tmp_path / "searched", trials=1)


def test_made_up_damage_raises_nothing_else():
    findings, ends = damaged.fuzz("folders", range(50))
    assert not findings
    assert ends["refused"] > 15
