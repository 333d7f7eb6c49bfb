"""Evidence: facts are those that NumPy and TensorFlow compute of the same model, and the model does not change."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.criteria import DACIS, Criterion, Evidence, FStatistic, Movement, Taylor, Wanda
from tfprune.evidence import Gatherer, _by_unit, gather
from tfprune.facts import INPUTS, OUTPUTS
from tfprune.masking.update_masks import _subjects_of, gatherer_of

layers = keras.layers
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((70, 8, 8, 3)).astype(np.float32)  # two batches of 32 and one of 6
Y = GENERATOR.integers(0, 3, 70)
LOSS = "sparse_categorical_crossentropy"


@dataclass(frozen=True)
class Everything(Criterion):
    """Needs all that can be gathered from data, and scores by magnitude: also a criterion from outside."""

    needs = ("input_norms", "input_moments", "output_moments", "gradient_sizes", "gradient_norms", "movement")

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.abs(evidence.weight)


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="conv", kernel_regularizer="l2")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm", gamma_initializer="random_normal")(x))
    x = layers.Conv2D(6, 3, groups=2, activation="relu", name="grouped")(x)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))


def pruned(criterion, model: keras.Model | None = None, **arguments) -> keras.Model:
    wrapped = tfprune.wrap(network() if model is None else model, criterion=criterion, **arguments)
    wrapped.compile("adam", LOSS, metrics=["accuracy"])
    return wrapped


def facts_of(model: keras.Model, data=(X, Y), loss=None) -> dict:
    return gather(model, _subjects_of(model), gatherer=gatherer_of(model, data, loss=loss))


@pytest.fixture(scope="module")
def gathered():
    """A model with masks, its plain twin, and what was gathered of it."""
    model = pruned("magnitude")
    model.fit(X, Y, verbose=0)
    tfprune.update_masks(model, 0.5)
    for layer in (layer for layer in model.layers if isinstance(layer, tfprune.Pruned)):
        layer.criterion = Everything()
    plain = tfprune.strip(model)
    plain.compile("sgd", LOSS)
    return model, plain, facts_of(model)


# Where each layer's inputs and outputs are found in the plain model.
TENSORS = {"conv": ("input_layer", "conv"), "grouped": ("relu", "grouped"), "out": ("pool", "out")}


def activations(plain: keras.Model, name: str) -> np.ndarray:
    tensor = plain.input if name == "input_layer" else plain.get_layer(name).output
    return keras.Model(plain.input, tensor).predict(X, verbose=0).astype(np.float64)


@pytest.mark.parametrize("name", TENSORS)
def test_activations_are_those_of_a_sub_model(gathered, name):
    _, plain, facts = gathered
    evidence = facts[f"{name}/kernel"]
    given, returned = (activations(plain, tensor) for tensor in TENSORS[name])
    norms = np.sqrt(np.square(given.reshape(-1, given.shape[-1])).sum(axis=0))
    np.testing.assert_allclose(evidence["input_norms"], norms, rtol=1e-5)
    for moments, values in ((evidence["input_moments"], given), (evidence["output_moments"], returned)):
        units = values.mean(axis=tuple(range(1, values.ndim - 1)))
        assert moments.size == 70
        for label, row, square in zip(moments.labels, moments.means, moments.squares, strict=True):
            of_class = units[label == Y]
            np.testing.assert_allclose(row, of_class.mean(axis=0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(square / len(of_class), of_class.var(axis=0), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", TENSORS)
def test_gradients_are_those_of_a_tape(gathered, name):
    """Of the masked model in inference, masked entries included; the loss includes the regularizer."""
    model, plain, facts = gathered
    kernel, gradients = plain.get_layer(name).kernel, []
    for start in (0, 32, 64):
        x, y = X[start : start + 32], Y[start : start + 32]
        with tf.GradientTape() as tape:
            loss = plain.compute_loss(x, y, plain(x, training=False))
        gradients.append(tape.gradient(loss, kernel).numpy().astype(np.float64))
    evidence, hidden = facts[f"{name}/kernel"], ~model.get_layer(name).masks["kernel"].numpy().astype(bool)
    sizes = np.mean([np.abs(gradient) for gradient in gradients], axis=0)
    columns = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
    norms = np.mean([np.linalg.norm(gradient, axis=0) for gradient in columns], axis=0)
    assert sizes[hidden].any()
    np.testing.assert_allclose(evidence["gradient_sizes"], sizes, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(evidence["gradient_norms"], norms, rtol=1e-3, atol=1e-6)
    moved = -np.mean(gradients, axis=0) * model.get_layer(name).latent("kernel")
    np.testing.assert_allclose(evidence["movement"], moved, rtol=1e-3, atol=1e-6)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[32 * index : 32 * index + 32], Y[32 * index : 32 * index + 32]


ONE_HOT = np.eye(3)[Y]
FORMS = {
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(32),
    "PyDataset": lambda: Batches(),
    "batches": lambda: [(X[:50], Y[:50]), (X[50:], Y[50:])],
    "generator": lambda: (pair for pair in [(X[:50], Y[:50]), (X[50:], Y[50:])]),
    "columns": lambda: (X, Y[:, None]),
    "one-hot": lambda: (X, ONE_HOT),
}


@pytest.fixture(scope="module")
def screened():
    model = pruned(FStatistic("output"))
    return model, facts_of(model)["grouped/kernel"]["output_moments"].f_statistic()


@pytest.mark.parametrize("form", FORMS)
def test_data_in_any_form_says_the_same(screened, form):
    model, expected = screened
    statistics = facts_of(model, FORMS[form]())["grouped/kernel"]["output_moments"].f_statistic()
    np.testing.assert_allclose(statistics, expected, rtol=1e-4)


def test_a_model_of_several_inputs_and_outputs_with_sample_weights():
    """The weights of samples go into the loss: twice as heavy, twice the gradient."""
    first, second = keras.Input((4,), name="first"), keras.Input((5,), name="second")
    x = layers.Concatenate()([layers.Dense(3, name="one")(first), layers.Dense(3, name="two")(second)])
    model = pruned(Taylor(), keras.Model({"first": first, "second": second}, layers.Dense(1, name="out")(x)))
    x = {"first": np.ones((8, 4)), "second": np.ones((8, 5))}
    sizes = [
        facts_of(model, (x, np.ones((8, 1)), np.full(8, weight)), loss="mse")["two/kernel"]["gradient_sizes"]
        for weight in (1.0, 2.0)
    ]
    np.testing.assert_allclose(sizes[1], 2 * sizes[0], rtol=1e-5)
    assert sizes[0].any()


def test_a_layer_called_twice_is_recorded_twice():
    inputs, dense = keras.Input((4,)), layers.Dense(4, name="dense")
    model = pruned("wanda", keras.Model(inputs, dense(dense(inputs))))
    x = np.ones((5, 4), dtype=np.float32)
    middle = x @ model.get_layer("dense").kernel.numpy()
    norms = np.sqrt(np.square(x).sum(axis=0) + np.square(middle).sum(axis=0))
    np.testing.assert_allclose(facts_of(model, x)["dense/kernel"]["input_norms"], norms, rtol=1e-5)


def test_weights_inside_layers():
    """Parts of attention are hooked one by one, a loop as a whole, and what cannot be hooked has a reason."""
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, name="heads")(inputs, inputs)
    x = layers.TimeDistributed(layers.Dense(6, name="step"), name="steps")(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 7), name="einsum")(x)
    model = keras.Model(inputs, layers.LSTM(2, name="lstm")(x))
    wrapped, x = pruned(Wanda(), model), GENERATOR.standard_normal((9, 5, 4)).astype(np.float32)
    facts = {path: evidence["input_norms"] for path, evidence in facts_of(wrapped, x).items()}
    for path, values in (
        ("heads/query/kernel", x),
        ("steps/step/kernel", keras.Model(inputs, model.get_layer("heads").output)(x)),
        ("einsum/kernel", keras.Model(inputs, model.get_layer("steps").output)(x)),
        ("lstm/kernel", keras.Model(inputs, model.get_layer("einsum").output)(x)),
    ):
        np.testing.assert_allclose(facts[path], np.sqrt(np.square(values).sum(axis=(0, 1))), rtol=1e-5)
    assert facts["heads/attention_output/kernel"].shape == (6,)
    assert facts["lstm/recurrent_kernel"].reason == "its inputs are the states of the recurrent layer"
    with pytest.raises(ValueError, match=re.escape("lstm/recurrent_kernel: the L2 norm of each input")):
        tfprune.update_masks(wrapped, 0.5, data=x)
    facts = facts_of(pruned(FStatistic("output"), model), (x, np.arange(9) % 2))
    assert facts["lstm/kernel"]["output_moments"].means.shape == (2, 8)  # four gates make each output
    np.testing.assert_array_equal(*np.split(facts["lstm/kernel"]["output_moments"].means[:, :4], 2, axis=1))


@pytest.mark.parametrize(
    ("layer", "shape", "side", "units"),
    [
        (layers.Conv2D(3, 2, data_format="channels_first"), (None, 4, 7, 7), INPUTS, (1, 4)),
        (layers.Conv2D(4, 2, groups=2), (None, 7, 7, 6), INPUTS, (3, 6)),
        (layers.EinsumDense("...x,xyz->...yz", output_shape=(2, 3)), (None, 5, 4), INPUTS, (2, 4)),
        (layers.EinsumDense("xa,ay->xy", output_shape=(3,)), (None, 4), INPUTS, (1, 4)),
        (layers.DepthwiseConv2D(3), (None, 7, 7, 2), INPUTS, (3, 2)),
    ],
)
def test_units_of_a_tensor(layer, shape, side, units):
    """Each unit of the tensor holds its own number."""
    layer.build(shape)
    kernel = tfprune.models.anatomy.kernels(layer)[0]
    axis, size = units
    values = np.moveaxis(np.broadcast_to(np.arange(size), (2, *[3] * (len(shape) - 2), size)), -1, axis)
    values_by_unit = keras.ops.convert_to_numpy(
        _by_unit(keras.ops.convert_to_tensor(values), side, kernel=kernel, layer=layer)
    )
    assert values_by_unit.shape[0] == 2
    np.testing.assert_array_equal(values_by_unit, np.broadcast_to(np.arange(size), values_by_unit.shape))


def test_outputs_along_two_axes_are_in_the_kernels_order():
    layer = layers.EinsumDense("abc,cde->abed", output_shape=(None, 3, 2))
    layer.build((None, 5, 4))
    values = np.arange(6).reshape(1, 1, 2, 3).transpose(0, 1, 3, 2)  # numbered in the kernel's order, d before e
    kernel = tfprune.models.anatomy.kernels(layer)[0]
    units = _by_unit(keras.ops.convert_to_tensor(values), OUTPUTS, kernel=kernel, layer=layer)
    np.testing.assert_array_equal(units, [[np.arange(6)]])


class Small(keras.Model):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.conv = layers.Conv2D(4, 3, name="conv")
        self.norm = layers.BatchNormalization(name="norm")
        self.out = layers.Dense(3, activation="softmax", name="out")

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build((None, 6, 6, 4))
        self.out.build((None, 4))

    def call(self, inputs):
        return self.out(keras.ops.mean(self.norm(self.conv(inputs)), axis=(1, 2)))

    def get_config(self):
        return {}


def test_a_subclassed_model():
    model = Small()
    model.build((None, 8, 8, 3))
    wrapped = pruned(DACIS(), model)
    evidence = facts_of(wrapped)["conv/kernel"]
    expected = wrapped.conv(X).numpy().mean(axis=(1, 2)).mean(axis=0)
    np.testing.assert_allclose(evidence["output_moments"].mean(), expected, rtol=1e-4, atol=1e-6)
    scaled = pruned("gamma", model, filters="conv")
    scaled.norm.gamma.assign([4.0, -3, 2, 1])
    np.testing.assert_array_equal(facts_of(scaled, None)["conv/kernel"]["gamma"], [4, -3, 2, 1])


def test_gamma_is_that_of_the_layer_behind():
    inputs = keras.Input((4,))
    left = layers.BatchNormalization(name="a")(layers.Dense(3, name="left")(inputs))
    right = layers.BatchNormalization(name="b")(layers.Dense(3, name="right")(inputs))
    plain = layers.BatchNormalization(name="c", scale=False)(layers.Dense(2, name="out")(layers.Add()([left, right])))
    model = keras.Model(inputs, layers.Dense(2, name="bare")(plain))
    model.get_layer("a").gamma.assign([1.0, 2, 3])
    model.get_layer("b").gamma.assign([4.0, 5, 6])
    facts = {path: evidence["gamma"] for path, evidence in facts_of(pruned("gamma", model), None).items()}
    np.testing.assert_array_equal(facts["left/kernel"], [1, 2, 3])
    np.testing.assert_array_equal(facts["right/kernel"], [4, 5, 6])
    assert facts["out/kernel"].reason == "c has no scale (scale=False)"
    assert facts["bare/kernel"].reason == "no BatchNormalization takes the outputs of its layer"
    plan = tfprune.plan_shrink(model, 1 / 3, criterion="gamma", filters="left")  # what is not ranked needs no scale
    np.testing.assert_array_equal(tfprune.shrink(model, plan).get_layer("a").gamma, [2, 3])
    steps = layers.TimeDistributed(layers.Dense(3, name="step"), name="steps")
    norm = layers.BatchNormalization(name="norm", gamma_initializer=keras.initializers.Constant(7))
    looped = pruned("gamma", keras.Sequential([keras.Input((5, 4)), steps, norm]))
    np.testing.assert_array_equal(facts_of(looped, None)["steps/step/kernel"]["gamma"], [7, 7, 7])
    first, last = layers.Dense(3, name="first"), layers.Dense(1, name="last")
    stack = [keras.Input((4,)), first, layers.BatchNormalization(), last]
    np.testing.assert_array_equal(
        facts_of(pruned("gamma", keras.Sequential(stack)), None)["first/kernel"]["gamma"], [1, 1, 1]
    )


def variables(model: keras.Model) -> list[np.ndarray]:
    held = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [variable.numpy() for variable in held]


def test_nothing_of_the_model_changes(gathered):
    """Not by batch normalization, dropout's seeds or what metrics add up, and no layer keeps a hook."""
    model = gathered[0]
    model.fit(X, Y, verbose=0)
    before = variables(model)
    facts_of(model)
    for old, new in zip(before, variables(model), strict=True):
        np.testing.assert_array_equal(old, new)
    wrappers = [layer for layer in model.layers if isinstance(layer, tfprune.Pruned)]
    assert [vars(wrapper.layer).get("call") for wrapper in wrappers] == [None] * 3


BAD = {
    "empty": (lambda: (X[:0], Y[:0]), "Expected `data` with at least one sample. Received: none"),
    "no batches": (list, "Expected `data` with at least one sample. Received: none"),
    "shape": (lambda: (X[:, :5], Y), "shape (None, 8, 8, 3), as 'functional"),
    "inputs": (lambda: ((X, X), Y), "Received: (32, 8, 8, 3), (32, 8, 8, 3)"),
    "NaN": (lambda: (np.where(X > 3, np.nan, X), Y), "Expected finite numbers in `data`. Received: NaN or infinity"),
    "late NaN": (lambda: [(X, Y), (X * np.inf, Y)], "Expected finite numbers in `data`"),
    "lengths": (lambda: (X, Y[:9]), "to have the same number of samples. Received: [9, 70]"),
    "not batched": (
        lambda: tf.data.Dataset.from_tensor_slices((X, Y)),
        "Received: single samples, some of whose parts are numbers",
    ),
    "no labels": (lambda: (X,), "Expected `data` with class labels, which the criterion compares. Received: inputs"),
    "soft labels": (lambda: (X, ONE_HOT / 2), "integers of shape (samples,), or one-hot. Received: shape (32, 3)"),
    "fractions": (lambda: (X, Y + 0.5), "Received: shape (32,), dtype float64"),
    "dict": (lambda: (X, {"a": Y}), "Expected one array of class labels in `data`. Received: a dict"),
    "parts": (lambda: (X, Y, Y, Y), "Received: 4 parts"),
    "missing": (lambda: None, "needs evidence: `ClassMoments` of the inputs"),
    "endless": (lambda: tf.data.Dataset.from_tensors((X, Y)).repeat(), "Expected `data` to end"),
    "one class": (lambda: (X, 0 * Y), "Expected samples of at least two classes"),
}


@pytest.fixture(scope="module")
def refusing():
    return pruned(FStatistic())


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_and_the_model_untouched(refusing, name):
    make, message = BAD[name]
    before = variables(refusing)
    with pytest.raises(ValueError, match=re.escape(message)):
        tfprune.update_masks(refusing, 0.5, data=make())
    for old, new in zip(before, variables(refusing), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_would_have_no_effect_is_refused():
    model, other = pruned("magnitude"), pruned(Wanda())
    unused = "Expected no `data`, because no criterion uses it. Received: data of type tuple; criteria: Magnitude()."
    with pytest.raises(ValueError, match=re.escape(unused)):
        tfprune.update_masks(model, 0.5, data=(X, Y))
    with pytest.raises(ValueError, match=re.escape("no criterion uses it. Received: loss of type")):
        tfprune.update_masks(other, 0.5, data=X, loss=LOSS)
    with pytest.raises(ValueError, match="Expected a gatherer of"):
        tfprune.update_masks(other, 0.5, data=Gatherer(model, X))
    with pytest.raises(ValueError, match="Expected no `data`"):
        tfprune.plan_shrink(network(), data=(X, Y))
    with pytest.raises(TypeError, match="Received: an object of type int"):
        tfprune.update_masks(other, 0.5, data=3)
    with pytest.raises(TypeError, match="Received: an iterator of type generator"):
        tfprune.PruningCallback(tfprune.schedules.Constant(0.5), data=(x for x in [X]))


def test_gradients_need_a_loss_and_targets():
    model = tfprune.wrap(network(), criterion="taylor")
    with pytest.raises(ValueError, match="Expected a loss, whose gradients the criterion looks at"):
        tfprune.update_masks(model, 0.5, data=(X, Y))
    with pytest.raises(ValueError, match="Expected `data` with targets"):
        tfprune.update_masks(model, 0.5, data=X, loss=LOSS)
    assert tfprune.update_masks(model, 0.5, data=(X, Y), loss=LOSS).sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.programs
def test_memory_does_not_grow_with_the_samples():
    """What 20 more batches add is TensorFlow's rubbish of less than 2 kB a call; their means alone would be 14 kB."""
    model, batch = pruned(DACIS()), (np.tile(X, (4, 1, 1, 1)), np.tile(Y, 4))
    gatherer = Gatherer(model, [batch])
    gatherer.gather(_subjects_of(model))  # compiles
    peaks = []
    for repeats in (2, 22):
        gatherer.data = itertools.repeat(batch, repeats)
        tracemalloc.start()
        gatherer.gather(_subjects_of(model))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 20 * 2000


def line(weight: list[float]) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """Return y = w x, whose targets are those of w = (1, 0): the first weight shall grow, the second shrink."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False, name="line")])
    model.layers[0].kernel.assign(np.reshape(weight, (2, 1)))
    wrapped = tfprune.wrap(model, criterion=Movement())
    wrapped.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.array([[1.0, 0], [0, 1]])
    return wrapped, x, np.array([[1.0], [0]])


def test_movement_keeps_what_moves_away_from_zero_however_small():
    """-w dL/dw with L = ((w1 - 1)^2 + w2^2) / 2: -0.1 * (0.1 - 1) = 0.09 and -0.8 * 0.8 = -0.64."""
    model, x, y = line([0.1, 0.8])
    np.testing.assert_allclose(facts_of(model, (x, y))["line/kernel"]["movement"], [[0.09], [-0.64]], rtol=1e-5)
    tfprune.update_masks(model, 0.5, data=(x, y))
    np.testing.assert_array_equal(model.layers[0].masks["kernel"], [[1], [0]])


def test_movement_is_added_up_over_passes():
    """A second pass at weights (0.1, 0), the latent 0.8: 0.09 again, and 0.8 times a gradient of 0."""
    model, x, y = line([0.1, 0.8])
    gatherer = Gatherer(model, (x, y))
    tfprune.update_masks(model, 0.5, data=gatherer)
    movement = gatherer.gather(_subjects_of(model))["line/kernel"]["movement"]
    np.testing.assert_allclose(movement, [[0.18], [-0.64]], rtol=1e-5)


def test_a_frozen_layer_is_left_out():
    model = pruned(Taylor())
    model.get_layer("conv").trainable = False
    tfprune.update_masks(model, 0.5, data=(X[:32], Y[:32]))
    assert model.get_layer("conv").masks["kernel"].numpy().all()
    assert not model.get_layer("grouped").masks["kernel"].numpy().all()
    model.trainable = False
    tfprune.update_masks(model, 0.5, data=(X[:32], Y[:32]))


@dataclass(frozen=True)
class Varied(Criterion):
    """One class is all that a new criterion takes: keep what reads inputs that vary."""

    needs = ("input_moments",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.everywhere(evidence.over_inputs(evidence.fact("input_moments").variance()))


@dataclass(frozen=True)
class Wishful(Criterion):
    needs = ("hopes",)


def test_a_criterion_from_outside():
    model = pruned(Varied(), keras.Sequential([keras.Input((3,)), layers.Dense(2, name="dense")]))
    x = np.outer(np.arange(8) - 3.5, [1.0, -3, 0.1]) + 100
    tfprune.update_masks(model, 2 / 3, data=(x, np.arange(8) % 2))
    np.testing.assert_array_equal(model.get_layer("dense").masks["kernel"], [[0, 0], [1, 1], [0, 0]])
    with pytest.raises(ValueError, match=re.escape("Expected `needs` among input_norms, input_moments")):
        tfprune.update_masks(pruned(Wishful()), 0.5, data=(x, x))


def test_mixed_precision_nested_models_and_states():
    """Evidence is float64 whatever the model computes in; a recurrent layer's states stay as they were."""
    inner = keras.Sequential([keras.Input((5, 4)), layers.Dense(3, dtype="mixed_float16", name="half")], name="inner")
    inputs = keras.Input(batch_shape=(8, 5, 4))
    lstm = layers.LSTM(2, stateful=True, name="lstm")
    model = pruned("wanda", keras.Model(inputs, lstm(inner(inputs))), filters=["half", "lstm/kernel"])
    x = GENERATOR.standard_normal((16, 5, 4)).astype(np.float32)
    model.predict(x[:8], verbose=0)
    states = [np.array(state) for state in model.get_layer("lstm").layer.states]
    facts = facts_of(model, [x[:8], x[8:]])
    for before, after in zip(states, model.get_layer("lstm").layer.states, strict=True):
        np.testing.assert_array_equal(before, after)
    norms = facts["inner/half/kernel"]["input_norms"]
    np.testing.assert_allclose(norms, np.sqrt(np.square(x).sum(axis=(0, 1))), rtol=1e-3)
    assert norms.dtype == np.float64


class Counted(list):
    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def test_the_callback_gathers_at_each_update():
    model, data = pruned(DACIS(gradient=0)), Counted([(X, Y)])
    schedule = tfprune.schedules.Polynomial(0.8, end=6)
    callback = tfprune.PruningCallback(schedule, every=3, data=data)
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[callback])
    assert data.passes == 3  # at steps 0, 3 and 6
    assert history.history["sparsity"][-1] == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="Expected data, as DACIS"):
        model.fit(X, Y, verbose=0, callbacks=[tfprune.PruningCallback(schedule)])


def test_wanda_in_a_model():
    """The masks are those of |w| ||x|| ranked in NumPy."""
    model = pruned(Wanda(), keras.Sequential([keras.Input((6,)), layers.Dense(5, name="dense")]))
    x = GENERATOR.standard_normal((40, 6)) * [0.01, 0.1, 1, 10, 100, 1]
    scores = np.abs(model.get_layer("dense").kernel.numpy()) * np.linalg.norm(x, axis=0)[:, None]
    tfprune.update_masks(model, 0.5, data=x)
    np.testing.assert_array_equal(model.get_layer("dense").masks["kernel"], scores >= np.sort(scores.ravel())[15])


def test_planning_keeps_a_telling_channel_of_low_norm():
    """Unit 0 carries the class a thousandth as loud as the noise that the others carry."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, use_bias=False, name="hidden")
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(hidden(inputs)))
    hidden.kernel.assign(np.diag([1e-3, 1, 1, 1]))
    labels = np.arange(90) % 3
    x = np.column_stack([labels, GENERATOR.standard_normal((90, 3))])
    by_class = tfprune.plan_shrink(model, 0.5, criterion=DACIS(gradient=0), data=(x, labels))
    by_size = tfprune.plan_shrink(model, 0.5)
    kept = [tfprune.shrink(model, plan).get_layer("hidden").kernel.numpy() for plan in (by_class, by_size)]
    assert [np.isclose(kernel, 1e-3).any() for kernel in kept] == [True, False]
