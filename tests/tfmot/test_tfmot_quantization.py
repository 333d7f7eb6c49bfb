"""tfmot's quantization-aware training and its collaborative optimizations, with one import changed."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
import tfprune.export
from tfprune import tfmot
from tfprune.export.file.reader import read
from tfprune.export.keras_side.to_tflite import _float_operators

pytestmark = pytest.mark.programs  # tests of the parts that it calls stay in `make test`

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(64, 8, 8, 1)).astype("float32")
Y = RNG.integers(0, 4, size=64)
quantization = tfmot.quantization.keras
combine = tfmot.experimental.combine
KERNELS = ("conv", "hidden", "out")


def base() -> keras.Model:
    keras.utils.set_random_seed(0)
    stack = [
        *(layers.Conv2D(8, 3, use_bias=False, name="conv"), layers.BatchNormalization(name="norm")),
        *(layers.ReLU(name="relu"), layers.MaxPooling2D(name="pool"), layers.Flatten(name="flat")),
        *(layers.Dense(16, "relu", name="hidden"), layers.Dense(4, name="out")),
    ]
    return keras.Sequential([keras.Input((8, 8, 1)), *stack])


def fit(model: keras.Model, *callbacks) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    model.fit(X, Y, batch_size=64, callbacks=list(callbacks), verbose=0)
    return model


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: np.array(model.get_layer(name).kernel) for name in KERNELS}


def pruned() -> keras.Model:
    model = tfmot.sparsity.keras.prune_low_magnitude(base())
    return tfmot.sparsity.keras.strip_pruning(fit(model, tfmot.sparsity.keras.UpdatePruningStep()))


def clustered(model: keras.Model, **arguments) -> keras.Model:
    clustering = tfmot.clustering.keras
    start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    model = clustering.cluster_weights(model, number_of_clusters=8, cluster_centroids_init=start, **arguments)
    return clustering.strip_clustering(fit(model))


def kernels_of_file(model: keras.Model, path: Path) -> dict[str, np.ndarray]:
    """Write the int8 file, and return the integers of its kernels, the output channels first."""
    tfprune.export.to_tflite(model, path, quantize="int8", optimize="dense")
    graph = read(path.read_bytes())
    assert not _float_operators(graph)
    raw = [np.asarray(weight.values.raw).view("int8") for weight in graph.weights if weight.dtype == "int8"]
    by_size = {integers.size: integers for integers in raw}
    return {
        name: by_size[weight.size].reshape(weight.shape[-1], -1)  # out first, as TFLite has it
        for name, weight in kernels(model).items()
    }


def test_quantization_aware_training():
    model = base()
    before = model.get_weights()
    aware = fit(quantization.quantize_model(model))
    assert all(map(np.array_equal, before, model.get_weights()))
    rows = {row.layer: row for row in tfprune.quantization_report(aware).rows}
    assert list(rows) == ["conv", "relu", "hidden", "out"] and None not in rows["hidden"].ranges.values()
    np.testing.assert_array_equal(  # what `quantize_model` does in two steps
        quantization.quantize_apply(quantization.quantize_annotate_model(model)).predict(X, verbose=0),
        quantization.quantize_model(model).predict(X, verbose=0),
    )


def test_some_layers_are_quantized(tmp_path):
    def dense_only(layer):
        if isinstance(layer, layers.Dense):
            return quantization.quantize_annotate_layer(layer)
        return layer

    model = base()
    annotated = keras.models.clone_model(model, clone_function=dense_only)
    aware = fit(quantization.quantize_apply(annotated))
    report = tfprune.quantization_report(aware)
    assert [row.layer for row in report.rows] == ["hidden", "out"]
    assert type(aware.get_layer("conv")) is layers.Conv2D
    assert {entry.layer for entry in report.skipped} == {"conv", "relu"}
    aware.save(tmp_path / "aware.keras")
    with quantization.quantize_scope():
        loaded = keras.models.load_model(tmp_path / "aware.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), aware.predict(X, verbose=0))


def test_layers_are_annotated_where_a_model_is_written():
    inputs = keras.Input((20,))
    hidden = quantization.quantize_annotate_layer(layers.Dense(10, name="hidden"))(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="float")(layers.Reshape((10,), name="same")(hidden)))
    data = RNG.normal(size=(8, 20)).astype("float32")
    plain = tfprune.strip(model)
    np.testing.assert_array_equal(model(data), plain(data))  # annotated only
    aware = quantization.quantize_apply(model)
    assert [type(layer).__name__ for layer in aware.layers[1:]] == ["Quantized", "Reshape", "Dense"]


def test_zeros_of_a_stripped_model_stay():
    stripped = pruned()
    zeros = {name: weight == 0 for name, weight in kernels(stripped).items()}
    assert all(zero.mean() == 0.5 for zero in zeros.values())
    annotated = quantization.quantize_annotate_model(stripped)
    aware = fit(quantization.quantize_apply(annotated, combine.Default8BitPrunePreserveQuantizeScheme()))
    for name, weight in kernels(tfprune.strip(aware)).items():
        assert ((weight == 0) == zeros[name]).all() and (weight != kernels(stripped)[name]).any()
    lost = kernels(tfprune.strip(fit(quantization.quantize_model(stripped))))  # as with tfmot
    assert (lost["hidden"] == 0).mean() < 0.5


def test_clusters_of_a_stripped_model_stay():
    stripped = clustered(base())
    before = {name: len(np.unique(weight)) for name, weight in kernels(stripped).items()}
    assert set(before.values()) == {8}
    annotated = quantization.quantize_annotate_model(stripped)
    aware = quantization.quantize_apply(annotated, combine.Default8BitClusterPreserveQuantizeScheme())
    for name, weight in kernels(tfprune.strip(aware)).items():
        np.testing.assert_array_equal(weight, kernels(stripped)[name])  # it starts from the values that are there
    trained = kernels(tfprune.strip(combine.strip_clustering_cqat(fit(aware))))
    assert {name: len(np.unique(weight)) for name, weight in trained.items()} == before
    assert all((weight != kernels(stripped)[name]).any() for name, weight in trained.items())


def test_zeros_and_clusters_of_a_stripped_model_stay(tmp_path):
    stripped = clustered(pruned(), preserve_sparsity=True)
    zeros = {name: weight == 0 for name, weight in kernels(stripped).items()}
    scheme = combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
    aware = fit(quantization.quantize_apply(quantization.quantize_annotate_model(stripped), scheme))
    for name, weight in kernels(tfprune.strip(aware)).items():
        assert ((weight == 0) == zeros[name]).all() and len(np.unique(weight)) == 8
        assert (np.array(aware.get_layer(name).masks["kernel"]) == ~zeros[name]).all()
    for name, rows in kernels_of_file(aware, tmp_path / "pcqat.tflite").items():
        assert (rows[np.moveaxis(zeros[name], -1, 0).reshape(rows.shape)] == 0).all()
        assert max(len(np.unique(row)) for row in rows) <= 8


def with_unit_norm() -> keras.Model:
    inputs = keras.Input((6,), name="inputs")
    return keras.Model(inputs, layers.UnitNormalization(name="unit")(layers.Dense(4, name="one")(inputs)))


def test_a_layer_without_rule_is_left_of_a_whole_model_and_refused_by_name():
    for aware in (
        quantization.quantize_model(with_unit_norm()),
        quantization.quantize_apply(quantization.quantize_annotate_model(with_unit_norm())),
    ):
        report = tfprune.quantization_report(aware)
        assert [row.layer for row in report.rows] == ["one"]
        assert [(entry.layer, entry.kind) for entry in report.skipped] == [("unit", "no rule")]

    def annotated(layer):
        return layer if layer.name == "inputs" else quantization.quantize_annotate_layer(layer)

    model = keras.models.clone_model(with_unit_norm(), clone_function=annotated)
    with pytest.raises(ValueError, match="unit: no rule for UnitNormalization"):
        quantization.quantize_apply(model)


def test_masks_and_clusters_that_were_not_stripped_stay_too():
    model = tfmot.sparsity.keras.prune_low_magnitude(base())
    fit(model, tfmot.sparsity.keras.UpdatePruningStep())
    model = tfmot.clustering.keras.cluster_weights(model, 6)
    expected = kernels(tfmot.clustering.keras.strip_clustering(model))
    aware = quantization.quantize_apply(quantization.quantize_annotate_model(model))
    for name, weight in kernels(tfprune.strip(aware)).items():
        np.testing.assert_array_equal(weight, expected[name])
        assert len(np.unique(weight)) == 7 and (weight == 0).mean() == 0.5


@pytest.mark.parametrize(
    "scheme", ["Default8BitPrunePreserveQuantizeScheme", "Default8BitClusterPreserveQuantizeScheme"]
)
def test_a_scheme_that_finds_nothing_to_keep_warns(scheme):
    model = quantization.quantize_annotate_model(base())
    with pytest.warns(UserWarning, match=f"Nothing is kept: {scheme}"):
        quantization.quantize_apply(model, getattr(quantization.collab_opts, scheme)())


class Config:
    """What a script derives from tfmot's QuantizeConfig."""


WRONG = {
    "config": (
        lambda: quantization.quantize_annotate_layer(layers.Dense(2), Config()),
        ValueError,
        "quantize_config",
    ),
    "model as layer": (lambda: quantization.quantize_annotate_layer(base()), ValueError, "quantize_annotate_model"),
    "no layer": (lambda: quantization.quantize_annotate_layer("dense"), TypeError, "to_annotate='dense'"),
    "twice": (
        lambda: quantization.quantize_annotate_layer(quantization.quantize_annotate_layer(layers.Dense(2))),
        ValueError,
        "wrapped already",
    ),
    "nothing annotated": (lambda: quantization.quantize_apply(base()), ValueError, "call quantize_model"),
    "scheme": (
        lambda: quantization.quantize_apply(quantization.quantize_annotate_model(base()), "int8"),
        TypeError,
        "one of tfprune.tfmot's schemes",
    ),
    "no model": (lambda: quantization.quantize_model("model"), TypeError, "Expected a Keras model"),
    "twice quantized": (
        lambda: quantization.quantize_model(quantization.quantize_model(base())),
        ValueError,
        "not quantized yet",
    ),
    "absent": (lambda: quantization.QuantizeConfig, AttributeError, "do not annotate it"),
    "absent quantizers": (lambda: quantization.quantizers.LastValueQuantizer, AttributeError, "'quantizers'"),
    "unknown": (lambda: quantization.quantise_model, AttributeError, "no attribute 'quantise_model'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()


def test_names_are_found_under_the_paths_of_tfmot():
    from tfprune.tfmot.experimental.combine import Default8BitPrunePreserveQuantizeScheme
    from tfprune.tfmot.quantization.keras import quantize_apply

    assert Default8BitPrunePreserveQuantizeScheme is tfmot.Default8BitPrunePreserveQuantizeScheme
    assert quantize_apply is tfmot.quantize_apply and quantization.default_8bit is tfmot
