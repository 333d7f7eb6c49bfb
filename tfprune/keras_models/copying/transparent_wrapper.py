"""A wrapper that Keras takes for the layer inside: its shapes, its masks of time steps, how it is built."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from tfprune.keras_models.copying.rebuild import builds_itself


class TransparentWrapper(keras.layers.Wrapper):
    """Answers what Keras asks about a layer as the layer inside does, and can be put around a copy of that layer."""

    layer: Any

    def settings(self) -> dict[str, Any]:
        """Return the arguments besides the layer, as a configuration holds them."""
        raise NotImplementedError

    def get_build_config(self) -> dict[str, Any] | None:
        return self.layer.get_build_config() if builds_itself(self.layer) else None

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        if "training" not in inspect.signature(self.layer.call).parameters:
            kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    @property
    def supports_masking(self) -> bool:
        return self.layer.supports_masking

    @supports_masking.setter
    def supports_masking(self, value: bool) -> None:
        self.layer.supports_masking = value


def layer_inside(layer: Any) -> Any:
    """Return the layer in a wrapper, anything else as it is."""
    return layer.layer if isinstance(layer, TransparentWrapper) else layer
