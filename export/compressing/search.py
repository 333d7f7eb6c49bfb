"""Search: how `compress` searches, apart from its goal and its time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from tfprune.base.spec import check_choice, check_count
from tfprune.compact.fine_tuning.distillation import Distillation, check_distillation
from tfprune.export.compressing.trials.recipe import PATTERNS
from tfprune.export.compressing.trials.trial import FORMATS
from tfprune.export.rewriting.weights.edge_quantizer import EdgeQuantizer
from tfprune.keras_models.tasks.task_pool import check_executor

DEFAULT_FORMATS = ("float32", "int8")


@dataclass(frozen=True)
class Search:
    """How `compress` searches: the number of trials, how many run at once, and how they train.

    Pass it as `search=` to `compress`. The goal and the time of the search are arguments of `compress` itself.

    Args:
        pattern: The shape of the zeros: `"unstructured"` (the default), `"2:4"` for two zeros in each four inputs, or
            blocks of four, along the inputs with `"1x4"` and along the outputs with `"4x1"`, for a runtime that is
            fast with them.
        distillation: How the original model teaches the smaller ones in all trials, such as
            `tfprune.Distillation(temperature=4)`, for a classifier that is a Sequential or Functional model; without
            features, as trials remove channels. None (the default) trains on the labels alone.
        trials: The largest number of recipes to try, at least 1. None (the default) sets no limit.
        jobs: The number of trials that run at once, at least 1. None (the default) is 1: trials run in this process,
            one after the other, and the same search tries the same recipes. With more, each trial runs in a process
            that has the data, loads the model and uses its share of the processors. Not with `optimize="latency"`,
            except for an NPU: trials that run at once would disturb the timing.
        batch_size: Samples in a batch of training, at least 1. Default 32.
        seed: Seeds training and the choice of recipes, at least 0. Default 0.
        executor: A `concurrent.futures.Executor` that runs the trials, such as that of a Dask client, for workers on
            other machines. It needs `jobs`, as no executor tells how many workers it has. None (the default) uses
            this machine. You start and end it. Not with `optimize="latency"`, except for an NPU.
        formats: The number formats that each trial exports: of `"float32"`, `"float16"`, `"dynamic"`, `"int8"`,
            `"int16x8"`, `"int4"` and `"mixed"`, and an `EdgeQuantizer`, each once. Default `("float32", "int8")`.
            `"mixed"` needs these two: where int8 loses too much against float32, one more file keeps the operators in
            float that `quantization_error` chooses, in at most 1.2 times the bytes. Trials that train
            quantization-aware make int8 files only. Not for microcontrollers and NPUs, whose files are int8.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If an argument is out of range, an executor comes without `jobs`, or features with distillation.

    Example:
        >>> Search(trials=20, jobs=2)
        Search(pattern='unstructured', distillation=None, trials=20, jobs=2, ..., formats=('float32', 'int8'))
    """

    pattern: str = "unstructured"
    distillation: Distillation | None = None
    trials: int | None = None
    jobs: int | None = None
    batch_size: int = 32
    seed: int = 0
    executor: Executor | None = None
    formats: Sequence[str | EdgeQuantizer] = DEFAULT_FORMATS

    def __post_init__(self) -> None:
        if self.trials is not None:
            check_count(self.trials, "trials", least=1)
        check_count(self.batch_size, "batch_size", least=1)
        check_count(self.seed, "seed", least=0)
        check_choice(self.pattern, "pattern", choices=PATTERNS)
        check_executor(self.executor, jobs=self.jobs)
        if self.distillation is not None and check_distillation(self.distillation, "distillation").pairs:
            raise ValueError(
                f"Expected a Distillation without features, as a layer that loses channels cannot be compared. "
                f"Received: distillation={self.distillation!r}. Leave the features out."
            )
        self._check_formats()

    def _check_formats(self) -> None:
        if isinstance(self.formats, str) or not isinstance(self.formats, Sequence):
            raise TypeError(f"Expected `formats` to be a list of names. Received: formats={self.formats!r}.")
        for each in self.formats:
            if not isinstance(each, EdgeQuantizer):
                check_choice(each, "formats", choices=FORMATS, others="or an EdgeQuantizer")
        names = [each.name if isinstance(each, EdgeQuantizer) else each for each in self.formats]
        if not names or len({*names}) < len(names):
            raise ValueError(
                f"Expected `formats` to name some formats, each once. Received: formats={self.formats!r}."
            )
        if "mixed" in names and not {"float32", "int8"} <= {*names}:
            raise ValueError(
                f"Expected 'float32' and 'int8' in `formats` with 'mixed', which is made of both. Received: "
                f"formats={self.formats!r}. Add them."
            )
        order = [*FORMATS, *names]
        ordered = sorted(zip(names, self.formats, strict=True), key=lambda pair: order.index(pair[0]))
        object.__setattr__(self, "formats", tuple(each for _, each in ordered))
