"""A small language model: blocks of causal attention and a mixture of experts, and the compute of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

import tfprune

WINDOW = 128  # pieces that it looks at
BLOCKS = r"block_(\d+)_"  # in the names of layers
layers, ops = keras.layers, keras.ops


@dataclass(frozen=True)
class Size:
    """How large a model is: blocks, experts in each, and how many of them read each piece."""

    blocks: int
    experts: int
    top_k: int
    width: int
    hidden: int
    heads: int


@keras.saving.register_keras_serializable(package="growth")
class Positions(layers.Layer):
    """Adds a vector for each position."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(name="table", shape=shape[1:], initializer=small())

    def call(self, x: Any) -> Any:
        return x + self.table


@keras.saving.register_keras_serializable(package="growth")
class Mixture(layers.Layer):
    """Experts of one hidden layer each: a router chooses `top_k` for each piece, and their gates sum to 1."""

    def __init__(self, num_experts: int, top_k: int, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_experts, self.top_k, self.hidden = num_experts, top_k, hidden
        self.router = layers.Dense(num_experts, use_bias=False, name="router")

    def build(self, shape: tuple[int | None, ...]) -> None:
        width, normal = shape[-1], keras.initializers.RandomNormal
        self.router.build(shape)
        up, down = (self.num_experts, width, self.hidden), (self.num_experts, self.hidden, width)
        self.up = self.add_weight(name="up_kernel", shape=up, initializer=normal(0, (2 / width) ** 0.5))
        self.down = self.add_weight(name="down_kernel", shape=down, initializer=normal(0, self.hidden**-0.5))

    def call(self, x: Any) -> Any:
        logits = self.router(x)
        last = ops.top_k(logits, self.top_k)[0][..., -1:]
        share = ops.softmax(ops.where(logits >= last, logits, -1e9))
        hidden = ops.relu(ops.einsum("btw,ewh->bteh", x, self.up))
        return ops.einsum("bteh,ehw->btw", hidden * share[..., None], self.down)

    def get_config(self) -> dict[str, Any]:
        own = {"num_experts": self.num_experts, "top_k": self.top_k, "hidden": self.hidden}
        return {**super().get_config(), **own}


tfprune.experts.register(Mixture, {"router/kernel": 1, "up_kernel": 0, "down_kernel": 0})


def small() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)


def build(size: Size, pieces: int, *, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((WINDOW,), dtype="int32", name="pieces")
    table = layers.Embedding(pieces, size.width, embeddings_initializer=small(), name="embedding")
    x = Positions(name="positions")(table(inputs))
    for index in range(size.blocks):
        name = f"block_{index}"
        normal = layers.LayerNormalization(name=f"{name}_norm_1")(x)
        attention = layers.MultiHeadAttention(size.heads, size.width // size.heads, name=f"{name}_attention")
        x = layers.Add(name=f"{name}_sum_1")([x, attention(normal, normal, use_causal_mask=True)])
        normal = layers.LayerNormalization(name=f"{name}_norm_2")(x)
        mixture = Mixture(size.experts, size.top_k, size.hidden, name=f"{name}_mixture")
        x = layers.Add(name=f"{name}_sum_2")([x, mixture(normal)])
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(pieces, name="next")(x), name="language_model")
