"""Choose the next token from the scores of all."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tfprune.base.spec import check_count, check_number


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: What scores are divided by; 0 takes the token with the highest score.
        top_k: How many tokens with the highest scores may be chosen; None for all.
        top_p: The share of the probability that the most likely tokens have together, among which is chosen.
        seed: Of the random numbers; None for others each time.

    Raises:
        TypeError: If a value has another type.
        ValueError: If a value is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number(self.temperature, "temperature", least=0)
        if self.top_k is not None:
            check_count(self.top_k, "top_k", least=1)
        if self.top_p is not None:
            check_number(self.top_p, "top_p", above=0, most=1)
        if self.seed is not None:
            check_count(self.seed, "seed", least=0)
        if not self.temperature and (self.top_k, self.top_p, self.seed) != (None, None, None):
            raise ValueError(
                "Expected a temperature above 0 with `top_k`, `top_p` or `seed`. Received: temperature=0, which "
                "always takes the token with the highest score. Set for example temperature=0.8."
            )
        object.__setattr__(self, "_random", np.random.default_rng(self.seed))

    def choose(self, scores: np.ndarray) -> int:
        """Return the index of a token.

        Args:
            scores: The logits, (vocabulary,).
        """
        if not self.temperature:
            return int(scores.argmax())
        order = np.argsort(-scores, kind="stable")[: self.top_k]
        probabilities = np.exp((scores[order].astype(np.float64) - scores[order[0]]) / self.temperature)
        probabilities /= probabilities.sum()
        if self.top_p is not None:  # the token that reaches the share belongs to it
            count = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
            order, probabilities = order[:count], probabilities[:count] / probabilities[:count].sum()
        place = int(np.searchsorted(np.cumsum(probabilities), self._random.random()))
        return int(order[min(place, len(order) - 1)])
