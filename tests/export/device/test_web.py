"""Folders that run files in a browser: what is written, what is refused, and whose folders are kept."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from file_graphs import FileGraph

from tfprune.export import Runner, add_metadata, pack, web
from tfprune.export.command_line import cli
from tfprune.export.device.web import _write_folder
from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, save_objects

ROOT = Path(__file__).parents[3]


def small_file(path: Path, *, seed: int = 0) -> Path:
    graph = FileGraph(seed, shape=(1, 4, 4, 2))
    path.write_bytes(graph.content(graph.dense(graph.flatten(graph.convolution(graph.input, 4)), 3)))
    return path


def edited(path: Path, edit) -> Path:
    model = load_objects(path.read_bytes())
    edit(model)
    path.write_bytes(save_objects(model))
    return path


@pytest.fixture
def dense(tmp_path):
    return small_file(tmp_path / "dense.tflite")


def arrays_of(folder, infos, starts):
    content = (folder / "samples.bin").read_bytes()
    return [
        np.frombuffer(content, info["dtype"], int(np.prod(info["shape"])), start).reshape(info["shape"])
        for info, start in zip(infos, starts, strict=True)
    ]


def test_the_folder_holds_the_files_and_what_litert_gives_here(tmp_path, dense):
    packed = tmp_path / "packed.tfz"
    packed.write_bytes(pack(dense))
    report = web([dense, packed], tmp_path / "page")
    folder = tmp_path / "page"
    assert (folder / "models" / "dense.tflite").read_bytes() == dense.read_bytes()
    assert (folder / "models" / "packed.tfz").read_bytes() == packed.read_bytes()
    assert (folder / "tfz.js").read_bytes() == (ROOT / "export/file/readers/tfz.mjs").read_bytes()
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert json.loads((folder / "package.json").read_text())["dependencies"] == {"@litertjs/core": "2.5.3"}
    assert not [*folder.rglob("*.wasm")]
    assert [row.name for row in report.files] == ["dense.tflite", "packed.tfz"]
    assert "npm install" in str(report) and "http.server" in str(report)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry, same = manifest["files"]
    assert [each.pop("sha256") for each in (entry, same)] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (dense, packed)
    ]
    assert {**same, "name": "", "path": ""} == {**entry, "name": "", "path": ""}
    assert (entry["tolerance"], len(entry["runs"])) == (1e-4, 4)
    for run in entry["runs"]:
        (sample,), (expected,) = (arrays_of(folder, entry[side], run[side]) for side in ("inputs", "outputs"))
        np.testing.assert_array_equal(Runner(dense).predict(sample), expected)
    assert len({tuple(run["inputs"]) for run in entry["runs"]}) == 4


def picture_file(path: Path, *, mean: float | None = 127.5) -> Path:
    graph = FileGraph(0, shape=(1, 4, 5, 3))
    path.write_bytes(graph.content(graph.dense(graph.flatten(graph.convolution(graph.input, 4)), 3)))
    if mean is not None:
        add_metadata(path, path, mean=mean, std=50)
    return path


def test_a_page_for_mediapipe_gets_pictures_and_what_litert_gives_for_their_normalized_pixels(tmp_path):
    path = picture_file(tmp_path / "a.tflite")
    report = web(path, tmp_path / "page", target="mediapipe")
    folder = tmp_path / "page"
    assert report.browser_runtime == "@mediapipe/tasks-vision 1.1.0"
    assert json.loads((folder / "package.json").read_text())["dependencies"] == {"@mediapipe/tasks-vision": "1.1.0"}
    assert (folder / "worker.js").read_bytes() == (ROOT / "export/device/page/tasks.js").read_bytes()
    assert not (folder / "tasks.js").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    (entry,) = manifest["files"]
    assert manifest["package"] == "@mediapipe/tasks-vision" and len(entry["runs"]) == 4
    for run in entry["runs"]:
        (pixels,), (expected,) = (arrays_of(folder, entry[side], run[side]) for side in ("inputs", "outputs"))
        assert pixels.dtype == np.uint8 and pixels.shape == (1, 4, 5, 3)
        np.testing.assert_allclose(Runner(path).predict((pixels - np.float32(127.5)) / 50), expected, rtol=1e-6)


def test_what_mediapipe_cannot_classify_is_refused(tmp_path, dense):
    bare, whole = picture_file(tmp_path / "bare.tflite", mean=None), picture_file(tmp_path / "whole.tflite")

    def refused(path, match, error=ValueError, **arguments):
        with pytest.raises(error, match=match):
            web(path, tmp_path / "page", **{"target": "mediapipe", **arguments})
        assert not (tmp_path / "page").exists()

    refused(dense, "image classifier .* Received: .*1x4x4x2.*Use target='litert'")
    refused(bare, "normalization of its pixels.*without one.*add_metadata")
    add_metadata(whole, bare, mean=[1, 2, 3], std=50)
    refused(bare, r"equal for each color.*a mean of \(1.0, 2.0, 3.0\)")
    refused(whole, "uint8.*float32", TypeError, samples=np.zeros((2, 4, 5, 3), np.float32))
    refused(whole, r"\(pictures, 4, 5, 3\).*\(2, 5, 4, 3\)", samples=np.zeros((2, 5, 4, 3), np.uint8))
    refused(whole, "target.*litert.*mediapipe.*'tasks'", target="tasks")
    assert cli.main(["web", str(whole), str(tmp_path / "page"), "--tasks"]) == 0
    assert "mediapipe" in (tmp_path / "page" / "package.json").read_text()


def test_given_samples_are_run_batch_by_batch(tmp_path, cases):
    fixed = cases["fixed"]  # with a batch of 2
    web(fixed.path, tmp_path / "page", samples=fixed.inputs)
    entry = json.loads((tmp_path / "page" / "manifest.json").read_text())["files"][0]
    assert len(entry["runs"]) == 2  # five samples
    arrays = [arrays_of(tmp_path / "page", entry["outputs"], run["outputs"])[0] for run in entry["runs"]]
    np.testing.assert_allclose(np.concatenate(arrays), fixed.expected[:4], atol=1e-6)
    with pytest.raises(ValueError, match="at least one run of .*2x8"):
        web(fixed.path, tmp_path / "other", samples=fixed.inputs[:1])
    assert not (tmp_path / "other").exists()


def refused(tmp_path, files, match, error=ValueError, **arguments):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=match):
        web(files, tmp_path / "page", **arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_an_open_batch_and_other_types_are_refused(tmp_path, cases):
    for name in ("dense", "two", "tokens"):
        refused(tmp_path, cases[name].path, r"fixed shapes, which LiteRT.js needs.* batch=1")
    packed = tmp_path / "dense.tfz"
    packed.write_bytes(pack(cases["dense"].path))
    refused(tmp_path, packed, r"dense\.tfz.*open")


def test_what_litert_js_lacks_is_refused(tmp_path, dense):
    def set_type(number):
        def edit(model):
            model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]].type = number

        return edit

    refused(tmp_path, edited(small_file(dense), set_type(schema.TensorType.STRING)), "float32 or int32.*is string")
    refused(tmp_path, edited(small_file(dense), set_type(schema.TensorType.FLOAT64)), "float32 or int32.*is float64")

    def add_signatures(model):
        model.signatureDefs = [schema.SignatureDefT(signatureKey=key, subgraphIndex=0) for key in (b"one", b"two")]
        for signature in model.signatureDefs:
            signature.inputs = signature.outputs = []

    refused(tmp_path, edited(small_file(dense), add_signatures), "one signature.*has 2")

    def use_custom(model):
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"FlexErf"

    refused(tmp_path, edited(small_file(dense), use_custom), "operators that LiteRT.js has.*FlexErf")
    packed = tmp_path / "flex.tfz"
    packed.write_bytes(pack(dense))
    refused(tmp_path, packed, "operators that LiteRT.js has.*FlexErf")


def test_damaged_files_and_wrong_arguments_are_refused(tmp_path, dense):
    refused(tmp_path, tmp_path / "none.tflite", "does not exist")
    refused(tmp_path, [], "1 to 8 files")
    refused(tmp_path, [dense] * 9, "1 to 8 files")
    refused(tmp_path, 3, "path of a file", TypeError)
    refused(tmp_path, [dense, 3], "path of a file", TypeError)
    refused(tmp_path, dense, "timeout", timeout=0)
    refused(tmp_path, dense, "array for each of the inputs", samples=[])
    refused(tmp_path, dense, "runs on the samples", samples=np.zeros((1, 2, 2, 2)))
    refused(tmp_path, dense, "finite outputs", samples=np.full((1, 4, 4, 2), np.inf))
    (tmp_path / "folder").mkdir()
    other = small_file(tmp_path / "folder" / "Dense.tflite", seed=1)
    refused(tmp_path, [dense, other], "different names")
    damaged = tmp_path / "damaged.tfz"
    damaged.write_bytes(pack(dense)[:-5])
    refused(tmp_path, [dense, damaged], "damaged.tfz")
    wide = FileGraph(0, shape=(1, 9))
    path = tmp_path / "wide.tflite"
    path.write_bytes(wide.content(wide.dense(wide.input, 2)))
    refused(tmp_path, [dense, path], "same inputs.*1x4x4x2.*1x9")
    large = FileGraph(0, shape=(1, 2**23))
    path.write_bytes(large.content(large.unary("RELU", large.input)))
    refused(tmp_path, path, "at most 16,777,216 bytes")
    path.write_bytes(b"\x1f\x8b" + bytes(30))
    refused(tmp_path, path, "compressed in another way")


def test_a_folder_of_somebody_else_is_kept(tmp_path, dense):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "package.json").write_text('{"name": "mine"}')
    with pytest.raises(ValueError, match="new or empty folder"):
        web(dense, folder)
    assert [path.name for path in folder.iterdir()] == ["package.json"]
    with pytest.raises(ValueError, match="new or empty folder"):
        web(dense, dense)
    with pytest.raises(ValueError, match="does not exist"):
        web(dense, tmp_path / "none" / "page")
    with pytest.raises(ValueError, match="Cannot write"):
        web(dense, "page\0")
    with pytest.raises(TypeError, match="path of the folder"):
        web(dense, 3)
    for content in ("[1]", '{"tfprune": 1}', "{", '{"tfprune": {}}'):
        (folder / "package.json").write_text(content)
        with pytest.raises(ValueError, match="new or empty folder"):
            web(dense, folder)


def test_a_folder_of_ours_is_written_anew_and_keeps_what_npm_installed(tmp_path, dense):
    folder = tmp_path / "page"
    folder.mkdir()  # an empty one is as good as none
    web(dense, folder)
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "runtime.js").write_text("runtime")
    (folder / "index.html").write_text("old")
    web(small_file(tmp_path / "other.tflite"), folder)
    assert [path.name for path in (folder / "models").iterdir()] == ["other.tflite"]
    assert (folder / "node_modules" / "runtime.js").read_text() == "runtime"
    assert (folder / "index.html").read_text() != "old"
    assert not [*folder.glob(".tfprune*"), *tmp_path.glob(".tfprune*")]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        if path.name == "second":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match="No space left"):
        _write_folder(tmp_path / "page", {"first": b"1", "second": b"2"}, package={})
    assert [*tmp_path.iterdir()] == []


def test_names_are_data_in_the_page(tmp_path, dense):
    name = "<img src=x onerror=alert(1)> &\"'%.tflite"
    dense.rename(tmp_path / name)
    web(tmp_path / name, tmp_path / "page")
    index = (tmp_path / "page" / "index.html").read_text()
    assert "onerror" not in index
    assert "'unsafe-eval'" not in index and "'unsafe-inline'" not in index
    script = "".join(
        (tmp_path / "page" / file).read_text() for file in ("page.js", "runtime.js", "worker.js", "calls.js")
    )
    assert not any(word in script for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval("))
    (tmp_path / "new\nline.tflite").write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(ValueError, match="can be printed"):
        web(tmp_path / "new\nline.tflite", tmp_path / "page")


def test_the_command(tmp_path, dense, capsys):
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4, 2), np.float32))
    assert cli.main(["web", str(dense), str(tmp_path / "page"), "--samples", str(tmp_path / "x.npy")]) == 0
    assert "localhost:8000" in capsys.readouterr().out
    assert cli.main(["web", str(dense), str(tmp_path), "--json"]) == 2
    assert "new or empty folder" in capsys.readouterr().err
