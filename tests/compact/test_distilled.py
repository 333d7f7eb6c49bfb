"""distilled: the loss against NumPy, and that a taught model prunes, saves and strips as any other."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from refusals import refused
from tiers import first

import tfprune
from tfprune import Distillation, distilled
from tfprune.base.spec import ArgumentError, ArgumentTypeError

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = RNG.integers(0, 4, 12)
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(seed: int, last=None, **kwargs) -> keras.Model:
    keras.utils.set_random_seed(seed)
    stack = [layers.Dense(8, "tanh", name="hidden", **kwargs), layers.Dense(4, last, name="out")]
    return keras.Sequential([keras.Input((6,)), *stack])


def forward(model, x):
    """Return the hidden features and the outputs before an activation."""
    kernel, bias, last, shift = model.get_weights()
    hidden = np.tanh(x @ kernel + bias)
    return hidden, hidden @ last + shift


def softmax(logits):
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def expected_loss(student, teacher, *, temperature, weight, features=False):
    (own_hidden, own), (hidden, other) = forward(student, X), forward(teacher, X)
    task = -np.mean(np.log(softmax(own))[np.arange(12), Y])
    p, q = softmax(other / temperature), softmax(own / temperature)
    taught = temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=1))
    if features:
        taught += np.mean((own_hidden - hidden) ** 2) / np.mean(hidden**2)
    return (1 - weight) * task + weight * taught


def first_loss(model, loss=LOGITS, **kwargs) -> float:
    """Return the loss of the first step, before it changes a weight."""
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model.fit(X, Y, batch_size=12, verbose=0, **kwargs).history["loss"][0]


@pytest.mark.parametrize("last", [None, "softmax"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_loss_is_the_formula_for_logits_and_probabilities(last, wrapped):
    student, teacher = net(1, last), net(2, last)
    expected = expected_loss(student, teacher, temperature=4.0, weight=0.3)
    subject = tfprune.wrap(student) if wrapped else student
    loss = LOGITS if last is None else "sparse_categorical_crossentropy"
    assert first_loss(distilled(subject, teacher, Distillation(temperature=4, weight=0.3)), loss) == pytest.approx(
        expected, rel=1e-4
    )


def test_features_are_compared_by_name_and_regularization_counts_in_full():
    student, teacher = net(1, kernel_regularizer=keras.regularizers.L2(0.1)), net(2)
    expected = expected_loss(student, teacher, temperature=3.0, weight=0.5, features=True)
    expected += 0.1 * np.sum(student.get_weights()[0] ** 2)
    assert first_loss(distilled(student, teacher, Distillation(features=["hidden"]))) == pytest.approx(
        expected, rel=1e-4
    )


def test_features_alone_of_other_names_teach_a_model_without_classes():
    student, teacher = net(1), net(2)
    teacher.get_layer("hidden").name = "first"
    (own, _), (other, _) = forward(student, X), forward(teacher, X)
    training = distilled(student, teacher, Distillation(temperature=None, weight=1, features={"hidden": "first"}))
    training.compile(keras.optimizers.SGD(0.0), "mse")
    found = training.fit(X, np.zeros((12, 4)), batch_size=12, verbose=0).history["loss"][0]
    assert found == pytest.approx(np.mean((own - other) ** 2) / np.mean(other**2), rel=1e-4)


def test_what_evaluate_reports_is_the_own_loss():
    student, teacher = net(1), net(2)
    training = distilled(student, teacher)
    training.compile("sgd", LOGITS, metrics=["accuracy"])
    own = -np.mean(np.log(softmax(forward(student, X)[1]))[np.arange(12), Y])
    assert training.evaluate(X, Y, verbose=0)[0] == pytest.approx(own, rel=1e-5)


@pytest.mark.programs
def test_training_approaches_the_teacher_and_leaves_it_as_it_was():
    student, teacher = net(1), net(2)
    before = teacher.get_weights()
    training = distilled(student, teacher, Distillation(weight=1.0))
    training.compile(keras.optimizers.Adam(0.03), LOGITS)
    history = training.fit(X, Y, epochs=40, verbose=0).history["loss"]
    assert history[-1] < 0.05 * history[0]
    assert all(np.array_equal(one, two) for one, two in zip(before, teacher.get_weights(), strict=True))
    assert teacher.trainable and len(training.weights) == len(student.weights)


@pytest.mark.parametrize("budget", first(None, tfprune.budget(flops=0.5)))
def test_it_prunes_in_fit_and_strips_and_shrinks_as_the_student_does(budget):
    dense = net(1)
    student = tfprune.wrap(dense, pattern="unstructured" if budget is None else tfprune.patterns.Channel())
    training = distilled(student, dense, Distillation(features=["hidden"]))
    training.compile("adam", LOGITS)
    schedule = tfprune.schedules.Polynomial(0.5, end=0.8)
    training.fit(
        X,
        Y,
        batch_size=4,
        epochs=3,
        verbose=0,
        callbacks=[tfprune.PruningCallback(schedule, every=1, budget=budget)],
    )
    for each in (student, training):
        if budget is None:
            plain = tfprune.strip(each)
            assert tfprune.sparsity_report(plain).sparsity == 0.5
        else:
            plan = tfprune.plan_shrink(each)
            assert plan.flops_kept <= plan.flops / 2
            plain = tfprune.shrink(each, plan)
        assert type(plain).__module__.startswith("keras.")
        np.testing.assert_allclose(plain.predict(X, verbose=0), student.predict(X, verbose=0), atol=1e-5)


def test_a_saved_file_holds_the_student_and_goes_on(tmp_path):
    student, teacher = tfprune.wrap(net(1)), net(2)
    training = distilled(student, teacher)
    training.compile("adam", LOGITS)
    training.fit(X, Y, verbose=0)
    training.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == 1 and len(loaded.weights) == len(student.weights)
    np.testing.assert_allclose(loaded.predict(X, verbose=0), student.predict(X, verbose=0), atol=1e-6)
    loaded.fit(X, Y, verbose=0)
    training.save_weights(tmp_path / "only.weights.h5")
    student.load_weights(tmp_path / "only.weights.h5")


@pytest.mark.parametrize(
    ("kind", "argument", "make"),
    [
        (ArgumentTypeError, "model", lambda: distilled(layers.Dense(3), net(2))),
        (ArgumentTypeError, "teacher", lambda: distilled(net(1), "teacher.keras")),
        (ArgumentError, "temperature", lambda: distilled(net(1), net(2), Distillation(temperature=0))),
        (ArgumentError, "weight", lambda: distilled(net(1), net(2), Distillation(weight=1.5))),
        (ArgumentError, "temperature", lambda: distilled(net(1), net(2), Distillation(temperature=None))),
        (ArgumentTypeError, "features", lambda: distilled(net(1), net(2), Distillation(features="hidden"))),
        (ArgumentError, "features", lambda: distilled(net(1), net(2), Distillation(features=["hide"]))),
        (ArgumentError, "features", lambda: distilled(net(1), net(2), Distillation(features={"out": "hide"}))),
        (ArgumentError, "temperature", lambda: distilled(net(1), net(2, "sigmoid"))),
        (
            ArgumentError,
            "temperature",
            lambda: distilled(*[keras.Sequential([keras.Input((3,)), layers.Dense(1)]) for _ in "12"]),
        ),
        (ArgumentError, "teacher", lambda: distilled(net(1), keras.Sequential([keras.Input((6,)), layers.Dense(3)]))),
        (ArgumentTypeError, "features", lambda: Distillation(features=[("a", 1)])),
    ],
)
def test_what_cannot_teach_is_refused(kind, argument, make):
    with refused(kind, argument):
        make()


def test_a_teacher_that_shares_weights_is_refused():
    model = net(1)
    with pytest.raises(ValueError, match="shares 4 of its weights"):
        distilled(keras.Model(model.inputs[0], model.outputs[0]), model)


def test_features_that_differ_in_shape_are_refused_by_name():
    student = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="hidden"), layers.Dense(4)])
    training = distilled(student, net(2), Distillation(features=["hidden"]))
    training.compile("sgd", LOGITS)
    with pytest.raises(ValueError, match=r"'hidden' with \(5,\) and \(8,\)"):
        training.fit(X, Y, verbose=0)
