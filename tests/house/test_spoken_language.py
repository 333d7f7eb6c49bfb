"""The spoken-language app: what it reads and hears, what a smoke run leaves, and the committed results."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from programs import printed_by

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "sample_apps" / "results"
RECORDINGS = Path("/usr/share/tuxpaint/stamps")
needs_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed (extra `micro`)"
)
needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir() or importlib.util.find_spec("soundfile") is None,
    reason="no recordings (apt-get install tuxpaint-stamps-default), or no soundfile (extra `spoken`)",
)


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)


def piece(name):
    return importlib.import_module(f"sample_apps.spoken.{name}")


def hum(pitch: float, seconds: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)


def test_a_hum_is_in_the_band_of_its_pitch_whatever_the_rate_of_the_recording():
    log_mel = piece("log_mel")
    frames = [log_mel.frames(log_mel.resampled(hum(1000, 1, rate), rate)) for rate in (16_000, 44_100)]
    assert [part.shape for part in frames] == [(49, 10)] * 2
    mel = [2595 * np.log10(1 + hertz / 700) for hertz in (1000, 8000)]
    middles = np.arange(1, 11) / 11 * mel[1]  # ten triangles, evenly spaced in mel
    assert {int(part.mean(axis=0).argmax()) for part in frames} == {int(np.abs(middles - mel[0]).argmin())}
    np.testing.assert_allclose(frames[0][5:-5].max(axis=1), frames[1][5:-5].max(axis=1), atol=0.01)


def test_clips_begin_a_second_apart_and_forget_how_loud_they_are():
    track = np.arange(160, dtype=np.float32)[:, np.newaxis] * np.ones((1, 10), np.float32)
    cut = piece("log_mel").clips(track)
    assert cut.shape == (3, 49, 10, 1)
    np.testing.assert_array_equal(cut, cut[:1].repeat(3, axis=0))
    np.testing.assert_array_equal(cut[0, :, 0, 0], np.arange(-24, 25))


def test_recordings_of_one_object_are_on_one_side(tmp_path):
    recordings = piece("recordings")
    for name in ("a/lion_desc_fr", "b/Lion-2_desc_fr", "a/lion_desc_ro", "a/cat3_desc_fr", "a/cat_desc_nl"):
        path = tmp_path / f"{name}.ogg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "a" / "tiger_desc_fr.ogg").write_text("a/lion_desc_fr")  # the same recording again
    by_language = recordings.paths(tmp_path)
    assert [path.name for path in by_language["fr"]] == ["cat3_desc_fr.ogg", "lion_desc_fr.ogg", "Lion-2_desc_fr.ogg"]
    assert [path.name for path in by_language["ro"]] == ["lion_desc_ro.ogg"] and not by_language["es"]  # and no nl
    assert [recordings.object_of(path) for path in by_language["fr"]] == ["cat", "lion", "lion"]
    objects = {f"object {number}" for number in range(50)}
    assert len(recordings.held_out(objects)) == 10 and recordings.held_out(objects) == recordings.held_out(objects)


@needs_recordings
def test_the_recordings_are_those_of_ten_languages():
    by_language = piece("recordings").paths(RECORDINGS)
    assert len(by_language) == 10 and all(len(own) > 300 for own in by_language.values())
    track = piece("log_mel").frames(piece("recordings")._sound(by_language["fr"][0]))
    assert len(track) > 10 and np.isfinite(track).all() and np.ptp(track) > 5


def test_without_recordings_it_says_how_to_get_them(tmp_path, monkeypatch):
    recordings = piece("recordings")
    monkeypatch.setattr(recordings, "DEBIAN", tmp_path / "none")
    with pytest.raises(SystemExit, match="apt-get install tuxpaint-stamps-default"):
        recordings.load(tmp_path)


def test_votes_are_means_over_the_last_looks():
    votes = np.random.default_rng(0).random((7, 3))
    expected = [votes[max(0, end - 3) : end].mean(axis=0) for end in range(1, 8)]
    np.testing.assert_allclose(piece("listen").smoothed(votes, 3), expected)


@pytest.mark.slow
@needs_micro
def test_a_smoke_run_makes_a_file_that_listens(tmp_path):
    printed = printed_by(ROOT / "sample_apps" / "spoken_language.py", "--smoke", "--output", "here", folder=tmp_path)
    assert "made-up sound" in printed
    folder = tmp_path / "here"
    assert (folder / "table.md").read_text(encoding="utf-8") in printed and (folder / "spoken.png").stat().st_size
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [line["way"] for line in lines] == ["dense, float", "dense", "channels, zeros, QAT"]
    sizes = [line["flash"] for line in lines]
    assert sizes[0] > sizes[1] > sizes[2] == (folder / "spoken.tflite").stat().st_size
    heard = printed_by(
        *("-m", "sample_apps.spoken.listen", folder / "spoken.tflite", folder / "recording.npz"), folder=ROOT
    )
    names = piece("recordings").LANGUAGES.values()
    assert heard.startswith("   1.00 s  ") and all(line[11:] in names for line in heard.splitlines())


def test_the_committed_tables_are_those_of_the_committed_results_and_meet_the_budget():
    report = piece("report")
    lines = [json.loads(line) for line in (RESULTS / "spoken_language.jsonl").read_text().splitlines()]
    text = report.text(lines)
    assert text == (RESULTS / "spoken_language.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "gallery" / "spoken_language.md").read_text(encoding="utf-8")
    assert all(part.strip() in page for part in text.split("\n\n"))
    for line in report.of(lines, "channels, zeros, QAT"):
        assert line["flash"] <= 256 * 1024 and line["arena"] <= 64 * 1024
