"""The work of `tfprune shrink`."""

from __future__ import annotations

import argparse
from typing import Any

import keras

import tfprune
from tfprune.base.spec import check_choice
from tfprune.criteria import CRITERIA
from tfprune.export.command_line.saved_models.job import Job, reading
from tfprune.export.command_line.saved_models.saved_model import SavedModel, save
from tfprune.export.keras_side.converting.latency import latency
from tfprune.report import Report

LIMITS = ("flops", "parameters", "bytes", "latency")


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
    with reading(options) as job:
        work = _at_once if job.data.y is None else _in_rounds
        small, report = work(job, budget, options)
        return save(job, small, path=options.path, done=report)


def _budget(texts: list[str]) -> Any:
    limits: dict[str, int | float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            check_choice(name, "--budget", choices=LIMITS)
            limits[name] = float(value) if "." in value else int(value)
        except ValueError as error:
            raise ValueError(
                f"Expected --budget WHAT=LIMIT, where WHAT is {', '.join(LIMITS)}, and LIMIT a fraction such as 0.5 "
                f"or an amount such as 100000. Received: {text!r}."
            ) from error
    return tfprune.budget(
        flops=limits.get("flops"),
        parameters=limits.get("parameters"),
        bytes=limits.get("bytes"),
        latency=limits.get("latency"),
        measure=latency if "latency" in limits else None,
    )


def _in_rounds(job: Job, budget: Any, options: argparse.Namespace) -> tuple[keras.Model, Report]:
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


def _at_once(job: Job, budget: Any, options: argparse.Namespace) -> tuple[keras.Model, Report]:
    criterion = CRITERIA[options.criterion]()
    data = job.evidence(criterion, options.max_samples)
    plan = tfprune.plan_shrink(job.model, budget, criterion=criterion, round_to=options.round_to, data=data)
    masked = tfprune.zero_channels(job.model, plan)
    samples = job.data.first(options.max_samples).x
    better, _ = tfprune.reconstruct(masked, job.model, samples, batch_size=job.batch_size)
    return tfprune.shrink(better, plan), plan
