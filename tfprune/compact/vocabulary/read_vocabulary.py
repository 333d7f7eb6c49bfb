"""Read the vocabulary of a tokenizer of KerasHub: of SentencePiece, of byte-level pairs, or of word pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfprune.compact.vocabulary.sentencepiece_model import sentencepiece_vocabulary
from tfprune.compact.vocabulary.token_vocabulary import RESERVED, TokenVocabulary, merged_parts


def read_vocabulary(tokenizer: Any) -> TokenVocabulary:
    """Return the vocabulary of a tokenizer.

    Raises:
        ValueError: If it is of another kind, or its ids are not those of the vocabulary that it holds.
    """
    proto = getattr(tokenizer, "proto", None)
    content = getattr(tokenizer, "vocabulary", None)
    special = [*getattr(tokenizer, "special_tokens", ()), *(getattr(tokenizer, "unsplittable_tokens", None) or ())]
    if isinstance(proto, bytes) and proto:
        vocabulary = sentencepiece_vocabulary(proto, special)
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


def _byte_pairs(tokenizer: Any, special: Sequence[str]) -> TokenVocabulary:
    """Read a vocabulary with merges; a merge remains if its parts and its product do."""
    ids: Mapping[str, int] = tokenizer.vocabulary
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != [*range(len(tokens))]:
        raise _refusal(tokenizer, "whose ids are not 0, 1, 2 and so on")
    merges = [tuple(merge.split(" ")) for merge in tokenizer.merges if "#version:" not in merge]
    ranks = {pair: rank for rank, pair in reversed([*enumerate(merges)])}
    fixed = [token for token in tokens if len(token) == 1 or (token in special and not RESERVED.fullmatch(token))]
    fixed += [token for token in getattr(tokenizer, "special_tokens", ()) if token in ids]

    def parts(token: str) -> list[str]:
        _, merged = merged_parts(token, lambda *pair: ranks.get(pair))
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
    return TokenVocabulary(tokens, fixed_ids, frozenset(), -1, True, parts, arguments)


def _word_pieces(tokenizer: Any, special: Sequence[str]) -> TokenVocabulary:
    """Read a list of word pieces, of which a word takes the longest that fit, one after the other."""
    tokens, suffix = tokenizer.vocabulary, tokenizer.suffix_indicator
    fixed = {*special, tokenizer.oov_token}
    single = [index for index, token in enumerate(tokens) if len(token.removeprefix(suffix)) == 1]
    return TokenVocabulary(
        tokens,
        frozenset(index for index, token in enumerate(tokens) if token in fixed),
        frozenset(single),
        tokens.index(tokenizer.oov_token),
        False,
        lambda token: (),
        lambda ids: {"vocabulary": [tokens[number] for number in ids]},
    )
