"""A conversation with a language model's file, of which earlier turns stay in the caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfprune.export.device.generating.text_form import Tokenizer

CONTEXT = 8  # tokens before an answer, with which its first piece is decoded: tokenizers drop a space at the start
USER, MODEL, SYSTEM = "user", "model", "system"  # the roles that a file names


class Chat:
    """Hold a conversation, one turn after the other; `Generator.chat` begins it.

    Args:
        turns: The texts before and after a turn, by role.
        tokenizer: Of the file.
        write: From token ids and settings to the ids that follow.
        pieces: From ids, texts to stop at, and the ids before to pieces of text.
        instructions: Sent before the first turn.

    Attributes:
        tokens: The ids of all turns.

    Raises:
        TypeError: If `instructions` is not a text.
        ValueError: If the file does not say how its model was trained to converse, or a text that
            separates turns is in `instructions`.
    """

    def __init__(
        self,
        turns: Mapping[str, Sequence[str]],
        tokenizer: Tokenizer | None,
        *,
        write: Callable[..., Iterator[int]],
        pieces: Callable[..., Iterator[str]],
        instructions: str = "",
    ) -> None:
        if tokenizer is None or not {USER, MODEL} <= set(turns):
            raise ValueError(
                "Expected a file with a tokenizer that has tokens for turns, such as `<end_of_turn>`. Received: one "
                "without. Use generate, or export a model that was trained on conversations, with its preprocessor."
            )
        self._turns, self._tokenizer, self._write, self._pieces = turns, tokenizer, write, pieces
        self.tokens: list[int] = []
        self._system = ""  # what the first turn of the user begins with, where there is no turn of the system
        if self._checked(instructions, "instructions") and SYSTEM in turns:
            self.tokens = self._ids(self._turn(SYSTEM, instructions))
        elif instructions:
            self._system = f"{instructions}\n\n"

    def send(self, text: str, **settings: Any) -> str:
        """Say something, and return the answer.

        Args:
            text: A turn of the user.
            **settings: `max_tokens`, `temperature`, `top_k`, `top_p` and `seed`, as in `Generator.generate`.

        Returns:
            The answer.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If the conversation and the text do not fit into the caches, the text has one of the texts
                that separate turns, or an argument is out of range. The conversation is as it was before.

        Example:
            >>> answer = generator.chat().send("a fox", max_tokens=2)
        """
        return "".join(self.stream(text, **settings))

    def stream(self, text: str, **settings: Any) -> Iterator[str]:
        """Say something, and yield the pieces of the answer as soon as they are written.

        Args:
            text: As in `send`.
            **settings: As in `send`.

        Yields:
            Pieces of text.

        Raises:
            TypeError: As `send` does, at once.
            ValueError: As `send` does, at once.

        Example:
            >>> pieces = list(generator.chat().stream("a fox", max_tokens=2))
        """
        said = self._turn(USER, self._system + self._checked(text, "text")) + self._turns[MODEL][0]
        ids = [*self.tokens, *self._ids(said)]
        return self._kept(ids, self._write(ids, **settings))

    def _kept(self, ids: list[int], tokens: Iterator[int]) -> Iterator[str]:
        """Yield the pieces of an answer, and keep both turns, also if the caller stops listening."""
        answer: list[int] = []
        try:
            yield from self._pieces(_recorded(tokens, answer), (), ids[-CONTEXT:])
        finally:
            self._system = ""
            self.tokens = [*ids, *answer]
            self.tokens += self._ids(self._turns[MODEL][1])

    def _turn(self, role: str, text: str) -> str:
        before, after = self._turns[role]
        return f"{before}{text}{after}"

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text)
        return ids[len(self._tokenizer.encode("")) :] if self.tokens else ids  # a text begins once

    def _checked(self, text: str, name: str) -> str:
        if not isinstance(text, str):
            raise TypeError(f"Expected a text as `{name}`. Received: {text!r:.80}.")
        marks = {part.strip() for turn in self._turns.values() for part in turn if part.strip()}
        present = sorted(mark for mark in marks if mark in text)
        if present:
            raise ValueError(
                f"Expected a text without {present[0]!r}, which separates turns. Received: {text!r:.80}."
            )
        return text


def _recorded(tokens: Iterator[int], into: list[int]) -> Iterator[int]:
    for token in tokens:
        into.append(token)
        yield token
