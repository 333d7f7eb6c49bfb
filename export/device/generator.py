"""Generator: text from a language model's file; sampling, chats, and an encoder's file that embeds texts."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_number
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.device.runner import MAX_THREADS, Runner
from tfprune.export.device.writer_file import (
    UNFINISHED,
    InterpretedFile,
    PreparedFile,
    Signatures,
    Tokenizer,
    check_whole_text,
    read_text_form,
)
from tfprune.export.file.container import read_model, source_name
from tfprune.export.file.document import read_metadata

# A conversation with a language model's file, of which earlier turns stay in the caches.

_CONTEXT = 8  # tokens before an answer, with which its first piece is decoded: tokenizers drop a space at the start
_USER, _MODEL, _SYSTEM = "user", "model", "system"  # the roles that a file names


@dataclass
class _Turn:
    """A turn of the user, and the answer as far as it is written.

    Attributes:
        before: The ids of the turns before it.
        ids: Those, and the ids of this one up to its answer.
        answer: The ids of the answer.
        is_over: Whether the answer has ended.
    """

    before: list[int]
    ids: list[int]
    answer: list[int] = field(default_factory=list)
    is_over: bool = False


class _Chat:
    """Hold a conversation, one turn after the other; `Generator.chat` begins it.

    Args:
        turns: The texts before and after a turn, by role.
        tokenizer: Of the file.
        write: From token ids and settings to the ids that follow.
        pieces: From ids, texts to stop at, and the ids before to pieces of text.
        instructions: Sent before the first turn.

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
        if tokenizer is None or not {_USER, _MODEL} <= set(turns):
            raise ValueError(
                "Expected a file with a tokenizer that has tokens for turns, such as `<end_of_turn>`. Received: one "
                "without. Use generate, or export a model that was trained on conversations, with its preprocessor."
            )
        self._turns, self._tokenizer, self._write, self._pieces = turns, tokenizer, write, pieces
        self._system, begin = "", []  # what the first turn of the user begins with, and ids of a turn of the system
        if self._checked(instructions, "instructions") and _SYSTEM in turns:
            begin = self._ids(self._turn(_SYSTEM, instructions), behind=[])
        elif instructions:
            self._system = f"{instructions}\n\n"
        self._last = _Turn(begin, begin)

    @property
    def tokens(self) -> list[int]:
        """The ids of all turns; the last one is among them once its answer has begun."""
        turn = self._last
        if not turn.answer and not turn.is_over:
            return turn.before
        return self._ids(self._turns[_MODEL][1], behind=[*turn.ids, *turn.answer])

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
                that separate turns, an argument is out of range, or another text is begun in the meantime. After
                this or any other exception, the conversation is as it was before.

        Example:
            >>> answer = generator.chat().send("a fox", max_tokens=2)
        """
        pieces, turn = self.stream(text, **settings), self._last
        try:
            return "".join(pieces)
        finally:
            if not turn.is_over:
                turn.answer = []  # nobody has heard it

    def stream(self, text: str, **settings: Any) -> Iterator[str]:
        """Say something, and yield the pieces of the answer as soon as they are written.

        Of an answer that is not heard to its end, the conversation keeps what was written.

        Args:
            text: As in `send`.
            **settings: As in `send`.

        Yields:
            Pieces of text.

        Raises:
            TypeError: As `send` does, at once.
            ValueError: As `send` does, at once; and where it would go on after another turn, or another text of the
                `Generator`, was begun.

        Example:
            >>> pieces = list(generator.chat().stream("a fox", max_tokens=2))
        """
        before, text = self.tokens, self._checked(text, "text")
        prompt = self._turn(_USER, text if before else self._system + text) + self._turns[_MODEL][0]
        ids = self._ids(prompt, behind=before)
        tokens = self._write(ids, **settings)
        self._last = turn = _Turn(before, ids)
        return self._pieces(self._recorded(turn, tokens), (), ids[-_CONTEXT:])

    def _recorded(self, turn: _Turn, tokens: Iterator[int]) -> Iterator[int]:
        """Yield the ids of an answer, and add them to its turn."""
        while not turn.is_over:
            if turn is not self._last:
                raise ValueError(
                    "Expected one turn at a time. Received: an answer that goes on after another turn was begun. "
                    "Take all pieces of an answer before you say the next."
                )
            token = next(tokens, None)
            if token is None:
                turn.is_over = True
            else:
                turn.answer.append(token)
                yield token

    def _turn(self, role: str, text: str) -> str:
        before, after = self._turns[role]
        return f"{before}{text}{after}"

    def _ids(self, text: str, *, behind: list[int]) -> list[int]:
        """Return the ids of a text behind other ids; a text begins once."""
        ids = self._tokenizer.encode(text)
        return [*behind, *(ids[len(self._tokenizer.encode("")) :] if behind else ids)]

    def _checked(self, text: str, name: str) -> str:
        if not isinstance(text, str):
            raise ArgumentTypeError(name, f"a text as `{name}`", found=f"{text!r:.80}")
        marks = {part.strip() for turn in self._turns.values() for part in turn if part.strip()}
        present = sorted(mark for mark in marks if mark in text)
        if present:
            raise ValueError(
                f"Expected a text without {present[0]!r}, which separates turns. Received: {text!r:.80}."
            )
        return text


# Choose the next token from the scores of all.


@dataclass(frozen=True)
class _Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: What scores are divided by; 0 takes the token with the highest score.
        top_k: How many tokens with the highest scores may be chosen; None for all.
        top_p: The share of the probability that the most likely tokens have together, among which is chosen.
        seed: Of the random numbers; None for others each time.

    Raises:
        TypeError: If a value has another type.
        ValueError: If a value is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    _random: np.random.Generator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number(self.temperature, "temperature", least=0)
        if self.top_k is not None:
            check_count(self.top_k, "top_k", least=1)
        if self.top_p is not None:
            check_number(self.top_p, "top_p", above=0, most=1)
        if self.seed is not None:
            check_count(self.seed, "seed", least=0)
        if not self.temperature and (self.top_k, self.top_p, self.seed) != (None, None, None):
            raise ArgumentError(
                "temperature",
                "a temperature above 0 with `top_k`, `top_p` or `seed`",
                "0, which always takes the token with the highest score",
                advice="Set for example temperature=0.8.",
            )
        object.__setattr__(self, "_random", np.random.default_rng(self.seed))

    def choose(self, scores: np.ndarray) -> int:
        """Return the index of a token.

        Args:
            scores: The logits, (vocabulary,).
        """
        if not self.temperature:
            return int(scores.argmax())
        order = np.argsort(-scores, kind="stable")[: self.top_k]
        probabilities = np.exp((scores[order].astype(np.float64) - scores[order[0]]) / self.temperature)
        probabilities /= probabilities.sum()
        if self.top_p is not None:  # the token that reaches the share belongs to it
            count = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
            order, probabilities = order[:count], probabilities[:count] / probabilities[:count].sum()
        place = int(np.searchsorted(np.cumsum(probabilities), self._random.random()))
        return int(order[min(place, len(order) - 1)])


# A language model's file that writes text, with NumPy and an interpreter.


class Generator:
    """Load a language model's file once, and let it write text.

    The file is one of `to_generator`. Neither Keras nor TensorFlow is needed; a text needs the package that reads the
    file's tokenizer, which `pip install "tfprune[generate]"` brings. LiteRT's CompiledModel runs the file where it
    can: on some processors it ends the process, so that it is tried in another process first, and the interpreter
    takes its place. What was found, and the weights in the order that the processor reads them, are kept in a folder
    beside the file, `writer.tflite.cache`. You may delete it at any time. The runtime is native code in this
    process, as with `Runner`. One text at a time: a stream that goes on after another text was begun is refused, so
    that threads need generators of their own. After an interrupted call, the next one writes what it always would.

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
            ValueError: If the prompt is empty or does not fit, an id is not in the vocabulary, an argument is out of
                range, another text is begun in the meantime, or a score of the file is NaN or infinite.

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
            ValueError: As `generate` does, at once; and where it would go on after another text was begun.

        Example:
            >>> pieces = list(generator.stream("the fox", max_tokens=4))
        """
        sampling = _Sampling(temperature, top_k, top_p, seed)
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
        return self._pieces(tokens, texts, ids[-_CONTEXT:]) if isinstance(prompt, str) else tokens

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
            ValueError: If there are fewer than two tokens, they do not fit, an id is not in the vocabulary, another
                text is begun in the meantime, or a score of the file is NaN or infinite.

        Example:
            >>> generator.perplexity("the fox jumps") > 1
            True
        """
        ids = self._ids(prompt)
        if len(ids) < 2:
            raise ValueError("Expected a text of at least two tokens. Received: one. Give a longer text.")
        text = self._signatures.begin()
        losses = []
        for token, expected in itertools.pairwise(ids):
            scores = text.decode(token).astype(np.float64)
            top = scores.max()
            losses.append(top + np.log(np.exp(scores - top).sum()) - scores[expected])
        return float(np.exp(np.mean(losses)))

    def chat(self, *, instructions: str = "") -> _Chat:
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
        return _Chat(turns, self._tokenizer, write=write, pieces=self._pieces, instructions=instructions)

    def _tokens(self, ids: Sequence[int], count: int, sampling: _Sampling, ends: set[int]) -> Iterator[int]:
        text = self._signatures.begin(ids[:-1])
        text.prefill(ids[len(text.tokens) : -1])
        token = ids[-1]
        for _ in range(count):
            token = sampling.choose(text.decode(token))
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
            ids = _flat_ids(prompt)
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
        if isinstance(stop, bytes | bytearray) or not isinstance(stop, Iterable):
            raise ArgumentTypeError("stop", "`stop` to be a text, or a list of texts and token ids", f"{stop!r:.80}")
        entries = [stop] if isinstance(stop, str) else [*stop]
        texts = [entry for entry in entries if isinstance(entry, str)]
        ids = [entry for entry in entries if isinstance(entry, int | np.integer) and not isinstance(entry, bool)]
        if len(texts) + len(ids) < len(entries) or "" in texts or (texts and not is_text):
            raise ArgumentError(
                "stop",
                "texts that are not empty, or token ids, in `stop`; texts for a text only",
                found=f"{stop!r:.80}",
            )
        return texts, {*map(int, ids), *self._form.stop}


def _flat_ids(prompt: Any) -> list[int]:
    try:
        array = np.asarray(prompt)
    except ValueError:  # lists of different lengths
        array = np.zeros((0, 0))
    if array.ndim != 1 or array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"Expected a text, or a flat list of token ids. Received: {prompt!r:.80}.")
    return array.tolist()


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of another one."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)


# Let a language model's file write in a process of its own: what it chooses, and with which scores.

MODEL, _JOB, _RESULT = "model.tflite", "job", "result"


@dataclass(frozen=True)
class Written:
    """The tokens that a file wrote, with their scores and its speed.

    Attributes:
        tokens: The greedy continuation of each prompt.
        scores: The logits that they were chosen by, (tokens, vocabulary), for each prompt.
        read: The logits after each token of a prompt but the last, which it was read by token by token.
        prefill_speed: Tokens of a prompt in a second of processor time.
        decode_speed: Tokens written in a second of processor time.
        runtime: The interpreter, with its version.
    """

    tokens: list[np.ndarray]
    scores: list[np.ndarray]
    read: list[np.ndarray]
    prefill_speed: float
    decode_speed: float
    runtime: str


def write_apart(folder: Path, prompts: Sequence[Sequence[int]], *, count: int, timeout: float) -> Written | str:
    """Let the file `MODEL` in a folder continue prompts, and return what it wrote, or why it could not.

    Args:
        folder: A folder that the caller removes.
        prompts: Token ids.
        count: The number of tokens to write after each prompt.
        timeout: Seconds after which the process is stopped.
    """
    arrays = {str(number): np.asarray(prompt, np.int32) for number, prompt in enumerate(prompts)}
    write_job(folder, _JOB, settings={"count": count}, arrays=arrays)
    completed = run_job(_run_write_job, folder, timeout=timeout)
    if not completed.ok:
        return completed.reason
    settings, results = read_job(folder, _RESULT)
    tokens, scores, prompt_scores = (
        [results[f"{kind}/{name}"] for name in arrays] for kind in ("tokens", "scores", "read")
    )
    return Written(tokens, scores, prompt_scores, **settings)


def _run_write_job(folder: Path) -> None:
    """Do the job in a folder."""
    settings, prompts = read_job(folder, _JOB)
    signatures = Signatures(InterpretedFile(str(folder / MODEL), threads=1))
    results: dict[str, np.ndarray] = {}
    seconds, counts = np.zeros(2), np.zeros(2)  # of prefill and decode
    for name, prompt in prompts.items():
        text = signatures.begin()
        prompt_scores = [text.decode(int(token)) for token in prompt[:-1]]
        text = signatures.begin()
        start = time.process_time()
        text.prefill(prompt[:-1].tolist())
        between = time.process_time()
        scores = [text.decode(int(prompt[-1]))]
        while len(scores) < settings["count"]:
            scores.append(text.decode(int(scores[-1].argmax())))
        seconds += between - start, time.process_time() - between
        counts += len(prompt) - 1, len(scores)
        results[f"scores/{name}"], results[f"read/{name}"] = np.array(scores), np.array(prompt_scores)
        results[f"tokens/{name}"] = results[f"scores/{name}"].argmax(axis=1)
    prefill, decode = (counts / np.maximum(seconds, 1e-9)).tolist()
    speeds = {"prefill_speed": prefill, "decode_speed": decode, "runtime": signatures.runtime}
    write_job(folder, _RESULT, settings=speeds, arrays=results)


# An encoder's file that turns texts into vectors, with NumPy and an interpreter.

TOKENS, MASK = "token_ids", "padding_mask"


class Embedder:
    """Load an encoder's file once, and turn texts into vectors.

    The file is one of `to_embedder`. Use it for semantic search on a device: texts of similar meaning have vectors
    with a large dot product. Neither Keras nor TensorFlow is needed, only the package `tokenizers`, which
    `pip install "tfprune[generate]"` brings.

    Args:
        path: The path of a .tflite file, plain or packed.
        threads: Threads of the interpreter, 1 to 1024. Default 4.

    Attributes:
        runtime: The interpreter in use, with its version.
        length: How many tokens a text may have, those at its start and end included.

    Raises:
        TypeError: If `path` is not a path, or `threads` is not an integer.
        ValueError: If the file cannot be read, is not one of `to_embedder`, or the package that reads its tokenizer
            is missing (that one is an ImportError, too).

    Example:
        >>> embedder = Embedder("encoder.tflite")
        >>> queries = embedder.encode(["Where do foxes live?"])
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 4) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"Expected the path of a .tflite file. Received: {source_name(path)}.")
        data = read_model(path)
        self._form, self._tokenizer = read_text_form(read_metadata(data))
        self._runner = Runner(data, threads=threads)
        shapes = {info.name: info.shape for info in self._runner.inputs}
        if self._tokenizer is None or set(shapes) != {TOKENS, MASK}:
            raise ValueError(
                f"Expected a file of tfprune.export.to_embedder, with a tokenizer and the inputs {TOKENS!r} and "
                f"{MASK!r}. Received: {source_name(path)}, with the inputs {sorted(shapes)}. Export it again."
            )
        self.runtime, self.length = self._runner.runtime, int(shapes[TOKENS][1] or 0)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Turn texts into vectors of length 1.

        Args:
            texts: The texts, at least one.

        Returns:
            float32 array (texts, size of a vector).

        Raises:
            TypeError: If `texts` is not a list of texts.
            ValueError: If there is none, or one has more than `length` tokens.

        Example:
            >>> vectors = embedder.encode(["a fox", "a dog"])
        """
        check_texts(texts)
        assert self._tokenizer is not None
        rows = [[*self._tokenizer.encode(text), *self._form.stop] for text in texts]
        return self._runner.predict(padded(rows, self.length))


def check_texts(texts: Any) -> None:
    """Refuse what is not a list of texts for an encoder.

    Raises:
        TypeError: If it is not a list, or has something else than texts.
        ValueError: If it has no text, or a text has a half of a character.
    """
    is_list = isinstance(texts, Collection) and not isinstance(texts, str)
    if not is_list or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"Expected a list of texts. Received: {texts!r:.80}. Give for example ['a text'].")
    if not len(texts):
        raise ValueError("Expected at least one text. Received: none.")
    for text in texts:
        check_whole_text(text)


def padded(rows: Sequence[Sequence[int]], length: int) -> dict[str, np.ndarray]:
    """Return the inputs of an encoder for token ids of several texts.

    Raises:
        ValueError: If a text has more than `length` ids.
    """
    inputs = {name: np.zeros((len(rows), length), np.int32) for name in (TOKENS, MASK)}
    for index, ids in enumerate(rows):
        if len(ids) > length:
            raise ValueError(
                f"Expected texts of at most {length:,} tokens. Received: {len(ids):,} in text {index}. Split it, or "
                f"export the encoder with a larger `length`."
            )
        inputs[TOKENS][index, : len(ids)], inputs[MASK][index, : len(ids)] = ids, 1
    return inputs
