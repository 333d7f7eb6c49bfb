"""What `wrap` and `strip` take and refuse, and the files of both; test_kinds.py has each kind of model."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from kinds import branches, functional, nested, sequential, tokens
from styles import Neither

import tfprune
from tfprune import patterns
from tfprune.masking.pruned import Pruned


def randomise(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every float variable a random positive value, statistics included."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" in variable.dtype:
            variable.assign(rng.uniform(0.1, 0.9, size=variable.shape))
    return model


def batch(model: keras.Model):
    rng = np.random.default_rng(5)

    def array(tensor):
        shape = (3, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return rng.integers(0, 9, size=shape)
        return rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(array, model.inputs[0] if isinstance(model, keras.Sequential) else model.input)


def outputs(model: keras.Model, **kwargs) -> list[np.ndarray]:
    return [np.asarray(tensor) for tensor in keras.tree.flatten(model(batch(model), **kwargs))]


def assert_equal(outputs_now, expected):
    for a, b in zip(outputs_now, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_copy_of_a_compiled_model_trains_at_once_with_an_optimizer_of_its_own():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    assert not tfprune.wrap(model).compiled
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    copy = tfprune.wrap(model)
    assert copy.optimizer is not model.optimizer and copy.optimizer.built
    assert copy.optimizer.get_config() == model.optimizer.get_config()
    losses = copy.evaluate(np.ones((2, 4)), np.ones((2, 3)), verbose=0, return_dict=True)
    assert losses == pytest.approx(model.evaluate(np.ones((2, 4)), np.ones((2, 3)), verbose=0, return_dict=True))


def test_a_copy_is_not_compiled_with_what_keras_cannot_save_and_the_log_says_so(caplog):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.compile("sgd", lambda y, outputs: outputs)
    with caplog.at_level("INFO", "tfprune"):
        assert not tfprune.wrap(model).compiled
    assert "is not compiled" in caplog.text


def test_wrap_of_a_wrapped_model_adds_what_was_left_out():
    model = randomise(sequential())
    first = tfprune.wrap(model, filters="first")
    tfprune.update_masks(first, 0.5)
    both = tfprune.wrap(first, pattern=patterns.Block(1, 2), filters="last")
    assert [type(layer).__name__ for layer in both.layers] == ["Pruned", "BatchNormalization", "Pruned"]
    np.testing.assert_array_equal(both.get_layer("first").masks["kernel"], first.get_layer("first").masks["kernel"])
    np.testing.assert_array_equal(both.get_layer("first").latent("kernel"), first.get_layer("first").latent("kernel"))
    assert both.get_layer("first").pattern == patterns.Unstructured()
    assert both.get_layer("last").pattern == patterns.Block(1, 2)
    assert_equal(outputs(both), outputs(first))


@pytest.mark.parametrize("pattern", ["unstructured", "channel", patterns.NM(1, 2)])
def test_a_cell_that_is_run_twice_changes_nothing(pattern):
    model = tfprune.wrap(randomise(sequential()), pattern=pattern)
    tfprune.update_masks(model, 0.5)
    again = tfprune.wrap(model, pattern=pattern)
    assert again is not model
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    for name in ("first", "last"):
        mask = model.get_layer(name).masks["kernel"]
        np.testing.assert_array_equal(again.get_layer(name).masks["kernel"], mask)
        np.testing.assert_array_equal(again.get_layer(name).latent("kernel"), model.get_layer(name).latent("kernel"))
    assert np.count_nonzero(again.get_layer("first").masks["kernel"]) < 24
    assert_equal(outputs(again), outputs(model))


def test_a_weight_that_is_wrapped_otherwise_is_refused_and_named():
    first = tfprune.wrap(sequential(), filters="first")
    with pytest.raises(ValueError, match=r"Received: first, .*pattern=Unstructured\(\). Leave it out with `filters`"):
        tfprune.wrap(first, pattern=patterns.Block(1, 2))
    with pytest.raises(ValueError, match=r"Received: first, which is wrapped with criterion=Magnitude\(\)"):
        tfprune.wrap(first, criterion="random")
    with pytest.raises(ValueError, match="first is wrapped already, with another criterion or pattern"):
        tfprune.wrap(first, pattern="channel", filters="first")


def test_a_sequential_model_that_its_first_batch_builds_is_wrapped_and_trains():
    stack = [layers.Conv1D(6, 3), layers.DepthwiseConv1D(2), layers.Bidirectional(layers.GRU(4)), layers.Dense(2)]
    model = tfprune.wrap(keras.Sequential(stack))
    assert [type(layer).__name__ for layer in model.layers] == ["Pruned", "DepthwiseConv1D", "Pruned", "Pruned"]
    x = np.random.default_rng(0).normal(size=(32, 8, 3)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, x[:, 0, :2], verbose=0)
    report = tfprune.update_masks(model, 0.75)
    # Conv1D 3x3x6; two GRU directions of 6x12 and 4x12; Dense 8x2.
    assert [row.size for row in report.rows] == [54, 72, 48, 72, 48, 16]
    assert report.nnz == 14 + 18 + 12 + 18 + 12 + 4
    model.fit(x, x[:, 0, :2], verbose=0)
    assert tfprune.sparsity_report(model).nnz == report.nnz
    np.testing.assert_allclose(tfprune.strip(model)(x), model(x), atol=1e-6)


def test_filters_choose_layers_of_a_model_that_is_not_built():
    stack = [layers.Dense(6, name="hidden"), layers.Dense(2, name="out")]
    model = tfprune.wrap(keras.Sequential(stack), filters="hidden/kernel")
    assert [type(layer).__name__ for layer in model.layers] == ["Pruned", "Dense"]
    assert [type(layer).__name__ for layer in tfprune.wrap(model).layers] == ["Pruned", "Pruned"]
    model(np.ones((2, 3)))
    assert wrapped_paths(model) == ["hidden/kernel"]
    with pytest.raises(ValueError, match="'kernle', which is found in none of hidden/kernel, out/kernel"):
        tfprune.wrap(keras.Sequential(stack), filters="kernle")


def test_a_layer_that_cannot_take_the_pattern_says_so_when_it_is_built():
    model = tfprune.wrap(keras.Sequential([layers.Dense(2, name="out")]), pattern=patterns.NM(9, 16))
    with pytest.raises(ValueError, match="Weight out/kernel cannot take the pattern"):
        model(np.ones((1, 3)))


def test_a_model_that_cannot_be_copied_is_refused_before_it_is_trained():
    model = Neither()
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'trainable'.*wrap\(model, in_place=True\)"):
        tfprune.wrap(model)
    tfprune.wrap(model, in_place=True)
    tfprune.update_masks(model, 0.5)
    assert tfprune.sparsity_report(tfprune.strip(model)).nnz == 8
    with pytest.raises(ValueError, match=r"'neither.*' of class Neither, which was wrapped in place.*strip\(model\)"):
        tfprune.strip(functional(model))


def test_what_could_not_be_stripped_is_not_wrapped():
    class Forgetful(layers.Dense):
        """Can be copied once: its copy has lost an argument."""

        def __init__(self, units, copies=1, **kwargs):
            super().__init__(units, **kwargs)
            self.copies = copies

        def get_config(self):
            units = self.units if self.copies else self.units + 1
            return {**super().get_config(), "units": units, "copies": self.copies - 1}

    for wrap in (tfprune.wrap, tfprune.tfmot.prune_low_magnitude):
        with pytest.raises(ValueError, match="to have the same variables when it is rebuilt"):
            wrap(functional(Forgetful(3)))


def test_what_could_not_be_stripped_is_not_wrapped_in_place():
    class Wrong(layers.Dense):
        def get_config(self):
            return {**super().get_config(), "units": self.units + 1}

    model = Neither()
    model.dense = Wrong(4, name="wrong")
    model(np.ones((1, 4)))
    with pytest.raises(ValueError, match="layer 'wrong' .* to have the same variables when it is rebuilt"):
        tfprune.wrap(model, in_place=True)
    assert type(model.dense) is Wrong


def test_layers_whose_configuration_changes_their_name_come_back_under_it():
    class Renamed(layers.Dense):
        """Name each copy anew, as blocks do that put their names together themselves."""

        def get_config(self):
            return {**super().get_config(), "name": f"{self.name}_expand"}

    stripped = tfprune.strip(tfprune.wrap(functional(Renamed(5, name="mine"), layers.Dense(2, name="out"))))
    assert [layer.name for layer in stripped.layers[1:]] == ["mine", "out"]


def wrapped_paths(model: keras.Model) -> list[str]:
    return [row.path for row in tfprune.sparsity_report(model).rows]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, ["conv/kernel", "separable/pointwise_kernel", "head/kernel"]),
        ("conv", ["conv/kernel"]),
        ("depthwise", ["separable/depthwise_kernel", "depthwise/kernel"]),
        (["^head/", "separable/point"], ["separable/pointwise_kernel", "head/kernel"]),
        (lambda layer: "separable" in layer.name, ["separable/depthwise_kernel", "separable/pointwise_kernel"]),
        (lambda layer: isinstance(layer, layers.Dense), ["head/kernel"]),
    ],
)
def test_filters_choose_weights(filters, expected):
    assert wrapped_paths(tfprune.wrap(branches(), filters=filters)) == expected


def test_filters_reach_into_nested_models():
    paths = wrapped_paths(tfprune.wrap(nested(), filters="deeper/inner/dense"))
    assert paths == ["deeper/inner/dense/kernel"]
    assert wrapped_paths(tfprune.wrap(nested())) == [
        "deeper/inner/dense/kernel",
        "deeper/dense/kernel",
        "dense/kernel",
    ]


class Subclassed(keras.Model):
    """A model Keras cannot rebuild from a list of layers."""

    def __init__(self, units):
        super().__init__(name="mine")
        self.dense = layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


def built(model: keras.Model) -> keras.Model:
    model.build((None, 4))
    return model


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: tfprune.wrap(branches(), filters="kernle"),
            ValueError,
            "'kernle', which is found in none of conv/kernel",
        ),
        (lambda: tfprune.wrap(branches(), filters=["conv", "x$"]), ValueError, "Received: 'x$'"),
        (lambda: tfprune.wrap(branches(), filters=lambda layer: False), ValueError, "which leave none of those"),
        (
            lambda: tfprune.wrap(branches(), filters=[3]),
            TypeError,
            "or a function of a layer. Received: filters=[3] of type list. To choose by class",
        ),
        (lambda: tfprune.wrap(branches(), filters=3), TypeError, "or a function of a layer. Received: filters=3 of"),
        (
            lambda: tfprune.wrap(branches(), filters=layers.Dense),
            TypeError,
            "pass filters=lambda layer: isinstance(layer, keras.layers.Dense).",
        ),
        (lambda: tfprune.wrap(branches(), filters=[layers.Dense]), TypeError, "of type list. To choose by class"),
        (lambda: tfprune.wrap(branches(), filters=layers.Dense(3)), TypeError, "of type Dense. To choose by class"),
        (lambda: tfprune.wrap(branches(), filters="conv/bias"), ValueError, "It is found in conv/bias: biases and"),
        (
            lambda: tfprune.wrap(branches(), filters="("),
            ValueError,
            "Expected `filters` to be regular expressions. Received: '('",
        ),
        (lambda: tfprune.wrap(branches(), filters=[]), ValueError, "filters=[]"),
        (lambda: tfprune.wrap(branches(), criterion="size"), ValueError, "criterion='size'"),
        (lambda: tfprune.wrap(branches(), pattern="rows"), ValueError, "pattern='rows'"),
        (
            lambda: tfprune.wrap("model.keras"),
            TypeError,
            "Expected a Keras model or layer. Received: model_or_layer='model.keras' of type str. Load it first",
        ),
        (lambda: tfprune.wrap(pathlib.Path("m")), TypeError, "Load it first: keras.models.load_model(path)."),
        (lambda: tfprune.wrap(layers.Dense(1), filters="kernel"), ValueError, "with a model only"),
        (
            lambda: tfprune.wrap(keras.Sequential([layers.Dense(2)], name="raw"), pattern="channel"),
            ValueError,
            "built model. Received: 'raw'",
        ),
        (
            lambda: tfprune.strip(keras.Sequential([layers.Dense(2)], name="raw")),
            ValueError,
            "built model. Received: 'raw'",
        ),
        (lambda: tfprune.wrap(keras.Sequential(name="none")), ValueError, "'none'"),
        (lambda: tfprune.wrap(built(Subclassed(3))), ValueError, "Received: 'mine', whose weights do not exist yet"),
        (
            lambda: tfprune.wrap(keras.Sequential([keras.Input((4,)), layers.ReLU()])),
            ValueError,
            "can be pruned: none",
        ),
        (lambda: tfprune.strip(layers.Dense(3, name="fresh")), ValueError, "'fresh', which has no weights"),
        (lambda: tfprune.strip(3), TypeError, "Received: model_or_layer=3 of type int."),
        (
            lambda: tfprune.wrap(sequential(), filters="last", pattern=patterns.NM(6, 8)),
            ValueError,
            "last/kernel cannot",
        ),
        (lambda: tfprune.wrap(sequential(), pattern=patterns.NM(9, 16)), ValueError, "leave none of those"),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_a_weight_that_cannot_take_the_pattern_is_skipped_in_a_whole_model():
    wrapped = tfprune.wrap(sequential(), pattern=patterns.NM(4, 8))
    assert wrapped_paths(wrapped) == ["last/kernel"]
    skipped = {entry.layer: entry.reason for entry in tfprune.sparsity_report(wrapped).skipped}
    assert "kernel left out by `filters` or by the pattern" in skipped["first"]


def test_trainable_flags_are_kept():
    model = sequential()
    model.get_layer("first").trainable = False
    wrapped = tfprune.wrap(model)
    assert not wrapped.get_layer("first").trainable and not wrapped.get_layer("first").layer.trainable
    assert wrapped.get_layer("last").trainable
    names = [variable.name for variable in tfprune.strip(wrapped).trainable_variables]
    assert names == [variable.name for variable in model.trainable_variables]


def test_a_frozen_nested_model_stays_frozen():
    model = nested()
    model.get_layer("deeper").trainable = False
    wrapped = tfprune.wrap(model)
    assert len(wrapped.trainable_variables) == len(model.trainable_variables) == 2
    assert len(tfprune.strip(wrapped).trainable_variables) == 2


def test_single_layers():
    layer = layers.Dense(3)
    layer.build((None, 4))
    pruned = tfprune.wrap(layer, pattern=patterns.Block(1, 2))
    np.testing.assert_array_equal(pruned.layer.kernel, layer.kernel)
    assert pruned.layer is not layer
    tfprune.update_masks(pruned, 0.5)
    plain = tfprune.strip(pruned)
    assert type(plain) is layers.Dense and plain.name == layer.name
    assert np.count_nonzero(plain.kernel) == 6
    np.testing.assert_array_equal(plain.kernel, layer.kernel.numpy() * pruned.masks["kernel"].numpy())
    assert not tfprune.wrap(layers.Dense(3)).built


def test_strip_applies_the_masks_to_values_assigned_from_outside():
    wrapped = tfprune.wrap(randomise(sequential()))
    tfprune.update_masks(wrapped, 0.5)
    for layer in wrapped.layers:
        if isinstance(layer, Pruned):
            layer.layer.kernel.assign(keras.ops.ones_like(layer.layer.kernel))
    assert tfprune.sparsity_report(tfprune.strip(wrapped)).sparsity == 0.5
    assert_equal(outputs(tfprune.strip(wrapped)), outputs(wrapped))


def test_strip_refuses_a_wrapper_inside_another_layer():
    inside = layers.TimeDistributed(Pruned(layers.Dense(2, name="dense")), name="time")
    model = keras.Sequential([keras.Input((3, 4)), inside])
    assert tfprune.update_masks(model, 0.5).nnz == 4
    for thing in (model, inside):
        with pytest.raises(ValueError, match=r"dense inside of time \(TimeDistributed\). Prune the outer layer"):
            tfprune.strip(thing)
    outside = Pruned(layers.TimeDistributed(layers.Dense(2, name="dense"), name="time"))
    tfprune.update_masks(keras.Sequential([keras.Input((3, 4)), outside]), 0.5)
    assert type(tfprune.strip(outside)) is layers.TimeDistributed


def test_strip_of_a_plain_model_is_a_copy():
    model = randomise(branches())
    copy = tfprune.strip(model)
    assert copy is not model and copy.get_layer("conv").kernel is not model.get_layer("conv").kernel
    assert_equal(outputs(copy), outputs(model))


LOAD = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "tfprune":
            raise ImportError("tfprune is not installed here")
sys.meta_path.insert(0, Refuse())
import keras, numpy as np
with np.load(sys.argv[1]) as file:
    for index in range(int(sys.argv[2])):
        model = keras.models.load_model(f"{sys.argv[3]}/{index}.keras")
        received = model(file[f"x{index}"]).numpy()
        assert np.array_equal(received, file[f"y{index}"]), index
assert "tfprune" not in sys.modules
"""


@pytest.mark.programs
def test_stripped_files_load_where_tfprune_cannot_be_imported(tmp_path):
    arrays = {}
    for index, make in enumerate([sequential, branches, tokens]):
        wrapped = tfprune.wrap(randomise(make()))
        tfprune.update_masks(wrapped, 0.7)
        stripped = tfprune.strip(wrapped)
        stripped.save(tmp_path / f"{index}.keras")
        arrays |= {f"x{index}": batch(stripped), f"y{index}": outputs(wrapped)[0]}
    np.savez(tmp_path / "truth.npz", **arrays)
    command = [sys.executable, "-c", LOAD, str(tmp_path / "truth.npz"), "3", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


SAVED = ["AroundGraph", "Pruned", "Resized", "Subclassed"]  # classes in files of models
KERAS_FIRST = f"""
import keras, tfprune
assert all(keras.saving.get_registered_object("tfprune>" + name) for name in {SAVED})
"""
TFPRUNE_FIRST = """
import sys, tfprune
assert "keras" not in sys.modules
tfprune.Pruned
assert "keras" in sys.modules  # the name has loaded it
import keras
"""


@pytest.mark.programs
@pytest.mark.parametrize("order", [KERAS_FIRST, TFPRUNE_FIRST], ids=["keras first", "tfprune first"])
def test_wrapped_files_load_whatever_was_imported_first(order, tmp_path):
    wrapped = tfprune.wrap(randomise(branches()), pattern=patterns.Block(2, 1), criterion="random")
    tfprune.update_masks(wrapped, 0.5)
    wrapped.save(tmp_path / "wrapped.keras")
    np.savez(tmp_path / "truth.npz", x=batch(wrapped), y=outputs(wrapped)[0])
    code = (
        f"{order}\nimport sys, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1]); file = np.load(sys.argv[2])\n"
        "assert np.array_equal(model(file['x']).numpy(), file['y'])\n"
        "assert model.get_layer('conv').pattern == tfprune.patterns.Block(2, 1)\n"
        "assert abs(tfprune.sparsity_report(model).sparsity - 0.5) < 0.05\n"
    )
    paths = [str(tmp_path / name) for name in ("wrapped.keras", "truth.npz")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
