"""Read and check a saved Keras model and samples for it, before any work starts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

import tfprune
from tfprune.base.spec import check_count
from tfprune.criteria import Criterion
from tfprune.export.file.files.destination import check_destination, check_not_read
from tfprune.export.keras_side.loading import load_arrays, load_model
from tfprune.export.keras_side.preparing.signature import signature


@dataclass(frozen=True)
class Samples:
    """Samples as a model takes them, and their labels or None."""

    x: Any
    y: Any

    def first(self, count: int) -> Samples:
        """Return the first `count` samples."""
        parts = keras.tree.map_structure(lambda array: array[:count], self.parts)
        return Samples(parts[0], parts[1] if len(parts) == 2 else None)

    @property
    def sizes(self) -> list[int]:
        """The numbers of samples and labels; a single number if they are equal."""
        return sorted({len(array) for array in keras.tree.flatten(self.parts)})

    @property
    def parts(self) -> tuple:
        """The samples, and the labels if there are some."""
        return (self.x,) if self.y is None else (self.x, self.y)


@dataclass(frozen=True)
class Job:
    """The inputs of a command: a model, samples to train or calibrate on, and samples to measure on."""

    model: keras.Model
    data: Samples
    validation: Samples | None
    batch_size: int

    def measure(self, model: keras.Model) -> dict[str, float]:
        """Measure the loss and metrics of a model; none without labels."""
        samples = self.validation or self.data
        if samples.y is None:
            return {}
        return model.evaluate(*samples.parts, batch_size=self.batch_size, verbose=0, return_dict=True)

    def evidence(self, criterion: Criterion, samples: int) -> tuple | None:
        """Return the samples that a criterion needs; None if it needs none."""
        needs = any(fact.needs_data for fact in criterion.needed_facts())
        return self.data.first(samples).parts if needs else None


@contextlib.contextmanager
def reading(options: Any) -> Iterator[Job]:
    """Read and check the inputs of a command; what Keras prints meanwhile goes to standard error.

    Raises:
        ValueError: If something cannot be read or written, or does not fit the model.
    """
    check_keras_path(options.path)
    files = [*options.data.split(","), *(options.validation or "").split(",")]
    check_not_read(options.path, options.source, *files)
    check_count(options.batch_size, "--batch-size", least=1)
    check_count(options.max_samples, "--max-samples", least=1)
    keras.utils.set_random_seed(check_count(options.seed, "--seed", least=0, most=2**32 - 1))
    has_labels = "," in options.data or options.validation is not None
    model = load_model(options.source, compiled=has_labels, imports=options.imports)
    if has_labels:
        check_loss(model, options.source)
    data = read_samples(options.data, "--data", model=model)
    validation = read_labeled(options.validation, "--validation", model=model) if options.validation else None
    with contextlib.redirect_stdout(sys.stderr):
        yield Job(model, data, validation, options.batch_size)


def check_keras_path(path: str) -> None:
    """Refuse a path that Keras cannot write to, before any work starts."""
    if not path.endswith(".keras"):
        raise ValueError(
            f"Expected a path that ends in .keras. Received: {path!r}. `tfprune export` makes a .tflite file of it "
            "afterwards."
        )
    check_destination(path)


def verbosity() -> int:
    """Return 1, which shows a progress bar, if standard error is a terminal, else 0."""
    return int(sys.stderr.isatty())


def read_labeled(text: str, argument: str, *, model: keras.Model) -> Samples:
    """Read samples and labels, which `text` names, and check that they fit the model's loss.

    Raises:
        ValueError: If it names no labels, or something cannot be read or does not fit.
    """
    samples = read_samples(text, argument, model=model)
    if samples.y is None:
        raise ValueError(f"Expected samples and labels, {argument} X,Y. Received: {text!r}. Name a second file.")
    return samples


def read_samples(text: str, argument: str, *, model: keras.Model) -> Samples:
    """Read samples, and labels if `text` names a second file, and check that they fit the model and its loss.

    Raises:
        ValueError: If something cannot be read or does not fit.
    """
    x, *labels = text.split(",")
    if len(labels) > 1:
        raise ValueError(f"Expected at most two files, {argument} X,Y. Received: {text!r}.")
    inputs = signature(tfprune.strip(model))
    arrays = inputs.pack(inputs.arrays(load_arrays(x), argument))
    samples = Samples(arrays, load_arrays(labels[0]) if labels else None)
    if len(samples.sizes) > 1:
        counts = " and ".join(map(str, samples.sizes))
        raise ValueError(f"Expected one label for each sample. Received: {argument} {text!r} with {counts} of them.")
    if samples.y is not None:
        _check_classes(model, samples.y, argument)
        _evaluate_one(model, samples.first(1), argument)
    return samples


def check_loss(model: keras.Model, source: str) -> None:
    """Refuse a model that was saved without a loss.

    Raises:
        ValueError: If it was.
    """
    if not model.compiled or model.loss is None:
        raise ValueError(
            f"Expected a compiled model where labels are given. Received: {source!r}, which was saved without loss. "
            f"Load it, call model.compile(optimizer, loss, metrics=[...]), and save it again; or give no labels."
        )


def _check_classes(model: keras.Model, labels: Any, argument: str) -> None:
    """Refuse class numbers that the model does not have: TensorFlow stops on them, and JAX returns NaN."""
    loss = getattr(model.loss, "name", model.loss)
    if loss != "sparse_categorical_crossentropy" or isinstance(labels, dict):
        return
    classes = model.output_shape[-1]
    if labels.ndim == 2 and labels.shape[1] == classes > 1:
        raise ValueError(
            f"Expected the number of its class for each sample. Received: {argument} with labels of shape "
            f"{labels.shape}, one-hot as it seems. Save labels.argmax(axis=1)."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, the classes of the model. Received: {argument} with labels "
            f"from {labels.min()} to {labels.max()}."
        )


def _evaluate_one(model: keras.Model, sample: Samples, argument: str) -> None:
    """Compute the loss of one sample, so that labels that do not fit are refused before any work starts."""
    try:
        model.evaluate(*sample.parts, verbose=0)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected labels that fit the loss of the model. Received: {argument} with labels of shape "
            f"{[part.shape for part in keras.tree.flatten(sample.y)]}: {str(error).splitlines()[0]}"
        ) from error
