"""Trainer. The truth is Keras, which trains the same batches, and NumPy."""

import contextlib
import functools
import io
import re
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.export import Trainer, load_trained, to_tflite, to_trainer, unpack
from tfprune.export.command_line.cli import main
from tfprune.export.device.processes import Completed
from tfprune.export.file.document import load_objects, with_metadata
from tfprune.export.keras_side import to_trainer as module
from tfprune.export.keras_side.to_trainer import _positions
from tfprune.export.rewriting.trainer import METADATA, _drop_and_grow

BATCH, CLASSES = 8, 5


def images(count, *, seed=0):
    """Draw images whose class is the brightest of five columns."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, count)
    x = random.random((count, 6, CLASSES, 1)).astype(np.float32)
    x[np.arange(count), :, y] += 1
    return x, y


def network():
    return keras.Sequential(
        [
            keras.Input((6, CLASSES, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(16, "relu"),
            layers.Dropout(0.2),
            layers.Dense(CLASSES),
        ]
    )


@pytest.fixture(scope="module")
def wrapped():
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(network())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tfprune.update_masks(model, 0.8)
    return model


@pytest.fixture(scope="module")
def file(wrapped, tmp_path_factory):
    path = tmp_path_factory.mktemp("trainer") / "images.tfz"
    report = to_trainer(wrapped, path, batch_size=BATCH, compress="packed", check_on=images(80))
    assert report.trained == sum(np.count_nonzero(mask) for mask in kernels(wrapped).values()) + 8 + 16 + CLASSES
    assert report.difference < 1e-5
    assert f"trained     {report.trained:,} of {report.entries:,} entries" in str(report)
    return path


def kernels(model):
    """Return the masks of a wrapped model by the name of the layer."""
    return {layer.layer.path: np.array(layer.masks["kernel"]) for layer in model.layers if hasattr(layer, "masks")}


@pytest.fixture
def trainer(file):
    return Trainer(file)


def test_a_file_answers_as_the_model_before_it_is_trained(wrapped, trainer):
    x, y = images(11)
    np.testing.assert_allclose(trainer.predict(x), wrapped.predict(x, verbose=0), atol=1e-6)
    given = trainer.evaluate(x, y)
    assert given["loss"] == pytest.approx(wrapped.evaluate(x, y, verbose=0, batch_size=11), rel=1e-5)
    assert given["accuracy"] == np.mean(wrapped.predict(x, verbose=0).argmax(axis=1) == y)


def test_training_lowers_the_loss_and_leaves_zeros_where_they_are(trainer):
    x, y = images(203)
    before, masks = trainer.evaluate(x, y), trainer.masks
    report = trainer.fit(x, y, epochs=12, validation_data=images(50, seed=1), learning_rate=0.01)
    assert trainer.evaluate(x, y)["loss"] < 0.5 * before["loss"]
    assert report.steps == trainer.step == 12 * 26  # the last batch of 203 samples has three
    assert len(report.losses) == len(report.validation) == 12
    assert re.search(r"312 steps in [.0-9]+ s, [.0-9]+ s of processor time$", str(report))
    assert report.processor_seconds > 0
    for path, mask in masks.items():
        assert not trainer.weights[path][~mask].any()
        assert np.count_nonzero(trainer.weights[path]) == np.count_nonzero(mask)


def test_a_short_batch_counts_as_the_samples_that_it_has(trainer):
    x, y = images(3)
    given = [Trainer.evaluate(trainer, *pair)["loss"] for pair in ((x, y), (x[:1], y[:1]), (x[1:], y[1:]))]
    assert given[0] == pytest.approx((given[1] + 2 * given[2]) / 3, rel=1e-5)


def test_the_state_goes_on_where_it_was_saved(file, tmp_path):
    x, y = images(64)
    whole, begun, other = (Trainer(file) for _ in range(3))
    whole.fit(x, y, seed=1)
    whole.fit(x, y, seed=2)
    begun.fit(x, y, seed=1)
    begun.save(tmp_path / "state.npz")
    other.load(tmp_path / "state.npz")
    other.fit(x, y, seed=2)
    assert other.step == whole.step == 16
    for name, value in whole.state().items():
        np.testing.assert_array_equal(other.state()[name], value)


@pytest.mark.parametrize("place", [0, 7])
def test_data_and_losses_that_are_not_finite_leave_the_last_epoch(trainer, place):
    x, y = images(16)
    trainer.fit(x, y)
    before = trainer.state()
    broken = x.copy()
    broken[place, 0, 0] = np.nan
    with pytest.raises(ValueError, match=rf"finite numbers in `x`|NaN or infinity in row {place}"):
        trainer.fit(broken, y)
    with pytest.raises(ValueError, match=r"finite weights\. Received: .* in step \d+.*from before epoch \d"):
        trainer.fit(1e30 * x, y, epochs=3, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"finite loss"):
        for _ in range(3):
            trainer.train_on_batch(1e30 * x[:8], y[:8], learning_rate=1e30)
    assert np.isfinite(trainer.predict(x)).all()
    assert before["step"] <= trainer.step


@pytest.fixture(scope="module")
def smooth(tmp_path_factory):
    """A wrapped model without dropout or equal gradients, and its file."""
    keras.utils.set_random_seed(0)
    stack = [layers.Conv2D(8, 3, activation="tanh"), layers.Flatten(), layers.Dense(CLASSES)]
    model = tfprune.wrap(keras.Sequential([keras.Input((6, CLASSES, 1)), *stack]))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tfprune.update_masks(model, 0.75)
    path = tmp_path_factory.mktemp("smooth") / "smooth.tflite"
    to_trainer(model, path, batch_size=BATCH, check_on=images(80))
    return model, path


def test_gradients_are_those_of_keras_at_all_entries(smooth):
    """Of 21 samples, which are two whole batches and a short one."""
    model, path = smooth
    trainer = Trainer(path)
    expected = tfprune.federated.dense_gradients(tfprune.federated.MaskedModel(model), images(21))
    for (name, one), other in zip(trainer.gradients(*images(21)).items(), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6, err_msg=name)
        mask = trainer.masks.get(name, np.ones(one.shape, bool))
        assert np.count_nonzero(one[~mask]) == np.count_nonzero(~mask)


@pytest.mark.parametrize("update", ["prune", "grow"])
def test_masks_are_updated_as_on_the_desk(smooth, update):
    model, path = smooth
    trainer, desk, data = Trainer(path), keras.models.clone_model(smooth[0]), images(21)
    desk.set_weights(model.get_weights())
    desk.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trainer.fit(*data)
    load_trained(desk, trainer)
    before, values = trainer.masks, trainer.weights
    if update == "prune":
        masked = trainer.prune(0.9)
        tfprune.update_masks(desk, 0.9)
        assert masked == sum(np.count_nonzero(mask) for mask in before.values()) - 7 - 48  # of 72 and 480 entries
    else:
        replaced = trainer.grow(*data, fraction=0.4)
        tfprune.update_masks(desk, 0.75, grow=tfprune.Grow(fraction=0.4), data=data)
        assert replaced == sum(np.count_nonzero(mask & ~before[path]) for path, mask in trainer.masks.items()) > 30
    for (name, mask), one in zip(kernels(desk).items(), trainer.masks.values(), strict=True):
        np.testing.assert_array_equal(one, mask, err_msg=name)
    for path, mask in trainer.masks.items():
        np.testing.assert_array_equal(trainer.weights[path], np.where(mask & before[path], values[path], 0))


TABLE = {  # by fraction, which of six entries are kept: of weights 4 3 2 1 0 0, with gradients 1 to 6
    0.0: [1, 1, 1, 1, 0, 0],
    0.25: [1, 1, 1, 0, 0, 1],
    0.5: [1, 1, 0, 0, 1, 1],
    0.75: [1, 0, 0, 1, 1, 1],  # the last of the dropped has a larger gradient than the others, and returns
    1.0: [0, 0, 1, 1, 1, 1],
}


@pytest.mark.parametrize("fraction", TABLE)
def test_the_smallest_entries_give_way_to_the_largest_gradients(fraction):
    mask, weights, gradients = np.arange(6) < 4, np.array([4, 3, 2, 1, 0, 0.0]), np.arange(6) + 1.0
    assert _drop_and_grow(mask, weights, gradients, fraction).astype(int).tolist() == TABLE[fraction]


def test_a_fit_prunes_and_grows_on_its_way(file):
    x, y = images(64)
    trainer, counts = Trainer(file), []

    def update(trainer, step, loss):
        if step % 4 == 0:
            trainer.prune(0.9) if step == 8 else trainer.grow(x, y, fraction=0.3)
            counts.append(sum(np.count_nonzero(mask) for mask in trainer.masks.values()))

    before = sum(np.count_nonzero(mask) for mask in trainer.masks.values())
    report = trainer.fit(x, y, epochs=3, callback=update)
    assert report.steps == 24
    assert counts == [before, *[pytest.approx(before / 2, abs=2)] * 5]
    assert len(set(counts[1:])) == 1
    for path, mask in trainer.masks.items():
        assert not trainer.weights[path][~mask].any()


def test_masks_that_cannot_be_updated_are_refused(trainer, tmp_path):
    with pytest.raises(ValueError, match=r"`sparsity` of at least 0\.8.*Received: sparsity=0\.5.*set_masks"):
        trainer.prune(0.5)
    to_trainer(
        keras.Sequential([keras.Input((3,)), layers.Dense(2)]), tmp_path / "a.tflite", loss="mse", optimizer="sgd"
    )
    for update in (lambda dense: dense.prune(0.5), lambda dense: dense.grow(np.zeros((1, 3)), np.zeros((1, 2)))):
        with pytest.raises(ValueError, match="a file with pruned kernels"):
            update(Trainer(tmp_path / "a.tflite"))


def test_what_dropout_drops_follows_from_a_seed(trainer):
    x, y = images(BATCH)
    given = trainer.gradients(x, y)
    assert {path: each.shape for path, each in given.items()} == {
        path: value.shape for path, value in trainer.weights.items()
    }
    path = next(path for path, each in given.items() if each.ndim == 4)
    assert np.count_nonzero(given[path][~trainer.masks[path]]) > 0
    for seed, is_same in ((0, True), (1, False)):
        assert np.array_equal(trainer.gradients(x, y, seed=seed)[path], given[path]) == is_same
    before = trainer.weights[path.replace("kernel", "bias")]
    trainer.train_on_batch(x, y)
    moved = trainer.weights[path.replace("kernel", "bias")] - before
    slopes = given[path.replace("kernel", "bias")]  # of the step that was trained: Adam's first goes against the sign
    np.testing.assert_array_equal(np.sign(moved), -np.sign(slopes))


def test_a_file_has_room_for_a_fraction_of_each_kernel(wrapped, trainer):
    assert trainer.room == {path: np.count_nonzero(mask) for path, mask in trainer.masks.items()}
    mask = np.arange(10).reshape(2, 5) % 4 == 1
    rooms = {None: [1, 5, 9], 0.1: [1, 5, 9], 0.5: [1, 5, 9, 10, 10], 1.0: [1, 5, 9] + [10] * 7}
    for max_density, positions in rooms.items():
        np.testing.assert_array_equal(_positions(mask, max_density), positions)
    assert _positions(np.ones((2, 5), bool), None) is None
    with pytest.raises(ValueError, match=r"`max_density` to be a number in \(0, 1\]"):
        to_trainer(wrapped, "never.tflite", max_density=1.5)


def test_masks_move_and_what_returns_begins_at_zero(trainer):
    x, y = images(64)
    trainer.fit(x, y)
    path, mask = max(trainer.masks.items(), key=lambda entry: entry[1].size)
    weights = trainer.weights[path]
    moved = mask.copy().ravel()
    slopes = np.abs(trainer.gradients(x[:BATCH], y[:BATCH])[path]).ravel()
    gone, back = np.flatnonzero(moved)[:3], np.argsort(np.where(moved, 0, slopes))[-2:]  # as RigL chooses them
    moved[gone], moved[back] = False, True
    trainer.set_masks({path: moved.reshape(mask.shape)})
    np.testing.assert_array_equal(trainer.masks[path], moved.reshape(mask.shape))
    expected = np.where(moved.reshape(mask.shape), weights, 0)
    np.testing.assert_array_equal(trainer.weights[path], expected)
    trainer.fit(x, y)
    assert trainer.weights[path].ravel()[back].all()
    assert not trainer.weights[path].ravel()[gone].any()
    with pytest.raises(ValueError, match=r"at most \d+ entries"):
        trainer.set_masks({path: np.ones_like(mask)})


def test_what_was_learned_comes_back_to_the_desk(wrapped, trainer, tmp_path):
    x, y = images(64)
    trainer.fit(x, y, epochs=2)
    model = tfprune.wrap(network())
    load_trained(model, trainer)
    np.testing.assert_allclose(model.predict(x, verbose=0), trainer.predict(x), atol=1e-6)
    to_tflite(model, tmp_path / "images.tflite", check_on=x)
    plain = network()
    load_trained(plain, trainer)
    np.testing.assert_allclose(plain.predict(x, verbose=0), trainer.predict(x), atol=1e-6)
    with pytest.raises(ValueError, match="Give the model that was exported"):
        load_trained(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), trainer)


def test_weights_are_set_by_path(trainer):
    path = next(path for path, mask in trainer.masks.items() if mask.ndim == 2)
    trainer.set_weights({path: np.ones(trainer.masks[path].shape)})
    np.testing.assert_array_equal(trainer.weights[path], trainer.masks[path])
    with pytest.raises(ValueError, match=r"paths among .*Received: 'head'"):
        trainer.set_weights({"head": 1})


def test_fit_stops_early(trainer):
    x, y = images(64)
    seen = []
    report = trainer.fit(x, y, epochs=9, callback=lambda trainer, step, loss: seen.append(step) or step == 10)
    assert (report.steps, seen, report.stopped) == (10, list(range(1, 11)), "the callback stopped it")
    report = trainer.fit(x, y, epochs=10_000, time=0.2)
    assert report.stopped == "the time limit of 0.2 s"
    assert report.seconds < 5
    other = (x, (y + 1) % CLASSES)
    report = trainer.fit(x, y, epochs=50, validation_data=other, patience=2)
    losses = [each["loss"] for each in report.validation]
    assert report.stopped == "no smaller validation loss in 2 epochs"
    assert len(losses) == losses.index(min(losses)) + 3 < 50
    assert trainer.evaluate(*other)["loss"] == pytest.approx(min(losses))
    assert min(losses) < losses[-1]


WRONG = {
    "shape": (lambda x, y: (x[:, :5], y), r"`x` of shape \?x6x5x1 .*Received: 16x5x5x1"),
    "fewer labels": (lambda x, y: (x, y[1:]), r"`y` of shape 16.*Received: 15"),
    "classes": (lambda x, y: (x, y + 1), r"classes from 0 to 4.*Received: 1 to 5"),
    "parts of classes": (lambda x, y: (x, y + 0.5), r"numbers of classes.*Received: an array of float64"),
    "texts": (lambda x, y: (x, np.array(["a"] * 16)), r"numbers of classes"),
    "none": (lambda x, y: (x[:0], y[:0]), r"a sample at least"),
    "samples of text": (lambda x, y: (x.astype(str), y), r"numbers in `x` that float32 can hold.*an array of <U"),
    "too large": (lambda x, y: (x.astype(float) * 1e300, y), r"finite numbers in `x`"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_refused(trainer, name):
    change, message = WRONG[name]
    x, y = images(16)
    y[:5] = np.arange(5)
    with pytest.raises(ValueError, match=message):
        trainer.fit(*change(x, y))
    assert trainer.step == 0


def test_token_ids_that_a_file_cannot_take_are_refused(tmp_path):
    x = keras.Input((4,), dtype="int32", name="tokens")
    y = layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Embedding(10, 3)(x)))
    to_trainer(keras.Model(x, y), tmp_path / "a.tflite", loss="mse", optimizer="sgd", batch_size=4)
    trainer, tokens, labels = Trainer(tmp_path / "a.tflite"), np.full((4, 4), 9), np.zeros((4, 2))
    trainer.fit(tokens, labels)
    weights = trainer.weights
    for wrong in (tokens + 0.5, tokens + 2**40):
        with pytest.raises(ValueError, match=r"numbers in `x` that int32 can hold.*an array of (float|int)64"):
            trainer.fit(wrong, labels)
    with pytest.raises(ValueError, match=r"samples that the file can compute.*'train' on ai-edge.*out of bounds"):
        trainer.fit(tokens + 1, labels)
    for path, value in trainer.weights.items():
        np.testing.assert_array_equal(value, weights[path])


def test_an_interpreter_without_xnnpack_is_reported_once(smooth, monkeypatch, caplog):
    module = pytest.importorskip("ai_edge_litert.interpreter")
    data, expected = images(21), Trainer(smooth[1])
    expected.fit(*data)
    assert not caplog.records
    plain = functools.partial(
        module.Interpreter,
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    monkeypatch.setattr("tfprune.export.rewriting.trainer.find_interpreter", lambda: (plain, "LiteRT"))
    trainer = Trainer(smooth[1])
    trainer.fit(*data)
    assert [each.getMessage() for each in caplog.records] == [
        "LiteRT has no XNNPACK here: steps are right, and many times slower."
    ]
    for path, value in expected.weights.items():
        np.testing.assert_allclose(trainer.weights[path], value, atol=1e-6)


@pytest.mark.programs
def test_a_label_that_the_loss_ignores_is_taken(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(CLASSES)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1))
    x, y = np.random.default_rng(0).random((BATCH, 3), np.float32), np.arange(BATCH) % CLASSES - 1
    to_trainer(model, tmp_path / "a.tflite", batch_size=BATCH, check_on=(x, y))
    trainer = Trainer(tmp_path / "a.tflite")
    assert trainer.train_on_batch(x, y) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)


@pytest.mark.programs
def test_too_little_memory_is_a_sentence(tmp_path):
    """On a limit of the system: the file needs 8 MB for one layer's outputs."""
    model = keras.Sequential([keras.Input((10,)), layers.Dense(2000), layers.Dense(1)])
    to_trainer(model, tmp_path / "a.tflite", loss="mse", optimizer="sgd", batch_size=1000)
    program = textwrap.dedent(
        f"""
        import resource, sys
        import numpy as np
        from tfprune.export import Trainer
        trainer, x = Trainer({str(tmp_path / "a.tflite")!r}), np.zeros((1000, 10), np.float32)
        weights = trainer.weights
        with open("/proc/self/statm") as status:
            now = int(status.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 5_000_000, resource.RLIM_INFINITY))
        try:
            trainer.fit(x, x[:, :1])
        except ValueError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert all((value == weights[path]).all() for path, value in trainer.weights.items())
        """
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert re.match(r"Expected samples .* and memory for 1000 of them\. Received: 'train' on ai-edge-litert", printed)


def test_other_files_are_refused(trainer, file, smooth, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    to_tflite(model, tmp_path / "plain.tflite")
    with pytest.raises(ValueError, match=r"a file that tfprune\.export\.to_trainer wrote"):
        Trainer(tmp_path / "plain.tflite")
    stream = io.BytesIO()
    np.savez(stream, state_0=np.zeros(3))
    (tmp_path / "other.npz").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match="the state of this file"):
        trainer.load(tmp_path / "other.npz")
    (tmp_path / "other.npz").write_bytes(stream.getvalue()[:40])
    with pytest.raises(ValueError, match=r"Write it with trainer\.save"):
        trainer.load(tmp_path / "other.npz")


def test_the_state_of_another_file_of_the_same_shapes_is_refused(file, tmp_path):
    """As of a file that was exported again, whose frozen weights may be others."""
    Trainer(with_metadata(unpack(file), {"other": b""})).save(tmp_path / "state.npz")
    with pytest.raises(
        ValueError, match=r"the state of this file.*of another one. Write it with trainer\.save\(path\)\.$"
    ):
        Trainer(file).load(tmp_path / "state.npz")


def test_positions_outside_of_a_weight_are_not_loaded(trainer, tmp_path):
    trainer.save(tmp_path / "state.npz")
    with np.load(tmp_path / "state.npz") as stored:
        state = dict(stored)
    name = max(state, key=lambda each: (state[each].dtype == np.int32 and state[each].ndim == 2, each))
    for value in (-1, 10**6):
        np.savez(tmp_path / "state.npz", **{**state, name: np.full_like(state[name], value)})
        with pytest.raises(ValueError, match="positions within"):
            trainer.load(tmp_path / "state.npz")


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b'{"version": 1}'])
def test_a_file_that_describes_itself_wrongly_is_refused(file, content):
    with pytest.raises(ValueError, match=r"a file of to_trainer that .* can train.*Export the model again"):
        Trainer(with_metadata(unpack(file), {METADATA: content}))


REFUSED = {
    "not compiled": ({}, r"`loss`, or a model that was compiled.*Compile the model"),
    "trains": (
        {"loss": "mse", "optimizer": "sgd", "trains": "nothing"},
        r"`trains` to choose weights: 'all', 'last'",
    ),
    "input": ({"loss": "mse", "optimizer": "sgd", "input": "labels"}, r"inputs with other names"),
    "open": ({"loss": "mse", "optimizer": "sgd", "shape": (None, 3)}, r"shapes are known.*\?x\?x3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_before_any_work(name, tmp_path):
    options, message = REFUSED[name]
    options = dict(options)
    x = keras.Input(options.pop("shape", (3,)), name=options.pop("input", "x"))
    start = time.monotonic()
    with pytest.raises(ValueError, match=message):
        to_trainer(keras.Model(x, layers.Dense(2)(x)), tmp_path / "a.tflite", **options)
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - start < 30


def test_keras_in_float64_drops_the_same_units_and_differs_by_rounding_alone(monkeypatch, tmp_path):
    """Else the difference that rounding makes would hide wrong gradients."""
    by_keras = {}

    def compare(content, data, expected, folder):
        by_keras.update(expected)
        return "none", 0.0, None, None

    monkeypatch.setattr(module, "_compare", compare)
    x = keras.Input((6, 5, 1))
    y = layers.Dropout(0.5, noise_shape=(BATCH, 1, 1, 4))(layers.Conv2D(4, 3, activation="tanh")(x))
    model = keras.Model(x, layers.Dense(2)(layers.Dropout(0.5)(layers.Flatten()(y))))
    to_trainer(model, tmp_path / "a.tflite", loss="mse", optimizer="sgd", batch_size=BATCH)
    np.testing.assert_allclose(by_keras["exact_losses"], by_keras["losses"], rtol=1e-6)
    assert (by_keras["exact_losses"] != by_keras["losses"]).any()
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


RULE = {  # losses of two steps, of which Keras has 1 and 1: those in float64, those of the file, whether it passes
    "equal": ([1, 1.01], [1, 1], True),
    "as far from float64 as Keras": ([1, 1.01], [1, 1.02], True),
    "further": ([1, 1.01], [1, 1.04], False),
    "before rounding grew": ([1, 1.01], [1.001, 1], False),
    "after rounding grew": ([1.01, 1], [1, 1.015], True),
    "no float64": ([np.nan, np.nan], [1, 1.001], False),
}


@pytest.mark.parametrize("name", RULE)
def test_losses_may_be_as_far_from_float64_as_those_of_keras(name, monkeypatch, tmp_path):
    exact, losses, passes = RULE[name]
    expected = {"losses": np.ones(2), "exact_losses": np.array(exact), "outputs": np.ones(1)}
    result = {"runtime": "none"}, {"losses": np.array(losses), "outputs": np.ones(1)}
    monkeypatch.setattr(module, "run_job", lambda *_, **__: Completed(ok=True, reason="", output=""))
    monkeypatch.setattr(module, "read_job", lambda *_: result)
    if passes:
        assert module._compare(b"", {}, expected, tmp_path)[0] == "none"
    else:
        with pytest.raises(
            ValueError, match=r"as close to float64 as Keras is\. Received: in step \d the loss 1\.\d+"
        ):
            module._compare(b"", {}, expected, tmp_path)


def test_statistics_of_large_maps_keep_their_digits(tmp_path):
    """TFLite adds the numbers of several axes one by one: 1e-5 of the mean of these would be lost."""
    stack = [layers.BatchNormalization(momentum=0.0), layers.GlobalAveragePooling2D(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((64, 64, 2)), *stack])
    x = np.random.default_rng(0).random((BATCH, 64, 64, 2), np.float32) + 1
    to_trainer(
        model, tmp_path / "a.tflite", loss="mse", optimizer="sgd", batch_size=BATCH, check_on=(x, x[:, 0, 0, :1])
    )
    trainer = Trainer(tmp_path / "a.tflite")
    trainer.train_on_batch(x, x[:, 0, 0, :1])
    mean, variance = (trainer.weights[path] for path in trainer.task.statistics)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2), dtype=np.float64), rtol=3e-7)
    np.testing.assert_allclose(variance, x.var(axis=(0, 1, 2), dtype=np.float64), rtol=3e-7)


PARTS = {"last": r"dense_\d+/", "biases": "bias|beta|gamma", "conv": "conv"}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_trained_and_the_rest_computes_as_in_inference(part, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 5, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3),
            layers.Dense(2),
        ]
    )
    flags = [each.trainable for each in model.weights]
    before = [np.array(each) for each in model.weights]
    to_trainer(model, tmp_path / "a.tflite", loss="mse", optimizer="sgd", batch_size=4, trains=part)
    assert [each.trainable for each in model.weights] == flags
    for each, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(each, value)
    trainer = Trainer(tmp_path / "a.tflite")
    assert all(re.search(PARTS[part], weight.path) for weight in trainer.task.weights)
    assert bool(trainer.task.statistics) == (part == "biases")


@pytest.mark.programs
@pytest.mark.parametrize("rank", [1, 2])
def test_frozen_kernels_are_stored_once_though_gradients_read_them_transposed(rank, tmp_path):
    keras.utils.set_random_seed(0)
    convolution = {1: layers.Conv1D, 2: layers.Conv2D}[rank]
    stack = [convolution(32, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), convolution(24, 3)]
    stack += [layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(32)]
    model = keras.Sequential([keras.Input((8,) * rank + (3,)), *stack])
    to_trainer(model, tmp_path / "a.tflite", loss="mse", optimizer="sgd", batch_size=4, trains="biases")
    kernels = sum(4 * np.array(each).size for each in model.weights if each.path.endswith("kernel"))
    buffers = load_objects((tmp_path / "a.tflite").read_bytes()).buffers
    large = [len(each.data) for each in buffers if each.data is not None and len(each.data) > 2048]
    assert kernels - 4096 < sum(large) <= kernels


def test_the_command_keeps_each_epoch_and_continues_there(file, tmp_path, monkeypatch, capsys):
    for name, array in zip("xy", images(64), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    command = ["train", str(file), "--data", f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}", "--epochs", "5"]
    command += ["--state", str(tmp_path / "state.npz")]

    def stopped(trainer, *arguments, step=Trainer._step):
        if trainer.step == 20:
            raise KeyboardInterrupt
        return step(trainer, *arguments)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Trainer, "_step", stopped)
        main(command)
    trainer = Trainer(file)
    trainer.load(tmp_path / "state.npz")
    assert trainer.step == 16  # two epochs of eight steps
    assert main(command) == 0
    assert "40 steps in" in capsys.readouterr().out
    trainer.load(tmp_path / "state.npz")
    assert trainer.step == 56


@pytest.mark.programs
def test_a_killed_process_goes_on_from_its_last_state(file, tmp_path):
    """Twenty times, at times that differ: what was saved loads, and training goes on from it."""
    program = textwrap.dedent(
        f"""
        import numpy as np
        from tfprune.export import Trainer
        from pathlib import Path
        trainer, state = Trainer({str(file)!r}), Path({str(tmp_path / "state.npz")!r})
        if state.exists():
            trainer.load(state)
        x = np.random.default_rng(0).random((64, 6, 5, 1)).astype("float32")
        y = np.arange(64) % 5
        print(trainer.step, flush=True)
        trainer.fit(x, y, epochs=100_000, callback=lambda trainer, step, loss: trainer.save(state))
        """
    )
    steps = []
    for wait in np.random.default_rng(0).uniform(0.05, 0.6, 20):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        steps.append(int(process.stdout.readline()))
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert steps == sorted(steps)
    assert steps[-1] > steps[0] == 0
    trainer = Trainer(file)
    trainer.load(tmp_path / "state.npz")
    assert trainer.step >= steps[-1]
