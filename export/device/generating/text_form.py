"""What a language model's file says about its text: its tokenizer, and the ids that begin and end a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tfprune.base.untrusted import parse_json, read_fields
from tfprune.export.file.files.metadata import TOKENIZER
from tfprune.export.file.tflite.schema import MissingPackage

FORM = "tfprune_text_form"  # its name in the metadata of a file, beside the tokenizer's content
SENTENCEPIECE, JSON = "sentencepiece", "tokenizers"  # the kinds of tokenizers, and the packages that read them
UNFINISHED = "\ufffd"  # a character of which only some bytes are written


@dataclass(frozen=True)
class TextForm:
    """How texts and token ids belong together.

    Attributes:
        tokenizer: The kind of the tokenizer, empty if the file has none.
        start: The ids that begin a text.
        stop: The ids that end one.
        turns: The texts before and after each turn of a conversation, by role: "system", "user" and "model". Empty
            if the tokenizer knows none.
    """

    tokenizer: str
    start: list
    stop: list
    turns: dict = field(default_factory=dict)

    def as_metadata(self, content: bytes) -> dict[str, bytes]:
        """Return the metadata of a file; `content` is the tokenizer's, empty to leave it out."""
        return {FORM: json.dumps(asdict(self)).encode()} | ({TOKENIZER: content} if content else {})


class Tokenizer:
    """Turns texts into token ids and back.

    Args:
        form: What a file says about its text.
        content: The tokenizer's content: a model of SentencePiece, or a tokenizer.json.

    Raises:
        ValueError: If the package that reads it is not installed (also an ImportError), or it cannot be read.
    """

    def __init__(self, form: TextForm, content: bytes) -> None:
        self._form = form
        self._coder = _coder(form.tokenizer, content)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, those that begin it included."""
        if self._form.tokenizer == SENTENCEPIECE:
            return [*self._form.start, *self._coder.EncodeAsIds(text)]
        return [*self._form.start, *self._coder.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; those beyond the tokenizer, which pad a vocabulary, have none."""
        if self._form.tokenizer == SENTENCEPIECE:
            return self._coder.DecodeIds([int(number) for number in ids if number < len(self._coder)])
        return self._coder.decode([*map(int, ids)], skip_special_tokens=False)


def read_text_form(metadata: dict[str, bytes]) -> tuple[TextForm, Tokenizer | None]:
    """Return what the metadata of a file say about its text.

    Raises:
        ValueError: If they are damaged, or the package that reads the tokenizer is not installed.
    """
    if FORM not in metadata:
        return TextForm("", [], []), None
    form = read_fields(TextForm, parse_json(metadata[FORM]))
    ids = [*form.start, *form.stop]
    if not all(isinstance(number, int) and number >= 0 for number in ids):
        raise ValueError(f"Expected token ids in the file's text form. Received: {ids}. Export the model again.")
    return form, Tokenizer(form, metadata[TOKENIZER]) if form.tokenizer and TOKENIZER in metadata else None


def _coder(kind: str, content: bytes) -> Any:
    try:
        if kind == SENTENCEPIECE:
            import sentencepiece

            return sentencepiece.SentencePieceProcessor(model_proto=content)
        if kind == JSON:
            import tokenizers

            if "model" not in json.loads(content):  # of which tokenizers raises a plain Exception
                raise KeyError("no model in it")
            return tokenizers.Tokenizer.from_str(content.decode())
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"Expected a tokenizer of the kind {kind!r} in the file. Received: content that cannot be read as one "
            f"({' '.join(str(error).split())[:100]}). Export the model again."
        ) from error
    except ImportError as error:
        raise MissingPackage(
            f"Expected the package {kind}, which reads the tokenizer in the file. Received: it is not installed. Run "
            f'pip install "tfprune[generate]", or give token ids in place of text.'
        ) from error
    raise ValueError(
        f"Expected a tokenizer of the kinds {SENTENCEPIECE!r} or {JSON!r}. Received: {kind!r}. "
        "Install a newer tfprune."
    )
