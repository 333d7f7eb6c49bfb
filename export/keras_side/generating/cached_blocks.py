"""The caches of keys and values of a KerasHub language model, one for each block, whatever its class calls them.

A class builds its caches as it likes: stacked into one tensor, or a pair for each block. Its attention layers are
alike: they take an argument `cache`, and return the new one last. So a class is asked for its caches, and each
attention layer gets those of its block, with its own number of heads, in place of an entry of the stack.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.compact.same_class.exchanged import has_cache, own_heads
from tfprune.keras_models.models.layers import walk

# Attention layers that take their cache among other keyword arguments, and its name there.
KEYWORDS = {"SmolLM3Attention": "self_attention_cache"}
RANK = 4  # of a cache: batch, positions and heads in some order, size of a head
MASK = "padding_mask"


class KeysAndValues:
    """Keys and values of one block, for code that takes them out of one tensor by `[:, 0, ...]` and `[:, 1, ...]`."""

    def __init__(self, keys: Any, values: Any) -> None:
        self.keys, self.values = keys, values
        batch, *shape = keys.shape
        self.shape = (batch, 2, *shape)

    def __getitem__(self, place: Any) -> Any:
        return (self.keys, self.values)[place[1]]

    def first_heads(self, count: int) -> KeysAndValues:
        """Return those of the first heads; itself if there are no more."""
        if self.shape[-2] == count:
            return self
        return KeysAndValues(self.keys[..., :count, :], self.values[..., :count, :])


@dataclass(frozen=True)
class CachedBlock:
    """The cache of one block.

    Attributes:
        index: The number of the block.
        shape: Of its keys, and of its values, in the order that the model's code uses.
        order: How the axes become those of the file: batch, heads, positions, size of a head. It also
            turns them back.
    """

    index: int
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def names(self) -> tuple[str, str]:
        """The names of keys and values in a file."""
        return f"kv_cache_k_{self.index}", f"kv_cache_v_{self.index}"

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape in a file."""
        return tuple(self.shape[axis] for axis in self.order)


class _Asked(Exception):  # noqa: N818 (carries the caches that a class builds out of its code)
    pass


class CachedModel:
    """A language model that is called with a cache for each block.

    Args:
        model: A CausalLM of KerasHub without wrappers, on TensorFlow.
        length: The number of positions in the caches.

    Attributes:
        blocks: The blocks that use a cache.
        attention_parameters: Of all attention layers.

    Raises:
        ValueError: If the class keeps something else than keys and values of the positions.
    """

    def __init__(self, model: Any, length: int) -> None:
        self.model, self.length = model, length
        shapes, longer = (_cache_shapes(model, positions) for positions in (length, length + 1))
        self._is_stacked = not isinstance(shapes[0], tuple)
        if self._is_stacked and isinstance(shapes, tuple) and len(shapes) == RANK + 2 and shapes[2] == 2:
            each, more, count = (shapes[:1] + shapes[3:]), (longer[:1] + longer[3:]), shapes[1]
        elif not self._is_stacked and all(len(pair) == 2 and len(pair[0]) == RANK for pair in shapes):
            each, more, count = shapes[0][0], longer[0][0], len(shapes)
        else:
            raise ValueError(_other_states(model, shapes))
        changed = [axis for axis in range(RANK) if each[axis] != more[axis]]
        self._shape, self._count, (self._positions,) = each, count, changed
        heads = 3 - self._positions  # 1 and 2 are the positions and the heads, in some order
        self._heads = heads
        self._order = (0, heads, self._positions, 3)
        self.blocks = self._find_blocks()

    def __call__(self, tokens: Any, caches: Sequence[tuple[Any, Any]], position: Any) -> tuple[Any, list[Any]]:
        """Return the logits of all tokens, and the new keys and values of each block of `blocks`."""
        pairs = dict.fromkeys(range(self._count), self._empty())  # of blocks that use none
        pairs |= {block.index: KeysAndValues(*cache) for block, cache in zip(self.blocks, caches, strict=True)}
        logits, new, _ = self._call(tokens, pairs, position)
        return logits, [new[block.index] for block in self.blocks]

    def _find_blocks(self) -> list[CachedBlock]:
        """Call the model once with caches for all, to see which blocks use theirs, and how many heads they use."""
        pairs = dict.fromkeys(range(self._count), self._empty())
        _, _, layers = self._call(ops.zeros((1, 1), "int32"), pairs, ops.zeros((), "int32"))
        self.attention_parameters = sum(layer.count_params() for layer in {*layers.values()})
        shapes = {index: list(self._shape) for index in sorted(layers)}
        for index, shape in shapes.items():
            shape[self._heads] = own_heads(layers[index], shape[self._heads])
        return [CachedBlock(index, tuple(shape), self._order) for index, shape in shapes.items()]

    def _call(
        self, tokens: Any, pairs: dict[int, KeysAndValues], position: Any
    ) -> tuple[Any, dict[int, Any], dict[int, Any]]:
        """Return the logits, and of each block that writes into its cache the new cache and the attention layer."""
        placeholders = {index: self._placeholder() for index in range(self._count)}
        exchange = _Exchange(self._placeholder)
        for index, placeholder in placeholders.items():
            exchange.add(placeholder, pairs[index], index)
        whole = _Stack(placeholders) if self._is_stacked else tuple(placeholders.values())
        more = {MASK: ops.ones((1, self.length), "int32")} if _takes_mask(self.model) else {}
        with exchange.installed(self.model):
            logits, *_ = self.model.call_with_cache(tokens, whole, position, **more)
        return logits, exchange.new, exchange.layers

    def _empty(self) -> KeysAndValues:
        return KeysAndValues(ops.zeros(self._shape), ops.zeros(self._shape))

    def _placeholder(self) -> Any:
        if self._is_stacked:
            return ops.zeros((self._shape[0], 2, *self._shape[1:]))
        return ops.zeros(self._shape), ops.zeros(self._shape)


class _Stack:
    """Placeholders of caches, for code that takes them out of one tensor by `[:, index, ...]`."""

    def __init__(self, parts: dict[int, Any]) -> None:
        self._parts = parts

    def __getitem__(self, place: Any) -> Any:
        return self._parts[place[1]]


@dataclass(frozen=True)
class _Taken:
    placeholder: Any
    pair: KeysAndValues
    index: int | None  # of the block that gets it first; None for what an attention layer has returned


class _Exchange:
    """Gives attention layers caches in place of placeholders, which only have the shape of caches, and back."""

    def __init__(self, placeholder: Any) -> None:
        self._placeholder = placeholder
        self._taken: dict[int, _Taken] = {}  # by the identity of the first tensor of a placeholder
        self.new: dict[int, Any] = {}
        self.layers: dict[int, Any] = {}

    def add(self, placeholder: Any, pair: KeysAndValues, index: int | None) -> Any:
        self._taken[id(keras.tree.flatten(placeholder)[0])] = _Taken(placeholder, pair, index)
        return placeholder

    @contextmanager
    def installed(self, model: Any) -> Iterator[None]:
        layers = [layer for _, layer in walk(model) if _cache_name(layer) and not isinstance(layer, keras.Model)]
        outer = {
            id(layer) for layer in layers if any(part is not layer and part in layers for _, part in walk(layer))
        }
        with ExitStack() as undo:
            for layer in layers:
                if id(layer) not in outer:
                    undo.callback(vars(layer).pop, "call")
                    layer.call = self._with_pair(layer, layer.call)
            yield

    def _with_pair(self, layer: Any, call: Any) -> Any:
        signature, cache = inspect.signature(call), _cache_name(layer)

        def exchanged(*args: Any, **kwargs: Any) -> Any:
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            arguments |= arguments.pop("kwargs", {})
            own = self._find(arguments.get(cache))
            if own is None:
                return call(*args, **kwargs)
            for name, value in arguments.items():
                entry = self._find(value)
                if entry is not None:
                    pair = entry.pair.first_heads(own_heads(layer, entry.pair.shape[-2]))
                    arguments[name] = pair if hasattr(value, "shape") else (pair.keys, pair.values)
            *outputs, new = call(**arguments)
            if new is arguments[cache]:  # of a block without an attention, or with the cache of another
                return (*outputs, self.add(self._placeholder(), own.pair, None))
            pair = KeysAndValues(*_parts(new))
            if own.index is not None:
                self.new[own.index], self.layers[own.index] = (pair.keys, pair.values), layer
            return (*outputs, self.add(self._placeholder(), pair, None))

        exchanged.__signature__ = signature  # type: ignore[attr-defined]
        return exchanged

    def _find(self, value: Any) -> _Taken | None:
        leaves = keras.tree.flatten(value)
        return self._taken.get(id(leaves[0])) if leaves else None


def _cache_name(layer: Any) -> str:
    """Return the argument of a layer's call for its cache; empty if it takes none."""
    if has_cache(layer):
        return "cache"
    return next((KEYWORDS[base.__name__] for base in type(layer).__mro__ if base.__name__ in KEYWORDS), "")


def _parts(new: Any) -> tuple[Any, Any]:
    """Return keys and values, not out of the tensor that they were just stacked to."""
    if isinstance(new, tuple):
        return new
    operation = getattr(new, "op", None) if hasattr(new, "graph") else None
    if operation is not None and operation.type == "Pack":
        keys, values = operation.inputs
        return keys, values
    return new[:, 0], new[:, 1]


def _cache_shapes(model: Any, length: int) -> Any:
    """Return the shapes of the empty caches that the class of a model builds for `length` positions."""
    signature = inspect.signature(type(model).call_with_cache)

    def asked(*args: Any, **kwargs: Any) -> None:
        cache = signature.bind(model, *args, **kwargs).arguments["cache"]
        raise _Asked(keras.tree.map_structure(lambda tensor: tuple(tensor.shape), cache))

    inputs = {"token_ids": np.zeros((1, length), "int32"), MASK: np.ones((1, length), "int32")}
    model.call_with_cache = asked
    try:
        model.generate_step(
            {name: ops.convert_to_tensor(value) for name, value in inputs.items()}, stop_token_ids=None
        )
    except _Asked as caches:
        return caches.args[0]
    except KeyError as error:  # another input than tokens and padding, such as a state of RWKV
        raise ValueError(_other_states(model, None)) from error
    finally:
        del model.call_with_cache
    raise ValueError(_other_states(model, None))


def _takes_mask(model: Any) -> bool:
    return MASK in inspect.signature(type(model).call_with_cache).parameters


def _other_states(model: Any, shapes: Any) -> str:
    return (
        f"Expected a language model that keeps keys and values of each position. Received: {type(model).__name__}, "
        f"which keeps {'states of another form' if shapes is None else f'states of the shapes {shapes}'}. Use a "
        "model whose blocks all attend to the positions before, such as Gemma3CausalLM or Qwen3CausalLM."
    )
