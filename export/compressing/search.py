"""Search: how `compress` searches, apart from its goal and its time."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.base.renamed import renamed
from tfprune.base.spec import check_count


@renamed()
@dataclass(frozen=True)
class Search:
    """How `compress` searches: the number of trials, how many run at once, and how they train.

    Pass it as `search=` to `compress`. The goal and the time of the search are arguments of `compress` itself.

    Args:
        trials: The largest number of recipes to try, at least 1. None (the default) sets no limit.
        jobs: The number of trials that run at once, at least 1. With 1 (the default), trials run in this process, one
            after the other, and the same search tries the same recipes. With more, each trial runs in a process that
            has the data, loads the model and uses its share of the processors. Not with `optimize="latency"`: trials
            that run at once would disturb the timing.
        batch_size: Samples in a batch of training, at least 1. Default 32.
        seed: Seeds training and the choice of recipes, at least 0. Default 0.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If an argument is out of range.

    Example:
        >>> Search(trials=20, jobs=2)
        Search(trials=20, jobs=2, batch_size=32, seed=0)
    """

    trials: int | None = None
    jobs: int = 1
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials is not None:
            check_count(self.trials, "trials", least=1)
        check_count(self.jobs, "jobs", least=1)
        check_count(self.batch_size, "batch_size", least=1)
        check_count(self.seed, "seed", least=0)
