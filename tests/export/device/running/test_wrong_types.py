"""Arguments of a wrong type, in every function of the device half: TypeErrors that say what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from tfprune import export

SETTINGS = {"compress": 3, "sparse": 1, "optimize": None, "tolerance": "small"}


@pytest.mark.parametrize("function", [export.Runner, export.benchmark, export.inspect, export.verify])
@pytest.mark.parametrize("source", [3, None, ["model.tflite"]])
def test_a_source_is_a_path_or_bytes(function, source):
    with pytest.raises(TypeError, match=r"^Expected the path of a TFLite file, or its content as bytes\. Received"):
        function(source)


@pytest.mark.parametrize("function", [export.pack, export.unpack, export.share_weights, export.sparsify])
def test_the_content_of_a_file_is_bytes(function):
    with pytest.raises(TypeError, match=r"^Expected the content of a file, as bytes\. Received: 'model.tflite' of"):
        function("model.tflite")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_rewrite(cases, tmp_path, name):
    with pytest.raises(TypeError, match=rf"^Expected `{name}` to be .* Received: {name}=.* of type \w+\.$"):
        export.rewrite(cases["dense"].path, tmp_path / "new.tflite", **{name: SETTINGS[name]})
    assert not list(tmp_path.iterdir())


def test_a_target_is_a_path(cases):
    with pytest.raises(TypeError, match="^Expected the path of the file to write. Received: an object of type int"):
        export.rewrite(cases["dense"].path, 3)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda path: export.Runner(path, threads="2"), "threads"),
        (lambda path: export.benchmark(path, runs=1.5), "runs"),
        (lambda path: export.benchmark(path, batch=None), "batch"),
        (lambda path: export.verify(path, timeout="1"), "timeout"),
        (lambda path: export.verify(path, tolerance=True), "tolerance"),
        (lambda path: export.share_weights(path.read_bytes(), levels=2.0), "levels"),
        (lambda path: export.sparsify(path.read_bytes(), least="half"), "least"),
        (lambda path: export.sparsify(path.read_bytes(), forms="csr"), "forms"),
        (lambda path: export.sparsify(path.read_bytes(), forms=3), "forms"),
    ],
)
def test_numbers_and_names(cases, call, name):
    with pytest.raises(TypeError, match=rf"^Expected `{name}` .* Received: {name}=.* of type \w+\."):
        call(cases["dense"].path)


def test_inputs_are_numbers(cases):
    runner = export.Runner(cases["dense"].path)
    for inputs in ("text", np.array([["text"] * 8]), object()):
        with pytest.raises(TypeError, match="^Expected numbers of type float32 for input 'vector'"):
            runner.predict(inputs)
    with pytest.raises(TypeError, match="^Expected numbers. Received: "):
        export.verify(cases["dense"].path, inputs=np.array([{}]))
