"""Trim the vocabulary of a language model: tokenizer, token embedding and scores, exact on the remaining tokens."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import ArgumentError, check_choice
from tfprune.compact.smaller import NoClass, build_with_arguments, check_class, dicts_in
from tfprune.models.anatomy import as_numpy, paired, rename, train_alike, walk, weight_bytes
from tfprune.models.tracing import as_arrays, numbers_for, run_on_numbers, usable_length
from tfprune.models.twin import class_config
from tfprune.report import Report, table

# A tokenizer's vocabulary as data: its tokens, which of them always remain, and how it is written with fewer.

# Places that makers of tokenizers reserve: <unused12>, [unused3], <|reserved_special_token_7|>.
_RESERVED = re.compile(r"[<\[]\|?(unused|reserved_special_token)[_-]?\d+\|?[>\]]")


@dataclass(frozen=True)
class _TokenVocabulary:
    """The tokens of a tokenizer.

    Attributes:
        tokens: The token of each id, in order.
        fixed: The ids that always remain: special tokens, bytes, and what the tokenizer cannot do without.
        characters: The ids of single characters.
        unknown: The id for what cannot be written; -1 for none.
        spells_bytes: Whether a character without a token is written with tokens of bytes.
        parts: Called with a token; returns the tokens that the tokenizer merges on the way to it.
        arguments: Called with the ids that remain, in order; returns the arguments of the smaller tokenizer.
    """

    tokens: Sequence[str]
    fixed: frozenset[int]
    characters: frozenset[int]
    unknown: int
    spells_bytes: bool
    parts: Callable[[str], Iterable[str]]
    arguments: Callable[[Sequence[int]], dict[str, Any]]

    def with_parts(self, ids: Iterable[int]) -> set[int]:
        """Return ids with those of all tokens that they are merged of."""
        numbers = {token: number for number, token in enumerate(self.tokens)}
        closure = {*ids}
        for number in [*closure]:
            closure.update(numbers[part] for part in self.parts(self.tokens[number]) if part in numbers)
        return closure


def _merged_parts(
    symbols: Sequence[str], rank: Callable[[str, str], float | None]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Merge the neighbors of the lowest rank, the first of equals, until none has a rank.

    Inside of a token, a tokenizer merges as it does on the token alone: no merge crosses the ends of a token.

    Args:
        symbols: What a token consists of at first.
        rank: Called with two neighbors; None if they are not merged.

    Returns:
        The symbols at the end, and the pairs that were merged.

    Example:
        >>> ranks = {("t", "h"): 0, ("th", "e"): 1}
        >>> _merged_parts("the", lambda *pair: ranks.get(pair))
        (['the'], [('t', 'h'), ('th', 'e')])
    """
    pieces, merges = [*symbols], []
    while len(pieces) > 1:
        ranks = [(order, place) for place, pair in enumerate(zip(pieces, pieces[1:], strict=False))
                 if (order := rank(*pair)) is not None]  # fmt: skip
        if not ranks:
            break
        _, place = min(ranks)
        merges.append((pieces[place], pieces[place + 1]))
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces, merges


# SentencePiece's file: read its pieces, and write it with some of them, all others byte for byte as they were.
#
# The file is a protobuf message. Of its fields, 1 is a piece (1 its text, 2 its score, 3 its type), 2 the settings
# of the training, and 4 sentences by which it tests itself.

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # types of pieces
_UNIGRAM, _BYTE_PAIRS = 1, 2  # kinds of models
_PIECE, _TRAINER, _SELF_TEST = 1, 2, 4  # fields of the file
_MODEL_TYPE, _VOCABULARY_SIZE, _BYTE_FALLBACK = 3, 4, 35  # fields of the settings
_SPECIAL_IDS = range(40, 44)  # the ids of <unk>, <s>, </s> and <pad> in the settings
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # how values are written
_SCORE = struct.Struct("<f")


@dataclass(frozen=True)
class _Piece:
    """A piece of a model.

    Attributes:
        text: Its text.
        score: Its score.
        kind: Its type.
        content: Its field in the file, with its key.
    """

    text: str
    score: float
    kind: int
    content: bytes


class _SentencePieceModel:
    """The content of SentencePiece's file.

    Args:
        content: The file.

    Attributes:
        pieces: Its pieces.
        model_type: 1 for unigram, 2 for byte pairs.
        has_byte_fallback: Whether it writes unknown characters as bytes.

    Raises:
        ValueError: If the content is damaged.
    """

    def __init__(self, content: bytes) -> None:
        self._fields = list(_fields(content))
        self.pieces = [_piece(value, entry) for number, value, entry in self._fields if number == _PIECE]
        trainer = next((value for number, value, _ in self._fields if number == _TRAINER), b"")
        self._trainer = list(_fields(trainer))
        settings = {number: value for number, value, _ in self._trainer}
        self.model_type = settings.get(_MODEL_TYPE, _UNIGRAM)
        self.has_byte_fallback = bool(settings.get(_BYTE_FALLBACK, 0))

    def with_pieces(self, ids: Sequence[int]) -> bytes:
        """Return the file with the pieces of some ids, in order."""
        places = {number: place for place, number in enumerate(ids)}
        fields, is_first = [], True
        for number, _, entry in self._fields:
            if number == _PIECE and is_first:
                fields += [self.pieces[index].content for index in ids]
                is_first = False
            elif number == _TRAINER:
                settings = b"".join(self._setting(*setting, places=places) for setting in self._trainer)
                fields.append(_varint(_TRAINER << 3 | _LENGTH) + _varint(len(settings)) + settings)
            elif number not in (_PIECE, _SELF_TEST):  # sentences of the whole vocabulary
                fields.append(entry)
        return b"".join(fields)

    @staticmethod
    def _setting(number: int, value: Any, entry: bytes, *, places: Mapping[int, int]) -> bytes:
        if number == _VOCABULARY_SIZE:
            return _varint(number << 3 | _VARINT) + _varint(len(places))
        if number in _SPECIAL_IDS and value in places:
            return _varint(number << 3 | _VARINT) + _varint(places[value])
        return entry


def _sentencepiece_vocabulary(content: bytes, special: Sequence[str]) -> _TokenVocabulary:
    """Read a tokenizer of SentencePiece.

    Args:
        content: Its file.
        special: Its special tokens, as KerasHub names them.

    Raises:
        ValueError: If the content is damaged.
    """
    model = _SentencePieceModel(content)
    fixed = {index for index, piece in enumerate(model.pieces) if _is_fixed(piece, special)}
    normal = [index for index, piece in enumerate(model.pieces) if piece.kind == _NORMAL]
    if normal:  # the least score decides what an unknown character costs, the largest what a user's symbol gains
        by_score = sorted(normal, key=lambda index: model.pieces[index].score)
        fixed |= {by_score[0], by_score[-1]}
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind in (_NORMAL, _USER_DEFINED, _UNUSED)}

    def parts(token: str) -> list[str]:
        _, merges = _merged_parts(token, lambda *pair: _negative(scores.get("".join(pair))))
        return ["".join(pair) for pair in merges]

    return _TokenVocabulary(
        [piece.text for piece in model.pieces],
        frozenset(fixed),
        frozenset(index for index in normal if len(model.pieces[index].text) == 1),
        next((index for index, piece in enumerate(model.pieces) if piece.kind == _UNKNOWN), -1),
        model.has_byte_fallback,
        parts if model.model_type == _BYTE_PAIRS else lambda token: (),
        lambda ids: {"proto": model.with_pieces(ids)},
    )


def _is_fixed(piece: _Piece, special: Sequence[str]) -> bool:
    if piece.text in special or piece.kind in (_UNKNOWN, _BYTE):
        return True
    return piece.kind in (_CONTROL, _USER_DEFINED) and not _RESERVED.fullmatch(piece.text)


def _negative(score: float | None) -> float | None:
    return None if score is None else -score


def _piece(content: bytes, entry: bytes) -> _Piece:
    fields = {number: value for number, value, _ in _fields(content)}
    score = _SCORE.unpack(fields.get(2, b"\0\0\0\0"))[0]
    return _Piece(fields.get(1, b"").decode(), score, fields.get(3, _NORMAL), entry)


def _fields(message: bytes) -> Iterator[tuple[int, Any, bytes]]:
    """Yield the fields of a protobuf message: number, value, and its bytes with the key.

    Raises:
        ValueError: If the message is damaged.
    """
    place = 0
    while place < len(message):
        begin = place
        key, place = _read_varint(message, place)
        number, form = key >> 3, key & 7
        value: Any
        if form == _VARINT:
            value, place = _read_varint(message, place)
        elif form in (_EIGHT_BYTES, _LENGTH, _FOUR_BYTES):
            size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(form)
            if size is None:
                size, place = _read_varint(message, place)
            value, place = message[place : place + size], place + size
        if form not in (_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES) or place > len(message):
            raise ValueError("Expected a file of SentencePiece. Received: damaged content. Load the model again.")
        yield number, value, message[begin:place]


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("Expected a file of SentencePiece. Received: damaged content. Load the model again.")


def _varint(value: int) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


# Read the vocabulary of a tokenizer of KerasHub: of SentencePiece, of byte-level pairs, or of word pieces.


def _read_vocabulary(tokenizer: Any) -> _TokenVocabulary:
    """Return the vocabulary of a tokenizer.

    Raises:
        ValueError: If it is of another kind, or its ids are not those of the vocabulary that it holds.
    """
    proto = getattr(tokenizer, "proto", None)
    content = getattr(tokenizer, "vocabulary", None)
    special = [*getattr(tokenizer, "special_tokens", ()), *(getattr(tokenizer, "unsplittable_tokens", None) or ())]
    if isinstance(proto, bytes) and proto:
        vocabulary = _sentencepiece_vocabulary(proto, special)
    elif isinstance(content, dict) and getattr(tokenizer, "merges", None) is not None:
        vocabulary = _byte_pairs(tokenizer, special)
    elif isinstance(content, list) and hasattr(tokenizer, "suffix_indicator"):
        vocabulary = _word_pieces(tokenizer, special)
    else:
        raise _refusal(tokenizer, "whose vocabulary is of an unknown kind")
    if not isinstance(content, dict) and [*tokenizer.get_vocabulary()] != [*vocabulary.tokens]:
        raise _refusal(tokenizer, "whose ids are not those of the vocabulary that it holds")
    if getattr(tokenizer, "sequence_length", None):
        raise _refusal(tokenizer, f"which cuts texts to sequence_length={tokenizer.sequence_length}")
    return replace(vocabulary, fixed=vocabulary.fixed | {0})  # by which some classes of KerasHub pad, whatever it is


def _refusal(tokenizer: Any, reason: str) -> ValueError:
    return ValueError(
        f"Expected a tokenizer of SentencePiece, of byte-level pairs or of word pieces, as of Gemma, GPT-2 and "
        f"BERT, which can be written with fewer tokens. Received: {type(tokenizer).__name__}, {reason}. Keep "
        f"the vocabulary of this model."
    )


def _byte_pairs(tokenizer: Any, special: Sequence[str]) -> _TokenVocabulary:
    """Read a vocabulary with merges; a merge remains if its parts and its product do."""
    ids: Mapping[str, int] = tokenizer.vocabulary
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != [*range(len(tokens))]:
        raise _refusal(tokenizer, "whose ids are not 0, 1, 2 and so on")
    merges = [tuple(merge.split(" ")) for merge in tokenizer.merges if "#version:" not in merge]
    ranks = {pair: rank for rank, pair in reversed([*enumerate(merges)])}
    fixed = [token for token in tokens if len(token) == 1 or (token in special and not _RESERVED.fullmatch(token))]
    fixed += [token for token in getattr(tokenizer, "special_tokens", ()) if token in ids]

    def parts(token: str) -> list[str]:
        _, merged = _merged_parts(token, lambda *pair: ranks.get(pair))
        return [left + right for left, right in merged]

    def arguments(remaining: Sequence[int]) -> dict[str, Any]:
        numbers = {tokens[number]: place for place, number in enumerate(remaining)}
        pairs = [pair for pair in merges if pair[0] in numbers and pair[1] in numbers and "".join(pair) in numbers]
        whole = [token for token in getattr(tokenizer, "unsplittable_tokens", None) or () if token in numbers]
        return {
            "vocabulary": numbers,
            "merges": [" ".join(pair) for pair in pairs],
            **({"unsplittable_tokens": whole} if "unsplittable_tokens" in tokenizer.get_config() else {}),
        }

    fixed_ids = frozenset(ids[token] for token in fixed)
    return _TokenVocabulary(tokens, fixed_ids, frozenset(), -1, True, parts, arguments)


def _word_pieces(tokenizer: Any, special: Sequence[str]) -> _TokenVocabulary:
    """Read a list of word pieces, of which a word takes the longest that fit, one after the other."""
    tokens, suffix = tokenizer.vocabulary, tokenizer.suffix_indicator
    fixed = {*special, tokenizer.oov_token}
    single = [index for index, token in enumerate(tokens) if len(token.removeprefix(suffix)) == 1]
    return _TokenVocabulary(
        tokens,
        frozenset(index for index, token in enumerate(tokens) if token in fixed),
        frozenset(single),
        tokens.index(tokenizer.oov_token),
        False,
        lambda token: (),
        lambda ids: {"vocabulary": [tokens[number] for number in ids]},
    )


# Build a model of KerasHub with fewer rows in its tables of tokens, and compare it with the whole one.

_ARGUMENT = "vocabulary_size"  # by which the classes of KerasHub count their tokens


def _token_rows(model: keras.Model) -> int:
    """Return how many tokens a model has rows for.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not a model whose tables of tokens can be made smaller.
    """
    counts = set(_counts(class_config(model))) if check_class(model).is_functional_subclass else set()
    if len(counts) != 1:
        numbers = f"the numbers {sorted(counts)}" if counts else "none"
        raise ValueError(
            f"Expected a backbone or task of KerasHub with one {_ARGUMENT}, such as Gemma3CausalLM or BertBackbone. "
            f"Received: {model.name!r} of class {type(model).__name__} with {numbers}."
        )
    return counts.pop()


def _with_rows(model: keras.Model, rows: np.ndarray, *, count: int) -> keras.Model:
    """Build a model of the same class with some rows of its tables of tokens.

    Args:
        model: A backbone or task of KerasHub.
        rows: The ids of the tokens that remain, in order.
        count: How many tokens it has rows for.

    Raises:
        ValueError: If its class makes other layers with fewer tokens.
    """
    config = deepcopy(class_config(model))
    for arguments in dicts_in(config):
        if arguments.get(_ARGUMENT) == count:
            arguments[_ARGUMENT] = len(rows)
    try:
        smaller = build_with_arguments(model, config)
        values = [
            _rows_of(as_numpy(variable), tuple(other.shape), rows, count)
            for variable, other in zip(model.variables, smaller.variables, strict=True)
        ]
    except (NoClass, ValueError) as error:
        raise ValueError(
            f"Expected a class that can be built with fewer tokens. Received: {model.name!r} of class "
            f"{type(model).__name__}: {error}. Trim the vocabulary first, and remove channels or blocks afterwards."
        ) from None
    rename(smaller, [layer.name for _, layer in walk(model)])
    train_alike(paired(model, smaller))
    for variable, value in zip(smaller.variables, values, strict=True):
        variable.assign(value)
    return smaller


def _compare(model: Any, smaller: Any, *, rows: np.ndarray, ids: Sequence[int]) -> float:
    """Return the largest difference of two models' outputs on some tokens, of the scores those of the rows.

    Args:
        model: The whole model.
        smaller: The one with some rows.
        rows: The ids of its tokens in the whole model.
        ids: Tokens of the smaller model.
    """
    inputs = numbers_for(model.input, length=len(ids))
    outputs = []
    for network, tokens in ((smaller, np.asarray(ids)), (model, rows[np.asarray(ids)])):
        inputs = {
            name: keras.ops.cast(np.broadcast_to(tokens, value.shape), value.dtype) if "token_ids" in name else value
            for name, value in inputs.items()
        }
        outputs.append(as_arrays(network(inputs, training=False)))
    apart = 0.0
    for array, expected in zip(*outputs, strict=True):
        whole = expected[..., rows] if array.shape != expected.shape else expected
        apart = max(apart, float(np.abs(array - whole).max(initial=0)))
    return apart


def _counts(config: Any) -> list[int]:
    return [part[_ARGUMENT] for part in dicts_in(config) if type(part.get(_ARGUMENT)) is int]


def _rows_of(values: np.ndarray, shape: tuple[int, ...], rows: np.ndarray, count: int) -> np.ndarray:
    """Return the entries of a variable for some tokens, along the axis in which its shape differs."""
    if values.shape == shape:
        return values
    differing = [axis for axis, pair in enumerate(zip(values.shape, shape, strict=True)) if pair[0] != pair[1]]
    if len(differing) != 1 or (values.shape[differing[0]], shape[differing[0]]) != (count, len(rows)):
        raise ValueError(f"a weight of shape {values.shape} would have the shape {shape}")
    return values.take(rows, axis=differing[0])


# Report of `trim_vocabulary`: the tokens that remain, the bytes, and what texts cost in tokens.


@dataclass(frozen=True)
class TextsRow(Report):
    """How texts are written in tokens, before and after.

    Attributes:
        texts: Which texts: "kept for", those that the vocabulary was trimmed to, or "checked on".
        characters: Their characters.
        tokens: Their tokens, before and after.
        unknown: The tokens among them that stand for unknown characters or words, before and after.
    """

    texts: str
    characters: int
    tokens: tuple[int, int]
    unknown: tuple[int, int]

    @property
    def rates(self) -> tuple[float, float]:
        """Tokens for each character, before and after."""
        before, after = (count / max(self.characters, 1) for count in self.tokens)
        return before, after


@dataclass(frozen=True)
class VocabularyReport(Report):
    """A trimmed vocabulary.

    Attributes:
        tokens: The number of tokens that the model has rows for, before and after.
        parameters: The parameters of the model, before and after.
        bytes: The bytes of its weights, before and after.
        difference: The largest difference of an output, of the scores those of the remaining tokens; 0 means that
            they are equal bit for bit.
        rows: What the texts cost.
        kept: The ids that the remaining tokens had before, in their new order.
        tokenizer: The tokenizer with these tokens.

    Example:
        >>> row = TextsRow("kept for", characters=40, tokens=(10, 10), unknown=(0, 0))
        >>> report = VocabularyReport((50, 20), (800, 320), (3200, 1280), 0.0, (row,))
        >>> report.rows[0].rates
        (0.25, 0.25)
    """

    JSON_NAMES = ("tokens", "parameters", "bytes", "difference", "rows")

    tokens: tuple[int, int]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    difference: float
    rows: tuple[TextsRow, ...]
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False, compare=False)
    tokenizer: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        sizes = [
            [name, *(f"{value:,}" for value in pair)]
            for name, pair in (("tokens", self.tokens), ("parameters", self.parameters), ("bytes", self.bytes))
        ]
        lines = [
            [
                row.texts,
                f"{row.characters:,}",
                *(f"{rate:.3f}" for rate in row.rates),
                " to ".join(f"{count:,}" for count in row.unknown),
            ]
            for row in self.rows
        ]
        header = ["texts", "characters", "tokens per character", "after", "unknown"]
        outputs = "equal bit for bit" if self.difference == 0 else f"apart by up to {self.difference:.1e}"
        return "\n\n".join(
            [
                table(["vocabulary", "before", "after"], sizes),
                table(header, lines),
                f"The outputs for the remaining tokens are {outputs}.",
            ]
        )


# Trim the vocabulary of a language model to the tokens of some texts.

_COMPARED = 32  # tokens, on which both models are run
_ROUNDING = 1e-4  # of outputs that are the same sums in another order


def trim_vocabulary(
    model: keras.Model,
    texts: Sequence[str] | Sequence[Sequence[int]],
    *,
    tokenizer: Any = None,
    keep: Iterable[str | int] = (),
    characters: str = "all",
    check_on: Iterable[str] = (),
) -> tuple[keras.Model, VocabularyReport]:
    """Remove the tokens that some texts do not need from a language model: from tokenizer, embedding and scores.

    Use it where the vocabulary is much of a model and the model reads and writes texts of one kind or language. The
    texts are split into the same tokens afterwards, and the scores of the remaining tokens do not change. Other texts
    can still be read and written, in more tokens: `check_on` shows how many. Special tokens and tokens of bytes
    remain; places that are reserved for special tokens, such as `<unused12>`, do not.

    Args:
        model: A backbone or task of KerasHub, such as a CausalLM or BertBackbone, without masks. It is left
            unchanged.
        texts: Texts of all kinds that the model will read and write, or lists of token ids.
        tokenizer: The tokenizer of a model without a preprocessor. None (the default) takes that of its preprocessor.
        keep: Tokens to keep besides, or their ids.
        characters: Which single characters remain: `"all"` (the default), or `"seen"`, those of the texts. Others are
            then written as bytes, which a tokenizer needs tokens for.
        check_on: Other texts, for which the report shows the tokens per character before and after.

    Returns:
        A model of the same class, uncompiled, with a preprocessor that has the smaller tokenizer if `model` has a
        preprocessor; and a report, which has the tokenizer and the former ids of the remaining tokens.

    Raises:
        TypeError: If `model` is not a Keras model, or `texts` is one text.
        ValueError: If the tokenizer cannot be written with fewer tokens, or the model has none.
        ValueError: If there are no texts, they have ids beyond the vocabulary, or `keep` names unknown tokens.
        ValueError: If the class of the model cannot be built with fewer tokens, or it is wrapped or quantized.
        ValueError: If `characters="seen"` is passed with a tokenizer that cannot write a character as bytes.

    Example:
        >>> from keras_hub.models import BertBackbone, BertTokenizer
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fox", "runs", "sleeps", "##ing"]
        >>> sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = BertBackbone(vocabulary_size=10, **sizes)
        >>> smaller, report = trim_vocabulary(model, ["a fox runs"], tokenizer=BertTokenizer(words))
        >>> report.tokens, report.tokenizer.get_vocabulary()[5:]
        ((10, 8), ['a', 'fox', 'runs'])
    """
    check_choice(characters, "characters", choices=("all", "seen"))
    count = _token_rows(model)
    whole = _tokenizer_of(model, tokenizer)
    vocabulary = _read_vocabulary(whole)
    if characters == "seen" and not vocabulary.spells_bytes:
        raise ArgumentError(
            "characters",
            f"characters='all' with {type(whole).__name__}, which has no tokens of bytes to write other "
            f"characters with",
            "'seen'",
        )
    encoded = _encoded(texts, whole, most=len(vocabulary.tokens))
    seen_ids = {int(number) for _, ids in encoded for number in np.unique(ids)}
    ids = vocabulary.fixed | seen_ids | _ids_of_tokens(keep, vocabulary)
    ids |= vocabulary.characters if characters == "all" else frozenset()
    old_ids = np.array(sorted(vocabulary.with_parts(ids)))
    small = type(whole).from_config({**whole.get_config(), **vocabulary.arguments(old_ids.tolist())})
    rows = [_counted("kept for", _same_tokens(encoded, small, old_ids), vocabulary)]
    others = [(text, _ids(whole, text), _ids(small, text)) for text in check_on]
    if others:
        rows.append(_counted("checked on", [(text, ids, old_ids[after]) for text, ids, after in others], vocabulary))
    smaller = _with_rows(model, old_ids[old_ids < count], count=count)
    if getattr(model, "preprocessor", None) is not None:
        smaller.preprocessor = _with_tokenizer(model.preprocessor, small)
    difference = _check(model, smaller, old_ids[old_ids < count], encoded)
    return smaller, VocabularyReport(
        (count, int((old_ids < count).sum())),
        (model.count_params(), smaller.count_params()),
        (weight_bytes(model), weight_bytes(smaller)),
        difference,
        tuple(rows),
        old_ids,
        small,
    )


def _tokenizer_of(model: Any, tokenizer: Any) -> Any:
    own = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
    if (own is None) == (tokenizer is None):
        tokenizers = "none" if own is None else "one in the preprocessor of the model, and another"
        raise ArgumentError(
            "tokenizer",
            f"one tokenizer: that of the preprocessor of {model.name!r}, or `tokenizer` for a model without one",
            found=str(tokenizers),
            advice="Pass tokenizer=... for a backbone only.",
        )
    return tokenizer if own is None else own


def _ids(tokenizer: Any, text: str) -> np.ndarray:
    return np.asarray(tokenizer(text)).astype(np.int64).reshape(-1)


def _encoded(texts: Any, tokenizer: Any, *, most: int) -> list[tuple[str | None, np.ndarray]]:
    """Return each text with its ids; None for a list of ids."""
    if isinstance(texts, str):
        raise TypeError(f"Expected a list of texts. Received: a text. Pass texts=[{texts!r:.60}].")
    pairs: list[tuple[str | None, np.ndarray]] = []
    for text in texts:
        ids = _ids(tokenizer, text) if isinstance(text, str) else np.asarray(text)
        if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or not 0 <= ids.min() <= ids.max() < most)):
            raise ValueError(
                f"Expected texts, or flat lists of ids from 0 to {most - 1:,}. Received in `texts`: {text!r:.80}."
            )
        pairs.append((text if isinstance(text, str) else None, ids))
    if not any(ids.size for _, ids in pairs):
        raise ArgumentError("texts", "at least one text with a token in `texts`", found="none")
    return pairs


def _ids_of_tokens(keep: Iterable[str | int], vocabulary: _TokenVocabulary) -> set[int]:
    """Return the ids of tokens that are kept besides those of the texts."""
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    ids = set()
    for token in keep:
        number = numbers.get(token, -1) if isinstance(token, str) else token
        if not 0 <= number < len(vocabulary.tokens):
            raise ArgumentError(
                "keep",
                f"tokens of the tokenizer in `keep`, or ids below {len(vocabulary.tokens):,}",
                found=repr(token),
                advice="A space before a word is a part of its token, for example '▁word' or 'Ġword'.",
            )
        ids.add(number)
    return ids


def _same_tokens(
    encoded: Sequence[tuple[str | None, np.ndarray]], small: Any, old_ids: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return each text with its ids before and after, both as the whole tokenizer numbers them.

    Raises:
        ValueError: If they are not the same.
    """
    written = [(text, ids, old_ids[_ids(small, text)]) for text, ids in encoded if text is not None]
    for text, before, after in written:
        if not np.array_equal(before, after):
            raise ValueError(
                f"Expected a tokenizer that splits the texts into the same tokens with fewer of them. Received: "
                f"{type(small).__name__}, which splits {text!r:.80} into others. Keep the vocabulary of this model."
            )
    return written


def _counted(
    name: str, written: Sequence[tuple[str, np.ndarray, np.ndarray]], vocabulary: _TokenVocabulary
) -> TextsRow:
    sides = [[row[1] for row in written], [row[2] for row in written]]
    unknown = [sum(int(np.count_nonzero(ids == vocabulary.unknown)) for ids in side) for side in sides]
    tokens = [sum(ids.size for ids in side) for side in sides]
    characters = sum(len(text) for text, *_ in written)
    return TextsRow(name, characters, (tokens[0], tokens[1]), (unknown[0], unknown[1]))


def _with_tokenizer(preprocessor: Any, tokenizer: Any) -> Any:
    return type(preprocessor).from_config({**preprocessor.get_config(), "tokenizer": tokenizer})


def _check(
    model: keras.Model, smaller: keras.Model, rows: np.ndarray, encoded: Sequence[tuple[str | None, np.ndarray]]
) -> float:
    """Return how far both models are apart on the first tokens of a text that have rows in the table.

    Raises:
        ValueError: If that is more than rounding.
    """
    new = {old: number for number, old in enumerate(rows.tolist())}
    numbers = ([new[old] for old in ids.tolist() if old in new] for _, ids in encoded)
    ids = next(filter(None, numbers), [0])[:_COMPARED]
    if run_on_numbers(model, len(ids)) is None:  # it takes shorter texts only
        ids = ids[: usable_length(model)]
    difference = _compare(model, smaller, rows=rows, ids=ids)
    if difference > _ROUNDING:
        raise ValueError(
            f"Expected a class that computes the same with fewer tokens. Received: {model.name!r} of class "
            f"{type(model).__name__}, whose outputs differ by {difference:.3g}. Keep the vocabulary of this model."
        )
    return difference
