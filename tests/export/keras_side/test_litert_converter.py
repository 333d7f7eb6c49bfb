"""The parts of the export by LiteRT's converter that need neither this converter nor JAX."""

import importlib.util
import sys
from functools import partial
from importlib.metadata import version
from types import ModuleType, SimpleNamespace

import keras
import numpy as np
import pytest

from tfprune.export import EdgeQuantizer, Quantization, inspect, to_tflite
from tfprune.export.file.document import CONVERTER, HASHED, with_metadata
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side import convert as module
from tfprune.export.keras_side import prepare, stablehlo
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting import weights

WORDS = r"Expected litert-converter>=0\.5,<0\.6 and JAX.* Received: {}.*\[jax\].*Linux on x86-64.*TFPRUNE_CONVERTER="


@pytest.fixture(scope="module")
def content():
    return convert(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))


def test_a_missing_package_is_refused_once_and_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("TFPRUNE_CONVERTER", "litert")
    monkeypatch.setattr(stablehlo, "run_job", lambda *_, **__: pytest.fail("a child was started"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "litert_converter" else name)
    with pytest.raises(ValueError, match=WORDS.format("no package litert_converter")):
        to_tflite(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), tmp_path / "file")


ORDERS = {  # by installed packages, which converters are tried, and for a recurrent model
    ("tensorflow",): (["tensorflow"], ["tensorflow"]),
    ("jax", "litert_converter"): (["litert"], ["litert"]),
    ("litert_converter", "tensorflow"): (["tensorflow"], ["tensorflow"]),  # the other one needs JAX
    ("jax", "litert_converter", "tensorflow"): (["litert", "tensorflow"], ["tensorflow", "litert"]),
    (): (["litert"], ["litert"]),  # which says what is missing
}


@pytest.mark.parametrize("packages", ORDERS, ids=" ".join)
def test_converters_are_tried_in_order_until_one_takes_the_model(packages, monkeypatch):
    monkeypatch.delenv("TFPRUNE_CONVERTER", raising=False)
    monkeypatch.setattr(prepare, "PathFinder", SimpleNamespace(find_spec=lambda name: name in packages))
    dense, recurrent = (
        keras.Sequential([keras.Input((4, 3)), layer]) for layer in (keras.layers.Dense(3), keras.layers.LSTM(2))
    )
    for model, names in zip((dense, recurrent), ORDERS[packages], strict=True):
        tried = []
        for name in ("litert", "tensorflow"):
            monkeypatch.setattr(module, f"_by_{name}", partial(_refuse, tried, name))
        with pytest.raises(ValueError, match=f"^{names[-1]} says no"):
            convert(model)
        assert tried == names


def _refuse(tried, name, *_, **__):
    tried.append(name)
    raise ValueError(f"{name} says no")


def test_the_next_converter_takes_what_one_refuses(monkeypatch, tmp_path):
    monkeypatch.delenv("TFPRUNE_CONVERTER", raising=False)
    monkeypatch.setattr(module, "converters", lambda: ("litert", "tensorflow"))
    monkeypatch.setattr(module, "_by_litert", partial(_refuse, [], "litert"))
    report = to_tflite(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), tmp_path / "file")
    assert not report.converter
    assert report.ops == {"FULLY_CONNECTED": 1}


def test_a_version_with_other_names_is_refused_with_the_bound(monkeypatch):
    parts = ("litert_converter", "litert_converter.mlir", "litert_converter.mlir._mlir_libs")
    modules = {name: ModuleType(name) for name in (*parts, f"{parts[1]}.ir", f"{parts[1]}.passmanager")}
    modules[parts[1]].ir, modules[parts[1]].passmanager = (
        modules[f"{parts[1]}.{each}"] for each in ("ir", "passmanager")
    )
    modules[parts[2]].converter_api_ext = ModuleType("converter_api_ext")
    for name, each in modules.items():
        monkeypatch.setitem(sys.modules, name, each)
    with pytest.raises(ValueError, match=WORDS.format("none: .* no attribute 'ConvertToTFLConfig'")):
        stablehlo._converter()


def test_recipes_give_the_operators_that_are_skipped_no_integers(content, monkeypatch):
    file, recipes = ModelFile.open(content), []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(weights, "edge_quantized", lambda form, file, **_: recipes.append(form.recipe) or file)
    other = {"samples": [], "other": "Use the other converter"}
    for form, floats in (
        (Quantization("int8"), ()),
        (Quantization("int8", io_dtype="int8"), ()),
        (Quantization("int8", skip="a"), ("a.b",)),
    ):
        weights.quantized_by_recipe(form, file, floats=floats, **other)
    assert [[rule["algorithm_key"] for rule in recipe][1:] for recipe in recipes] == [
        ["no_quantize"] * 2,
        [],
        ["no_quantize"] * 3,
    ]
    assert recipes[2][1]["regex"] == r"^(a\.b);" and EdgeQuantizer(recipes[2]).name == "recipe"
    graph = file.graph.subgraphs[0]
    every = [graph.tensors[operator.outputs[0]].name for operator in graph.operators]
    with pytest.raises(ValueError, match="which matches all of them"):
        weights.quantized_by_recipe(Quantization("int8", skip="."), file, floats=every, **other)


def test_integer_borders_become_floats(content):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    integers, floats = (
        ModelFile.open(convert(model, quantize="int8", calibration=x, io_dtype=kind)) for kind in ("int8", "float32")
    )
    changed = integers.after(stablehlo._add_borders)
    assert [info.dtype for info in (*changed.graph.inputs, *changed.graph.outputs)] == ["float32"] * 2
    assert changed.graph.ops == floats.graph.ops and changed.signatures == floats.signatures
    assert floats.after(stablehlo._add_borders) is floats


def test_inspect_names_the_converter(content):
    assert inspect(content).converter == f"TensorFlow {version('tensorflow')}"
    named = inspect(with_metadata(content, {CONVERTER: b"litert-converter 0.5.0"}))
    assert named.converter == "litert-converter 0.5.0" and "converted by" in str(named)
    assert (
        inspect(with_metadata(content, {HASHED: b"\x10\0\0\x06\0\0\x002.20.0\0\0"})).converter == "TensorFlow 2.20.0"
    )
