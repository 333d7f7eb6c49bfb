"""Recipes of LiteRT Quantizer. The truth is the float file: its zeros, and its outputs in the interpreter.

Most tests let a shell script stand in for the Python that has the package. The others need
EDGE_QUANTIZER_PYTHON, the path of one.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from file_graphs import FileGraph

from tfprune.export.device.runner import Runner
from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.rewriting import weights as narrowing
from tfprune.export.rewriting.weights import EdgeQuantizer, _lost_zeros, edge_quantized, narrow_weights

PYTHON = os.environ.get("EDGE_QUANTIZER_PYTHON")
needs_package = pytest.mark.skipif(not PYTHON, reason="EDGE_QUANTIZER_PYTHON names no Python with litert-quantizer")
SAMPLES = np.random.default_rng(1).normal(size=(32, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def pruned():
    """Return a float file with 70 % zeros in its weights, and a block of 32 zeros in each of the first rows."""
    graph = FileGraph(0, shape=(1, 64))
    graph.content(graph.dense(graph.dense(graph.input, 32), 8))
    for buffer in graph.model.buffers:
        if buffer.data is not None and len(buffer.data) > 4 * 32:
            weights = np.array(buffer.data).view("<f4").reshape(-1, 32)
            weights[np.abs(weights) < np.quantile(np.abs(weights), 0.7)] = 0
            weights[0] = 0
            buffer.data = weights.ravel().view(np.uint8)
    ends = (graph.graph.inputs[0], graph.graph.outputs[0])
    entry, leaving = (schema.TensorMapT(name=b"end_%d" % place, tensorIndex=end) for place, end in enumerate(ends))
    graph.model.signatureDefs = [schema.SignatureDefT(inputs=[entry], outputs=[leaving], signatureKey=b"main")]
    return save_objects(graph.model)


@pytest.fixture
def narrowed(pruned, monkeypatch):
    """Return a function that gives the file as objects, with weights of so many bits."""
    monkeypatch.setattr(narrowing, "_LEAST_ENTRIES", 1)

    def model_of(bits):
        model = load_objects(pruned)
        narrow_weights(model, bits=bits)
        return model

    return model_of


@pytest.fixture
def stand_in(tmp_path):
    """Return a function that writes a program to stand in for Python, which gets -I, a module and the folder."""

    def program(text):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return program


def quantized(form, content, *, samples):
    return edge_quantized(form, ModelFile(content), samples=samples).content


def returns(stand_in, tmp_path, model):
    (tmp_path / "made.tflite").write_bytes(save_objects(model))
    return EdgeQuantizer("made", python=stand_in(f"cp {tmp_path}/made.tflite $3/quantized.tflite"))


def largest(model):
    """Return the tensor of the largest weight, and its buffer."""
    tensors = [each for each in model.subgraphs[0].tensors if each.shape is not None and len(each.shape) == 2]
    tensor = max(tensors, key=lambda each: np.prod(each.shape))
    return tensor, model.buffers[tensor.buffer]


def test_the_file_of_the_package_is_taken_as_it_computes(pruned, narrowed, stand_in, tmp_path):
    for bits in (8, 4):
        data = quantized(returns(stand_in, tmp_path, narrowed(bits)), pruned, samples=[])
        assert {f"int{bits}"} == {tensor.dtype for tensor in read(data).weights} - {"float16"}
        expected = Runner(save_objects(narrowed(bits))).predict(SAMPLES)
        np.testing.assert_array_equal(Runner(data).predict(SAMPLES), expected)


def test_a_block_of_zeros_gets_a_scale_that_runtimes_take(pruned, narrowed, stand_in, tmp_path):
    model = narrowed(4)
    expected = Runner(save_objects(model)).predict(SAMPLES)
    for tensor in model.subgraphs[0].tensors:
        blocks = tensor.quantization and tensor.quantization.details
        if blocks:
            scales, integers = (
                model.buffers[each.buffer] for each in (model.subgraphs[0].tensors[blocks.scales], tensor)
            )
            zeros = ~np.array(integers.data).reshape(-1, 16).any(axis=1)
            assert zeros.any()
            scales.data = np.where(zeros, np.float16(0), scales.data.view("<f2")).astype("<f2").view(np.uint8)
            integers.data = np.where(zeros[:, None], 0x88, integers.data.reshape(-1, 16)).astype(np.uint8).ravel()
    data = quantized(returns(stand_in, tmp_path, model), pruned, samples=[])
    np.testing.assert_array_equal(Runner(data).predict(SAMPLES), expected)


def test_a_file_that_lost_a_zero_is_refused(pruned, narrowed, stand_in, tmp_path):
    model = narrowed(8)
    tensor, buffer = largest(model)
    values = np.array(buffer.data)
    values[np.flatnonzero(values == 0)[7]] = 1
    buffer.data = values
    name = tensor.name.decode()
    with pytest.raises(ValueError, match=rf"keeps the zeros .* weight '{name}' has 1,\d+ zeros, of which 1 are lost"):
        quantized(returns(stand_in, tmp_path, model), pruned, samples=[])
    tensor.name = b"another"
    with pytest.raises(ValueError, match=rf"weight '{name}' with 1,\d+ zeros is not there"):
        quantized(returns(stand_in, tmp_path, model), pruned, samples=[])
    assert _lost_zeros(read(pruned), read(pruned)) == []


def test_a_recipe_without_effect_is_refused(pruned, stand_in):
    copied = EdgeQuantizer("copied", python=stand_in("cp $3/float.tflite $3/quantized.tflite"))
    with pytest.raises(ValueError, match=r"quantizes a weight .*'copied', which leaves all in floats"):
        quantized(copied, pruned, samples=[])


@pytest.mark.parametrize(
    ("installed", "used"),
    [
        (["ai_edge_quantizer"], "ai_edge_quantizer"),
        (["litert_quantizer"], "litert_quantizer"),
        (["ai_edge_quantizer", "litert_quantizer"], "litert_quantizer"),
    ],
)
def test_the_package_is_found_under_its_new_name_and_its_old_one(
    installed, used, pruned, narrowed, stand_in, tmp_path
):
    expected = save_objects(narrowed(8))
    (tmp_path / "made.tflite").write_bytes(expected)
    for name in installed:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "quantizer.py").write_text(QUANTIZER.format(folder=tmp_path, used=name == used))
        (tmp_path / name / "recipe.py").write_text("def any_recipe(): return []\n")
    python = stand_in(f"PYTHONPATH={tmp_path} exec {sys.executable} $2 $3")
    assert quantized(EdgeQuantizer("any_recipe", python=python), pruned, samples=[]) == expected


QUANTIZER = """
from types import SimpleNamespace
class Quantizer:
    need_calibration = False
    def __init__(self, path):
        assert {used}
    def load_quantization_recipe(self, recipe):
        assert recipe == []
    def quantize(self, ranges):
        return SimpleNamespace(quantized_model=open("{folder}/made.tflite", "rb").read())
"""


def test_what_goes_wrong_there_is_named(pruned, stand_in, tmp_path):
    for text, message in {
        f"exec {sys.executable} $@": "Expected a Python that has LiteRT Quantizer.* No module named "
        "'litert_quantizer' or 'ai_edge_quantizer'. Make an environment for it: .*install litert-quantizer",
        "echo 'ValueError: Unsupported algorithm key: NOPE.'; exit 1": "Expected a recipe that LiteRT Quantizer "
        "takes for this model. Received: 'any': ValueError: Unsupported algorithm key: NOPE. Nothing was written",
        "echo 'Expected `calibration`.' > $3/reason.txt; exit 1": "^Expected `calibration`. Nothing was written.$",
        "kill -SEGV $$": "killed by SIGSEGV",
    }.items():
        with pytest.raises(ValueError, match=message):
            quantized(EdgeQuantizer("any", python=stand_in(text)), pruned, samples=[])
    with pytest.raises(ValueError, match=r"Expected a Python that .*No such file or directory. Make an environment"):
        quantized(EdgeQuantizer("any", python=str(tmp_path / "nowhere")), pruned, samples=[])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"recipe": 4}, TypeError, "Expected `recipe` to be a name, or a list of dicts"),
        ({"recipe": ["a"]}, TypeError, "Expected `recipe` to be a name, or a list of dicts"),
        ({"recipe": "../recipe.json"}, ValueError, "Read a recipe in a file with json.load"),
        ({"recipe": []}, ValueError, "Expected the name of a recipe"),
        ({"recipe": [{"regex": object()}]}, ValueError, "Expected a recipe of values that JSON has"),
        ({"recipe": "a", "python": Path("python")}, TypeError, "Expected `python` to be the path of a Python"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        EdgeQuantizer(**arguments)


def recipe(algorithm, granularity):
    weight = {"num_bits": 4, "symmetric": True, "granularity": granularity, "dtype": "INT"}
    config = {"weight_tensor_config": weight, "compute_precision": "INTEGER", "explicit_dequantize": False}
    return [{"regex": ".*", "operation": "FULLY_CONNECTED", "algorithm_key": algorithm, "op_config": config}]


@needs_package
@pytest.mark.programs
@pytest.mark.parametrize("of", ["dynamic_wi4b32_afp32", "dynamic_wi8_afp32", recipe("OSCAR", "BLOCKWISE_32")])
def test_recipes_of_the_package_keep_the_zeros(pruned, of):
    samples = [{"end_0": SAMPLES[row : row + 1]} for row in range(len(SAMPLES))]
    content = quantized(EdgeQuantizer(of, python=PYTHON), pruned, samples=samples)
    assert not _lost_zeros(read(pruned), read(content))
    assert content == quantized(EdgeQuantizer(of, python=PYTHON), pruned, samples=samples)
    outputs, expected = (Runner(data).predict(SAMPLES) for data in (content, pruned))
    assert 0 < np.abs(outputs - expected).max() < 0.2 * np.abs(expected).max()


def activations(regex, bits):
    """Return a rule for operators with 8-bit weights and activations of so many bits."""
    weight = {"num_bits": 8, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}
    activation = {"num_bits": bits, "symmetric": bits == 16, "granularity": "TENSORWISE", "dtype": "INT"}
    config = {"activation_tensor_config": activation, "weight_tensor_config": weight}
    config |= {"compute_precision": "INTEGER", "explicit_dequantize": False}
    return {"regex": regex, "operation": "*", "algorithm_key": "min_max_uniform_quantize", "op_config": config}


@needs_package
@pytest.mark.programs
def test_single_layers_get_activations_of_16_bits(pruned):
    samples = [{"end_0": SAMPLES[row : row + 1]} for row in range(len(SAMPLES))]
    graph = read(pruned).subgraphs[0]
    last = graph.tensors[graph.operators[-1].outputs[0]].name
    rules = {bits: [activations(".*", 8), activations(f"^{last};$", bits)] for bits in (8, 16)}
    forms = {bits: EdgeQuantizer(recipe, python=PYTHON) for bits, recipe in rules.items()}
    files = {bits: quantized(form, pruned, samples=samples) for bits, form in forms.items()}
    kinds = {bits: {tensor.dtype for tensor in read(data).subgraphs[0].tensors} for bits, data in files.items()}
    assert {"int8", "int16"} <= kinds[16] and "int16" not in kinds[8]
    assert not _lost_zeros(read(pruned), read(files[16]))
    expected = Runner(pruned).predict(SAMPLES)
    errors = {bits: np.square(Runner(data).predict(SAMPLES) - expected).mean() for bits, data in files.items()}
    assert 0 < errors[16] < errors[8]


@needs_package
@pytest.mark.slow
def test_the_example_of_16_bits_on_the_page_runs(tmp_path, monkeypatch):
    import keras

    page = Path(__file__).parents[3] / "docs/howto/export_a_file.md"
    (example,) = re.findall(r"```py\n(import re\n.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    keras.utils.set_random_seed(0)
    shapes = [(128, "relu"), (4, "relu"), (4, None)]
    model = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(*shape) for shape in shapes)])
    monkeypatch.chdir(tmp_path)
    exec(example.replace("edge/bin/python", PYTHON), {"model": model, "x": SAMPLES})
    kinds = {tensor.dtype for tensor in read(Path("mixed.tflite").read_bytes()).subgraphs[0].tensors}
    assert {"int8", "int16"} <= kinds
    expected = Runner("float32.tflite").predict(SAMPLES)
    mixed, int8 = (
        np.square(Runner(f"{name}.tflite").predict(SAMPLES) - expected).mean() for name in ("mixed", "int8")
    )
    assert 0 < mixed < int8


@needs_package
@pytest.mark.programs
def test_ranges_hold_the_largest_values_of_the_samples(pruned):
    scales = np.where(np.arange(len(SAMPLES)) == 20, 10, 1)[:, None].astype(np.float32)
    inputs = SAMPLES * scales
    samples = [{"end_0": inputs[row : row + 1]} for row in range(len(inputs))]
    wide = EdgeQuantizer([activations(".*", 16)], python=PYTHON)
    outputs = Runner(quantized(wide, pruned, samples=samples)).predict(inputs)
    expected = Runner(pruned).predict(inputs)
    np.testing.assert_allclose(outputs, expected, atol=0.02 * np.abs(expected).max())


@needs_package
@pytest.mark.programs
def test_other_recipes_of_the_package_are_refused(pruned):
    for of, message in {
        "dynamic_wi4c_hr_afp32": "of which .* are lost",
        "nothing": "Expected a recipe of the package by name: .*'dynamic_wi4_afp32'.*Received: recipe='nothing'",
        "static_wi8_ai8": "Expected `calibration` with this recipe",
        "dynamic_wi8b32_afp32": "which leaves all in floats",
    }.items():
        with pytest.raises(ValueError, match=message):
            quantized(EdgeQuantizer(of, python=PYTHON), pruned, samples=[])
    samples = [{"end_0": SAMPLES[row : row + 1]} for row in range(len(SAMPLES))]
    with pytest.raises(ValueError, match="of which .* are lost"):  # where it spreads what rounding loses
        quantized(EdgeQuantizer(recipe("GPTQ", "BLOCKWISE_32"), python=PYTHON), pruned, samples=samples)


@needs_package
@pytest.mark.programs
def test_a_model_is_exported_by_a_recipe(tmp_path):
    import keras

    from tfprune.export import to_tflite

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(8)])
    for layer in model.layers:
        kernel = np.array(layer.kernel)
        layer.kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.7), 0, kernel))
    path = tmp_path / "model.tflite"
    four = EdgeQuantizer("dynamic_wi4b32_afp32", python=PYTHON)
    report = to_tflite(model, path, quantize=four, check_on=SAMPLES, verbose=0)
    assert report.candidates[0].name == "dynamic_wi4b32_afp32"
    assert {weight.dtype for weight in read(path.read_bytes()).weights} >= {"int4"}
    np.testing.assert_allclose(
        Runner(path).predict(SAMPLES), model.predict(SAMPLES, verbose=0), atol=0.5 * report.scale
    )
    with pytest.raises(ValueError, match="Expected quantize='int8', 'int16x8' or None with target='micro'"):
        to_tflite(model, tmp_path / "micro.tflite", quantize=four, target="micro", verbose=0)
