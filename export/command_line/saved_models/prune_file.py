"""The work of `tfprune prune`."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

import keras

import tfprune
from tfprune.allocation import ALLOCATIONS
from tfprune.base.spec import check_choice, check_count, check_number, check_sparsity
from tfprune.criteria import CRITERIA
from tfprune.export.command_line.saved_models.job import Job, reading, verbosity
from tfprune.export.command_line.saved_models.saved_model import ADVICE, SavedModel, save
from tfprune.keras_models.models.compiled import compile_like, create_variables

OF_PRUNE_WEIGHTS = ("alps", "sparsegpt", "ria")  # criteria of `prune_weights`
ALLOCATIONS_TOO = ("error", "outputs", "owl", "alpha_pruning")  # allocations of it
LEAST_MASK_UPDATES = 50
PRUNING_END = 0.7  # the fraction of the training after which the sparsity stays


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
    with reading(options) as job:
        if settings["criterion"] in OF_PRUNE_WEIGHTS:
            sparse = _by_prune_weights(job, settings, options)
            return save(job, sparse, path=options.path, done=tfprune.sparsity_report(sparse))
        criterion = CRITERIA[settings["criterion"]]()
        settings = settings | {"criterion": criterion}
        wrapped = tfprune.wrap(job.model, criterion=criterion, pattern=settings["pattern"])
        pruned = _trained(job, wrapped, settings, options) if epochs else _at_once(job, wrapped, settings, options)
        report = tfprune.sparsity_report(pruned)
        return save(job, tfprune.strip(pruned), path=options.path, done=report)


def _settings(options: argparse.Namespace, *, epochs: int) -> dict[str, Any]:
    criterion = options.criterion or ("magnitude" if epochs else OF_PRUNE_WEIGHTS[0])
    check_choice(criterion, "--criterion", choices=CRITERIA if epochs else [*CRITERIA, *OF_PRUNE_WEIGHTS])
    is_of_prune_weights = criterion in OF_PRUNE_WEIGHTS
    if options.allocation is not None:
        allocations = [*ALLOCATIONS, *ALLOCATIONS_TOO] if is_of_prune_weights else ALLOCATIONS
        check_choice(options.allocation, "--allocation", choices=allocations)
    pattern: Any = options.pattern
    group = re.fullmatch(r"(\d+):(\d+)", pattern)
    if group:
        pattern = tfprune.patterns.NM(int(group[1]), int(group[2]))
    elif pattern != "unstructured":
        raise ValueError(
            f"Expected --pattern unstructured, or N:M such as 2:4. Received: {pattern!r}. tfprune shrink removes "
            f"channels; tfprune.wrap knows more patterns."
        )
    return {
        "sparsity": check_sparsity(options.sparsity, "--sparsity"),
        "criterion": criterion,
        "pattern": pattern,
        "allocation": options.allocation or (None if is_of_prune_weights else "uniform" if group else "lamp"),
    }


def _by_prune_weights(job: Job, settings: dict[str, Any], options: argparse.Namespace) -> keras.Model:
    return tfprune.prune_weights(
        job.model,
        job.data.first(options.max_samples).x,
        settings["sparsity"],
        criterion=settings["criterion"],
        pattern=settings["pattern"],
        allocation=settings["allocation"],
        batch_size=job.batch_size,
    )[0]


def _at_once(job: Job, wrapped: keras.Model, settings: dict[str, Any], options: argparse.Namespace) -> keras.Model:
    data = job.evidence(settings["criterion"], options.max_samples)
    tfprune.update_masks(wrapped, settings["sparsity"], allocation=settings["allocation"], data=data)
    samples = job.data.first(options.max_samples).x
    return tfprune.reconstruct(wrapped, job.model, samples, batch_size=job.batch_size)[0]


def _trained(job: Job, wrapped: keras.Model, settings: dict[str, Any], options: argparse.Namespace) -> keras.Model:
    compile_like(wrapped, job.model, advice=ADVICE)
    if options.learning_rate is not None:
        wrapped.optimizer.learning_rate = check_number(options.learning_rate, "--learning-rate", above=0)
    steps = math.ceil(job.data.sizes[0] / job.batch_size) * options.epochs
    pruning = tfprune.PruningCallback(
        tfprune.schedules.Polynomial(settings["sparsity"], end=PRUNING_END),
        every=max(1, int(steps * PRUNING_END / LEAST_MASK_UPDATES)),
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
        verbose=verbosity(),
    )
    return wrapped
