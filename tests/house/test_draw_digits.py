"""The page where one draws digits: the app for seconds, then strokes and buttons in Chromium. The truth is Runner."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from chromium import browser
from pages import BROWSER
from programs import output_once
from web_files import installed_litert_js, served

from tfprune.export import Runner, inspect
from tfprune.export.device.web.web import LITERT_JS

pytestmark = pytest.mark.slow
# Corners of strokes, as fractions of the paper from its upper left.
STROKES = {
    0: [[(0.5, 0.15), (0.32, 0.25), (0.25, 0.5), (0.32, 0.75), (0.5, 0.85), (0.68, 0.75), (0.75, 0.5), (0.5, 0.15)]],
    2: [[(0.28, 0.3), (0.38, 0.18), (0.55, 0.15), (0.7, 0.25), (0.68, 0.42), (0.5, 0.6), (0.28, 0.83), (0.74, 0.83)]],
    4: [[(0.58, 0.15), (0.25, 0.6), (0.78, 0.6)], [(0.6, 0.4), (0.6, 0.88)]],
}
DRAW = """(async (strokes) => {
  const paper = document.getElementById("paper"), answer = document.getElementById("answer");
  const box = paper.getBoundingClientRect();
  document.getElementById("clear").click();
  const send = (type, [x, y], buttons) => paper.dispatchEvent(new PointerEvent(type, {
    bubbles: true, cancelable: true, pointerId: 1, buttons,
    clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
  for (const stroke of strokes) {
    send("pointerdown", stroke[0], 1);
    stroke.slice(1).forEach((place) => send("pointermove", place, 1));
    send("pointerup", stroke.at(-1), 0);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return answer.textContent;
})(STROKES)"""
READY = "document.getElementById('answer')?.textContent === 'Draw a digit on the paper.'"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Return the folder of the app's files, and what it printed."""
    return output_once(tmp_path_factory, "draw_digits", "-m", "sample_apps.draw_digits")


def test_the_app_writes_two_files_and_a_page(output):
    folder, printed = output
    pruned, dense = inspect(folder / "pruned.tfz"), inspect(folder / "dense.tfz")
    assert pruned.sparsity == pytest.approx(0.9, abs=0.005) and dense.sparsity < 0.01
    assert pruned.inputs[0].shape == dense.inputs[0].shape == (1, 8, 8, 1)
    assert f"{(folder / 'pruned.tfz').stat().st_size:,}" in printed
    names = {path.name for path in (folder / "page").iterdir()}
    assert {"index.html", "draw.html", "draw.js", "draw.css", "samples.json", "package.json"} <= names
    package = json.loads((folder / "page/package.json").read_text(encoding="utf-8"))
    assert package["dependencies"] == {"@litertjs/core": LITERT_JS}
    assert 'http-equiv="Content-Security-Policy"' in (folder / "page/draw.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(output, tmp_path_factory):
    """Return the folder of the page with LiteRT.js."""
    if BROWSER is None:
        pytest.skip("no chromium is installed (apt-get install chromium)")
    modules = installed_litert_js(tmp_path_factory)
    folder = tmp_path_factory.mktemp("drawing") / "page"
    shutil.copytree(output[0] / "page", folder)
    (folder / "node_modules").symlink_to(modules)
    return folder


@pytest.mark.parametrize("width", [390, 1280])
def test_drawings_and_samples_are_read(output, page, tmp_path, width):
    samples = np.array(json.loads((page / "samples.json").read_text()), np.float32).reshape(10, 8, 8, 1) / 16
    expected = Runner(output[0] / "pruned.tfz").predict(samples).argmax(axis=1)
    with served(page) as address, browser(tmp_path / "profile") as opened:
        opened.open(f"{address}draw.html", width=width)
        opened.wait_for(READY)
        for digit, strokes in STROKES.items():
            assert opened.evaluate(DRAW.replace("STROKES", json.dumps(strokes))) == f"This is a {digit}."
        for number, digit in enumerate(expected):
            opened.evaluate(f"document.querySelectorAll('#samples button')[{number}].focus()")
            opened.press("Enter")
            article = "an" if digit == 8 else "a"
            opened.wait_for(f"document.getElementById('answer').textContent === 'This is {article} {digit}.'")
            opened.evaluate("document.getElementById('clear').click()")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert not [text for level, text in opened.console if level == "error"]
        assert all(url.startswith((address, "blob:", "data:")) for url in opened.requests)


def test_the_page_says_that_litert_js_is_missing(output, tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium is installed (apt-get install chromium)")
    with served(Path(output[0] / "page")) as address, browser(tmp_path / "profile") as opened:
        opened.open(f"{address}draw.html", width=390)
        opened.wait_for("document.getElementById('answer')?.textContent.includes('npm install')")
