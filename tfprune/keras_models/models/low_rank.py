"""LoRA beside a kernel: two factors, whose product is added to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.keras_models.models.layers import walk


@dataclass(frozen=True, eq=False)
class Factor:
    """One of two factors.

    Attributes:
        kernel: The weight that their product is added to.
        is_first: Whether it has the axes of the kernel without the last one; the other has that one alone.
    """

    kernel: keras.Variable
    is_first: bool

    def axes(self, of_kernel: Sequence[Any]) -> tuple[Any, ...]:
        """Choose from one entry for each axis of the kernel those of its own axes; None stands for the rank.

        Example:
            >>> [Factor(None, is_first).axes("hwio") for is_first in (True, False)]
            [('h', 'w', 'i', None), (None, 'o')]
        """
        return (*of_kernel[:-1], None) if self.is_first else (None, of_kernel[-1])


def factors(root: keras.layers.Layer) -> dict[int, Factor]:
    """Return the factors in a layer, by their ids."""
    by_id = {}
    for _, layer in walk(root):
        own = {weight.name: weight for weight in layer.weights}  # the innermost layer comes last
        for name, weight in own.items():
            match = re.fullmatch(r"lora_(\w+)_([ab])", name)
            if match and match[1] in own:
                by_id[id(weight)] = Factor(own[match[1]], is_first=match[2] == "a")
    return by_id


def train_alike(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Freeze in a built copy of a layer what is frozen in the layer, and give it the same factors, also inside.

    The configuration of a layer says nothing of those inside, and not every class keeps the scale of its factors.

    Args:
        pairs: What `paired` returns of the layer and its copy.
    """
    for layer, counterpart in pairs:
        if counterpart.trainable != layer.trainable:  # sets those inside, too, which come later
            counterpart.trainable = layer.trainable
    for layer, counterpart in pairs:
        if getattr(layer, "lora_enabled", False):
            if not counterpart.lora_enabled:  # freezes the kernel, so it comes last; a layer with masks refuses it
                type(counterpart).enable_lora(counterpart, layer.lora_rank)
            counterpart.lora_alpha = layer.lora_alpha
