"""Facts of your own, through public names alone, against gradients of a tape and sums in NumPy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.criteria import Criterion, Evidence
from tfprune.facts import FACTS, Fact, UnknownFact, register_fact

layers = keras.layers
LOSS = "sparse_categorical_crossentropy"
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((70, 6, 6, 2)).astype(np.float32)  # two batches of 32 and one of 6
Y = GENERATOR.integers(0, 3, 70)
BATCHES = [slice(0, 32), slice(32, 64), slice(64, 70)]


@dataclass(frozen=True)
class Look(Criterion):
    """Keep what it was shown, by fact and path."""

    facts: tuple[str, ...]
    seen: ClassVar[dict[tuple[str, str], np.ndarray]] = {}

    @property
    def needs(self) -> tuple[str, ...]:
        return self.facts

    def __call__(self, evidence: Evidence) -> np.ndarray:
        self.seen.update({(name, evidence.path): evidence.fact(name) for name in self.facts})
        return np.abs(evidence.weight)


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.Conv2DTranspose(5, 2, activation="relu", name="up")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))


def gradients(model: keras.Model, name: str) -> list[np.ndarray]:
    """Return the gradient of each batch, of a model without masks."""
    gradients, loss = [], keras.losses.SparseCategoricalCrossentropy()
    for rows in BATCHES:
        with tf.GradientTape() as tape:
            value = loss(Y[rows], model(X[rows]))
        gradients.append(tape.gradient(value, model.get_layer(name).kernel).numpy().astype(np.float64))
    return gradients


def look(model: keras.Model, *facts: Fact, passes: int = 1, **arguments) -> dict[tuple[str, str], np.ndarray]:
    """Return what a criterion sees of some facts."""
    for fact in facts:
        register_fact(fact)
    wrapped = tfprune.wrap(model, criterion=Look(tuple(fact.name for fact in facts)))
    gatherer = tfprune.Gatherer(wrapped, (X, Y), **arguments)
    Look.seen.clear()
    for _ in range(passes):
        tfprune.update_masks(wrapped, 0.0, data=gatherer)
    return dict(Look.seen)


@pytest.fixture(scope="module")
def example():
    """What the example in CONTRIBUTING defines."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "register_fact" in block]
    names = {"tfprune": tfprune, "keras": keras, "np": np, "dataclass": dataclass}
    exec(compile(block, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_example_in_contributing_is_the_fisher_information(example, tmp_path):
    plain = network()
    wrapped = tfprune.wrap(plain, criterion=example["Fisher"](), filters="out")
    weight = plain.get_layer("out").kernel.numpy().astype(np.float64)
    scores = np.square(weight) * np.mean([np.square(gradient) for gradient in gradients(plain, "out")], axis=0)
    tfprune.update_masks(wrapped, 0.6, data=(X, Y), loss=LOSS)
    expected = scores > np.sort(scores.ravel())[8]  # nine of the fifteen entries are pruned
    np.testing.assert_array_equal(wrapped.get_layer("out").masks["kernel"], expected)
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("out").criterion == example["Fisher"]()
    np.testing.assert_array_equal(loaded.get_layer("out").masks["kernel"], expected)


def test_with_batches_of_one_sample_it_is_the_empirical_fisher_information(example):
    plain = network()
    squares = np.zeros(plain.get_layer("conv").kernel.shape)
    loss = keras.losses.SparseCategoricalCrossentropy()
    for x, y in zip(X[:5], Y[:5], strict=True):
        with tf.GradientTape() as tape:
            value = loss(y[None], plain(x[None]))
        squares += np.square(tape.gradient(value, plain.get_layer("conv").kernel).numpy()) / 5
    wrapped = tfprune.wrap(plain, criterion=Look(("fisher",)), filters="conv")
    data = [(x[None], y[None]) for x, y in zip(X[:5], Y[:5], strict=True)]
    tfprune.update_masks(wrapped, 0.0, data=data, loss=LOSS)
    np.testing.assert_allclose(Look.seen["fisher", "conv/kernel"], squares, rtol=1e-3, atol=1e-9)


def largest(gradient, ops):
    return ops.max(ops.abs(gradient), axis=0)


def test_gradients_by_entry_output_and_input():
    """The transposed convolution's kernel has outputs before inputs."""
    plain = network()
    facts = [Fact(f"by_{per}", "|dL/dw|", "gradients", largest, per=per) for per in ("output", "input")]
    total = Fact("total", "the sum over batches of dL/dw", "gradients", lambda gradient, ops: gradient, combine="sum")
    facts_by_path = look(plain, *facts, total, loss=LOSS)
    for name, outputs, inputs in (("conv", 3, 2), ("up", 2, 3), ("out", 1, 0)):
        of_batches = np.stack(gradients(plain, name))
        for per, axis in (("output", outputs), ("input", inputs)):
            rest = tuple(other + 1 for other in range(of_batches.ndim - 1) if other != axis)
            expected = np.abs(of_batches).max(axis=rest).mean(axis=0)
            np.testing.assert_allclose(facts_by_path[f"by_{per}", f"{name}/kernel"], expected, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(
            facts_by_path["total", f"{name}/kernel"], of_batches.sum(axis=0), rtol=1e-3, atol=1e-6
        )


def test_inputs_and_outputs():
    """A mean of outputs over batches, and the root of a sum over all that may have further axes: x^T x."""
    plain = network()
    facts = [
        Fact("loudness", "mean |output|", "outputs", lambda units, ops: ops.mean(ops.abs(units), axis=(0, 1))),
        Fact(
            "products", "x^T x", "inputs", lambda units, ops: ops.einsum("spi,spj->ij", units, units), combine="sum"
        ),
    ]
    facts_by_path = look(plain, *facts)
    returned = keras.Model(plain.input, plain.get_layer("conv").output).predict(X, verbose=0)
    loudness = np.mean([np.abs(returned[rows]).mean(axis=(0, 1, 2)) for rows in BATCHES], axis=0)
    np.testing.assert_allclose(facts_by_path["loudness", "conv/kernel"], loudness, rtol=1e-4)
    rows = X.reshape(-1, 2)
    np.testing.assert_allclose(facts_by_path["products", "conv/kernel"], rows.T @ rows, rtol=1e-4)
    assert facts_by_path["products", "up/kernel"].shape == (4, 4)


def test_finish_ends_a_pass_and_over_passes_sees_those_before():
    """Twice the same pass: 0 -> v -> v / 2 + v, of the root of the mean, times the weight."""
    plain = network()
    decayed = Fact(
        "decayed",
        "an average over passes",
        "gradients",
        lambda gradient, ops: ops.square(gradient),
        finish=np.sqrt,
        over_passes=lambda so_far, value, weight: so_far / 2 + value * weight,
    )
    fact = look(plain, decayed, passes=2, loss=LOSS)["decayed", "out/kernel"]
    root = np.sqrt(np.mean([np.square(gradient) for gradient in gradients(plain, "out")], axis=0))
    np.testing.assert_allclose(fact, 1.5 * root * plain.get_layer("out").kernel.numpy(), rtol=1e-3, atol=1e-7)


def test_a_fact_of_the_model_needs_no_data():
    """How far a weight is from where it began, and a reason where this is not known."""
    model = network()
    began = {"conv/kernel": np.zeros((3, 3, 2, 4)), "up/kernel": np.ones((2, 2, 5, 4))}

    def distance(around, ops):
        if around.path not in began:
            return UnknownFact("where it began is not known")
        return ops.abs(around.layer.kernel - began[around.path])

    register_fact(Fact("distance", "|w - w0|", "model", distance))
    wrapped = tfprune.wrap(model, criterion=Look(("distance",)), filters=["conv", "up"])
    Look.seen.clear()
    tfprune.update_masks(wrapped, 0.0)
    for path, start in began.items():
        kernel = model.get_layer(path.partition("/")[0]).kernel.numpy()
        np.testing.assert_allclose(Look.seen["distance", path], np.abs(kernel - start), rtol=1e-6)
    with pytest.raises(ValueError, match=r"Expected evidence of out/kernel: \|w - w0\|. Received: none, as where it"):
        tfprune.update_masks(tfprune.wrap(model, criterion=Look(("distance",))), 0.0)
    with pytest.raises(ValueError, match="Expected no `data`, because no criterion uses it"):
        tfprune.update_masks(wrapped, 0.0, data=X)


def test_channels_are_planned_by_a_fact_of_your_own():
    """The two outputs that are loudest stay."""
    loud = Fact("loud", "mean |output|", "outputs", lambda units, ops: ops.mean(ops.abs(units), axis=(0, 1)))

    @dataclass(frozen=True)
    class Loudest(Criterion):
        needs = ("loud",)

        def __call__(self, evidence: Evidence) -> np.ndarray:
            return evidence.everywhere(evidence.over_outputs(evidence.fact("loud")))

    register_fact(loud)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1, name="out")(layers.Dense(4, name="hidden", use_bias=False)(inputs)))
    model.get_layer("hidden").kernel.assign(np.diag([1.0, 4, 2, 3]))
    plan = tfprune.plan_shrink(model, 0.5, criterion=Loudest(), data=np.ones((8, 4), dtype=np.float32))
    kept = tfprune.shrink(model, plan).get_layer("hidden").kernel.numpy()
    np.testing.assert_array_equal(kept, np.diag([1.0, 4, 2, 3])[:, [1, 3]])


def test_a_fact_that_is_registered_again_is_replaced():
    """As in a notebook whose cell is run twice, also for a gatherer that has seen the old one."""
    model = tfprune.wrap(network(), criterion=Look(("changing",)))
    gatherer = tfprune.Gatherer(model, X)
    for factor in (1.0, 2.0):
        register_fact(
            Fact(
                "changing", "a factor", "inputs", lambda units, ops, factor=factor: ops.ones(units.shape[2]) * factor
            )
        )
        tfprune.update_masks(model, 0.0, data=gatherer)
        np.testing.assert_array_equal(Look.seen["changing", "conv/kernel"], [factor, factor])


def identity(recorded, ops):
    return recorded


BAD = {
    "name": ({"name": ""}, TypeError, "Expected `name` of a fact to be text. Received: name=''."),
    "text": ({"text": None}, TypeError, "Expected `text` of a fact to be text. Received: text=None."),
    "recorded": (
        {"recorded": "weights"},
        ValueError,
        "Expected `recorded` to be 'inputs', 'outputs', 'gradients', 'hessian_gradients' or 'model'.",
    ),
    "reduce": ({"reduce": "abs"}, TypeError, "Expected `reduce` of a fact to be a function. Received: reduce='a"),
    "finish": ({"finish": 2}, TypeError, "Expected `finish` of a fact to be a function. Received: finish=2."),
    "per": ({"per": "channel"}, ValueError, "Expected `per` to be 'entry', 'output' or 'input'. Received: per='ch"),
    "per of inputs": ({"recorded": "inputs", "per": "output"}, ValueError, "Expected `per` to be 'input'. Received"),
    "combine": ({"combine": "max"}, ValueError, "Expected `combine` to be 'mean', 'sum' or 'class_moments'. Re"),
    "classes": ({"combine": "class_moments"}, ValueError, "Expected class moments of inputs or outputs. Received: r"),
    "model": ({"recorded": "model", "finish": np.sqrt}, ValueError, "as recorded='model' has no batches."),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_description_is_refused(case):
    arguments, error, message = BAD[case]
    good = {"name": "good", "text": "nothing", "recorded": "gradients", "reduce": identity}
    assert Fact(**good).per == "entry"
    with pytest.raises(error, match=re.escape(message)):
        Fact(**{**good, **arguments})


def test_what_cannot_be_registered_is_refused():
    before = dict(FACTS)
    with pytest.raises(TypeError, match=re.escape("Expected a tfprune.criteria.Fact. Received: fact='movement'.")):
        register_fact("movement")
    with pytest.raises(ValueError, match="Expected the name of a new fact. Received: name='movement'"):
        register_fact(Fact("movement", "mine", "gradients", identity))
    assert dict(FACTS) == before
    with pytest.raises(TypeError):
        FACTS["mine"] = Fact("mine", "mine", "gradients", identity)


WRONG = {
    "gradients": ({"per": "output"}, "shape (4,) for conv/kernel, one value per output. Received: shape (18, 4)."),
    "outputs": ({}, "of shape (4,) for conv/kernel, one value per output. Received: shape ("),
    "model": (
        {"reduce": lambda around, ops: ops.ones(3)},
        "shape (3, 3, 2, 4) for conv/kernel, one value per entry",
    ),
}


@pytest.mark.parametrize("recorded", WRONG)
def test_a_reduction_of_the_wrong_shape_is_refused(recorded):
    arguments, message = WRONG[recorded]
    register_fact(Fact(**{"name": "wrong", "text": "wrong", "recorded": recorded, "reduce": identity, **arguments}))
    model = tfprune.wrap(network(), criterion=Look(("wrong",)))
    data = {} if recorded == "model" else {"data": (X, Y)}
    loss = {"loss": LOSS} if recorded == "gradients" else {}
    with pytest.raises(ValueError, match="Expected `reduce` of the fact 'wrong' to return .*" + re.escape(message)):
        tfprune.update_masks(model, 0.5, **data, **loss)
