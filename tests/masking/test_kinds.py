"""One battery for every kind of model, as a copy and in place: wrapped, trained, saved, stripped, wrapped again."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
from kinds import KINDS
from tiers import in_test_all, in_test_ci

import tfprune
from tfprune.masking.pruned import Pruned
from tfprune.schedules import Constant

# `make test` runs one of each way of copying, and few in place; `make test-ci` also the kinds that are not here.
QUICK = {
    "a stack",
    "branches",
    "models in models",
    "a class of everything",
    "layers made in build",
    "no configuration",
}
QUICK |= {"a task", "style Config", "layers of scripts", "a class in a graph"}
QUICK_IN_PLACE = {"a stack", "a class of everything", "no configuration"}


def batch(model: keras.Model, x: Any) -> Any:
    if x is not None:
        return x
    rng = np.random.default_rng(5)

    def array(tensor):
        shape = (4, *tensor.shape[1:])
        return rng.integers(0, 9, shape) if "int" in tensor.dtype else rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(array, model.inputs[0] if isinstance(model, keras.Sequential) else model.input)


def enlivened(model: keras.Model) -> keras.Model:
    """Let moving statistics say something."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name.startswith("moving_"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


def arrays(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def assert_same(received: list[np.ndarray], expected: list[np.ndarray], *, atol: float = 1e-6) -> None:
    for value, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=atol)


def ids(model: keras.Model) -> set[int]:
    return {id(variable) for variable in model.weights}


def named(model: keras.Model) -> list[tuple[str, str]]:
    inner = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return [(layer.name, type(layer).__name__) for layer in inner]


def counts(model: keras.Model) -> dict[str, tuple]:
    """Return shape and non-zeros of each kernel that `wrap` takes, so of none of a depthwise convolution."""
    rows = tfprune.sparsity_report(model).rows
    return {row.path: (row.shape, row.nnz) for row in rows if "depthwise" not in row.path}


def pairs() -> list[Any]:
    found = [(name, way) for name, kind in KINDS.items() for way in kind.ways]
    return [tier(pair) for pair in found]


def tier(pair: tuple[str, str]) -> Any:
    if pair[0] not in QUICK:
        return in_test_ci((pair,))
    return in_test_all((pair,)) if pair[1] == "in place" and pair[0] not in QUICK_IN_PLACE else pair


@pytest.fixture(scope="module", params=pairs(), ids=lambda pair: ", ".join(pair))
def seen(request):
    """A model, what it was, and what it gave wrapped, trained to half zeros, and stripped."""
    name, way = request.param
    kind = KINDS[name]
    keras.utils.set_random_seed(0)
    model = enlivened(kind.build())
    x = batch(model, kind.x)

    def run(other, **options):
        return arrays(kind.call(other, x, **options))

    found = {"kind": kind, "way": way, "model": model, "x": x, "run": run}
    found["before"], found["values"] = run(model), [np.array(weight) for weight in model.weights]
    found["ids"], found["named"], found["counts"] = ids(model), named(model), counts(model)
    found["class"], found["trainable"] = type(model), [weight.name for weight in model.trainable_weights]
    found["compiled"] = model.compiled
    wrapped = found["wrapped"] = tfprune.wrap(model, in_place=way == "in place")
    found["full"], found["wrapped ids"] = run(wrapped), ids(wrapped)
    found["wrapped trainable"] = [weight.name for weight in wrapped.trainable_weights]
    targets = keras.tree.map_structure(np.zeros_like, kind.call(wrapped, x))
    wrapped.compile("sgd", keras.tree.map_structure(lambda _: "mse", targets), run_eagerly=True)
    data = (x,) if name == "no configuration" else (x, targets)
    wrapped.fit(*data, epochs=2, verbose=0, callbacks=[tfprune.PruningCallback(Constant(0.5))])
    found["after"] = run(wrapped)
    found["stripped"] = tfprune.strip(wrapped)
    return found


def test_wrapped_it_gives_what_it_gave(seen):
    assert_same(seen["full"], seen["before"])
    assert seen["wrapped trainable"] == seen["trainable"]
    assert isinstance(seen["wrapped"], seen["class"])
    assert [name for name, _ in named(seen["wrapped"])] == [name for name, _ in seen["named"]]


def test_a_copy_shares_nothing_and_in_place_nothing_is_copied(seen):
    if seen["way"] == "in place":
        assert seen["wrapped"] is seen["model"] and seen["ids"] <= seen["wrapped ids"]
    else:
        assert not seen["ids"] & seen["wrapped ids"]
        assert ids(seen["model"]) == seen["ids"] and named(seen["model"]) == seen["named"]
        assert_same([np.array(weight) for weight in seen["model"].weights], seen["values"], atol=0)


def test_in_training_mode_it_gives_what_it_gave_and_updates_its_statistics(seen):
    if seen["way"] == "in place":
        pytest.skip("a copy shows it")
    model = enlivened(seen["kind"].build())
    plain, wrapped = tfprune.strip(model), tfprune.wrap(model)
    assert_same(seen["run"](wrapped, training=True), seen["run"](plain, training=True))
    assert_same([np.array(weight) for weight in tfprune.strip(wrapped).weights], [np.array(w) for w in plain.weights])


def test_training_prunes_each_kernel_to_half(seen):
    report = tfprune.sparsity_report(seen["wrapped"])
    assert {row.path: row.shape for row in report.rows} == {
        path: shape for path, (shape, _) in seen["counts"].items()
    }
    assert report.rows and all(row.size - row.nnz == round(row.size / 2) for row in report.rows)
    assert any(np.abs(after - before).max() > 0 for after, before in zip(seen["after"], seen["before"], strict=True))


def test_stripped_it_is_of_its_class_with_the_zeros_in_its_weights(seen):
    stripped, wrapped = seen["stripped"], seen["wrapped"]
    assert (
        type(stripped) is seen["class"] and named(stripped) == seen["named"] and stripped.compiled == seen["compiled"]
    )
    assert not any(isinstance(layer, Pruned) for layer in stripped._flatten_layers())
    assert_same(seen["run"](stripped), seen["after"])
    assert counts(stripped) == counts(wrapped)
    assert not ids(stripped) & ids(wrapped)
    assert [weight.name for weight in stripped.trainable_weights] == seen["trainable"]


def test_files_of_both_give_what_they_gave(seen, tmp_path):
    if not seen["kind"].is_saved:
        pytest.skip("Keras cannot save it")
    seen["wrapped"].save(tmp_path / "wrapped.keras")
    seen["stripped"].save(tmp_path / "plain.keras")
    loaded, plain = (keras.models.load_model(tmp_path / f"{name}.keras") for name in ("wrapped", "plain"))
    assert isinstance(loaded, seen["class"]) and type(plain) is seen["class"]
    for model in (loaded, plain, tfprune.strip(loaded)):
        assert_same(seen["run"](model), seen["after"], atol=0)
        assert [*counts(model).values()] == [*counts(seen["wrapped"]).values()]
    assert counts(loaded) == counts(seen["wrapped"])
    for model in (loaded, seen["wrapped"]):
        tfprune.update_masks(model, 0.0)  # values under the masks are in the file
    assert_same(seen["run"](loaded), seen["run"](seen["wrapped"]), atol=0)
    tfprune.update_masks(seen["wrapped"], 0.5)


def test_what_was_left_out_is_wrapped_later(seen):
    kind, run = seen["kind"], seen["run"]
    if seen["way"] == "in place":
        pytest.skip("a copy shows it")
    model = kind.build()
    last = [*counts(model)][-1].partition("/")[0]
    once = tfprune.wrap(model, filters=f"^{re.escape(last)}/")
    tfprune.update_masks(once, 0.5)
    twice = tfprune.wrap(once)
    assert_same(run(twice), run(once), atol=0)
    assert [*counts(twice)] == [*counts(model)]
    assert counts(once).items() <= counts(twice).items()
    assert_same(run(tfprune.strip(twice)), run(once))
