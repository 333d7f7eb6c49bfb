"""Schemes of tfmot: the zeros and shared values of weights that quantization-aware training keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layers import as_numpy

MOST_VALUES = 256  # of an 8-bit weight


@dataclass(frozen=True)
class Default8BitQuantizeScheme:
    """Quantize to 8 bits, and let training move all weights: the scheme of `quantize_apply` if you name none.

    Example:
        >>> Default8BitQuantizeScheme()
        Default8BitQuantizeScheme()
    """

    def wrapper_arguments(self, layer: keras.layers.Layer) -> dict[str, Any]:
        """Return the arguments of `Clustered` that keep zeros and shared values of a layer; empty for none."""
        return {}


@dataclass(frozen=True)
class Default8BitPrunePreserveQuantizeScheme(Default8BitQuantizeScheme):
    """Keep the zeros of a pruned model (PQAT): where a kernel is zero, it gets a mask.

    Example:
        >>> from tfprune.tfmot import quantize_annotate_model, quantize_apply
        >>> hidden = keras.layers.Dense(4, name="hidden", kernel_initializer="identity")
        >>> model = quantize_annotate_model(keras.Sequential([keras.Input((8,)), hidden]))
        >>> model = quantize_apply(model, Default8BitPrunePreserveQuantizeScheme())
        >>> int(np.sum(model.get_layer("hidden").masks["kernel"]))
        4
    """

    def wrapper_arguments(self, layer: keras.layers.Layer) -> dict[str, Any]:
        names = [kernel.path for kernel in kernels(layer) if (as_numpy(kernel.variable) == 0).any()]
        return {"weights": names, "latent": "zero"} if names else {}


@dataclass(frozen=True)
class Default8BitClusterPreserveQuantizeScheme(Default8BitPrunePreserveQuantizeScheme):
    """Keep the number of values that the entries of each kernel of a clustered model share (CQAT); they are trained.

    Args:
        preserve_sparsity: Whether zeros get a mask too (PCQAT). They stay zeros without a mask as well, because 0 is
            never moved to one of the other values.

    Example:
        >>> Default8BitClusterPreserveQuantizeScheme().preserve_sparsity
        True
    """

    preserve_sparsity: bool = True

    def wrapper_arguments(self, layer: keras.layers.Layer) -> dict[str, Any]:
        counts = [_shared_values(as_numpy(kernel.variable)) for kernel in kernels(layer)]
        shared = {"levels": 1 + max(counts)} if counts and all(counts) else {}
        return {**(super().wrapper_arguments(layer) if self.preserve_sparsity else {}), **shared}


def _shared_values(weight: np.ndarray) -> int:
    """Count the values that the non-zero entries share; 0 if there are too many, or each entry has its own."""
    entries = weight[weight != 0]
    count = len(np.unique(entries))
    return count if count < min(len(entries), MOST_VALUES) else 0
