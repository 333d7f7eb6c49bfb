"""Episodes: small classification tasks drawn from labelled samples, as few-shot models are trained and judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tfprune.base.spec import check_count
from tfprune.keras_models.models.batches import Batch, classes_of


class Episodes:
    """Draw N-way K-shot episodes from labelled samples.

    Each episode is a batch with fields `x`, `y` and `classes`. It holds the support set, class after class, and then
    the queries, class after class. `y` numbers the classes of the episode from 0, as its loss needs them. `classes`
    are the labels in the whole data set. Criteria that compare classes use these, because class 0 differs from one
    episode to the next. Pass episodes as `data` where a criterion needs evidence, or train on them. The same seed
    gives the same episodes in every pass.

    Args:
        x: Samples, (samples, ...).
        y: Their labels, integers of shape (samples,).
        ways: Classes in an episode, at least 2. Default 5.
        shots: Support samples of each class, at least 1. Default 5.
        queries: Query samples of each class, at least 0. Default 15. With 0, an episode has a support set only.
        episodes: The number of episodes, at least 1. Default 100.
        seed: Seed of the draws, at least 0. Default 0.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is too small, `x` and `y` differ in length, labels are not integers, there are fewer
            classes than `ways`, or a class has fewer samples than shots and queries.

    Example:
        >>> x, y = np.arange(12.0)[:, None], np.arange(12) % 3 + 10
        >>> episode = next(iter(Episodes(x, y, ways=2, shots=2, queries=1)))
        >>> episode.x.shape, episode.y.tolist(), set(episode.classes.tolist()) <= {10, 11, 12}
        ((6, 1), [0, 0, 1, 1, 0, 1], True)

    Reference:
        Vinyals et al., 2016, "Matching Networks for One Shot Learning", arXiv:1606.04080.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        ways: int = 5,
        shots: int = 5,
        queries: int = 15,
        episodes: int = 100,
        seed: int = 0,
    ) -> None:
        self.ways, self.shots = check_count(ways, "ways", least=2), check_count(shots, "shots", least=1)
        self.queries = check_count(queries, "queries", least=0)
        self.episodes = check_count(episodes, "episodes", least=1)
        self.seed = check_count(seed, "seed", least=0)
        self._x = np.asarray(x)
        labels = classes_of(Batch(self._x, np.asarray(y)))
        if len(labels) != len(self._x):
            raise ValueError(
                f"Expected a label for each sample. Received: {len(self._x)} samples and {len(labels)} labels."
            )
        self._rows = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
        self._check_rows()

    def _check_rows(self) -> None:
        if len(self._rows) < self.ways:
            raise ValueError(
                f"Expected samples of at least ways={self.ways} classes. Received: {len(self._rows)} classes. Pass "
                f"more classes, or fewer ways."
            )
        needed = self.shots + self.queries
        short = {label: rows.size for label, rows in self._rows.items() if rows.size < needed}
        if short:
            listed = ", ".join(f"{size} of class {label}" for label, size in list(short.items())[:5])
            raise ValueError(
                f"Expected at least {needed} samples of each class, for shots={self.shots} and queries="
                f"{self.queries}. Received: {listed}. Leave these classes out, or lower shots or queries."
            )

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels of the classes that episodes are drawn from."""
        return tuple(self._rows)

    def __len__(self) -> int:
        return self.episodes

    def __iter__(self) -> Iterator[Batch]:
        return self.draw(self.episodes, seed=self.seed)

    def draw(self, episodes: int, *, seed: int | Sequence[int]) -> Iterator[Batch]:
        """Yield other episodes of the same kind.

        Args:
            episodes: The number of episodes.
            seed: Seed of the draws: an integer, or a sequence of integers.

        Example:
            >>> tasks = Episodes(np.arange(4.0), np.arange(4) % 2, ways=2, shots=1, queries=1)
            >>> [episode.y.tolist() for episode in tasks.draw(1, seed=3)]
            [[0, 1, 0, 1]]
        """
        generator = np.random.default_rng(seed)
        labels = np.array(list(self._rows))
        # Row i of both: class i of the episode, its support samples first.
        numbers = np.arange(self.ways)
        y = np.concatenate([np.repeat(numbers, self.shots), np.repeat(numbers, self.queries)])
        for _ in range(episodes):
            classes = generator.choice(labels, self.ways, replace=False)
            rows_by_class = np.stack(
                [generator.choice(self._rows[label], self.shots + self.queries, replace=False) for label in classes]
            )
            rows = np.concatenate([rows_by_class[:, : self.shots].ravel(), rows_by_class[:, self.shots :].ravel()])
            yield Batch(self._x[rows], y, None, classes[y])
