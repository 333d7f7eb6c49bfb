"""Register a layer of your own that holds a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tfprune.methods.experts.moe_layers import REGISTERED, ExpertRule


def register_experts(
    layer_class: type[keras.layers.Layer],
    axes: Mapping[str, int],
    *,
    router: str = "router",
    count_argument: str = "num_experts",
    top_k_argument: str = "top_k",
) -> None:
    """Register the weights of a layer class that belong to its experts.

    Use it for your own mixture of experts, so that `experts.grow`, `experts.merge` and `experts.drop` can change it.
    The layers of KerasHub need no registration.

    Args:
        layer_class: A subclass of `keras.layers.Layer`. The rule also serves its subclasses.
        axes: For each weight of the experts and of the router, by its path below the layer, the axis along which the
            experts lie, such as `{"router/kernel": 1, "hidden": 0}`.
        router: The prefix of the paths of the router's weights. Default `"router"`. `experts.rank`, `experts.merge`
            with a ranking, and `experts.grow(random=...)` use it.
        count_argument: The argument with the number of experts. The layer also keeps it in an attribute of that name.
            Default `"num_experts"`.
        top_k_argument: The argument with the number of experts that are used for each input. The layer also keeps it
            in an attribute of that name. Default `"top_k"`.

    Raises:
        TypeError: If `layer_class` is not a layer class, `axes` does not map paths to axes, or `router` is not a
            string.
        ValueError: If `axes` is empty.

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
        >>> register_experts(Mixture, {"router/kernel": 1, "router/bias": 0, "experts": 0})
        >>> model = keras.Sequential([keras.Input((4,)), Mixture(4, 2)])
        >>> grown, report = tfprune.experts.grow(model, 2, noise=0)
        >>> report.rows[0].experts, report.rows[0].top_k, report.is_function_preserving
        ((4, 8), (2, 4), True)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r}.")
    if not isinstance(axes, Mapping) or not all(
        isinstance(name, str) and isinstance(axis, int) for name, axis in axes.items()
    ):
        raise TypeError(
            f"Expected `axes` to map paths of weights to the axes of the experts, such as {{'router/kernel': 1}}. "
            f"Received: axes={axes!r}."
        )
    if not axes:
        raise ValueError("Expected `axes` with the weights of the experts and of the router. Received: none.")
    if not isinstance(router, str):
        raise TypeError(
            f"Expected `router` to be a string. Received: router={router!r} of type {type(router).__name__}."
        )
    of_router = tuple(name for name in axes if name.startswith(router))
    REGISTERED[layer_class] = ExpertRule(dict(axes), of_router, count_argument, top_k_argument)
