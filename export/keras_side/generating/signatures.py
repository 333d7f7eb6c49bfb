"""The SavedModel of a language model with its caches: `prefill_P` for parts of a prompt, `decode` for one token.

The caches of a file have the form [1, heads, positions, size of a head], which runtimes for phones expect. Each
signature takes them and returns them with the new positions filled in. Kernels and tables are inputs here, too: the
converter would copy them several times, and needs their shapes only (`bind_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from tfprune.export.keras_side.generating.cached_blocks import CachedBlock, CachedModel

DECODE, PREFILL, WEIGHT = "decode", "prefill_", "weight_"
TOKENS, POSITIONS, LOGITS = "tokens", "input_pos", "logits"


def write_signatures(cached: CachedModel, folder: Path, *, prefill: Sequence[int]) -> list[str]:
    """Write the SavedModel, without the weights that `kernels` returns.

    Args:
        cached: The model.
        folder: Where the SavedModel goes; it does not exist yet.
        prefill: How many tokens of a prompt a signature takes, one number for each.

    Returns:
        The names of the signatures.
    """
    import tensorflow as tf

    weights = kernels(cached.model)
    module = tf.Module()
    inputs = {id(weight) for weight in weights.values()}
    module.constants = [each.value for each in cached.model.variables if id(each) not in inputs]
    functions = {f"{PREFILL}{count}": tf.function(_step(cached, weights), autograph=False) for count in prefill}
    functions[DECODE] = tf.function(_step(cached, weights, gives_logits=True), autograph=False)
    sizes = dict(zip(functions, (*prefill, 1), strict=True))
    of_weights = {name: tf.TensorSpec(weight.shape, tf.float32, name=name) for name, weight in weights.items()}
    concrete = {
        name: function.get_concrete_function(**_specs(cached.blocks, sizes[name], tf), **of_weights)
        for name, function in functions.items()
    }
    module.functions = concrete  # so that the SavedModel says which variables a function has captured
    tf.saved_model.save(module, str(folder), signatures=concrete)
    return list(functions)


def kernels(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the weights of two or more dimensions, by the names of the inputs that stand for them."""
    weights = [each for each in model.variables if len(each.shape) > 1 and each.dtype == "float32"]
    return {f"{WEIGHT}{number}": weight for number, weight in enumerate(weights)}


def _specs(blocks: Sequence[CachedBlock], count: int, tf: Any) -> dict[str, Any]:
    specs = {
        TOKENS: tf.TensorSpec((1, count), tf.int32, name=TOKENS),
        POSITIONS: tf.TensorSpec((count,), tf.int32, name=POSITIONS),
    }
    for block in blocks:
        specs |= {name: tf.TensorSpec(block.file_shape, tf.float32, name=name) for name in block.names}
    return specs


def _step(cached: CachedModel, weights: Mapping[str, keras.Variable], *, gives_logits: bool = False) -> Any:
    def step(tokens: Any, input_pos: Any, **inputs: Any) -> dict[str, Any]:
        position, count = input_pos[0], tokens.shape[1]
        own = [tuple(ops.transpose(inputs[name], block.order) for name in block.names) for block in blocks]
        with keras.StatelessScope([(weight, inputs[name]) for name, weight in weights.items()]):
            logits, new = cached(tokens, own, position)
        outputs = {LOGITS: logits} if gives_logits else {}
        for block, pair in zip(blocks, new, strict=True):
            for name, filled in zip(block.names, pair, strict=True):
                outputs[name] = _updated(inputs[name], filled, block, position=position, count=count)
        return outputs

    blocks = cached.blocks
    return step


def _updated(cache: Any, filled: Any, block: CachedBlock, *, position: Any, count: int) -> Any:
    """Put the new positions alone into a cache: a runtime does so in place where it is input and output."""
    _, heads, _, size = block.file_shape
    start, where = [0, 0, position, 0], [0, 0, 0, 0]
    where[block.order[2]] = position
    sizes = [(1, heads, count, size)[block.order.index(axis)] for axis in range(4)]
    part = ops.transpose(ops.slice(filled, where, sizes), block.order)
    return ops.slice_update(cache, start, part)
