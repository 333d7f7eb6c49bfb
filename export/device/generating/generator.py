"""A language model's file that writes text, with NumPy and an interpreter."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tfprune.base.spec import check_count
from tfprune.export.device.generating.chat import CONTEXT, Chat
from tfprune.export.device.generating.prepare_file import PreparedFile
from tfprune.export.device.generating.sampling import Sampling
from tfprune.export.device.generating.signatures import Signatures
from tfprune.export.device.generating.text_form import UNFINISHED, read_text_form
from tfprune.export.device.interpreter import MAX_THREADS
from tfprune.export.file.files.metadata import read_metadata
from tfprune.export.file.files.source import source_name


class Generator:
    """Load a language model's file once, and let it write text.

    The file is one of `to_generator`. Neither Keras nor TensorFlow is needed; a text needs the package that reads the
    file's tokenizer, which `pip install "tfprune[generate]"` brings. LiteRT's CompiledModel runs the file where it
    can: on some processors it ends the process, so that it is tried in another process first, and the interpreter
    takes its place. What was found, and the weights in the order that the processor reads them, are kept in a folder
    beside the file, `writer.tflite.cache`. You may delete it at any time. The runtime is native code in this
    process, as with `Runner`. One text at a time: threads need generators of their own.

    Args:
        path: The path of a .tflite file, plain or packed, or of a .litertlm file. The .tflite file in one of the
            others is written into the folder beside it.
        threads: Threads of the interpreter, 1 to 1024. Default 4.

    Attributes:
        runtime: The runtime in use, with its version; "in place" for CompiledModel.
        length: How many tokens a prompt and its continuation may have together.
        vocabulary: How many tokens there are.

    Raises:
        TypeError: If `path` is not a path, or `threads` is not an integer.
        ValueError: If the file cannot be read, is not a language model of `to_generator`, or the package that reads
            its tokenizer is missing (that one is an ImportError, too).

    Example:
        >>> generator = Generator("writer.tflite", threads=1)
        >>> text = generator.generate("the fox", max_tokens=4)
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 4) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"Expected the path of a .tflite file. Received: {source_name(path)}.")
        threads = check_count(threads, "threads", least=1, most=MAX_THREADS)
        self._prepared = PreparedFile(path, threads=threads)
        self._form, self._tokenizer = read_text_form(read_metadata(self._prepared.data))
        self._signatures = Signatures(self._prepared.loaded)
        self.runtime, self.length = self._signatures.runtime, self._signatures.length
        self.vocabulary = self._signatures.vocabulary
        self._read: list[int] = []  # the tokens in the caches

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | Iterable[str | int] = (),
        seed: int | None = None,
    ) -> Any:
        """Continue a text.

        Args:
            prompt: The text, or its token ids, to which nothing is added.
            max_tokens: The number of tokens to write at most, at least 1. None (the default) writes until the text
                ends, or the caches are full.
            temperature: 0 (the default) takes the token with the highest score. Above 0, tokens are drawn: the
                higher, the more varied.
            top_k: Draw among so many tokens with the highest scores, at least 1. None (the default) for all.
            top_p: Draw among the most likely tokens that have this share of the probability together, in (0, 1]. None
                (the default) for all.
            stop: Texts, or token ids, at which the text ends; they are not part of the answer. The tokens that end a
                text in the file's tokenizer always do. Default none.
            seed: Of the draws; None (the default) for others each time.

        Returns:
            The continuation: a text, or a list of token ids if `prompt` are ids.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If the prompt is empty or does not fit, an id is not in the vocabulary, or an argument is out
                of range.

        Example:
            >>> len(generator.generate([2, 17, 4], max_tokens=2, temperature=0.8, seed=0))
            2
        """
        pieces = self.stream(
            prompt, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
        )
        return "".join(pieces) if isinstance(prompt, str) else list(pieces)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | Iterable[str | int] = (),
        seed: int | None = None,
    ) -> Iterator[Any]:
        """Continue a text, and yield each piece as soon as it is written.

        Args:
            prompt: As in `generate`.
            max_tokens: As in `generate`.
            temperature: As in `generate`.
            top_k: As in `generate`.
            top_p: As in `generate`.
            stop: As in `generate`.
            seed: As in `generate`.

        Yields:
            Pieces of text, or token ids if `prompt` are ids.

        Raises:
            TypeError: As `generate` does, at once.
            ValueError: As `generate` does, at once.

        Example:
            >>> pieces = list(generator.stream("the fox", max_tokens=4))
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        ids = self._ids(prompt)
        texts, ends = self._stops(stop, is_text=isinstance(prompt, str))
        room = self.length - len(ids)
        if max_tokens is not None and check_count(max_tokens, "max_tokens", least=1) > room:
            raise ValueError(
                f"Expected a prompt and a continuation of {self.length:,} tokens together, which the file keeps. "
                f"Received: a prompt of {len(ids):,} and max_tokens={max_tokens:,}. Shorten one of them, or export "
                f"the model with a larger `length`."
            )
        tokens = self._tokens(ids, max_tokens or room, sampling, ends)
        return self._pieces(tokens, texts, ids[-CONTEXT:]) if isinstance(prompt, str) else tokens

    def perplexity(self, prompt: str | Sequence[int]) -> float:
        """Return how surprising the file finds a text: 1 if it expects each token, the vocabulary if it guesses.

        Use it to compare files on texts of the kind that they will write. The tokens are read one by one, so that a
        text takes as long as writing it.

        Args:
            prompt: The text, or its token ids, to which nothing is added: from two tokens to `length - 1`.

        Returns:
            e to the mean of -ln p over all tokens but the first, where p is the probability of the token after those
            before it.

        Raises:
            TypeError: If `prompt` is neither a text nor a flat list of token ids.
            ValueError: If there are fewer than two tokens, they do not fit, or an id is not in the vocabulary.

        Example:
            >>> generator.perplexity("the fox jumps") > 1
            True
        """
        ids = self._ids(prompt)
        if len(ids) < 2:
            raise ValueError("Expected a text of at least two tokens. Received: one. Give a longer text.")
        self._signatures.position, self._read = 0, []
        losses = []
        for token, expected in itertools.pairwise(ids):
            scores = self._signatures.decode(token).astype(np.float64)
            top = scores.max()
            losses.append(top + np.log(np.exp(scores - top).sum()) - scores[expected])
        return float(np.exp(np.mean(losses)))

    def chat(self, *, instructions: str = "") -> Chat:
        """Begin a conversation with a model that was trained on conversations.

        Use it for models such as Gemma's `instruct` presets. Each turn is written as in their training, and the
        caches keep the turns before, so that only the new turn is read. `send` takes a turn and returns the answer,
        and `stream` yields the answer piece by piece; both take `max_tokens`, `temperature`, `top_k`, `top_p` and
        `seed` as `generate` does.

        Args:
            instructions: Sent before the first turn, such as "Answer in one sentence." Default none.

        Returns:
            The conversation.

        Raises:
            TypeError: If `instructions` is not a text.
            ValueError: If the file's tokenizer has no tokens for turns, or `instructions` contain one of them.

        Example:
            >>> talk = generator.chat()
            >>> answer = talk.send("a fox", max_tokens=2)
        """
        turns, write = self._form.turns, self.stream
        return Chat(turns, self._tokenizer, write=write, pieces=self._pieces, instructions=instructions)

    def _tokens(self, ids: Sequence[int], count: int, sampling: Sampling, ends: set[int]) -> Iterator[int]:
        equal = [earlier == now for earlier, now in zip(self._read, ids[:-1], strict=False)]
        prefix_length = (*equal, False).index(False)  # tokens that an earlier text has left in the caches
        self._signatures.position = prefix_length
        self._signatures.prefill(ids[prefix_length:-1])
        self._read = [*ids[:-1]]
        token = ids[-1]
        for _ in range(count):
            self._read.append(token)
            token = sampling.choose(self._signatures.decode(token))
            if token in ends:
                return
            yield token

    def _pieces(self, tokens: Iterator[int], stops: Sequence[str], before: Sequence[int]) -> Iterator[str]:
        """Yield text as soon as its characters are whole and no stop text can begin in it."""
        assert self._tokenizer is not None
        all_tokens, start = [*before], len(self._tokenizer.decode(before))
        yielded, text = 0, ""
        for token in tokens:
            all_tokens.append(token)
            text = self._tokenizer.decode(all_tokens)[start:]
            places = [place for place in map(text.find, stops) if place >= 0]
            if places:
                yield text[yielded : min(places)]
                return
            whole = len(text.rstrip(UNFINISHED)) - max((_begun(text, stop) for stop in stops), default=0)
            if whole > yielded:
                yield text[yielded:whole]
                yielded = whole
        if text[yielded:]:
            yield text[yielded:]

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            if self._tokenizer is None:
                raise ValueError(
                    "Expected a file with a tokenizer, or token ids. Received: a text, and a file without. "
                    "Give token ids, or export the model with its preprocessor."
                )
            ids = self._tokenizer.encode(prompt)
        else:
            array = np.asarray(prompt)
            if array.ndim != 1 or array.dtype.kind not in "iu" and array.size:
                raise TypeError(f"Expected a text, or a flat list of token ids. Received: {prompt!r:.80}.")
            ids = array.tolist()
        wrong = [number for number in ids if not 0 <= number < self.vocabulary]
        if wrong or not ids:
            raise ValueError(
                f"Expected at least one token id from 0 to {self.vocabulary - 1:,}. Received: "
                f"{f'id {wrong[0]}' if wrong else 'an empty prompt'}."
            )
        if len(ids) >= self.length:
            raise ValueError(
                f"Expected a prompt of fewer than {self.length:,} tokens, as the file keeps {self.length:,}. "
                f"Received: {len(ids):,} tokens. Shorten the prompt, or export the model with a larger `length`."
            )
        return ids

    def _stops(self, stop: str | Iterable[str | int], *, is_text: bool) -> tuple[list[str], set[int]]:
        entries = [stop] if isinstance(stop, str) else list(stop)
        texts = [entry for entry in entries if isinstance(entry, str)]
        ids = [entry for entry in entries if isinstance(entry, int | np.integer) and not isinstance(entry, bool)]
        if len(texts) + len(ids) < len(entries) or "" in texts or (texts and not is_text):
            raise ValueError(
                f"Expected texts that are not empty, or token ids, in `stop`; texts for a text only. "
                f"Received: {stop!r}."
            )
        return texts, {*map(int, ids), *self._form.stop}


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of another one."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)
