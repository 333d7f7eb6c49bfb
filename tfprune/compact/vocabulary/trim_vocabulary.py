"""Trim the vocabulary of a language model to the tokens of some texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import check_choice
from tfprune.compact.vocabulary.read_vocabulary import read_vocabulary
from tfprune.compact.vocabulary.smaller_tables import compare, token_rows, with_rows
from tfprune.compact.vocabulary.token_vocabulary import TokenVocabulary
from tfprune.compact.vocabulary.vocabulary_report import TextsRow, VocabularyReport
from tfprune.keras_models.models.layers import weight_bytes
from tfprune.keras_models.tracing.sample_inputs import run_on_numbers, usable_length

COMPARED = 32  # tokens, on which both models are run
ROUNDING = 1e-4  # of outputs that are the same sums in another order


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
    count = token_rows(model)
    whole = _tokenizer_of(model, tokenizer)
    vocabulary = read_vocabulary(whole)
    if characters == "seen" and not vocabulary.spells_bytes:
        raise ValueError(
            f"Expected characters='all' with {type(whole).__name__}, which has no tokens of bytes to write other "
            f"characters with. Received: characters='seen'."
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
    smaller = with_rows(model, old_ids[old_ids < count], count=count)
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
        raise ValueError(
            f"Expected one tokenizer: that of the preprocessor of {model.name!r}, or `tokenizer` for a model without "
            f"one. Received: {tokenizers}. Pass tokenizer=... for a backbone only."
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
        raise ValueError("Expected at least one text with a token in `texts`. Received: none.")
    return pairs


def _ids_of_tokens(keep: Iterable[str | int], vocabulary: TokenVocabulary) -> set[int]:
    """Return the ids of tokens that are kept besides those of the texts."""
    numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
    ids = set()
    for token in keep:
        number = numbers.get(token, -1) if isinstance(token, str) else token
        if not 0 <= number < len(vocabulary.tokens):
            raise ValueError(
                f"Expected tokens of the tokenizer in `keep`, or ids below {len(vocabulary.tokens):,}. Received: "
                f"{token!r}. A space before a word is a part of its token, for example '▁word' or 'Ġword'."
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
    name: str, written: Sequence[tuple[str, np.ndarray, np.ndarray]], vocabulary: TokenVocabulary
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
    ids = next(filter(None, numbers), [0])[:COMPARED]
    if run_on_numbers(model, len(ids)) is None:  # it takes shorter texts only
        ids = ids[: usable_length(model)]
    difference = compare(model, smaller, rows=rows, ids=ids)
    if difference > ROUNDING:
        raise ValueError(
            f"Expected a class that computes the same with fewer tokens. Received: {model.name!r} of class "
            f"{type(model).__name__}, whose outputs differ by {difference:.3g}. Keep the vocabulary of this model."
        )
    return difference
