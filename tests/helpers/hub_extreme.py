"""Tiny backbones of KerasHub in the shapes of Llama, Gemma 3 and Qwen, to remove nearly all of their blocks."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np

TOKENS, LENGTH = 64, 12
_SIZES = {"vocabulary_size": TOKENS, "num_layers": 4, "num_query_heads": 4, "hidden_dim": 32}
_GEMMA = {
    "head_dim": 8,
    "image_size": None,
    "query_head_dim_normalize": True,
    "use_query_key_norm": True,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "use_sliding_window_attention": True,
    "sliding_window_size": 4,
}
# The class, the number of keys and values that the queries share, the width of the feed-forward networks, and more.
SHAPES = {
    "Llama, 4 keys": ("Llama", 4, 128, {}),
    "Llama, 2 keys": ("Llama", 2, 128, {}),
    "Gemma 3, 1 key": ("Gemma3", 1, 128, _GEMMA),
    "Qwen 3, 2 keys": ("Qwen3", 2, 128, {"head_dim": 8}),
}


def backbone(shape: str, *, blocks: int = 4) -> keras.Model:
    """Return a model with random weights, those of norms and biases included."""
    name, keys, width, more = SHAPES[shape]
    keras.utils.set_random_seed(0)
    sizes = {**_SIZES, "num_layers": blocks, "num_key_value_heads": keys, "intermediate_dim": width}
    model = getattr(keras_hub.models, f"{name}Backbone")(**sizes, **more)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * keras.random.normal(variable.shape, dtype=variable.dtype))
    return model


def texts(*, count: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs of full windows of random tokens."""
    ids = np.random.default_rng(seed).integers(0, TOKENS, (count, LENGTH)).astype("int32")
    return {"token_ids": ids, "padding_mask": np.ones_like(ids)}
