"""One family of keras.applications on its whole way, from the model to the file; prints a line per figure."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import tfprune
import tfprune.export

SPARSITY, CLASSES, ROWS = 0.8, 10, 8
ALIKE = 1e-6  # absolute, between outputs of Keras


def build(name: str, side: int, brightest: int) -> tuple[keras.Model, np.ndarray]:
    """Return a model that gives logits, as probabilities of untrained classes are all alike, and images."""
    keras.utils.set_random_seed(1)
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(side, side, 3), classes=CLASSES, classifier_activation=None)
    images = np.random.default_rng(1).uniform(0, brightest, (ROWS, side, side, 3)).astype("float32")
    enliven(model, images)
    return model, images


def enliven(model: keras.Model, images: np.ndarray) -> None:
    """Replace the zeros and ones that biases, scales and statistics start with: a lost one would not be seen."""
    generator = np.random.default_rng(2)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign_add(generator.normal(scale=0.1, size=weight.shape))
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0  # takes the statistics of one batch as they are
    model(images, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def walk_through(model: keras.Model, images: np.ndarray) -> None:
    """Wrap, prune, train, save, load, strip and export; stop at the first step that is not as it should be."""
    note("input", f"{images.shape[1]} px")
    note("parameters", f"{model.count_params():,}")
    before = logits(model, images)
    _expect(float(np.ptp(before, axis=0).max()) > 100 * ALIKE, "the original tells the images apart")

    wrapped, seconds = timed(lambda: tfprune.wrap(model))
    note("wrap, s", f"{seconds:.2f}")
    alike("|wrap|", logits(wrapped, images), before, ALIKE)
    report, seconds = timed(lambda: tfprune.update_masks(wrapped, SPARSITY))
    note("update, s", f"{seconds:.2f}")
    note("pruned weights", str(len(report.rows)))
    note("skipped layers", str(len(report.skipped)))
    alike("", logits(model, images), before, 0)  # the original is left alone

    train(wrapped, images)
    report = tfprune.sparsity_report(wrapped)
    note("sparsity", f"{report.total_sparsity:.1%}")
    _expect(abs(report.sparsity - SPARSITY) < 1e-3, f"{SPARSITY:.0%} of the pruned weights are zero")
    with tempfile.TemporaryDirectory() as folder:
        ship(wrapped, images, Path(folder))


def train(model: keras.Model, images: np.ndarray) -> None:
    """Train two steps while pruning, and expect finite weights that moved."""
    kernels = [layer.kernels[name].variable for layer in pruned(model) for name in layer.masks]
    before = [kernel.numpy() for kernel in kernels]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Eagerly: tracing a step takes ten times as long as running two, and other tests train graphs.
    model.compile(keras.optimizers.Adam(1e-4), loss, run_eagerly=True)
    pruning = tfprune.PruningCallback(tfprune.schedules.Constant(SPARSITY), every=1)
    history = model.fit(images, np.arange(ROWS) % CLASSES, ROWS, epochs=2, verbose=0, callbacks=[pruning])
    _expect(np.isfinite(history.history["loss"]).all(), "the loss is finite")
    moved = [not np.array_equal(old, new.numpy()) for old, new in zip(before, kernels, strict=True)]
    _expect(all(moved), f"every pruned weight is trained, {moved.count(False)} are not")


def ship(wrapped: keras.Model, images: np.ndarray, folder: Path) -> None:
    """Save and load the wrapped and the plain form, export, and compare all with the model in memory."""
    before = logits(wrapped, images)
    wrapped.save(folder / "wrapped.keras")
    loaded = keras.models.load_model(folder / "wrapped.keras")
    _expect(masks(loaded).keys() == masks(wrapped).keys(), "the loaded model has the masks that were saved")
    for path, mask in masks(loaded).items():
        _expect(np.array_equal(mask, masks(wrapped)[path]), f"the mask of {path} is the one that was saved")
    alike("", logits(loaded, images), before, ALIKE)

    plain = tfprune.strip(wrapped)
    alike("|strip|", logits(plain, images), before, ALIKE)
    plain.save(folder / "plain.keras")
    alike("", logits(keras.models.load_model(folder / "plain.keras"), images), before, ALIKE)
    zeros, kept = tfprune.sparsity_report(plain), tfprune.sparsity_report(wrapped)
    _expect(zeros.total_nnz == kept.total_nnz, "the stripped model holds the zeros of the masks")

    dense = export("|tflite| / max", wrapped, images, before, folder, optimize="dense")
    sparse = export("|sparse| / max", wrapped, images, before, folder, optimize="latency")
    note("sparse / dense", f"{sparse.bytes / dense.bytes:.2f}")
    note("form", next(row.name for row in sparse.candidates if not row.reason).removeprefix("float32, "))


def export(
    column: str, wrapped: keras.Model, images: np.ndarray, before: np.ndarray, folder: Path, **options: str | bool
) -> tfprune.export.ExportReport:
    """Write the model as a file, and compare what this gives with the model in memory."""
    report = tfprune.export.to_tflite(wrapped, folder / "model.tflite", check_on=images, **options)
    exported = tfprune.export.Runner(folder / "model.tflite").predict(images)
    largest = float(np.abs(before).max())
    alike(column, exported / largest, before / largest, 1e-4)
    return report


def pruned(model: keras.Model) -> list[tfprune.Pruned]:
    return [layer for layer in model.layers if isinstance(layer, tfprune.Pruned)]


def masks(model: keras.Model) -> dict[str, np.ndarray]:
    return {f"{layer.name}/{name}": mask.numpy() for layer in pruned(model) for name, mask in layer.masks.items()}


def logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(images, training=False))


def timed(work):
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def alike(column: str, outputs: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Note how far outputs are from what is expected, and stop where that is too far."""
    difference = float(np.abs(outputs - expected).max())
    if column:
        note(column, f"{difference:.0e}" if difference else "0")
    _expect(difference <= tolerance, f"outputs differ by {tolerance:g} at most, and not by {difference:.2g}")


def note(column: str, value: str) -> None:
    sys.stdout.write(f"{column}\t{value}\n")
    sys.stdout.flush()


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"Expected: {what}")


if __name__ == "__main__":
    family, *numbers = sys.argv[1:]
    walk_through(*build(family, *map(int, numbers)))
