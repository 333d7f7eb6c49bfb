"""How often an export copies a model: each copy creates variables, which are counted by their names."""

import keras
import numpy as np
import pytest
from tiers import first

import tfprune
from tfprune.export import to_tflite

layers = keras.layers


@pytest.fixture
def created(monkeypatch):
    """The paths of the variables that are created from now on."""
    paths, init = [], keras.Variable.__init__

    def counting(variable, *args, **kwargs):
        init(variable, *args, **kwargs)
        paths.append(variable.path)

    monkeypatch.setattr(keras.Variable, "__init__", counting)
    return paths


def pruned(unread: int) -> keras.Model:
    """A network that sparse kernels may run once its image is mirrored, with channels that no kernel reads."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="stem")(image)
    x = layers.Conv2D(16, 1, activation="relu", name="witness")(x)
    x = layers.Conv2D(24, 1, activation="relu", name="wide")(x)
    model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    reader = model.get_layer("wide").kernel
    values = np.array(reader)
    values[:, :, :unread] = 0
    reader.assign(values)
    wrapped = tfprune.wrap(model, filters="wide|witness")
    tfprune.update_masks(wrapped, 0.9 if unread else 0.75)
    return wrapped


@pytest.mark.parametrize(("unread", "optimize", "most"), first((5, "latency", 2), (0, "size", 1), (0, "latency", 2)))
def test_an_export_copies_the_weights_once_and_twice_for_the_fastest_kernels(
    created, tmp_path, unread, optimize, most
):
    model = pruned(unread)
    created.clear()
    report = to_tflite(model, tmp_path / "file", optimize=optimize)
    assert 1 <= sum("witness" in path and path.endswith("kernel") for path in created) <= most
    assert report.sparse_inference.active == (optimize == "latency")
    assert report.size <= 824 - unread * (8 + 24)  # entries of all kernels, and of those for a channel
