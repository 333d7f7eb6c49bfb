"""Files of earlier versions load for good, with the masks and outputs that were saved beside them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import saved_models

import tfprune
from tfprune.export import Runner

SAVED = Path(__file__).parents[1] / "saved"
NAMES = sorted(path.stem for path in SAVED.glob("*.keras"))


def test_every_kind_of_model_has_its_files():
    assert sorted(saved_models.MODELS) == NAMES
    assert sorted(path.name.removesuffix(".weights.h5") for path in SAVED.glob("*.weights.h5")) == NAMES


def _check(model: keras.Model, name: str) -> None:
    expected = dict(np.load(SAVED / f"{name}.npz"))
    x, outputs = expected.pop("x"), expected.pop("outputs")
    masks = saved_models.masks_of(model)
    assert masks.keys() == expected.keys()
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, expected[path], err_msg=path)
    assert sum(mask.size - np.count_nonzero(mask) for mask in masks.values()) > 0
    np.testing.assert_allclose(np.asarray(model(x)), outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_loads(name):
    _check(keras.models.load_model(SAVED / f"{name}.keras"), name)


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_load_into_a_model_that_is_wrapped_today(name):
    model = saved_models.build(name)
    model.load_weights(SAVED / f"{name}.weights.h5")
    _check(model, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_can_be_stripped(name):
    expected = np.load(SAVED / f"{name}.npz")
    stripped = tfprune.strip(keras.models.load_model(SAVED / f"{name}.keras"))
    assert not saved_models.masks_of(stripped)
    np.testing.assert_allclose(np.asarray(stripped(expected["x"])), expected["outputs"], rtol=1e-5, atol=1e-5)


def test_every_criterion_and_pattern_stands_in_a_file():
    specs = [*saved_models.SPECS, *saved_models.LATER_SPECS, *saved_models.GRASP_SPECS]
    loaded = [keras.models.load_model(SAVED / f"{name}.keras") for name in ("specs", "later_specs", "grasp_specs")]
    assert [(layer.criterion, layer.pattern) for model in loaded for layer in model.layers] == specs
    assert {type(criterion) for criterion, _ in specs} >= set(tfprune.criteria.CRITERIA.values())
    assert {type(pattern) for _, pattern in specs} >= set(tfprune.patterns.PATTERNS.values())


def test_the_schedule_of_tfmot_stands_in_its_file():
    loaded = keras.models.load_model(SAVED / "tfmot.keras")
    expected = tfprune.tfmot.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=4, frequency=2)
    assert {layer.pruning_schedule for layer in loaded.layers} == {expected}


def test_a_packed_file_is_read():
    expected = np.load(SAVED / "packed.npz")
    np.testing.assert_allclose(Runner(SAVED / "packed.tfz").predict(expected["x"]), expected["outputs"], atol=1e-5)
