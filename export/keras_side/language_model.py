"""A KerasHub language model for devices: its caches as inputs and outputs, its weights bound in, its tokenizer."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import re
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.folders import TemporaryFolder
from tfprune.compact.smaller import has_cache, own_heads
from tfprune.export.device.writer_file import JSON, SENTENCEPIECE, TextForm, Tokenizer
from tfprune.export.file import schema
from tfprune.export.file.document import add_tensor, drop_hash, inputs_of, operator_code, operator_name, put_in_order
from tfprune.export.file.report import reason_of
from tfprune.export.file.schema import MissingPackage
from tfprune.models.anatomy import walk
from tfprune.report import install

# The caches of keys and values of a KerasHub language model, one for each block, whatever its class calls them.
#
# A class builds its caches as it likes: stacked into one tensor, or a pair for each block. Its attention layers are
# alike: they take an argument `cache`, and return the new one last. So a class is asked for its caches, and each
# attention layer gets those of its block, with its own number of heads, in place of an entry of the stack.

# Attention layers that take their cache among other keyword arguments, and its name there.
_KEYWORDS = {"SmolLM3Attention": "self_attention_cache"}
_RANK = 4  # of a cache: batch, positions and heads in some order, size of a head
_MASK = "padding_mask"


class _KeysAndValues:
    """Keys and values of one block, for code that takes them out of one tensor by `[:, 0, ...]` and `[:, 1, ...]`."""

    def __init__(self, keys: Any, values: Any) -> None:
        self.keys, self.values = keys, values
        batch, *shape = keys.shape
        self.shape = (batch, 2, *shape)

    def __getitem__(self, place: Any) -> Any:
        return (self.keys, self.values)[place[1]]

    def first_heads(self, count: int) -> _KeysAndValues:
        """Return those of the first heads; itself if there are no more."""
        if self.shape[-2] == count:
            return self
        return _KeysAndValues(self.keys[..., :count, :], self.values[..., :count, :])


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
        if self._is_stacked and isinstance(shapes, tuple) and len(shapes) == _RANK + 2 and shapes[2] == 2:
            each, more, count = (shapes[:1] + shapes[3:]), (longer[:1] + longer[3:]), shapes[1]
        elif not self._is_stacked and all(len(pair) == 2 and len(pair[0]) == _RANK for pair in shapes):
            each, more, count = shapes[0][0], longer[0][0], len(shapes)
        else:
            raise ValueError(_other_states(model, shapes))
        changed = [axis for axis in range(_RANK) if each[axis] != more[axis]]
        self._shape, self._count, (self._positions,) = each, count, changed
        heads = 3 - self._positions  # 1 and 2 are the positions and the heads, in some order
        self._heads = heads
        self._order = (0, heads, self._positions, 3)
        self.blocks = self._find_blocks()

    def __call__(self, tokens: Any, caches: Sequence[tuple[Any, Any]], position: Any) -> tuple[Any, list[Any]]:
        """Return the logits of all tokens, and the new keys and values of each block of `blocks`."""
        pairs = dict.fromkeys(range(self._count), self._empty())  # of blocks that use none
        pairs |= {block.index: _KeysAndValues(*cache) for block, cache in zip(self.blocks, caches, strict=True)}
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
        self, tokens: Any, pairs: dict[int, _KeysAndValues], position: Any
    ) -> tuple[Any, dict[int, Any], dict[int, Any]]:
        """Return the logits, and of each block that writes into its cache the new cache and the attention layer."""
        placeholders = {index: self._placeholder() for index in range(self._count)}
        exchange = _Exchange(self._placeholder)
        for index, placeholder in placeholders.items():
            exchange.add(placeholder, pairs[index], index)
        whole = _Stack(placeholders) if self._is_stacked else tuple(placeholders.values())
        more = {_MASK: ops.ones((1, self.length), "int32")} if _takes_mask(self.model) else {}
        with exchange.installed(self.model):
            logits, *_ = self.model.call_with_cache(tokens, whole, position, **more)
        return logits, exchange.new, exchange.layers

    def _empty(self) -> _KeysAndValues:
        return _KeysAndValues(ops.zeros(self._shape), ops.zeros(self._shape))

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
    pair: _KeysAndValues
    index: int | None  # of the block that gets it first; None for what an attention layer has returned


class _Exchange:
    """Gives attention layers caches in place of placeholders, which only have the shape of caches, and back."""

    def __init__(self, placeholder: Any) -> None:
        self._placeholder = placeholder
        self._taken: dict[int, _Taken] = {}  # by the identity of the first tensor of a placeholder
        self.new: dict[int, Any] = {}
        self.layers: dict[int, Any] = {}

    def add(self, placeholder: Any, pair: _KeysAndValues, index: int | None) -> Any:
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
            pair = _KeysAndValues(*_parts(new))
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
    return next((_KEYWORDS[base.__name__] for base in type(layer).__mro__ if base.__name__ in _KEYWORDS), "")


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

    inputs = {"token_ids": np.zeros((1, length), "int32"), _MASK: np.ones((1, length), "int32")}
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
    return _MASK in inspect.signature(type(model).call_with_cache).parameters


def _other_states(model: Any, shapes: Any) -> str:
    return (
        f"Expected a language model that keeps keys and values of each position. Received: {type(model).__name__}, "
        f"which keeps {'states of another form' if shapes is None else f'states of the shapes {shapes}'}. Use a "
        "model whose blocks all attend to the positions before, such as Gemma3CausalLM or Qwen3CausalLM."
    )


# Give products the biases that are added behind them, as the converter does where it knows the weights.

_BIAS = 2  # its place among the inputs of FULLY_CONNECTED
_MISSING = -1


def _fuse_biases(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Turn FULLY_CONNECTED, perhaps a RESHAPE, and ADD of a constant into FULLY_CONNECTED with a bias.

    Args:
        model: The file.
        graph: The graph of it that is changed. Tensors that nothing uses any more remain.
    """
    takers: dict[int, list[schema.OperatorT]] = defaultdict(list)
    for operator in graph.operators:
        for index in inputs_of(operator):
            takers[index].append(operator)
    for index in graph.outputs:
        takers[int(index)] += [None, None]  # has to remain
    fused = set()
    for product in graph.operators:
        if operator_name(model, product) != "FULLY_CONNECTED" or product.inputs[_BIAS] != _MISSING:
            continue
        last, addition = product, _only(takers[int(product.outputs[0])])
        if addition is not None and operator_name(model, addition) == "RESHAPE":
            last, addition = addition, _only(takers[int(addition.outputs[0])])
        if addition is None or operator_name(model, addition) != "ADD":
            continue
        bias = next(index for index in inputs_of(addition) if index != last.outputs[0])
        count = int(graph.tensors[product.outputs[0]].shape[-1])
        if _is_bias(model, graph.tensors[bias], graph.tensors[last.outputs[0]], count):
            flat = add_tensor(graph, graph.tensors[bias], shape=np.array([count], np.int32), shapeSignature=None)
            product.inputs = np.array([*product.inputs[:_BIAS], flat], np.int32)
            product.builtinOptions.fusedActivationFunction = addition.builtinOptions.fusedActivationFunction
            last.outputs = addition.outputs
            fused.add(id(addition))
    graph.operators = [operator for operator in graph.operators if id(operator) not in fused]


def _only(operators: list[schema.OperatorT]) -> schema.OperatorT | None:
    return operators[0] if len(operators) == 1 else None


def _is_bias(model: schema.ModelT, bias: schema.TensorT, sums: schema.TensorT, count: int) -> bool:
    """Return True if a tensor is a constant with a number for each output of a product, repeated along the rest."""
    values = model.buffers[bias.buffer].data
    is_constant = values is not None and values.nbytes == 4 * count and bias.type == schema.TensorType.FLOAT32
    shape = tuple(map(int, bias.shape)) if bias.shape is not None else ()
    trailing = tuple(map(int, sums.shape))[len(sums.shape) - len(shape) :]
    return bool(is_constant and shape and shape == trailing)


# Put the weights of a language model into a file that was converted without them.
#
# The converter keeps several copies of each constant. Here it sees the weights as inputs of the signatures, of
# which it needs the shapes only. Afterwards each input becomes a constant, all signatures share it, and products
# with it become what the converter makes of products with constants: FULLY_CONNECTED.

_KEEPS_DIMENSIONS = 5  # the version of FULLY_CONNECTED that returns as many dimensions as it takes


@dataclass(frozen=True)
class _ArrangedWeight:
    """A weight in the form that a file has it in, arranged only when it is read: no second copy waits in the memory.

    Attributes:
        name: The name of the weight.
        shape: Its shape in the file.
        values: Its values in the model.
        steps: The permutations and shapes that lead from one to the other, the kinds of neighbors different.
    """

    name: str
    shape: tuple[int, ...]
    values: np.ndarray = field(compare=False, repr=False)
    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the values as the file has them."""
        values = self.values
        for kind, numbers in self.steps:
            values = values.transpose(numbers) if kind == "transpose" else values.reshape(numbers)
        return np.array(values, dtype, copy=copy)

    @property
    def nbytes(self) -> int:
        """The bytes of the values."""
        return self.values.nbytes

    def transposed(self, axes: tuple[int, ...]) -> _ArrangedWeight:
        """Return it with its axes in another order."""
        steps, shape = self.steps, tuple(self.shape[axis] for axis in axes)
        if steps and steps[-1][0] == "transpose":
            before, steps = steps[-1][1], steps[:-1]
            axes = tuple(before[axis] for axis in axes)
        if axes != tuple(range(len(axes))):
            steps = (*steps, ("transpose", axes))
        return replace(self, shape=shape, steps=steps)

    def reshaped(self, shape: tuple[int, ...]) -> _ArrangedWeight:
        """Return it with another shape of as many entries."""
        steps = self.steps[:-1] if self.steps and self.steps[-1][0] == "reshape" else self.steps
        before = replace(self, steps=steps)
        is_new = shape != (np.asarray(before).shape if steps else self.values.shape)
        return replace(self, shape=shape, steps=(*steps, ("reshape", shape)) if is_new else steps)


def bind_weights(model: schema.ModelT, weights: Mapping[str, np.ndarray]) -> None:
    """Turn inputs of all signatures into constants.

    Args:
        model: The file, which is changed. Its buffers then hold a `_ArrangedWeight` for each weight.
        weights: The values, float32, by the names of the inputs.
    """
    buffers: dict[_ArrangedWeight, int] = {}  # a weight lies once in a file, whatever the number of signatures
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        names = {entry.name.decode(): entry.tensorIndex for entry in signature.inputs}
        bound = {
            index: _ArrangedWeight(name, weights[name].shape, weights[name])
            for name, index in names.items()
            if name in weights
        }
        signature.inputs = [entry for entry in signature.inputs if entry.tensorIndex not in bound]
        graph.inputs = np.array([index for index in graph.inputs if index not in bound], np.int32)
        _Graph(model, graph, bound).bind(buffers)
        _fuse_biases(model, graph)
    drop_hash(model)
    put_in_order(model)


class _Graph:
    """One graph of a file, and its tensors that are weights."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT, bound: dict[int, _ArrangedWeight]) -> None:
        self._model, self._graph, self._bound = model, graph, bound

    def bind(self, buffers: dict[_ArrangedWeight, int]) -> None:
        self._graph.operators = [operator for operator in self._graph.operators if not self._arranges(operator)]
        for operator in self._graph.operators:
            if operator_name(self._model, operator) == "BATCH_MATMUL":
                self._connect(operator)
        inputs = {index for operator in self._graph.operators for index in inputs_of(operator)}
        for index in sorted(inputs & {*self._bound}):
            weight = self._bound[index]
            if weight not in buffers:
                self._model.buffers.append(schema.BufferT(data=weight))
                buffers[weight] = len(self._model.buffers) - 1
            self._graph.tensors[index].buffer = buffers[weight]

    def _arranges(self, operator: schema.OperatorT) -> bool:
        """Return True if an operator only arranges a weight, which its output then is as well."""
        inputs = inputs_of(operator)
        weight, kind = self._bound.get(inputs[0]) if inputs else None, operator_name(self._model, operator)
        if weight is None or kind not in ("RESHAPE", "TRANSPOSE"):
            return False
        output = int(operator.outputs[0])
        if kind == "RESHAPE":
            self._bound[output] = weight.reshaped(self._shape(output))
        else:
            axes = np.asarray(self._model.buffers[self._graph.tensors[inputs[1]].buffer].data).view("<i4")
            self._bound[output] = weight.transposed(tuple(axes.tolist()))
        return True

    def _connect(self, operator: schema.OperatorT) -> None:
        """Turn the product of a matrix and a weight into FULLY_CONNECTED, which takes the weight transposed."""
        values, factor = inputs_of(operator)
        weight, options = self._bound.get(factor), operator.builtinOptions
        if weight is None or options.adjX or math.prod(weight.shape[:-2]) != 1:
            return
        weight = weight.reshaped(weight.shape[-2:])
        weight = weight if options.adjY else weight.transposed((1, 0))
        if self._shape(int(operator.outputs[0])) != (*self._shape(values)[:-1], weight.shape[0]):
            return
        tensor, shape = self._graph.tensors[factor], np.array(weight.shape, np.int32)
        index = add_tensor(self._graph, tensor, shape=shape, shapeSignature=None)
        self._bound[index] = weight
        operator.inputs = np.array([values, index, _MISSING], np.int32)
        operator.opcodeIndex = operator_code(self._model, schema.BuiltinOperator.FULLY_CONNECTED)
        code = self._model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, _KEEPS_DIMENSIONS)
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT(keepNumDims=True)

    def _shape(self, index: int) -> tuple[int, ...]:
        return tuple(map(int, self._graph.tensors[index].shape))


# The tokenizer of a KerasHub model in a form that a device reads, and the ids that begin and end its texts.

_log = logging.getLogger(__name__)

_PROBES = ("The quick brown fox, 12 times!", "Grüße aus Zürich: 3.5 €", "a\n\nb \n\n  c\t\td  ", "it's 12345", "")

# How the conversations are written that models were trained on, by the token that ends a turn.
_MARK = re.compile(r"<[^<>]+>")
_TURNS = {
    "<end_of_turn>": {  # Gemma, which writes instructions of the system into the first turn of the user
        "user": ("<start_of_turn>user\n", "<end_of_turn>\n"),
        "model": ("<start_of_turn>model\n", "<end_of_turn>\n"),
    },
    "<|eot_id|>": {  # Llama 3
        "system": ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        "user": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        "model": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    },
    "<|im_end|>": {  # Qwen, SmolLM
        "system": ("<|im_start|>system\n", "<|im_end|>\n"),
        "user": ("<|im_start|>user\n", "<|im_end|>\n"),
        "model": ("<|im_start|>assistant\n", "<|im_end|>\n"),
    },
}


def text_content(model: Any) -> tuple[TextForm, bytes]:
    """Return what a file says about its text, and its tokenizer's content.

    A tokenizer whose ids differ from those of KerasHub on a few texts is left out, and so is one of an unknown kind.
    """
    preprocessor = getattr(model, "preprocessor", None)
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if tokenizer is None:
        return TextForm("", [], []), b""
    start = [_id(tokenizer, "start_token_id")] if getattr(preprocessor, "add_start_token", False) else []
    ends = [_id(tokenizer, "end_token_id"), _id(tokenizer, "end_token2_id")]
    turn_ends = {token: number for token in _TURNS if (number := _known(tokenizer, token)) is not None}
    ends += turn_ends.values()
    begin, stop = ([*dict.fromkeys(number for number in ids if number is not None)] for ids in (start, ends))
    turns = next((_TURNS[token] for token in turn_ends if _keeps_whole(tokenizer, _TURNS[token])), {})
    form = TextForm("", begin, stop, {role: [*texts] for role, texts in turns.items()})
    kind, content = _content(tokenizer)
    with_tokenizer = replace(form, tokenizer=kind)
    if kind and not _equal(Tokenizer(with_tokenizer, content), tokenizer, form):
        _log.warning("the tokenizer of %r is left out: a device would give other ids than KerasHub does", model.name)
        return form, b""
    return with_tokenizer, content


def encoder_content(tokenizer: Any) -> tuple[TextForm, bytes]:
    """Return what a file says about the texts of an encoder, and the content of its tokenizer of word pieces.

    Raises:
        ValueError: If it is another tokenizer, or a device would give other ids than KerasHub does.
    """
    ends = [_id(tokenizer, name) for name in ("cls_token_id", "sep_token_id")]
    if not isinstance(getattr(tokenizer, "vocabulary", None), list) or None in ends or not tokenizer.split:
        raise ValueError(
            f"Expected a tokenizer of word pieces, such as BertTokenizer. Received: {type(tokenizer).__name__}. "
            f"Export the encoder with to_tflite, and give it token ids."
        )
    form, content = TextForm(JSON, ends[:1], ends[1:]), _word_pieces(tokenizer)
    if not _equal(Tokenizer(form, content), tokenizer, form):
        raise ValueError(
            "Expected a tokenizer whose ids are the same on a device. Received: one that gives others there, for "
            "example for texts with accents. Export the encoder with to_tflite, and give it token ids."
        )
    return form, content


def keras_ids(model: Any, text: str) -> list[int]:
    """Return the ids of a text as KerasHub gives them, those that begin it included."""
    preprocessor = model.preprocessor
    ids = [*np.asarray(preprocessor.tokenizer(text)).tolist()]
    return [preprocessor.tokenizer.start_token_id, *ids] if getattr(preprocessor, "add_start_token", False) else ids


def _id(tokenizer: Any, name: str) -> int | None:
    number = getattr(tokenizer, name, None)
    return None if number is None else int(number)


def _known(tokenizer: Any, token: str) -> int | None:
    """Return the id of a token; None if the vocabulary lacks it."""
    try:
        number = int(tokenizer.token_to_id(token))
        return number if tokenizer.id_to_token(number) == token else None
    except (KeyError, TypeError, ValueError):
        return None


def _keeps_whole(tokenizer: Any, turns: Mapping[str, Sequence[str]]) -> bool:
    """Return True if each mark of turns is one token: a tokenizer may know it, and spell it out all the same."""
    marks = {mark for texts in turns.values() for text in texts for mark in _MARK.findall(text)}
    return all(_known(tokenizer, mark) in np.asarray(tokenizer(mark)).tolist() for mark in marks)


def _content(tokenizer: Any) -> tuple[str, bytes]:
    proto = getattr(tokenizer, "proto", None)
    if isinstance(proto, bytes) and proto:
        return SENTENCEPIECE, proto
    if getattr(tokenizer, "merges", None) and isinstance(getattr(tokenizer, "vocabulary", None), dict):
        return JSON, _byte_pairs(tokenizer)
    return "", b""


def _byte_pairs(tokenizer: Any) -> bytes:
    """Return a tokenizer of byte pairs as the package tokenizers reads it."""
    vocabulary = {token: int(number) for token, number in tokenizer.vocabulary.items()}
    whole = [token for token in getattr(tokenizer, "unsplittable_tokens", None) or () if token in vocabulary]
    added = [
        {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for token in whole
    ]  # fmt: skip
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    # KerasHub 0.32 merges pairs across words, spaces and digits, except for the tokenizers that say how to split.
    pattern = getattr(tokenizer, "split_pattern", None)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_only] if pattern else [bytes_only]},
        "post_processor": None,
        "decoder": bytes_only,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [str(pair).split(" ") for pair in tokenizer.merges],
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _word_pieces(tokenizer: Any) -> bytes:
    """Return a tokenizer of word pieces as the package tokenizers reads it."""
    prefix = tokenizer.suffix_indicator
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": tokenizer.split_on_cjk,
        "strip_accents": tokenizer.strip_accents,
        "lowercase": tokenizer.lowercase,
    }
    # KerasHub folds the case, which the other does to all letters but these.
    folded = [
        {"type": "Replace", "pattern": {"String": letter}, "content": "ss"}
        for letter in ("ß", "ẞ")
        if tokenizer.lowercase
    ]
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [*folded, normalizer]},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": prefix, "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": tokenizer.oov_token,
            "continuing_subword_prefix": prefix,
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(tokenizer.vocabulary)},
        },
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _equal(tokenizer: Tokenizer, keras_tokenizer: Any, form: TextForm) -> bool:
    """Return True if a device would give the ids that KerasHub gives, on texts that the vocabulary can write."""
    texts = [*_PROBES]
    for text in texts:
        try:
            expected = [*form.start, *np.asarray(keras_tokenizer(text)).tolist()]
        except (KeyError, ValueError) as error:
            _log.info("%r is not compared: %s", text, reason_of(error))
            continue
        if tokenizer.encode(text) != expected:
            _log.info("the ids of %r differ: %s and %s", text, tokenizer.encode(text), expected)
            return False
    return True


# A language model's file in the form of LiteRT-LM, the runtime of Android, iOS and desktops: `.litertlm`.
#
# Source: https://github.com/google-ai-edge/LiteRT-LM, whose package litert-lm-builder writes the form.

SUFFIX = ".litertlm"


def require_builder() -> Any:
    """Return the package that writes the form.

    Raises:
        ValueError: If it is not installed (also an ImportError).
    """
    try:
        import litert_lm_builder
    except ImportError as error:
        raise MissingPackage(
            f"Expected the package litert-lm-builder, which writes {SUFFIX} files. Received: it is not installed. "
            f"Run {install('litertlm')}, or write a .tflite file."
        ) from error
    return litert_lm_builder


def litertlm_content(content: bytes, form: TextForm, *, tokenizer: bytes, length: int) -> bytes:
    """Return a file of LiteRT-LM.

    Args:
        content: A plain .tflite file with the signatures of a language model.
        form: What is known about its text.
        tokenizer: The tokenizer's content.
        length: How many tokens a prompt and its continuation may have together.

    Raises:
        ValueError: If litert-lm-builder is not installed (also an ImportError).
    """
    package = require_builder()
    with TemporaryFolder() as name:
        folder = Path(name)
        builder = package.LitertLmFileBuilder()
        text = package.Metadata(key="Authors", value="tfprune", dtype=package.DType.STRING)
        builder.add_system_metadata(text)
        builder.add_llm_metadata(_written(folder / "metadata.pb", _metadata(form, length)))
        if form.tokenizer == SENTENCEPIECE:
            builder.add_sentencepiece_tokenizer(_written(folder / "tokenizer.spm", tokenizer))
        else:
            builder.add_hf_tokenizer(_written(folder / "tokenizer.json", tokenizer))
        model = _written(folder / "model.tflite", content)
        builder.add_tflite_model(model, package.TfLiteModelType.PREFILL_DECODE)
        with (folder / f"model{SUFFIX}").open("wb") as stream:
            builder.build(stream, validate_metadata=True)
        return _without_chance((folder / f"model{SUFFIX}").read_bytes())


# What the package puts into each file anew, whatever its caller asks for: a random id and the time.
_IDENTIFIER = re.compile(rb"(?<=\x24\0\0\0)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=\0)")
_TIME = re.compile(rb"(?<=\x20\0\0\0)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00(?=\0)")
_FIRST_TIME = b"1980-01-01T00:00:00.000000+00:00"
_HEADER_END = slice(24, 32)  # where a file says how long the header is, which both are in


def _without_chance(content: bytes) -> bytes:
    """Return a file whose id follows from its content and whose time is fixed, so that equal models are equal files.

    Raises:
        ValueError: If id and time are not where the package writes them.
    """
    header = content[: int.from_bytes(content[_HEADER_END], "little")]
    identifiers, times = [*_IDENTIFIER.finditer(header)], [*_TIME.finditer(header)]
    if len(identifiers) != 1 or len(times) != 1:
        raise ValueError(
            f"Expected one id and one time in the header of a {SUFFIX} file. Received: {len(identifiers)} and "
            f"{len(times)}. Install litert-lm-builder 0.18.1."
        )
    fixed = bytearray(content)
    fixed[slice(*times[0].span())] = _FIRST_TIME
    place = slice(*identifiers[0].span())
    fixed[place] = bytes(len(identifiers[0][0]))
    fixed[place] = str(uuid.UUID(bytes=hashlib.sha256(fixed).digest()[:16], version=4)).encode()
    return bytes(fixed)


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def _metadata(form: TextForm, length: int) -> bytes:
    """Return the runtime's settings of a model: its ids, its turns, and greedy sampling."""
    from litert_lm_builder.runtime.proto import llm_metadata_pb2, sampler_params_pb2

    settings = llm_metadata_pb2.LlmMetadata(max_num_tokens=length)
    settings.supports_thinking = settings.supports_function_calling = False
    settings.llm_model_type.generic_model.SetInParent()
    settings.sampler_params.type = sampler_params_pb2.SamplerParameters.TOP_P
    settings.sampler_params.k, settings.sampler_params.p, settings.sampler_params.temperature = 1, 1.0, 1.0
    if form.start:
        settings.start_token.token_ids.ids.extend(form.start)
    for number in form.stop:
        settings.stop_tokens.add().token_ids.ids.append(number)
    for role, (prefix, suffix) in form.turns.items():
        affixes = getattr(settings.prompt_templates, role)
        affixes.prefix, affixes.suffix = prefix, suffix
    return settings.SerializeToString()
