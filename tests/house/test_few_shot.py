"""The few-shot app: what it draws, what it learns, its half for the device, and the committed results."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from programs import WITHOUT_KERAS, forked, output_once, printed_by, started

from tfprune.export import Runner

ROOT = Path(__file__).parents[2]
APPS = ROOT / "sample_apps"
RESULTS = APPS / "few_shot" / "results"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # DejaVu and STIX have Greek, Computer Modern Latin only


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def piece(name):
    return importlib.import_module(f"sample_apps.few_shot.{name}")


# Characters.


@pytest.fixture
def glyphs(monkeypatch):
    module = piece("glyphs")
    monkeypatch.setattr(module, "TRAIN", {"Latin": ["AZ", "az"]})
    monkeypatch.setattr(module, "TEST", {"Greek": ["\u03b4\u03c9"]})
    monkeypatch.setattr(module, "FEWEST", 3)
    return module


@pytest.mark.programs
def test_fonts_of_the_test_are_not_used_in_training(glyphs, tmp_path):
    train, test = glyphs.read_glyphs(FONTS, tmp_path / "glyphs.npz")
    names = {character: face.path.name for face in glyphs.faces(FONTS, needed=["a", "\u03c9"]) for character in "a"}
    assert names
    assert set(test.characters) <= set(map(chr, range(0x3B4, 0x3CA))) and len(test.characters) > 5
    assert set(train.characters) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    latin = [face for face in glyphs.faces(FONTS, needed=["a", "\u03c9"]) if ord("\u03c9") not in face.covered]
    assert max(np.bincount(train.y)) <= len(latin) < len(list(glyphs.faces(FONTS, needed=["a"])))
    assert train.x.shape[1:] == (28, 28, 1) and train.x.min() >= 0 and train.x.max() <= 1
    again, _ = glyphs.read_glyphs(Path("nowhere"), tmp_path / "glyphs.npz")
    np.testing.assert_array_equal(again.x, train.x)


def test_one_file_of_a_family(glyphs):
    faces = list(glyphs.faces(FONTS, needed=["a"]))
    sans = [face.path.name for face in faces if face.path.name.startswith("DejaVuSans")]
    assert sorted(sans) == ["DejaVuSans.ttf", "DejaVuSansMono.ttf"]  # neither bold nor oblique


def test_a_placeholder_is_no_picture_of_a_character(glyphs):
    """The character is not in the font, though its table of characters says so here."""
    (face,) = [face for face in glyphs.faces(FONTS, needed=["a"]) if face.path.name == "DejaVuSans.ttf"]
    claimed = glyphs.Face(face.path, face.covered | {0xAC00}, face.placeholder)
    glyphs.FEWEST = 1
    assert list(glyphs.drawn(["a", "\uac00"], [claimed])) == ["a"]


def test_what_looks_alike_is_one_class(glyphs):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (3, 28, 28)).astype(np.uint8)
    other = random.integers(0, 255, (2, 28, 28)).astype(np.uint8) * (np.arange(28) < 9)
    assert list(glyphs.distinct({"a": images, "b": images[::-1], "c": other}, [])) == ["a", "c"]
    assert list(glyphs.distinct({"a": images, "c": other}, [other])) == ["a"]


def test_a_folder_without_fonts_is_told_with_the_packages(glyphs, tmp_path):
    with pytest.raises(SystemExit, match=r"Received: 0 and 0 in .*apt-get install fonts-dejavu.*--fonts DIR"):
        glyphs.read_glyphs(tmp_path, tmp_path / "glyphs.npz")
    assert not (tmp_path / "glyphs.npz").exists()


# Learning.


def test_the_nearest_mean_wins():
    judging = piece("judging")
    y = np.repeat(np.arange(6), 10)
    clear = np.eye(6)[y] + np.random.default_rng(0).normal(0, 0.01, (60, 6))
    assert judging.by_prototypes(clear, y, shots=1, episodes=4) == 1
    alike = np.random.default_rng(0).normal(size=(60, 6))
    assert judging.by_prototypes(alike, y, shots=5, episodes=100) == pytest.approx(0.2, abs=0.05)


# The program, and its half for the device.


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return output_once(tmp_path_factory, "few-shot", APPS / "few_shot_glyphs.py")


@pytest.mark.slow
def test_the_app_prunes_to_22_percent_and_exports(smoke):
    folder, printed = smoke
    assert "made-up shapes" in printed and "| DACIS | 1 |" in printed
    rows = [line for line in printed.splitlines() if line.startswith("ProtoNet, seed 0")]
    dense, small = [int(row.split()[-2].replace(",", "")) for row in rows]
    assert 0.1 < small / dense <= 0.22
    assert (folder / "few_shot.png").stat().st_size
    dense_file, small_file = folder / "ProtoNet-dense-0.tflite", folder / "ProtoNet-DACIS-0.tflite"
    assert small_file.stat().st_size < dense_file.stat().st_size
    assert Runner(small_file).outputs[0].shape[-1] < Runner(dense_file).outputs[0].shape[-1]


@pytest.mark.slow
def test_results_are_not_overwritten(smoke):
    ended = forked(APPS / "few_shot_glyphs.py", "--smoke", "--output", smoke[0], folder=ROOT)
    assert ended.code and "Pass --resume" in ended.stderr


@pytest.mark.slow
def test_the_device_learns_classes_where_keras_cannot_be_imported(smoke, tmp_path):
    shutil.copy(APPS / "few_shot_device.py", tmp_path)  # alone, as on the device
    model, pictures = smoke[0] / "ProtoNet-dense-0.tflite", smoke[0] / "pictures.npz"
    program = ("-c", WITHOUT_KERAS, tmp_path / "few_shot_device.py", model, pictures)
    printed = printed_by(*program, folder=tmp_path, run=started)
    with np.load(pictures) as content:
        runner = Runner(model)
        means = runner.predict(content["learn"]).reshape(5, 5, -1).mean(axis=1)
        distances = np.square(runner.predict(content["recognize"])[:, None] - means).sum(axis=-1)
        right = int((distances.argmin(axis=1) == content["labels"]).sum())
    assert f"Right: {right} of 25 pictures." in printed and "Learned 5 classes from 25 pictures" in printed


def test_missing_pictures_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["few_shot_device", "m.tflite", str(tmp_path / "none.npz")])
    with pytest.raises(SystemExit, match=r"none\.npz, which is not a file. Make one with few_shot_glyphs\.py\."):
        importlib.import_module("sample_apps.few_shot_device").main()


# The committed results.


def test_the_table_is_that_of_the_results_and_stands_on_the_page():
    report, results = piece("report"), importlib.import_module("sample_apps.study.results")
    text = report.text(results.read(RESULTS / "few_shot.jsonl"))
    assert (RESULTS / "few_shot.md").read_text(encoding="utf-8") == text
    page = (ROOT / "docs" / "gallery" / "few_shot_glyphs.md").read_text(encoding="utf-8")
    assert all(line in page for line in text.splitlines())
