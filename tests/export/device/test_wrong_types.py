"""Arguments of a wrong type, in every function of the device half: TypeErrors that say what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from tfprune import export

SETTINGS = {"compress": 3, "batch": 1.5, "optimize": None, "tolerance": "small"}


@pytest.mark.parametrize(
    "function",
    [
        *(export.Runner, export.benchmark, export.inspect, export.verify),
        *(export.pack, export.unpack, export.share_weights, export.sparsify),
    ],
)
@pytest.mark.parametrize("source", [3, None, ["model.tflite"]])
def test_a_source_is_a_path_or_bytes(function, source):
    with pytest.raises(TypeError, match=r"^Expected the path of a TFLite file, or its content as bytes\. Received"):
        function(source)


def test_a_path_and_bytes_give_the_same(cases, tmp_path):
    data, packed = cases["int8"].data, tmp_path / "model.tfz"
    assert export.pack(cases["int8"].path) == export.pack(data)
    packed.write_bytes(export.pack(data))
    assert export.unpack(packed) == export.unpack(packed.read_bytes()) == data
    assert export.share_weights(packed, levels=8) == export.share_weights(data, levels=8)
    assert export.sparsify(packed).data == export.sparsify(data).data


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
        (lambda path: export.benchmark(path, batch_size=None), "batch_size"),
        (lambda path: export.verify(path, timeout="1"), "timeout"),
        (lambda path: export.verify(path, tolerance=True), "tolerance"),
        (lambda path: export.share_weights(path.read_bytes(), levels=2.0), "levels"),
        (lambda path: export.sparsify(path.read_bytes(), min_sparsity="half"), "min_sparsity"),
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
        export.verify(cases["dense"].path, samples=np.array([{}]))
