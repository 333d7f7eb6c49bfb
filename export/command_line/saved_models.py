"""Prune, shrink or compress a saved Keras model without writing code.

The library does all of the work; here is what a script would do around it: read the model and the samples, refuse
what does not fit before any work starts, measure both models on the same samples, and write the new one whole or
not at all. What Keras prints goes to standard error, because standard output is for the report.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.allocation import ALLOCATIONS
from tfprune.base.folders import TemporaryFolder
from tfprune.base.limit import Limit
from tfprune.base.spec import check_choice, check_count, check_number, check_sparsity
from tfprune.criteria import CRITERIA, Criterion
from tfprune.export.compressing.compress import Search, compress
from tfprune.export.compressing.report import CompressReport
from tfprune.export.device.processes import Device
from tfprune.export.file.container import check_destination, check_not_read, write_atomically
from tfprune.export.keras_side.ask import latency, vela
from tfprune.export.keras_side.loading import load_arrays, load_groups, load_model
from tfprune.export.keras_side.prepare import signature
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.weights import EdgeQuantizer
from tfprune.models.training import compile_like, create_variables
from tfprune.patterns import NM, as_weight_pattern
from tfprune.report import Report, table

# Read and check a saved Keras model and samples for it, before any work starts.


@dataclass(frozen=True)
class _Samples:
    """Samples as a model takes them, and their labels or None."""

    x: Any
    y: Any

    def first(self, count: int) -> _Samples:
        """Return the first `count` samples."""
        parts = keras.tree.map_structure(lambda array: array[:count], self.parts)
        return _Samples(parts[0], parts[1] if len(parts) == 2 else None)

    @property
    def sizes(self) -> list[int]:
        """The numbers of samples and labels; a single number if they are equal."""
        return sorted({len(array) for array in keras.tree.flatten(self.parts)})

    @property
    def parts(self) -> tuple:
        """The samples, and the labels if there are some."""
        return (self.x,) if self.y is None else (self.x, self.y)


@dataclass(frozen=True)
class _Job:
    """The inputs of a command: a model, samples to train or calibrate on, and samples to measure on."""

    model: keras.Model
    data: _Samples
    validation: _Samples | None
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
def _reading(options: Any) -> Iterator[_Job]:
    """Read and check the inputs of a command; what Keras prints meanwhile goes to standard error.

    Raises:
        ValueError: If something cannot be read or written, or does not fit the model.
    """
    _check_keras_path(options.path)
    files = [*options.data.split(","), *(options.validation or "").split(",")]
    check_not_read(options.path, options.source, *files)
    check_count(options.batch_size, "--batch-size", least=1)
    check_count(options.max_samples, "--max-samples", least=1)
    keras.utils.set_random_seed(check_count(options.seed, "--seed", least=0, most=2**32 - 1))
    has_labels = "," in options.data or options.validation is not None
    model = load_model(options.source, compiled=has_labels, imports=options.imports)
    if has_labels:
        _check_loss(model, options.source)
    data = _read_samples(options.data, "--data", model=model)
    validation = _read_labeled(options.validation, "--validation", model=model) if options.validation else None
    with contextlib.redirect_stdout(sys.stderr):
        yield _Job(model, data, validation, options.batch_size)


def _check_keras_path(path: str) -> None:
    """Refuse a path that Keras cannot write to, before any work starts."""
    if not path.endswith(".keras"):
        raise ValueError(
            f"Expected a path that ends in .keras. Received: {path!r}. `tfprune export` makes a .tflite file of it "
            "afterwards."
        )
    check_destination(path)


def _verbosity() -> int:
    """Return 1, which shows a progress bar, if standard error is a terminal, else 0."""
    return int(sys.stderr.isatty())


def _read_labeled(text: str, argument: str, *, model: keras.Model) -> _Samples:
    """Read samples and labels, which `text` names, and check that they fit the model's loss.

    Raises:
        ValueError: If it names no labels, or something cannot be read or does not fit.
    """
    samples = _read_samples(text, argument, model=model)
    if samples.y is None:
        raise ValueError(f"Expected samples and labels, {argument} X,Y. Received: {text!r}. Name a second file.")
    return samples


def _read_samples(text: str, argument: str, *, model: keras.Model) -> _Samples:
    """Read samples, and labels if `text` names a second file, and check that they fit the model and its loss.

    Raises:
        ValueError: If something cannot be read or does not fit.
    """
    x, *labels = text.split(",")
    if len(labels) > 1:
        raise ValueError(f"Expected at most two files, {argument} X,Y. Received: {text!r}.")
    inputs = signature(tfprune.strip(model))
    arrays = inputs.pack(inputs.arrays(load_arrays(x), argument))
    samples = _Samples(arrays, load_arrays(labels[0]) if labels else None)
    if len(samples.sizes) > 1:
        counts = " and ".join(map(str, samples.sizes))
        raise ValueError(f"Expected one label for each sample. Received: {argument} {text!r} with {counts} of them.")
    if samples.y is not None:
        _check_classes(model, samples.y, argument)
        _evaluate_one(model, samples.first(1), argument)
    return samples


def _check_loss(model: keras.Model, source: str) -> None:
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


def _evaluate_one(model: keras.Model, sample: _Samples, argument: str) -> None:
    """Compute the loss of one sample, so that labels that do not fit are refused before any work starts."""
    try:
        model.evaluate(*sample.parts, verbose=0)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected labels that fit the loss of the model. Received: {argument} with labels of shape "
            f"{[part.shape for part in keras.tree.flatten(sample.y)]}: {str(error).splitlines()[0]}"
        ) from error


# The work of `tfprune compress`.

_MAX_DROP = 0.01  # of the metric, if no limit of it is given
_VALIDATION_FRACTION = 0.1  # of the training samples, if no validation data is given


def compress_file(
    options: argparse.Namespace,
    *,
    target: str | Micro | None = None,
    on: Device | None = None,
    recipe: EdgeQuantizer | None = None,
) -> CompressReport:
    """Search for the best file of a saved model; see `tfprune compress --help`.

    Args:
        options: The options of the command line.
        target: The microcontroller or the name of the NPU that files are for; None for other devices.
        on: The device on which files are timed; None is this machine.
        recipe: A number format besides those of the options; None for none.

    Raises:
        ValueError: If an option is wrong, or something cannot be read, trained, exported or written.
    """
    check_number(options.minutes, "--minutes", above=0)
    check_count(options.seed, "--seed", least=0, most=2**32 - 1)
    if options.groups and not options.validation:
        raise ValueError("Expected --validation X,Y with --groups, which are those of its samples. Received: none.")
    limit = Limit(
        _MAX_DROP if options.max_drop is None and options.max_relative_drop is None else options.max_drop,
        metric=options.metric,
        mode=options.mode,
        output=options.output,
        max_relative_drop=options.max_relative_drop,
        max_drop_per_class=options.max_drop_per_class,
        max_drop_per_group=options.max_drop_per_group,
        groups=load_groups(options.groups),
    )
    search = Search(
        trials=options.trials,
        steps=options.steps,
        jobs=options.jobs,
        batch_size=options.batch_size,
        seed=options.seed,
        formats=options.formats if recipe is None else [*options.formats, recipe],
        max_bytes=options.max_bytes,
        max_latency_ms=options.max_latency_ms,
        max_cycles=options.max_cycles,
    )
    model = load_model(options.source, compiled=True, imports=options.imports)
    _check_loss(model, options.source)
    train = _read_labeled(options.train, "--train", model=model)
    validation = _read_labeled(options.validation, "--validation", model=model) if options.validation else None
    test = _read_labeled(options.test, "--test", model=model) if options.test else None
    if validation is None:
        train, validation = _split(train, seed=options.seed)
    with contextlib.redirect_stdout(sys.stderr):
        return compress(
            model,
            train.parts,
            validation.parts,
            folder=options.folder,
            max_drop=limit,
            optimize=options.optimize,
            target=vela(target) if isinstance(target, str) else target,
            on=on,
            time=60 * options.minutes,
            test_data=test.parts if test else None,
            search=search,
            verbose=_verbosity(),
        )


def _split(samples: _Samples, *, seed: int) -> tuple[_Samples, _Samples]:
    """Hold out a random part of the samples, as validation data."""
    count = samples.sizes[0]
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(1, int(_VALIDATION_FRACTION * count))
    if held_out == count:
        raise ValueError(f"Expected at least two samples in --train. Received: {count}. Name --validation X,Y, too.")

    def taken(rows: np.ndarray) -> _Samples:
        return _Samples(*keras.tree.map_structure(lambda array: array[rows], samples.parts))

    return taken(order[held_out:]), taken(order[:held_out])


# Measure the model that a command made and the original one, and write it whole or not at all.

_ADVICE = "Prune it in Python, where you can compile it again"


@dataclass(frozen=True)
class Metric(Report):
    """A loss or metric of the original model, and of the written one."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class SavedModel(Report):
    """The result of a command on a saved model: the report of the change, metrics before and after, and the file."""

    done: Report
    measured_on: str
    metrics: tuple[Metric, ...]
    path: str
    bytes: int

    def __str__(self) -> str:
        rows = [[metric.name, f"{metric.before:.4f}", f"{metric.after:.4f}"] for metric in self.metrics]
        measured = [table([f"on {self.measured_on}", "before", "after"], rows)] if rows else []
        written = f"Written: {self.path}, {self.bytes:,} bytes. For the device:\n"
        return "\n\n".join([str(self.done), *measured, f"{written}tfprune export {self.path} model.tflite"])


def _save(job: _Job, model: keras.Model, *, path: str, done: Report) -> SavedModel:
    """Write a model whole or not at all, and report its metrics and those of the original one."""
    if job.model.compiled and not model.compiled:
        compile_like(model, job.model, advice=_ADVICE)
        model.optimizer.build(model.trainable_variables)  # else Keras warns when it loads the file
    before, after = job.measure(job.model), job.measure(model)
    metrics = tuple(Metric(name, before[name], value) for name, value in after.items())
    with TemporaryFolder() as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        content = saved.read_bytes()
    write_atomically(path, content)
    measured_on = "the validation data" if job.validation else "the training data"
    return SavedModel(done, measured_on, metrics, path, len(content))


# The work of `tfprune prune`.

_OF_PRUNE_WEIGHTS = ("alps", "sparsegpt", "ria")  # criteria of `prune_weights`
_ALLOCATIONS_TOO = ("error", "outputs", "owl", "alpha_pruning")  # allocations of it
_PRUNING_END = 0.7  # the fraction of the training after which the sparsity stays


def prune_file(options: argparse.Namespace) -> SavedModel:
    """Prune a saved model; see `tfprune prune --help`.

    Raises:
        ValueError: If an option is wrong, or something cannot be read, pruned, trained or written.
    """
    epochs = check_count(options.epochs, "--epochs", least=0)
    settings = _settings(options, epochs=epochs)
    if epochs and "," not in options.data:
        raise ValueError(f"Expected labels with --epochs, --data X,Y. Received: --data {options.data!r}.")
    if options.learning_rate is not None and not epochs:
        raise ValueError("Expected --epochs with --learning-rate: without them nothing is trained. Leave it out.")
    with _reading(options) as job:
        if settings["criterion"] in _OF_PRUNE_WEIGHTS:
            sparse = _by_prune_weights(job, settings, options)
            return _save(job, sparse, path=options.path, done=tfprune.sparsity_report(sparse))
        criterion = CRITERIA[settings["criterion"]]()
        settings = settings | {"criterion": criterion}
        wrapped = tfprune.wrap(job.model, criterion=criterion, pattern=settings["pattern"])
        pruned = (
            _trained(job, wrapped, settings, options) if epochs else _prune_at_once(job, wrapped, settings, options)
        )
        report = tfprune.sparsity_report(pruned)
        return _save(job, tfprune.strip(pruned), path=options.path, done=report)


def _settings(options: argparse.Namespace, *, epochs: int) -> dict[str, Any]:
    criterion = options.criterion or ("magnitude" if epochs else _OF_PRUNE_WEIGHTS[0])
    check_choice(criterion, "--criterion", choices=CRITERIA if epochs else [*CRITERIA, *_OF_PRUNE_WEIGHTS])
    is_of_prune_weights = criterion in _OF_PRUNE_WEIGHTS
    if options.allocation is not None:
        allocations = [*ALLOCATIONS, *_ALLOCATIONS_TOO] if is_of_prune_weights else ALLOCATIONS
        check_choice(options.allocation, "--allocation", choices=allocations)
    pattern = as_weight_pattern(options.pattern, advice="Channels are removed by `tfprune shrink`.")
    groups = isinstance(pattern, NM)
    return {
        "sparsity": check_sparsity(options.sparsity, "--sparsity"),
        "criterion": criterion,
        "pattern": pattern,
        "allocation": options.allocation or (None if is_of_prune_weights else "uniform" if groups else "lamp"),
    }


def _by_prune_weights(job: _Job, settings: dict[str, Any], options: argparse.Namespace) -> keras.Model:
    return tfprune.prune_weights(
        job.model,
        job.data.first(options.max_samples).x,
        settings["sparsity"],
        criterion=settings["criterion"],
        pattern=settings["pattern"],
        allocation=settings["allocation"],
        batch_size=job.batch_size,
    )[0]


def _prune_at_once(
    job: _Job, wrapped: keras.Model, settings: dict[str, Any], options: argparse.Namespace
) -> keras.Model:
    data = job.evidence(settings["criterion"], options.max_samples)
    tfprune.update_masks(wrapped, settings["sparsity"], allocation=settings["allocation"], data=data)
    samples = job.data.first(options.max_samples).x
    return tfprune.reconstruct(wrapped, job.model, samples, batch_size=job.batch_size)[0]


def _trained(job: _Job, wrapped: keras.Model, settings: dict[str, Any], options: argparse.Namespace) -> keras.Model:
    compile_like(wrapped, job.model, advice=_ADVICE)
    if options.learning_rate is not None:
        wrapped.optimizer.learning_rate = check_number(options.learning_rate, "--learning-rate", above=0)
    pruning = tfprune.PruningCallback(
        tfprune.schedules.Polynomial(settings["sparsity"], end=_PRUNING_END),
        allocation=settings["allocation"],
        data=job.evidence(settings["criterion"], options.max_samples),
    )
    create_variables(wrapped, job.data.parts, batch_size=job.batch_size)
    wrapped.fit(
        *job.data.parts,
        batch_size=job.batch_size,
        epochs=options.epochs,
        validation_data=job.validation.parts if job.validation else None,
        callbacks=[pruning],
        verbose=_verbosity(),
    )
    return wrapped


# The work of `tfprune shrink`.

_LIMITS = ("flops", "parameters", "bytes", "latency")


def shrink_file(options: argparse.Namespace) -> SavedModel:
    """Shrink a saved model; see `tfprune shrink --help`.

    Raises:
        ValueError: If an option is wrong, or something cannot be read, shrunk, trained or written.
    """
    budget = _budget(options.budget)
    check_choice(options.criterion, "--criterion", choices=CRITERIA)
    if "," not in options.data and (options.rounds, options.epochs) != (None, None):
        raise ValueError(
            f"Expected labels with --rounds and --epochs, --data X,Y. Received: --data {options.data!r}. Without "
            f"labels channels are removed in one step, and nothing is trained."
        )
    with _reading(options) as job:
        work = _shrink_at_once if job.data.y is None else _in_rounds
        small, report = work(job, budget, options)
        return _save(job, small, path=options.path, done=report)


def _budget(texts: list[str]) -> Any:
    limits: dict[str, int | float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            check_choice(name, "--budget", choices=_LIMITS)
            limits[name] = float(value) if "." in value else int(value)
        except ValueError as error:
            raise ValueError(
                f"Expected --budget WHAT=LIMIT, where WHAT is {', '.join(_LIMITS)}, and LIMIT a fraction such as 0.5 "
                f"or an amount such as 100000. Received: {text!r}."
            ) from error
    return tfprune.budget(
        flops=limits.get("flops"),
        parameters=limits.get("parameters"),
        bytes=limits.get("bytes"),
        latency=limits.get("latency"),
        measure=latency if "latency" in limits else None,
    )


def _in_rounds(job: _Job, budget: Any, options: argparse.Namespace) -> tuple[keras.Model, Report]:
    rounds = 3 if options.rounds is None else options.rounds
    return tfprune.prune_to(
        job.model,
        budget,
        job.data.parts,
        epochs=1 if options.epochs is None else options.epochs,
        validation_data=job.validation.parts if job.validation else None,
        criterion=options.criterion,
        round_to=options.round_to,
        fine_tuning=tfprune.FineTuning(rounds=rounds, max_samples=options.max_samples),
    )


def _shrink_at_once(job: _Job, budget: Any, options: argparse.Namespace) -> tuple[keras.Model, Report]:
    criterion = CRITERIA[options.criterion]()
    data = job.evidence(criterion, options.max_samples)
    plan = tfprune.plan_shrink(job.model, budget, criterion=criterion, round_to=options.round_to, data=data)
    masked = tfprune.zero_channels(job.model, plan)
    samples = job.data.first(options.max_samples).x
    better, _ = tfprune.reconstruct(masked, job.model, samples, batch_size=job.batch_size)
    return tfprune.shrink(better, plan), plan
