"""The Pi page's code runs as it stands; `make device-page` follows the whole page on an emulated Pi."""

import contextlib
import re
import shlex
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from tfprune.export.command_line import cli

PAGE = (Path(__file__).parents[2] / "docs/howto/raspberry_pi.md").read_text(encoding="utf-8")
EXPORT, STREAM = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[:2]
COMMANDS = re.findall(r"^env/bin/tfprune (.*)$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of windows of readings, exported as the page says to the folder that the tests run in."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12, 6)), keras.layers.Flatten(), keras.layers.Dense(4)])
    with contextlib.chdir(tmp_path_factory.mktemp("pi")):
        exec(compile(EXPORT, "page", "exec"), {"model": model, "samples": np.ones((2, 12, 6), np.float32)})
        yield model


def test_the_loop_classifies_the_last_window_of_readings(model, monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    exec(compile(STREAM, "page", "exec"), {})
    printed = re.findall(r"reading (\d+): class (\d+), score (.+)", capsys.readouterr().out)
    readings = np.sin(np.arange(60)[:, None] / 5 + np.arange(6)).astype(np.float32)
    for count, label, score in printed:
        scores = np.asarray(model(readings[None, int(count) - 11 : int(count) + 1]))[0]
        assert int(label) == scores.argmax()
        assert float(score) == pytest.approx(scores.max(), abs=1e-3)
    assert [int(count) for count, *_ in printed] == [19, 29, 39, 49, 59]


def test_the_commands_run(model, capsys):
    assert [command.split()[0] for command in COMMANDS] == ["inspect", "verify", "bench"]
    assert [cli.main(shlex.split(command)) for command in COMMANDS] == [0, 0, 0]
