"""A stage of `prune_few_shot`: how much is removed, and how long the model is meta-trained afterwards."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.allocation import LayerThreshold
from tfprune.base.spec import Spec, check_count, check_number
from tfprune.compact.shrinking.budget import Budget


@dataclass(frozen=True)
class FewShotStage(Spec):
    """How much a stage removes, and how long it meta-trains afterwards.

    Args:
        budget: A budget, such as `tfprune.budget(parameters=0.6)`, with fractions of the model that you pass to
            `prune_few_shot`; a `LayerThreshold`, which removes the channels below the threshold of their layer, so
            that the task decides how many; or None (the default), which removes nothing.
        episodes: The number of episodes to train on afterwards, at least 0. Default 100.
        learning_rate: The learning rate of this training, above 0. Default 1e-3.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of its range.

    Example:
        >>> from tfprune.allocation import LayerThreshold
        >>> FewShotStage(LayerThreshold(threshold=0.4), episodes=500).episodes
        500
    """

    budget: Budget | LayerThreshold | None = None
    episodes: int = 100
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.budget is not None and not isinstance(self.budget, (Budget, LayerThreshold)):
            raise TypeError(
                f"Expected `budget` to be a budget, a LayerThreshold or None. Received: budget={self.budget!r}. Pass "
                f"tfprune.budget(parameters=0.5), for example."
            )
        rate = check_number(self.learning_rate, "learning_rate", above=0)
        self._hold(episodes=check_count(self.episodes, "episodes", least=0), learning_rate=rate)
