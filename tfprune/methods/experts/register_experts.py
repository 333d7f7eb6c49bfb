"""Register a layer of your own that holds a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tfprune.methods.experts.moe_layers import REGISTERED, ExpertRule


def register_experts(
    layer_class: type[keras.layers.Layer],
    *,
    weights: Mapping[str, int],
    count: str = "num_experts",
    top_k: str = "top_k",
    router: str = "router",
) -> None:
    """Register which weights of a layer class belong to its experts.

    Use it for your own mixture of experts, so that `grow_experts`, `merge_experts` and `drop_experts` know it. The
    layers of KerasHub are known.

    Args:
        layer_class: A subclass of `keras.layers.Layer`. The rule also serves its subclasses.
        weights: The axis along which the experts lie, for each weight of the experts and of the router, by its path
            below the layer, such as `{"router/kernel": 1, "hidden": 0}`.
        count: The argument with the number of experts; the layer also keeps it in an attribute of that name. Default
            `"num_experts"`.
        top_k: The argument with the number of experts that are used for each input, kept likewise. Default
            `"top_k"`.
        router: What the paths of the router's weights begin with. Default `"router"`. Only
            `grow_experts(random=...)` uses it.

    Raises:
        TypeError: If `layer_class` is not a layer class, `weights` does not map paths to axes, or `router` is not a
            string.
        ValueError: If `weights` is empty.

    Example:
        >>> import keras, tfprune
        >>> class Mixture(keras.layers.Layer):
        ...     def __init__(self, num_experts, top_k, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.num_experts, self.top_k = num_experts, top_k
        ...         self.router = keras.layers.Dense(num_experts, name="router")
        ...     def build(self, shape):
        ...         self.router.build(shape)
        ...         self.experts = self.add_weight(name="experts", shape=(self.num_experts, shape[-1], shape[-1]))
        ...     def call(self, x):
        ...         gates, chosen = keras.ops.top_k(keras.ops.softmax(self.router(x)), self.top_k)
        ...         chosen = keras.ops.one_hot(chosen, self.num_experts)
        ...         share = keras.ops.sum(gates[..., None] * chosen, axis=-2)
        ...         return keras.ops.einsum("...i,eio,...e->...o", x, self.experts, share)
        ...     def get_config(self):
        ...         return {**super().get_config(), "num_experts": self.num_experts, "top_k": self.top_k}
        >>> register_experts(Mixture, weights={"router/kernel": 1, "router/bias": 0, "experts": 0})
        >>> model = keras.Sequential([keras.Input((4,)), Mixture(4, 2)])
        >>> grown, report = tfprune.grow_experts(model, 2, noise=0)
        >>> report.rows[0].experts, report.rows[0].top_k, report.is_function_preserving
        ((4, 8), (2, 4), True)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r}.")
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(axis, int) for name, axis in weights.items()
    ):
        raise TypeError(
            f"Expected `weights` to map paths of weights to the axes of the experts, such as {{'router/kernel': 1}}. "
            f"Received: weights={weights!r}."
        )
    if not weights:
        raise ValueError("Expected `weights` to name the weights of the experts and of the router. Received: none.")
    if not isinstance(router, str):
        raise TypeError(
            f"Expected `router` to be a string. Received: router={router!r} of type {type(router).__name__}."
        )
    of_router = tuple(name for name in weights if name.startswith(router))
    REGISTERED[layer_class] = ExpertRule(dict(weights), of_router, count, top_k)
