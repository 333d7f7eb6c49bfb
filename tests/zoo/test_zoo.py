"""Models of keras.applications and what they are made of; `make zoo` takes every family all the way."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
import tfprune.export

ZOO = Path(__file__).parent


@pytest.fixture(scope="module")
def family() -> ModuleType:
    return load("family")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ZOO / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_zoo(*names: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ZOO / "run.py"), "--only", "family", *names]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


@pytest.mark.slow
def test_one_family_goes_all_the_way_in_the_program_that_takes_them_all():
    done = make_zoo("MobileNetV3Small")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = next(line for line in done.stdout.splitlines() if line.startswith("│ MobileNetV3Small")).split("│")
    assert [cell.strip() for cell in cells[1:5]] == ["MobileNetV3Small", "32 px", "1,540,218", "43"]
    assert cells[-2].strip() == "holds"


@pytest.mark.programs
def test_a_row_that_fails_says_what_failed_and_fails_the_program():
    done = make_zoo("MobileNet", KERAS_BACKEND="none-such")
    assert done.returncode == 1
    assert "none-such" in done.stdout


def test_what_is_said_of_a_file_for_microcontrollers_is_held_to_what_the_interpreters_say(monkeypatch, capsys):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    monkeypatch.syspath_prepend(ZOO)
    support = load("support")
    data = tfprune.export.unpack((ZOO.parent / "saved" / "packed.tfz").read_bytes())
    monkeypatch.setattr(shutil, "which", lambda name: None)  # the interpreter here has pointers of 64 bits
    report = tfprune.export.micro_support(data)
    support.compare(report, data)
    assert "arena\t" in capsys.readouterr().out
    lies = [({"arena": report.arena + 16}, "fewer bytes"), ({"arena": report.arena - 16}, "refusal")]
    for wrong, says in [*lies, ({"ops": {"SOFTMAX": 1}}, "operators")]:
        with pytest.raises(ValueError, match=f"Expected .*{says}"):
            support.compare(dataclasses.replace(report, **wrong), data)


@pytest.mark.programs
def test_an_unknown_family_is_refused_by_name():
    done = make_zoo("MobileNet", "LeNet")
    assert done.returncode == 1 and "Received: LeNet" in done.stderr


def test_outputs_that_a_wrapper_changes_stop_the_walk(family, monkeypatch, capsys):
    wrap = tfprune.wrap

    def lose_a_bias(model: keras.Model) -> keras.Model:
        wrapped = wrap(model)
        wrapped.layers[0].layer.bias.assign(np.zeros(4))
        return wrapped

    monkeypatch.setattr(tfprune, "wrap", lose_a_bias)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(10)])
    images = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    family.enliven(model, images)
    with pytest.raises(ValueError, match="outputs differ by 1e-06 at most, and not by"):
        family.walk_through(model, images)
    assert "|wrap|" in capsys.readouterr().out


class LayerScale(layers.Layer):
    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.gamma


class StochasticDepth(layers.Layer):
    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        shape = (keras.ops.shape(inputs)[0], 1, 1, 1)
        is_kept = keras.random.uniform(shape, seed=self.seed_generator) >= self.rate
        return inputs * keras.ops.cast(is_kept, inputs.dtype) / (1 - self.rate)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def _block() -> keras.Model:
    inputs = keras.Input((4, 4, 8))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Dense(16, activation="gelu", name="expand")(x)
    x = LayerScale(name="scale")(layers.Dense(8, name="project")(x))
    return keras.Model(inputs, layers.Add()([inputs, StochasticDepth(0.5, seed=3, name="depth")(x)]), name="block")


@pytest.fixture(scope="module")
def mixture(family) -> tuple[keras.Model, np.ndarray]:
    """Return what models of keras.applications are made of, in small: adapted statistics, models inside of models."""
    images = np.random.default_rng(5).uniform(0, 255, size=(8, 8, 8, 3)).astype("float32")
    normalize = layers.Normalization(name="normalize")
    inputs = keras.Input((8, 8, 3))
    x = normalize(layers.Rescaling(1 / 255, name="rescale")(inputs))
    stem_inputs = keras.Input((8, 8, 3))
    stem = layers.Conv2D(8, 2, strides=2, use_bias=False, name="conv")(stem_inputs)
    stem = keras.Model(stem_inputs, layers.BatchNormalization(name="bn")(stem), name="stem")
    features = keras.Model(inputs, layers.GlobalAveragePooling2D()(_block()(stem(x))), name="features")
    model_inputs = keras.Input((8, 8, 3), name="image")
    model = keras.Model(model_inputs, layers.Dense(5, name="head")(features(model_inputs)))
    normalize.adapt(images / 255)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign_add(np.random.default_rng(6).normal(scale=0.3, size=weight.shape))
    return model, images


def test_a_mixture_of_layers_predicts_and_trains_as_before_when_it_is_wrapped(mixture):
    model, images = mixture
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(images), model(images))
    # Random depths included: the seeds are copied with the weights.
    np.testing.assert_array_equal(wrapped(images, training=True), model(images, training=True))


def test_adapted_statistics_are_those_of_the_data_in_every_copy(mixture, tmp_path):
    model, images = mixture
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.5)
    custom = {"LayerScale": LayerScale, "StochasticDepth": StochasticDepth}
    plain = tfprune.strip(wrapped)
    wrapped.save(tmp_path / "wrapped.keras"), plain.save(tmp_path / "plain.keras")
    loaded = [keras.models.load_model(tmp_path / f"{name}.keras", custom) for name in ("wrapped", "plain")]
    for copy in (wrapped, plain, *loaded):
        normalize = copy.get_layer("features").get_layer("normalize")
        expected = (images / 255 - (images / 255).mean((0, 1, 2))) / (images / 255).std((0, 1, 2))
        np.testing.assert_allclose(normalize(images / 255), expected, atol=1e-4)
        np.testing.assert_allclose(copy(images), wrapped(images), atol=1e-6)


def test_every_kernel_of_a_mixture_is_pruned_and_what_is_left_out_is_reported(mixture):
    wrapped = tfprune.wrap(mixture[0])
    report = tfprune.update_masks(wrapped, 0.5)
    paths = {row.path for row in report.rows}
    assert paths == {
        "features/stem/conv/kernel",
        "features/block/expand/kernel",
        "features/block/project/kernel",
        "head/kernel",
    }
    skipped = {one.layer: one.reason for one in report.skipped}
    assert skipped["features/block/scale"] == "LayerScale has only biases, scales or statistics"
    assert skipped["features/block/depthwise"] == "kernel: depthwise, and pruned only where `filters` ask for it"


@pytest.mark.slow
def test_layers_that_only_keras_own_models_have_keep_what_they_learnt(family):
    model, images = family.build("ConvNeXtTiny", 32, 255)  # its layer scales start at 1e-6, which hides the blocks
    wrapped = tfprune.wrap(model)
    np.testing.assert_allclose(wrapped(images), model(images), atol=1e-6)
    scale = next(layer for layer in wrapped.layers if layer.name.endswith("block_0_layer_scale"))
    np.testing.assert_array_equal(scale.gamma, model.get_layer(scale.name).gamma)
    assert np.abs(scale.gamma).max() > 0.1
