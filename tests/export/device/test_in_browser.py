"""The page in Chromium: LiteRT.js from npm gives what LiteRT gives in Python, and what is wrong is shown in red."""

import json
import os
import time
from functools import partial

import numpy as np
import pytest
from chromium import browser
from file_graphs import FileGraph
from once import filled_once
from pages import needs_browser
from tiers import first
from web_files import installed, served, write_forms

from tfprune.export import Runner, add_metadata, check, pack, web
from tfprune.export.command_line import cli

pytestmark = [pytest.mark.programs, needs_browser]
EXACT = ("float32", "float16", "int8")  # the same kernels in C++ and in WebAssembly
DIFFERENCE = 1e-5  # of the largest output, of the others
CHECKED = 'document.querySelector("#result:not([hidden])")'
JSON_TEXT = 'document.getElementById("json").textContent'
STATUS = 'document.getElementById("status").textContent'


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(tmp_path, tmp_path_factory):
    """Return a function that writes a page for files, with its runtime beside it."""

    def write(files, **arguments):
        modules = installed(tmp_path_factory, arguments.get("target", "litert"))
        web(files, tmp_path / "page", **arguments)
        (tmp_path / "page" / "node_modules").symlink_to(modules)
        return tmp_path / "page"

    return write


def forms(tmp_path_factory, name):
    folder = filled_once(tmp_path_factory, f"web_{name}", partial(write_forms, name=name))
    return [folder / "float32.tflite", *sorted(set(folder.iterdir()) - {folder / "float32.tflite"})]


def small_file(path, seed=0):
    graph = FileGraph(seed, shape=(1, 6, 6, 2))
    path.write_bytes(graph.content(graph.dense(graph.flatten(graph.convolution(graph.input, 4)), 3)))
    return path


def checked(chromium, url, **size):
    chromium.open(url, **size)
    chromium.wait_for(CHECKED)
    return json.loads(chromium.evaluate(JSON_TEXT))


def errors(chromium):
    return [text for level, text in chromium.console if level == "error"]


@pytest.mark.parametrize("name", first("digits", "blocks", "mobilenet", count=2))
def test_each_form_gives_what_it_gives_in_python(name, chromium, page, tmp_path_factory):
    files = forms(tmp_path_factory, name)
    with served(page(files)) as url:
        result = checked(chromium, url)
        assert [row["name"] for row in result["files"]] == [path.name for path in files]
        for row in result["files"]:
            assert row["passed"], row
            assert row["difference"] <= (0 if row["name"].split(".")[0] in EXACT else DIFFERENCE), row
        packed = result["files"][[path.suffix for path in files].index(".tfz")]
        assert packed["wire_bytes"] == files[[path.suffix for path in files].index(".tfz")].stat().st_size
        assert packed["bytes"] > packed["wire_bytes"]
        assert (errors(chromium), result["errors"]) == ([], [])
        assert chromium.requests and all(address.startswith((url, "data:,")) for address in chromium.requests)


def test_a_gate_believes_the_result_for_the_file_that_ran(chromium, page, tmp_path):
    path, other = (small_file(tmp_path / f"{name}.tflite", seed) for seed, name in enumerate(("a", "b")))
    with served(page([path])) as url:
        (tmp_path / "result.json").write_text(json.dumps(checked(chromium, url)))
    policy = {"runtimes": ["browser"]}
    assert check(path, policy, web_result=tmp_path / "result.json").passed
    assert check(other, policy, web_result=tmp_path / "result.json").exit_code == 2


def classifier(path):
    """Write a classifier of pictures with labels and a normalization, and return its path."""
    graph = FileGraph(3, shape=(1, 6, 5, 3))
    scores = graph.dense(graph.flatten(graph.convolution(graph.input, 4)), 3)
    path.write_bytes(graph.content(scores))
    add_metadata(path, path, class_names=["cat", "dog", "owl"], mean=110, std=64)
    return path


def test_mediapipe_classifies_pictures_as_litert_does_here(chromium, page, tmp_path):
    path = classifier(tmp_path / "a.tflite")
    (tmp_path / "b.tfz").write_bytes(pack(path))
    pictures = np.random.default_rng(1).integers(0, 256, (3, 6, 5, 3), np.uint8)
    folder = page([path, tmp_path / "b.tfz"], target="mediapipe", samples=pictures)
    expected = Runner(path).predict((pictures - np.float32(110)) / np.float32(64))
    manifest = json.loads((folder / "manifest.json").read_text())
    start = manifest["files"][0]["runs"][0]["outputs"][0]
    written = np.frombuffer((folder / "samples.bin").read_bytes()[start : start + 12], "float32")
    np.testing.assert_allclose(written, expected[0], rtol=1e-5)
    with served(folder) as url:
        result = checked(chromium, url)
        assert result["runtime"].startswith("@mediapipe/tasks-vision 1.1.0, vision_wasm")
        assert [(row["name"], row["passed"]) for row in result["files"]] == [("a.tflite", True), ("b.tfz", True)]
        assert all(row["difference"] <= DIFFERENCE for row in result["files"])
        assert chromium.requests and all(address.startswith((url, "data:,")) for address in chromium.requests)


def test_a_page_of_your_own_gets_the_outputs_of_any_input(chromium, page, tmp_path_factory):
    files = forms(tmp_path_factory, "digits")
    image = np.random.default_rng(9).random((1, 8, 8, 1), np.float32)
    with served(page(files)) as url:
        checked(chromium, url)
        code = f"""(async () => {{
          const runtime = new (await import("./runtime.js")).Runtime();
          await runtime.start();
          const results = [];
          for (const file of (await (await fetch("manifest.json")).json()).files) {{
            const {{ number }} = await runtime.load(file);
            results.push([...(await runtime.run(number, [Float32Array.from({image.ravel().tolist()})]))[0]]);
          }}
          return results;
        }})()"""
        for path, given in zip(files, chromium.evaluate(code), strict=True):
            np.testing.assert_allclose([given], Runner(path).predict(image), rtol=0, atol=1e-5)


def test_several_inputs_and_outputs_go_by_name(chromium, page, tmp_path):
    import keras
    from export_table import convert

    inputs = [keras.Input((width,), batch_size=1, name=name) for name, width in (("z", 3), ("a", 2))]
    joined = keras.layers.Concatenate()(inputs)
    outputs = {name: keras.layers.Dense(units)(joined) for name, units in (("y", 4), ("b", 5))}
    (tmp_path / "two.tflite").write_bytes(convert(keras.Model(inputs, outputs)))
    with served(page(tmp_path / "two.tflite")) as url:
        (row,) = checked(chromium, url)["files"]
        assert (row["passed"], row["difference"]) == (True, 0)


def test_damaged_files_and_wrong_outputs_are_shown_in_red(chromium, page, tmp_path):
    files = [small_file(tmp_path / f"{name}.tflite") for name in ("right", "cut", "other")]
    (tmp_path / "damaged.tfz").write_bytes(pack(files[0]))
    folder = page([*files, tmp_path / "damaged.tfz"])
    (folder / "models" / "cut.tflite").write_bytes(files[1].read_bytes()[:200])
    small_file(folder / "models" / "other.tflite", seed=1)
    damaged = bytearray((folder / "models" / "damaged.tfz").read_bytes())
    damaged[-9] ^= 255
    (folder / "models" / "damaged.tfz").write_bytes(damaged)
    with served(folder) as url:
        result = checked(chromium, url)
        assert [row["passed"] for row in result["files"]] == [True, False, False, False]
        assert "differ" in result["files"][2]["reason"]
        bad = 'Array.from(document.querySelectorAll(".model.bad h2"), (title) => title.textContent)'
        assert chromium.evaluate(bad) == ["cut.tflite", "other.tflite", "damaged.tfz"]
        color = 'getComputedStyle(document.querySelector(".verdict.bad")).color'
        assert chromium.evaluate(color) == "rgb(192, 32, 38)"


def test_without_litert_js_the_page_says_what_to_run(chromium, tmp_path):
    web(small_file(tmp_path / "model.tflite"), tmp_path / "page")
    with served(tmp_path / "page") as url:
        chromium.open(url)
        chromium.wait_for('document.querySelector("#missing:not([hidden])")')
        assert "npm install" in chromium.evaluate('document.getElementById("missing").innerText')


def test_names_are_text(chromium, page, tmp_path):
    name = "<img src=x onerror=alert(1)> #?&%41 ä.tflite"
    with served(page(small_file(tmp_path / name))) as url:
        (row,) = checked(chromium, url)["files"]
        assert (row["name"], row["passed"]) == (name, True)
        assert chromium.evaluate("document.images.length") == 0
        assert chromium.evaluate('document.querySelector(".model h2").textContent') == name


def test_the_policy_of_the_page_holds(chromium, page, tmp_path):
    refused = """new Promise((resolve) => {
      addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective), { once: true });
      %s
    })"""
    fetched = 'fetch("http://127.0.0.1:9/").catch(() => {});'
    inline = 'document.body.append(Object.assign(document.createElement("script"), { textContent: "1" }));'
    evaluated = 'setTimeout("1", 0);'
    with served(page(small_file(tmp_path / "model.tflite")), policy=None) as url:  # the one in the page alone
        assert checked(chromium, url)["files"][0]["passed"]
        assert chromium.evaluate(refused % fetched) == "connect-src"
        assert chromium.evaluate(refused % inline) == "script-src-elem"
        assert chromium.evaluate(refused % evaluated) == "script-src"


def test_by_keyboard_on_a_phone_up_to_the_table(chromium, page, tmp_path, capsys):
    files = [small_file(tmp_path / f"{name}.tflite", seed) for seed, name in enumerate(("dense", "sparse"))]
    with served(page(files)) as url:
        checked(chromium, url, width=390, height=844)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= 390
        heights = 'Math.min(...Array.from(document.querySelectorAll("button, .button"), (each) => each.offsetHeight))'
        assert chromium.evaluate(heights) >= 44
        chromium.press("Tab")
        assert chromium.evaluate("document.activeElement.id") == "measure"
        chromium.press("Enter")
        chromium.wait_for(f'{STATUS}.startsWith("Measured.")')
        assert chromium.evaluate("document.documentElement.scrollWidth") <= 390
        chromium.press("Tab")
        assert chromium.evaluate("document.activeElement.id") == "copy"
        chromium.press("Enter")
        chromium.wait_for(f'{STATUS} === "Copied."')
        # As where a phone opens the page over the local network, without encryption.
        chromium.evaluate('Object.defineProperty(navigator, "clipboard", { value: undefined })')
        chromium.evaluate(f'{STATUS} = ""')
        chromium.press("Enter")
        chromium.wait_for(f'{STATUS} === "Copied."')
        chromium.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        chromium.press("Tab")
        chromium.press("Enter")
        end = time.monotonic() + 20
        while not (tmp_path / "result.json").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert (tmp_path / "result.json").read_text() == chromium.evaluate(JSON_TEXT)
    assert cli.main(["bench", "--web", str(tmp_path / "result.json"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rounds"], result["errors"], result["cores"]) == (25, [], os.cpu_count())
    assert result["files"][0]["times_faster"] == 1
    assert all(0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"] for row in result["files"])
