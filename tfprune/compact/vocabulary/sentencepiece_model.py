"""SentencePiece's file: read its pieces, and write it with some of them, all others byte for byte as they were.

The file is a protobuf message. Of its fields, 1 is a piece (1 its text, 2 its score, 3 its type), 2 the settings of
the training, and 4 sentences by which it tests itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfprune.compact.vocabulary.token_vocabulary import RESERVED, TokenVocabulary, merged_parts

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
UNIGRAM, BYTE_PAIRS = 1, 2  # kinds of models
PIECE, TRAINER, SELF_TEST = 1, 2, 4  # fields of the file
MODEL_TYPE, VOCABULARY_SIZE, BYTE_FALLBACK = 3, 4, 35  # fields of the settings
SPECIAL_IDS = range(40, 44)  # the ids of <unk>, <s>, </s> and <pad> in the settings
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # how values are written
SCORE = struct.Struct("<f")


@dataclass(frozen=True)
class Piece:
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


class SentencePieceModel:
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
        self.pieces = [_piece(value, entry) for number, value, entry in self._fields if number == PIECE]
        trainer = next((value for number, value, _ in self._fields if number == TRAINER), b"")
        self._trainer = list(_fields(trainer))
        settings = {number: value for number, value, _ in self._trainer}
        self.model_type = settings.get(MODEL_TYPE, UNIGRAM)
        self.has_byte_fallback = bool(settings.get(BYTE_FALLBACK, 0))

    def with_pieces(self, ids: Sequence[int]) -> bytes:
        """Return the file with the pieces of some ids, in order."""
        places = {number: place for place, number in enumerate(ids)}
        fields, is_first = [], True
        for number, _, entry in self._fields:
            if number == PIECE and is_first:
                fields += [self.pieces[index].content for index in ids]
                is_first = False
            elif number == TRAINER:
                settings = b"".join(self._setting(*setting, places=places) for setting in self._trainer)
                fields.append(_varint(TRAINER << 3 | LENGTH) + _varint(len(settings)) + settings)
            elif number not in (PIECE, SELF_TEST):  # sentences of the whole vocabulary
                fields.append(entry)
        return b"".join(fields)

    @staticmethod
    def _setting(number: int, value: Any, entry: bytes, *, places: Mapping[int, int]) -> bytes:
        if number == VOCABULARY_SIZE:
            return _varint(number << 3 | VARINT) + _varint(len(places))
        if number in SPECIAL_IDS and value in places:
            return _varint(number << 3 | VARINT) + _varint(places[value])
        return entry


def sentencepiece_vocabulary(content: bytes, special: Sequence[str]) -> TokenVocabulary:
    """Read a tokenizer of SentencePiece.

    Args:
        content: Its file.
        special: Its special tokens, as KerasHub names them.

    Raises:
        ValueError: If the content is damaged.
    """
    model = SentencePieceModel(content)
    fixed = {index for index, piece in enumerate(model.pieces) if _is_fixed(piece, special)}
    normal = [index for index, piece in enumerate(model.pieces) if piece.kind == NORMAL]
    if normal:  # the least score decides what an unknown character costs, the largest what a user's symbol gains
        by_score = sorted(normal, key=lambda index: model.pieces[index].score)
        fixed |= {by_score[0], by_score[-1]}
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED, UNUSED)}

    def parts(token: str) -> list[str]:
        _, merges = merged_parts(token, lambda *pair: _negative(scores.get("".join(pair))))
        return ["".join(pair) for pair in merges]

    return TokenVocabulary(
        [piece.text for piece in model.pieces],
        frozenset(fixed),
        frozenset(index for index in normal if len(model.pieces[index].text) == 1),
        next((index for index, piece in enumerate(model.pieces) if piece.kind == UNKNOWN), -1),
        model.has_byte_fallback,
        parts if model.model_type == BYTE_PAIRS else lambda token: (),
        lambda ids: {"proto": model.with_pieces(ids)},
    )


def _is_fixed(piece: Piece, special: Sequence[str]) -> bool:
    if piece.text in special or piece.kind in (UNKNOWN, BYTE):
        return True
    return piece.kind in (CONTROL, USER_DEFINED) and not RESERVED.fullmatch(piece.text)


def _negative(score: float | None) -> float | None:
    return None if score is None else -score


def _piece(content: bytes, entry: bytes) -> Piece:
    fields = {number: value for number, value, _ in _fields(content)}
    score = SCORE.unpack(fields.get(2, b"\0\0\0\0"))[0]
    return Piece(fields.get(1, b"").decode(), score, fields.get(3, NORMAL), entry)


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
        if form == VARINT:
            value, place = _read_varint(message, place)
        elif form in (EIGHT_BYTES, LENGTH, FOUR_BYTES):
            size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}.get(form)
            if size is None:
                size, place = _read_varint(message, place)
            value, place = message[place : place + size], place + size
        if form not in (VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES) or place > len(message):
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
