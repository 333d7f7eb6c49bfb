"""The models whose saved files stand in tests/saved: they have to load for good, with the same masks and outputs."""

from __future__ import annotations

import keras
import numpy as np

import tfprune
import tfprune.models.in_place
import tfprune.tfmot.prune
from tfprune import criteria, patterns, tfmot


@keras.saving.register_keras_serializable(package="saved")
class Tower(keras.Model):
    """A subclassed model with a layer in an attribute, in a list and in a model inside it."""

    def __init__(self, units: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.stem = keras.layers.Dense(units, activation="relu", name="stem")
        self.blocks = [keras.layers.Dense(units, name=f"block_{number}") for number in range(2)]
        self.head = keras.Sequential([keras.Input((units,)), keras.layers.Dense(3, name="logits")], name="head")

    def call(self, inputs):
        values = self.stem(inputs)
        for block in self.blocks:
            values = values + block(values)
        return self.head(values)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def _dense(units: int, name: str) -> keras.layers.Layer:
    return keras.layers.Dense(units, activation="relu", name=name)


def _sequential() -> keras.Model:
    recurrent = keras.layers.LSTM(6, name="lstm")
    layers = [keras.Input((5, 4)), recurrent, _dense(8, "hidden"), keras.layers.BatchNormalization(name="norm")]
    model = keras.Sequential([*layers, keras.layers.Dense(3, name="out")], name="sequential")
    return tfprune.wrap(model)


def _functional() -> keras.Model:
    inputs = keras.Input((6, 6, 3))
    values = keras.layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    nested_in = keras.Input((6, 6, 8))
    nested_out = keras.layers.Conv2D(8, 1, name="inner")(nested_in)
    values = values + keras.Model(nested_in, nested_out, name="nested")(values)
    values = keras.layers.GlobalAveragePooling2D(name="pool")(values)
    outputs = keras.layers.Dense(4, name="out")(values)
    model = keras.Model(inputs, outputs, name="functional")
    return tfprune.wrap(model, pattern=patterns.Block(2, 2), criterion="l2")


def _subclassed() -> keras.Model:
    model = Tower(8, name="tower")
    model(np.zeros((1, 5), "float32"))
    return tfprune.wrap(model)


def _tfmot() -> keras.Model:
    layers = [keras.Input((12,)), _dense(8, "hidden"), keras.layers.Dense(4, name="out")]
    schedule = tfmot.PolynomialDecay(0.0, 0.5, begin_step=0, end_step=4, frequency=2)
    model = keras.Sequential(layers, name="tfmot")
    return tfmot.prune_low_magnitude(model, pruning_schedule=schedule, block_size=(2, 1), block_pooling_type="MAX")


def _channels() -> keras.Model:
    inputs = keras.Input((6, 6, 3))
    values = keras.layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    values = keras.layers.BatchNormalization(name="norm")(values)
    values = values + keras.layers.Conv2D(8, 3, padding="same", name="branch")(values)
    values = keras.layers.GlobalAveragePooling2D(name="pool")(values)
    model = keras.Model(inputs, keras.layers.Dense(4, name="out")(values), name="channels")
    return tfprune.wrap(model, pattern=patterns.Channel(round_to=2))


def _heads() -> keras.Model:
    inputs = keras.Input((5, 8))
    values = keras.layers.MultiHeadAttention(4, 2, name="attention")(inputs, inputs)
    model = keras.Model(inputs, keras.layers.Dense(4, name="out")(values), name="heads")
    return tfprune.wrap(model, pattern="head")


SPECS = [
    (criteria.Magnitude(), patterns.Unstructured()),
    (criteria.L2(), patterns.NM(2, 4)),
    (criteria.Random(seed=3), patterns.Block(2, 2)),
    (criteria.BatchNormGamma(), patterns.Channel()),
    (criteria.Taylor(), patterns.Unstructured()),
    (criteria.Movement(), patterns.Unstructured()),
    (criteria.Wanda(compare="output"), patterns.NM(1, 4)),
    (criteria.FStatistic(), patterns.Unstructured()),
    (criteria.DACIS(), patterns.Head()),
]
LATER_SPECS = [
    (criteria.SNIP(), patterns.Unstructured()),
    (criteria.Fisher(), patterns.Block(1, 4)),
    (criteria.SynFlow(), patterns.Unstructured()),
]
GRASP_SPECS = [(criteria.GraSP(), patterns.Unstructured())]


def _specs(name: str, pairs: list) -> keras.Model:
    """Return a model that holds criteria and patterns."""
    layers = [
        tfprune.Pruned(keras.layers.Dense(8, name=f"dense_{number}"), criterion=criterion, pattern=pattern)
        for number, (criterion, pattern) in enumerate(pairs)
    ]
    return keras.Sequential([keras.Input((8,)), *layers], name=name)


MODELS = {
    "sequential": _sequential,
    "functional": _functional,
    "subclassed": _subclassed,
    "tfmot": _tfmot,
    "channels": _channels,
    "heads": _heads,
    "specs": lambda: _specs("specs", SPECS),
    "later_specs": lambda: _specs("later_specs", LATER_SPECS),
    "grasp_specs": lambda: _specs("grasp_specs", GRASP_SPECS),
}


def build(name: str) -> keras.Model:
    """Return one of the models, wrapped, with fresh weights and full masks."""
    return MODELS[name]()


def inputs_of(model: keras.Model) -> np.ndarray:
    """Return the four samples that the outputs in the files were computed from."""
    shape = model.input_shape[1:] if hasattr(model, "inputs") and model.inputs else (5,)
    return np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")


def masks_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the masks of a wrapped model by the paths of their weights."""
    return {
        f"{path}/{name}": np.asarray(mask) for path, layer in _pruned(model) for name, mask in layer.masks.items()
    }


def _pruned(model: keras.layers.Layer, path: str = "") -> list[tuple[str, tfprune.Pruned]]:
    """Return the wrappers of a model by a walk of its own, independent of the library's."""
    if isinstance(model, tfprune.Pruned):
        return [(path or model.name, model)]
    children = model.layers if isinstance(model, keras.Model) else []
    return [found for child in children for found in _pruned(child, f"{path}/{child.name}" if path else child.name)]
