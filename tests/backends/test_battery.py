"""What a pruned model does on every backend of Keras: `make test-backends` runs this file once on each."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfprune
from tfprune import patterns
from tfprune.schedules import Constant, Polynomial

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="all other tests are of TensorFlow; `make test-backends` runs these on the others"
)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 10)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")
IMAGES = RNG.normal(size=(8, 6, 6, 3)).astype("float32")
TOKENS = RNG.integers(0, 9, size=(8, 5))
SERIES = RNG.normal(size=(8, 5, 4)).astype("float32")

# Name -> (inputs, layers): one of each way in which a layer reads its weights.
STACKS = {
    "dense": (X, lambda: [layers.Dense(10, "tanh", kernel_regularizer="l2", activity_regularizer="l1")]),
    "conv": (IMAGES, lambda: [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()]),
    "separable": (IMAGES, lambda: [layers.SeparableConv2D(4, 3), layers.GlobalMaxPooling2D()]),
    "transpose": (IMAGES, lambda: [layers.Conv2DTranspose(4, 3, strides=2), layers.GlobalMaxPooling2D()]),
    "lstm": (TOKENS, lambda: [layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3)]),
    "gru": (SERIES, lambda: [layers.Bidirectional(layers.GRU(3))]),
    "dropout": (SERIES, lambda: [layers.LSTM(3, dropout=0.5, recurrent_dropout=0.5, seed=1)]),
    "attention": (SERIES, lambda: [SelfAttention(), layers.Flatten()]),
    "distributed": (SERIES, lambda: [layers.TimeDistributed(layers.Dense(3)), layers.Flatten()]),
}


@keras.saving.register_keras_serializable(package="battery")
class SelfAttention(layers.MultiHeadAttention):
    """Attention with one input, so that it stands in a Sequential."""

    def __init__(self, **kwargs):
        super().__init__(**{"num_heads": 2, "key_dim": 3, **kwargs})

    def build(self, shape):
        super().build(shape, shape)

    def call(self, inputs, training=None):
        return super().call(inputs, inputs, training=training)

    def compute_output_spec(self, inputs, **kwargs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


def plain(case: str = "small", seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    if case == "small":
        stack = [
            layers.Dense(10, activation="tanh", name="hidden"),
            layers.Dropout(0.2, seed=3),
            layers.BatchNormalization(name="norm"),
        ]
        return keras.Sequential([keras.Input((10,)), *stack, layers.Dense(2, name="out")])
    inputs, stack = STACKS[case]
    return keras.Sequential(
        [keras.Input(inputs.shape[1:], dtype=inputs.dtype), *stack(), layers.Dense(2, name="out")]
    )


def wrapped(case: str = "small", optimizer="adam", **arguments) -> keras.Model:
    model = tfprune.wrap(plain(case), **arguments)
    model.compile(optimizer, "mse")
    return model


def array(value) -> np.ndarray:
    return np.array(ops.convert_to_numpy(value))


def hidden(model: keras.Model) -> tfprune.Pruned:
    return model.get_layer("hidden")


def zeros_of(model: keras.Model) -> np.ndarray:
    return array(hidden(model).masks["kernel"]) == 0


def fit(model: keras.Model, *callbacks, x=X, **arguments) -> dict[str, list[float]]:
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, Y[: len(x)], callbacks=list(callbacks), **arguments).history


@pytest.mark.parametrize("case", STACKS)
def test_training_without_zeros_is_training_the_unwrapped_twin(case):
    twin, model = plain(case), tfprune.wrap(plain(case))
    losses = []
    for one in (twin, model):
        one.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        losses.append(fit(one, x=STACKS[case][0], epochs=2)["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)  # a compiler may fuse the two differently
    for one, other in zip(tfprune.strip(model).weights, twin.weights, strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=1e-6)


@pytest.mark.parametrize("case", STACKS)
def test_masked_entries_stay_zero_while_training_and_after_a_file(case, tmp_path):
    model, inputs = wrapped(case), STACKS[case][0]
    tfprune.update_masks(model, 0.5)
    before = [array(layer.masks[name]) for layer in model.layers if hasattr(layer, "masks") for name in layer.masks]
    fit(model, x=inputs, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        places = [(layer, name) for layer in one.layers if hasattr(layer, "masks") for name in layer.masks]
        for (layer, name), mask in zip(places, before, strict=True):
            np.testing.assert_array_equal(array(layer.masks[name]), mask)
            assert np.count_nonzero(array(layer.kernels[name].variable)[mask == 0]) == 0 < mask.sum() < mask.size
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(loaded.predict(inputs, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(tfprune.strip(model).predict(inputs, verbose=0), expected, atol=1e-6)


def test_fit_follows_the_schedule_and_ends_exactly():
    class Record(keras.callbacks.Callback):
        zeros: list[int] = []

        def on_train_batch_end(self, batch, logs=None):
            self.zeros.append(int(zeros_of(self.model).sum()))

    model, record = wrapped(), Record()
    history = fit(model, tfprune.PruningCallback(Polynomial(0.8, begin=3, end=17), every=4), record, epochs=2)
    truth, current = [], 0
    for step in range(1, 21):
        if step in (3, 7, 11, 15, 17):
            current = round(100 * (0.8 - 0.8 * (1 - (step - 3) / 14) ** 3))
        truth.append(current)
    assert record.zeros == truth and history["sparsity"][-1] == 0.8
    kernel = array(hidden(model).layer.kernel)
    assert np.count_nonzero(kernel) == 20 and np.isfinite(kernel).all()
    slots = [v for v in model.optimizer.variables if "hidden_kernel" in v.path]
    assert len(slots) == 2
    for slot in slots:
        assert np.count_nonzero(array(slot)[zeros_of(model)]) == 0 < np.count_nonzero(array(slot))


def test_the_hessian_times_the_gradient_is_a_difference_of_gradients():
    class Look(tfprune.research.GraSP):
        needs = ("gradient", "hessian_gradient")

        def __call__(self, evidence):
            facts[evidence.path] = dict(evidence.facts)
            return super().__call__(evidence)

    facts: dict[str, dict[str, np.ndarray]] = {}
    model = wrapped(criterion=Look())
    variables = {f"{name}/kernel": model.get_layer(name).layer.kernel for name in ("hidden", "out")}
    tfprune.update_masks(model, 0.0, data=(X, Y))
    at, start, moved = dict(facts), {path: array(each) for path, each in variables.items()}, []
    for sign in (1, -1):
        for path, variable in variables.items():
            variable.assign(start[path] + sign * 0.05 * at[path]["gradient"])
        tfprune.update_masks(model, 0.0, data=(X, Y))
        moved.append({path: facts[path]["gradient"] for path in at})
    for path, found in at.items():
        expected = (moved[0][path] - moved[1][path]) / 0.1
        np.testing.assert_allclose(found["hessian_gradient"], expected, atol=1e-2 * np.abs(expected).max())


@pytest.mark.parametrize("by", ["gradient", "random"])
def test_a_fit_that_grows_keeps_its_counts_and_zero_slots(by):
    class Record(keras.callbacks.Callback):
        masks: list[np.ndarray] = []

        def on_train_batch_end(self, batch, logs=None):
            self.masks.append(~zeros_of(self.model))
            assert np.count_nonzero(array(hidden(self.model).layer.kernel)[zeros_of(self.model)]) == 0

    model, record = wrapped(), Record()
    record.masks = []
    data = {"data": (X, Y)} if by == "gradient" else {}
    fit(model, tfprune.PruningCallback(Constant(0.8), every=4, grow=by, **data), record, epochs=2)
    assert {int(mask.sum()) for mask in record.masks} == {20}
    assert (record.masks[0] != record.masks[-1]).any()
    slots = [v for v in model.optimizer.variables if "hidden_kernel" in v.path]
    assert len(slots) == 2
    for slot in slots:
        assert np.count_nonzero(array(slot)[zeros_of(model)]) == 0 < np.count_nonzero(array(slot))


def test_a_hidden_value_comes_back_as_it_was():
    model = wrapped()
    fit(model)
    before = array(hidden(model).layer.kernel)
    tfprune.update_masks(model, 0.7)
    masked = zeros_of(model)
    fit(model)
    tfprune.update_masks(model, 0.0)
    after = array(hidden(model).layer.kernel)
    np.testing.assert_array_equal(after[masked], before[masked])
    assert (after[~masked] != before[~masked]).any()


def test_a_copy_and_its_source_train_independently():
    source = plain()
    model = tfprune.wrap(source)
    for one in (model, source, tfprune.strip(model), model):
        one.compile("sgd", "mse")
        assert np.isfinite(fit(one)["loss"]).all()


def test_statistics_and_seeds_are_updated_by_training():
    model = wrapped()
    before = {v.path: array(v) for v in model.non_trainable_variables}
    fit(model)
    after = {v.path: array(v) for v in model.non_trainable_variables}
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert {path.rsplit("/", 1)[-1] for path in changed} == {"moving_mean", "moving_variance", "seed_generator_state"}


def test_a_stateful_layer_carries_its_state_in_calls():
    twin = layers.LSTM(3, stateful=True)
    x = SERIES[:2]
    expected = [array(twin(x)) for _ in range(2)]
    model = tfprune.Pruned(layers.LSTM(3, stateful=True))
    model(x)
    for one, other in zip(model.layer.weights, twin.weights, strict=True):
        one.assign(ops.copy(other.value))
    model.layer.reset_states()
    for outputs in expected:
        np.testing.assert_allclose(array(model(x)), outputs, atol=1e-6)
    assert not np.allclose(expected[0], expected[1])


def gradients_in_the_backends_own_way(model: keras.Model, x, y) -> list[np.ndarray]:
    """Return the gradients of the mean squared error, and keep what the forward pass changed in the model."""
    if BACKEND == "torch":
        model.zero_grad()
        ops.mean((model(x, training=True) - ops.convert_to_tensor(y)) ** 2).backward()
        return [variable.value.grad for variable in model.trainable_variables]
    import jax

    def loss(trainable, rest):
        outputs, rest = model.stateless_call(trainable, rest, x, training=True)
        return ops.mean((outputs - y) ** 2), rest

    values = [[v.value for v in some] for some in (model.trainable_variables, model.non_trainable_variables)]
    (_, rest), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(*values)
    for variable, value in zip(model.non_trainable_variables, rest, strict=True):
        variable.assign(value)
    return gradients


def test_gradients_are_zero_under_zeros_and_the_twins_elsewhere():
    model, twin = wrapped(), plain()
    tfprune.update_masks(model, 0.5)
    twin.set_weights([array(weight) for weight in tfprune.strip(model).weights])
    received, expected = (gradients_in_the_backends_own_way(one, X, Y) for one in (model, twin))
    masks = {
        id(layer.layer.kernel): array(layer.masks["kernel"]) for layer in (hidden(model), model.get_layer("out"))
    }
    for variable, one, other in zip(model.trainable_variables, received, expected, strict=True):
        mask = masks.get(id(variable), 1)
        np.testing.assert_allclose(array(one), array(other) * mask, atol=1e-6)


def test_an_own_loop_prunes_through_update_masks():
    model, optimizer = tfprune.wrap(plain()), keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    means = array(model.get_layer("norm").moving_mean)
    for step in range(6):
        gradients = gradients_in_the_backends_own_way(model, X, Y)
        optimizer.apply(gradients, model.trainable_variables)
        if step in (2, 4):
            tfprune.update_masks(model, 0.2 * step, optimizer=optimizer)
    masked = zeros_of(model)
    assert masked.sum() == 80
    for variable in [hidden(model).layer.kernel, *(v for v in optimizer.variables if "hidden_kernel" in v.path)]:
        assert np.count_nonzero(array(variable)[masked]) == 0 < np.count_nonzero(array(variable))
    assert not np.allclose(means, array(model.get_layer("norm").moving_mean))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_prunes_too(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = wrapped()
        fit(model, tfprune.PruningCallback(Polynomial(0.8, end=15), every=2), epochs=2)
    finally:
        keras.config.set_dtype_policy("float32")
    kernel = array(hidden(model).layer.kernel)
    assert np.count_nonzero(kernel) == 20 and np.isfinite(kernel).all()


def test_patterns_hold_in_fit():
    model = wrapped(pattern=patterns.NM(1, 2))
    fit(model, tfprune.PruningCallback(Polynomial(0.5, end=8), every=3))
    groups = array(hidden(model).layer.kernel).T.reshape(10, 5, 2)
    assert (np.count_nonzero(groups, axis=-1) == 1).all()


@keras.saving.register_keras_serializable(package="battery")
class Subclassed(keras.Model):
    """Hold a layer without `build`, a layer in a list, and a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.residual = Residual()
        self.stack = [layers.Dense(6, "tanh"), layers.Dense(2)]
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, inputs):
        return self.stack[1](self.stack[0](self.residual(inputs))) * self.scale

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable(package="battery")
class Residual(layers.Layer):
    """A layer with a sublayer, which gets its weights when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(10)

    def call(self, inputs):
        return inputs + self.dense(inputs)


@pytest.mark.parametrize("way", ["copied", "in place"])
def test_a_subclassed_model_is_pruned_saved_and_stripped(way, tmp_path):
    model = Subclassed()
    model(X)
    model.scale.assign(1.5)
    before = ops.convert_to_numpy(model(X))
    wrapped = tfprune.wrap(model, in_place=way == "in place")
    np.testing.assert_array_equal(ops.convert_to_numpy(wrapped(X)), before)
    wrapped.compile("adam", "mse")
    wrapped.fit(X, Y, verbose=0, callbacks=[tfprune.PruningCallback(Polynomial(0.5, end=1.0), every=1)])
    assert tfprune.sparsity_report(wrapped).nnz == 50 + 30 + 6
    after = ops.convert_to_numpy(wrapped(X))
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(X)), after)
    stripped = tfprune.strip(wrapped)
    assert type(stripped) is Subclassed
    np.testing.assert_allclose(ops.convert_to_numpy(stripped(X)), after, atol=1e-6)


def test_what_is_solved_after_an_attention_with_biases():
    keras.utils.set_random_seed(0)
    series = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, name="attention")(series, series)
    hidden = layers.Dense(12, activation="relu", name="hidden")(x)
    model = keras.Model(series, layers.Dense(2, name="out")(hidden))
    data = np.tile(SERIES, (4, 1, 1)) + RNG.normal(size=(32, 5, 4)).astype("float32")
    zeroed = tfprune.zero_channels(model, tfprune.plan_shrink(model, 0.5, filters="hidden"))
    for targets in ("own", "dense"):
        better, report = tfprune.reconstruct(zeroed, model, data, targets=targets)
        assert all(row.after <= row.before for row in report.rows)
        assert report.rows[-1].after < report.rows[-1].before
    assert tfprune.rank_channels(model, data).scores["hidden"].shape == (12,)
    masked, units = tfprune.prune_units(model, data, {"units": 0.5, "heads": 0.5}, verbose=0)
    smaller = tfprune.shrink(masked, units.plan)
    expected = ops.convert_to_numpy(masked(data))
    np.testing.assert_allclose(ops.convert_to_numpy(smaller(data)), expected, atol=1e-5)
    sparse, _ = tfprune.prune_weights(model, data, pattern=patterns.NM(2, 4))
    assert np.mean(ops.convert_to_numpy(sparse.get_layer("hidden").kernel) == 0) == 0.5


def test_a_teacher_counts_in_the_loss_as_the_formula_says():
    student, teacher = (keras.Sequential([keras.Input((10,)), layers.Dense(3, name="out")]) for _ in range(2))
    own, other = (X @ array(model.layers[0].kernel) for model in (student, teacher))
    labels = np.arange(40) % 3
    p, q = (np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True) for logits in (other, own))
    task = np.mean(np.log(np.exp(own).sum(axis=1)) - own[np.arange(40), labels])
    taught = 4 * np.mean(np.sum(p * np.log(p / q), axis=1)) + np.mean((own - other) ** 2) / np.mean(other**2)
    training = tfprune.distilled(
        tfprune.wrap(student), teacher, tfprune.Distillation(temperature=2, weight=0.25, features=["out"])
    )
    training.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = training.fit(X, labels, batch_size=40, verbose=0).history
    assert history["loss"][0] == pytest.approx(0.75 * task + 0.25 * taught, rel=1e-4)


def test_a_taught_model_prunes_in_fit_and_the_teacher_stays_as_it_was(tmp_path):
    teacher = plain()
    student = tfprune.wrap(teacher)
    before = [array(weight) for weight in teacher.weights]
    training = tfprune.distilled(student, teacher, tfprune.Distillation(features=["hidden"]))
    training.compile("adam", "mse")
    fit(training, tfprune.PruningCallback(Polynomial(0.8, end=8), every=2))
    assert zeros_of(student).sum() == 80
    for one, two in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(array(one), two)
    training.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), student.predict(X, verbose=0), atol=1e-6)


def test_rounds_with_a_teacher_go_on_from_a_folder(tmp_path):
    results = []
    for done in (None, 1):
        model = plain()
        model.compile("adam", "mse")
        keras.utils.set_random_seed(5)
        if done is not None:
            (tmp_path / "round_2.npz").unlink()
        how = tfprune.FineTuning(rounds=2, distillation=tfprune.Distillation())
        settings = {"fine_tuning": how, "folder": tmp_path, "verbose": 0}
        results.append(tfprune.prune_to(model, tfprune.budget(flops=0.6), (X, Y), **settings))
    (first, report), (second, again) = results
    assert str(report) == str(again)
    for one, two in zip(first.weights, second.weights, strict=True):
        np.testing.assert_allclose(array(one), array(two), rtol=1e-5, atol=1e-6)
