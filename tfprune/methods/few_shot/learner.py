"""How a model learns from episodes: the methods that training and validation call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import keras

from tfprune.base.spec import Spec
from tfprune.keras_models.evidence.episodes import Episodes


class Learner(Spec):
    """Base of the algorithms that learn a new task from its support set."""

    _EXAMPLES: ClassVar[str] = "tfprune.few_shot.MAML(learning_rate=0.1, steps=3)"

    def headed(self, model: keras.Model, tasks: Episodes) -> keras.Model:
        """Return the model that is pruned: it shares the layers of the model given.

        Raises:
            ValueError: If the outputs of the model are not those that the algorithm needs.
        """
        raise NotImplementedError

    def bare(self, headed: keras.Model) -> keras.Model:
        """Return the model that ships, from the one that is pruned."""
        raise NotImplementedError

    def embedding(self, headed: keras.Model) -> keras.Model:
        """Return the part whose outputs are compared between classes."""
        return keras.Model(headed.inputs[0], headed.layers[-1].input, name="embedding")

    def logits(self, headed: keras.Model, tasks: Episodes) -> Callable[[Any, Any, bool], Any]:
        """Return a function from the samples and labels of an episode, and whether it trains, to its queries' logits.

        Args:
            headed: The model.
            tasks: Episodes of the same ways and shots.
        """
        raise NotImplementedError


def check_output(model: keras.Model, *, size: int | None, advice: str) -> None:
    """Refuse a model without a single input and a single output of shape (samples, numbers).

    Raises:
        ValueError: If there are several inputs or outputs, or the output has another shape.
    """
    shapes = [tuple(output.shape) for output in model.outputs]
    if len(model.inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2 or size not in (None, shapes[0][1]):
        raise ValueError(
            f"Expected a model with one input and one output of shape (samples, {size or 'numbers'}). Received: "
            f"{model.name!r} with {len(model.inputs)} inputs and outputs of shape {shapes}. {advice}"
        )
