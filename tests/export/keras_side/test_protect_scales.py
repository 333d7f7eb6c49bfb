"""Scales of norms in front of 8-bit weights: a file rounds as little as one in which nothing is folded."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from tiers import first

from tfprune.export.device.runner import Runner
from tfprune.export.file.reader import read
from tfprune.export.keras_side import convert as convert_module
from tfprune.export.keras_side.convert import convert

layers, ops = keras.layers, keras.ops
CHANNELS, OUTLIERS = 64, slice(0, 3)
RATIO = 200  # of the ranges of the outliers to those of other channels
RIGHT = 0.02  # relative error of a file with 8-bit weights, root mean square


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(1)


class Own(layers.Layer):
    """A norm in code of the user's."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="zeros", name="scale")

    def call(self, inputs):
        return inputs * ops.rsqrt(ops.mean(inputs * inputs, axis=-1, keepdims=True) + 1e-6) * (1 + self.scale)


def samples(*positions, ratio=RATIO, outliers=OUTLIERS):
    values = np.random.default_rng(0).normal(size=(64, *positions, CHANNELS)).astype("float32")
    values[..., outliers] *= ratio
    return values


def damping(norm, ratio=RATIO, outliers=OUTLIERS):
    """Let the scales of a norm make the outliers as small as the other channels."""
    norm.build((None, CHANNELS))
    wanted = np.ones(CHANNELS, "float32")
    wanted[outliers] /= ratio
    if isinstance(norm, layers.BatchNormalization):
        norm.moving_variance.assign(wanted**-2)
        return norm
    (scale,) = (weight for weight in norm.weights if weight.name in ("scale", "weight", "gamma"))
    scale.assign(np.zeros(CHANNELS))
    adds_one = np.abs(norm(samples())).max() > 0
    scale.assign(wanted - adds_one)
    return norm


def dense(units=32):
    return layers.Dense(units, bias_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=units))


def branches(norms, *positions, units=32, batch=None):
    """Return a model with an output for each norm, of a Dense layer on what it returns."""
    inputs = keras.Input((*positions, CHANNELS), batch_size=batch, name="x")
    return keras.Model(inputs, [dense(units)(norm(inputs)) for norm in norms])


def errors(model, inputs, **options):
    """Return the relative error of a file, root mean square, of each output."""
    options = options if options["quantize"] == "dynamic" else {**options, "calibration": inputs}
    outputs = Runner(convert(model, **options)).predict(inputs)
    expected = model.predict(inputs, batch_size=model.inputs[0].shape[0], verbose=0)
    return [float(rms(ours - right) / rms(right)) for ours, right in zip(outputs, expected, strict=True)]


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


def test_a_norm_keeps_outliers_out_of_the_product():
    norm = damping(Own())
    reshaped = keras.Sequential([norm, layers.Rescaling(0.5), layers.Reshape((CHANNELS,))])
    assert max(errors(branches([norm, reshaped]), samples(), quantize="dynamic")) <= RIGHT


@pytest.mark.programs
@pytest.mark.parametrize("quantize", first("int4", "int16x8", "int8"))
def test_integers_round_as_where_a_reshape_keeps_the_norm_apart(quantize):
    halves = {"ratio": 10, "outliers": slice(0, CHANNELS // 2)}
    norm = damping(Own(), **halves)
    flat, shaped = (
        errors(branches([norm] * 2, *positions), samples(*positions, **halves), quantize=quantize)
        for positions in ((), (4,))
    )
    assert np.mean(flat) <= 1.2 * np.mean(shaped)


KERAS_NORMS = [
    layers.RMSNormalization,
    layers.LayerNormalization,
    lambda: layers.LayerNormalization(center=False),
    lambda: layers.GroupNormalization(groups=8),
    layers.BatchNormalization,
    lambda: layers.BatchNormalization(center=False),
]


@pytest.mark.programs
def test_every_norm_of_keras():
    assert max(errors(branches([damping(norm()) for norm in KERAS_NORMS]), samples(), quantize="dynamic")) <= RIGHT
    unscaled = [layers.UnitNormalization(), lambda x: layers.SpectralNormalization(dense())(x)]
    assert max(errors(branches(unscaled), samples(ratio=1), quantize="dynamic")) <= RIGHT


def hub_norms() -> Iterator[layers.Layer]:
    """Yield a layer of every class of KerasHub that divides channels by what they have in common, and scales them."""
    pytest.importorskip("keras_hub")
    classes = [layers.Layer]
    for cls in classes:
        classes += [child for child in cls.__subclasses__() if child not in classes]
    for cls in classes:
        needed = [name for name, each in inspect.signature(cls).parameters.items() if each.default is each.empty]
        is_norm = cls.__module__.startswith("keras_hub.") and "norm" in cls.__name__.lower()
        if is_norm and {*needed} <= {"dim", "input_dim", "args", "kwargs"}:
            yield cls(**{name: CHANNELS for name in needed if name.endswith("dim")})


@pytest.mark.programs
@pytest.mark.parametrize(("positions", "batch"), first(((5,), 1), ((), None)))  # neither has a RESHAPE
def test_every_norm_of_keras_hub(positions, batch):
    apart = ("QKNorm", "Gemma4VNorm")  # of two inputs, and without scales
    norms = [damping(norm) for norm in hub_norms() if type(norm).__name__ not in apart]
    assert {"LlamaLayerNorm", "T5LayerNorm", "RMSNormalization"} <= {type(norm).__name__ for norm in norms}
    model = branches(norms, *positions, batch=batch)
    assert max(errors(model, samples(*positions), quantize="dynamic")) <= RIGHT


def test_a_norm_of_batches_keeps_its_shift():
    norm = layers.BatchNormalization()
    norm.build((None, CHANNELS))
    norm.moving_mean.assign(np.linspace(995, 1005, CHANNELS))
    assert max(errors(branches([norm] * 2), 1000 + samples(ratio=1), quantize="dynamic")) <= RIGHT


def test_weights_that_several_layers_compute_of_scales():
    """A kernel may be an embedding, turned around, and the inputs may come by einsum."""
    inputs, norm = keras.Input((5, CHANNELS), batch_size=1), damping(layers.RMSNormalization())
    words = layers.Embedding(100, CHANNELS)
    words.build()
    back = layers.Lambda(lambda x: ops.matmul(x, ops.transpose(words.embeddings)))
    queries = layers.EinsumDense("abc,cde->abde", (5, 4, 16))
    model = keras.Model(inputs, [back(norm(inputs)), queries(norm(inputs))])
    assert max(errors(model, samples(5), quantize="dynamic")) <= RIGHT


@pytest.fixture
def folded(monkeypatch):
    """Return a function that lets the converter fold all that it wants."""

    def convert_folded(model, **options):
        with monkeypatch.context() as patch:
            patch.setattr(convert_module, "protect_scales", lambda folder, least: None)
            return convert(model, **options)

    return convert_folded


def trained_batch_norm():
    norm = layers.BatchNormalization()
    norm.build((None, CHANNELS))
    for weight, values in zip(norm.weights, np.random.default_rng(1).uniform(0.7, 1.4, (4, CHANNELS)), strict=True):
        weight.assign(values)
    return norm


@pytest.mark.parametrize(
    ("norms", "options", "units"),
    first(
        ([layers.RMSNormalization, trained_batch_norm], {"quantize": "dynamic"}, 32),
        ([lambda: damping(Own())], {"quantize": "dynamic"}, 8),  # weights of fewer than 1024 entries stay in float32
        ([lambda: damping(Own())], {"quantize": "int8", "calibration": samples()}, 32),
        ([lambda: damping(Own())], {"quantize": None}, 32),
    ),
)
def test_files_that_lose_nothing_stay_as_they_are(folded, norms, options, units):
    model = branches([norm() for norm in norms], units=units)
    assert convert(model, **options) == folded(model, **options)


def test_a_norm_costs_its_own_operator_and_no_other(folded):
    model = branches([damping(Own())])
    protected, without = (
        Counter(operator.name for operator in read(make(model, quantize="dynamic")).subgraphs[0].operators)
        for make in (convert, folded)
    )
    assert protected - without == Counter(["MUL"])
    assert not without - protected
