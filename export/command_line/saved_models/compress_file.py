"""The work of `tfprune compress`."""

from __future__ import annotations

import argparse
import contextlib
import sys

import keras
import numpy as np

from tfprune.base.limit import Limit
from tfprune.base.spec import check_count, check_number
from tfprune.export.command_line.saved_models.job import Samples, check_loss, read_labeled, verbosity
from tfprune.export.compressing.compress import compress
from tfprune.export.compressing.results.compress_report import CompressReport
from tfprune.export.compressing.search import Search
from tfprune.export.device.processes.device import Device
from tfprune.export.keras_side.converting.vela import vela
from tfprune.export.keras_side.loading import load_groups, load_model
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.weights.edge_quantizer import EdgeQuantizer

MAX_DROP = 0.01  # of the metric, if no limit of it is given
VALIDATION_FRACTION = 0.1  # of the training samples, if no validation data is given


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
        MAX_DROP if options.max_drop is None and options.max_relative_drop is None else options.max_drop,
        metric=options.metric,
        mode=options.mode,
        output=options.output,
        max_bytes=options.max_bytes,
        max_relative_drop=options.max_relative_drop,
        max_latency_ms=options.max_latency_ms,
        max_cycles=options.max_cycles,
        max_drop_per_class=options.max_drop_per_class,
        max_drop_per_group=options.max_drop_per_group,
        groups=load_groups(options.groups),
    )
    model = load_model(options.source, compiled=True, imports=options.imports)
    check_loss(model, options.source)
    train = read_labeled(options.train, "--train", model=model)
    validation = read_labeled(options.validation, "--validation", model=model) if options.validation else None
    test = read_labeled(options.test, "--test", model=model) if options.test else None
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
            search=Search(
                trials=options.trials,
                jobs=options.jobs,
                batch_size=options.batch_size,
                seed=options.seed,
                formats=options.formats if recipe is None else [*options.formats, recipe],
            ),
            verbose=verbosity(),
        )


def _split(samples: Samples, *, seed: int) -> tuple[Samples, Samples]:
    """Hold out a random part of the samples, as validation data."""
    count = samples.sizes[0]
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(1, int(VALIDATION_FRACTION * count))
    if held_out == count:
        raise ValueError(f"Expected at least two samples in --train. Received: {count}. Name --validation X,Y, too.")

    def taken(rows: np.ndarray) -> Samples:
        return Samples(*keras.tree.map_structure(lambda array: array[rows], samples.parts))

    return taken(order[held_out:]), taken(order[:held_out])
