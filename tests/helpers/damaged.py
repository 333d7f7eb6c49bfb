"""Damaged answers of a board, job files, folders of a search and texts of a file, for their readers; and interrupts.

`tests/fuzz/untrusted.py` runs many. A finding is another exception than ValueError, a message that is long or names
no file, more than `MEMORY` on top of what the libraries take, more than `SECONDS` of processor time for one case (or
`WAITING` seconds by the clock, where something waits), anything that changes outside of the folder, and another text
after an interrupted call than without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
from boards import DONE, HELLO, board_that_says
from mutations import NUMBERS, OTHERS, changed_archive, changed_bytes, changed_json, lying_archive

from tfprune.export import Generator, benchmark, verify
from tfprune.export.device import writer_file
from tfprune.export.device.processes import read_job, write_job
from tfprune.export.device.remote import _MARK
from tfprune.export.device.writer_file import (
    JSON,
    SENTENCEPIECE,
    InterpretedFile,
    Signatures,
    TextForm,
    read_text_form,
)
from tfprune.export.file.container import read_model
from tfprune.export.file.document import read_litertlm, read_metadata, with_metadata
from tfprune.export.file.report import read_archive
from tfprune.models.tasks import DataReference


def array_of(length: int) -> bytes:
    """Return the header of a .npy file of so many bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (length,)})
    return stream.getvalue()


FILE = Path(__file__).parents[1] / "saved" / "packed.tfz"
MEMORY = 2**29  # bytes
SECONDS = 10  # of processor time: a busy machine takes longer by the clock
WAITING = 300
LONGEST = 3000  # characters of a message
LARGEST = 64_000_000  # bytes that an archive may take above its own, and above those that it holds as they are
SIZES = (0, 8, 128, 328, 10**6, 2**26, (72 << 20) + 128, 2**31, 2**32 - 1)  # that an entry may say that it has
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
LIES = [(start, method) for start in (array_of(200), array_of(72 << 20), b"zero\none\n") for method in METHODS]


def fuzz(target: str, cases: Iterable[int]) -> tuple[list[str], Counter[str]]:
    """Run cases; return what was found, and how many ended how."""
    findings: list[str] = []
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, TARGETS[target](Path(name)) as work:
        for number in cases:
            before = peak_bytes()
            try:
                with limited(SECONDS, WAITING):
                    ends[work(Random(number))] += 1
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001 (each is a finding, a panic in native code, too)
                findings.append(f"case {number}: {traceback.format_exc()}")
            if peak_bytes() - before > MEMORY:
                findings.append(f"case {number} took {(peak_bytes() - before) >> 20:,} MiB")
    return findings, ends


def peak_bytes() -> int:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def limited(seconds: float, waiting: float) -> Iterator[None]:
    """Raise after so many seconds of processor time, or so many by the clock."""

    def late(number: int, _: Any) -> None:
        is_busy = number == signal.SIGPROF
        raise AssertionError(f"more than {seconds} s of processor time" if is_busy else f"more than {waiting} s")

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, seconds),
        signal.SIGALRM: (signal.ITIMER_REAL, waiting),
    }
    before = {number: signal.signal(number, late) for number in timers}
    for timer, most in timers.values():
        signal.setitimer(timer, most)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def check_message(error: ValueError, *named: object) -> str:
    """Refuse a message that is too long, or names none of some things; return how the case ended."""
    text = str(error)
    assert text.startswith(("Expected ", "Cannot write ")), text[:LONGEST]
    assert len(text) <= LONGEST, f"{len(text):,} characters: {text[:LONGEST]}"
    assert not named or any(str(name) in text for name in named), text
    return "refused"


@contextlib.contextmanager
def messages(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that lets a board answer nonsense to `verify` and `benchmark`."""
    data = FILE.read_bytes()
    write_job(folder, "loaded", settings={"runtime": "interpreter 1.0"})
    measured = {"runtime": "interpreter 1.0", "machine": "board", "peak_memory": 2**20}
    measured |= {"governor": "ondemand", "temperature": 40.0}
    for name, settings, array in (("benchmark", measured, np.ones(5)), ("verify", {}, np.ones((5, 3), np.float32))):
        (folder / name).mkdir()
        write_job(folder / name, "result", settings=settings, arrays={"milliseconds": array})

    def work(random: Random) -> str:
        is_timed = random.random() < 0.5
        results = folder / ("benchmark" if is_timed else "verify")
        words = conversation(random, {**files_of(folder, "loaded"), **files_of(results, "result")})
        with board_that_says(words, folder) as remote:
            try:
                if is_timed:
                    benchmark(data, runs=5, processes=1, on=remote)
                else:
                    labels = random.choice([None, np.zeros(5, int)])
                    verify(data, samples=np.ones((5, 3)), labels=labels, on=remote)
            except ValueError as error:
                is_open = remote._link is not None and remote._link.is_open
                assert not (is_open and "came from" in str(error)), "the link is open"
                return check_message(error)
        return "accepted"

    yield work


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    return {f"{name}.{suffix}": (folder / f"{name}.{suffix}").read_bytes() for suffix in ("json", "npz")}


def conversation(random: Random, files: dict[str, bytes]) -> bytes:
    """Return all that a board says: a banner, the mark, a first message, and an answer with something wrong in it."""
    kind = random.choice(
        ["hello", "header", "header", "sizes", "settings", "arrays", "arrays", "names", "bytes", "banner"]
    )
    if kind == "settings":
        name = random.choice(["loaded.json", "result.json"])
        files[name] = changed_json(json.loads(files[name]), random)
    if kind == "arrays":
        with np.load(io.BytesIO(files["result.npz"])) as stored:
            files["result.npz"] = changed_archive(dict(stored), random)
    if kind == "names":
        files[random.choice([*OTHERS[2:7], "job.json", "model.tflite"])] = files.pop(random.choice([*files]))
    hello: Any = [HELLO, []]
    answer: Any = [DONE, [[name, len(each)] for name, each in files.items()]]
    texts = [json.dumps(hello).encode(), json.dumps(answer).encode()]
    if kind == "hello":
        texts[0] = changed_json(hello, random)
    if kind == "header":
        texts[1] = changed_json([answer[0]], random)[:-1] + b", " + json.dumps(answer[1]).encode() + b"]"
    if kind == "sizes":
        texts[1] = changed_json(answer, random)
    sizes = [len(text) if random.random() < 0.98 else random.choice([0, 2**20, 2**63]) for text in texts]
    framed = [size.to_bytes(8, "big") + text for size, text in zip(sizes, texts, strict=True)]
    banner = random.randbytes(random.choice([10, 10**6, 2 * 10**6])) if kind == "banner" else b""
    said = b"".join([banner, _MARK, *framed, *files.values()])
    return changed_bytes(said, random) if kind == "bytes" else said


@contextlib.contextmanager
def jobs(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that reads damaged files of a job."""
    arrays = {"a/b:0": np.arange(6.0).reshape(2, 3), "": np.zeros((0, 2), np.int8), "text": np.array("text")}
    settings = {"form": "list", "sizes": [1, None, 2.5], "inputs": [{"name": "a", "shape": [None, 3]}]}
    write_job(folder, "whole", settings=settings, arrays=arrays)
    whole = files_of(folder, "whole")

    def work(random: Random) -> str:
        files = {name: folder / f"job.{name}" for name in ("json", "npz")}
        for name, path in files.items():
            remove(path)
            path.write_bytes(whole[f"whole.{name}"])
        damage(files[random.choice([*files])], random, elsewhere=folder / "whole.npz")
        try:
            read_job(folder, "job")
        except ValueError as error:
            return check_message(error, *files.values())
        return "accepted"

    yield work


@contextlib.contextmanager
def folders(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that goes on with a search in a damaged folder."""
    from stub_trials import StubRunner, stub_search  # with Keras, which the other targets do not need

    settings = {"trials": 6, "test_data": None}
    outside = folder / "outside.txt"
    outside.write_text("not of the search")
    stub_search(folder / "whole", **settings)

    def work(random: Random) -> str:
        searched = folder / "searched"
        shutil.rmtree(searched, ignore_errors=True)
        shutil.copytree(folder / "whole", searched)
        files = sorted(path for path in searched.rglob("*") if path.is_file())
        for path in random.sample(files, random.choice([1, 1, 2])):
            damage(path, random, outside)
        (searched / "mine.tflite").write_text("of the user")
        try:
            stub_search(searched, **{**settings, "trials": random.choice([6, 6, 8])}, runner=StubRunner())
            end = "accepted"
        except ValueError as error:
            end = check_message(error)
        assert sorted(path.name for path in folder.iterdir()) == ["outside.txt", "searched", "whole"]
        assert outside.read_text() == "not of the search"
        assert (searched / "mine.tflite").exists()
        return end

    yield work


@contextlib.contextmanager
def archives(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that reads archives that say that they are smaller or larger than they are."""
    from tfprune.export.keras_side.loading import load_arrays

    path = folder / "x.npz"
    write_job(folder, "job", arrays={"x": np.zeros(3)})
    entrances: list[Callable[[], Any]] = [
        lambda: load_arrays(str(path)),
        DataReference(path).load,
        lambda: read_job(folder, "job"),
        lambda: read_archive(path.read_bytes()),
    ]

    def work(random: Random) -> str:
        content = bytearray(lying_archive("array_0.npy", *random.choice(LIES), says=random.choice(SIZES)))
        for _ in range(random.choice([0, 1, 1, 3])):  # in the headers of the entry and of the directory
            place = random.choice([random.randrange(60), len(content) - 1 - random.randrange(100)])
            size = random.choice([1, 2, 4])
            content[place : place + size] = random.choice(NUMBERS[:6]).to_bytes(8, "little", signed=True)[:size]
        for file in (path, folder / "job.npz"):
            file.write_bytes(content)
        tracemalloc.start()
        try:
            random.choice(entrances)()
            end = "accepted"
        except ValueError as error:
            end = check_message(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 2 * len(content) + LARGEST, f"{peak:,} bytes for {len(content):,}"
        return end

    yield work


def damage(path: Path, random: Random, elsewhere: Path) -> None:
    """Damage a file: its JSON, arrays or bytes; or put a folder, a link or nothing in its place."""
    kind = random.choice(["content", "content", "content", "bytes", "folder", "link", "nothing"])
    content = path.read_bytes() if path.exists() else b""
    if kind == "content" and path.suffix == ".npz":
        with contextlib.suppress(Exception), np.load(io.BytesIO(content)) as stored:  # it may be damaged already
            path.write_bytes(changed_archive(dict(stored), random))
    elif kind == "content" and path.suffix == ".json":
        with contextlib.suppress(ValueError):
            path.write_bytes(changed_json(json.loads(content), random))
    elif kind in ("content", "bytes"):
        path.write_bytes(changed_bytes(content, random))
    else:
        remove(path)
        if kind == "folder":
            path.mkdir()
        if kind == "link":
            path.symlink_to(random.choice([elsewhere, Path(".."), path, elsewhere.with_name("nowhere")]))


def remove(path: Path) -> None:
    """Remove what stands at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


TEXT = "the quick brown fox, 12 times"
TURNS = {"system": ["v", "u"], "user": ["x", "y"], "model": ["z", "w"]}


@contextlib.contextmanager
def texts(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that reads damaged tokenizers, what else a file says of its text, and files of LiteRT-LM."""
    plain = read_model(FILE)
    forms = [(TextForm(kind, [1], [2], TURNS), content) for kind, content in tokenizer_contents()]
    containers = [with_metadata(plain, form.as_metadata(content)) for form, content in forms]
    is_packed = [False] * len(forms)
    with contextlib.suppress(ImportError):  # without the package that writes the others
        from tfprune.export.keras_side.language_model import litertlm_content

        for form, content in forms:
            bare = with_metadata(plain, form.as_metadata(b""))
            containers.append(litertlm_content(bare, form, tokenizer=content, length=16))
            is_packed.append(True)

    def work(random: Random) -> str:
        kind = random.choice(["tokenizer", "tokenizer", "form", "container"])
        form, content = random.choice(forms)
        metadata = form.as_metadata(content)
        name = [*metadata][kind == "tokenizer"]
        is_json = kind == "form" or form.tokenizer == JSON
        try:
            if kind == "container":
                place = random.randrange(len(containers))
                damaged = _damaged_container(containers[place], random)
                metadata = read_metadata(read_model(read_litertlm(damaged) if is_packed[place] else damaged))
            elif is_json and random.random() < 0.6:
                metadata[name] = _changed_part(json.loads(metadata[name]), random)
            else:
                metadata[name] = random.choice([changed_bytes, _other_letters])(metadata[name], random)
            read, tokenizer = read_text_form(metadata)
            if tokenizer is not None:
                for text in (TEXT, *(part for turn in read.turns.values() for part in turn)):
                    tokenizer.decode(tokenizer.encode(text))
                tokenizer.decode([*range(200)])
        except ValueError as error:
            return check_message(error)
        return "accepted"

    yield work


def _changed_part(parts: dict[str, Any], random: Random) -> bytes:
    """Change all of an object in JSON, or one of its parts: a step of a tokenizer, and not its vocabulary."""
    if random.random() < 0.3:
        return changed_json(parts, random)
    name = random.choice([name for name, part in parts.items() if part])
    whole = {key: json.dumps(part).encode() for key, part in parts.items()}
    texts = {**whole, name: changed_json(parts[name], random)}
    return b"{" + b", ".join(b'"%s": %s' % (key.encode(), text) for key, text in texts.items()) + b"}"


def _other_letters(content: bytes, random: Random) -> bytes:
    """Exchange some letters and digits for others: most of the content stays readable."""
    changed = bytearray(content)
    places = [place for place, byte in enumerate(content) if chr(byte).isalnum()]
    for place in random.sample(places, random.choice([1, 1, 3])):
        changed[place] = ord(random.choice("0129" if chr(content[place]).isdigit() else "aAez_"))
    return bytes(changed)


def _damaged_container(content: bytes, random: Random) -> bytes:
    """Change a few bytes, more often at the begin, where the places of the parts stand."""
    begin = random.choice([64, 512, len(content)])
    return changed_bytes(content[:begin], random) + content[begin:]


def tokenizer_contents() -> list[tuple[str, bytes]]:
    """Return small tokenizers: each model and most steps that `tokenizers` knows, and one of SentencePiece."""
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = ["[UNK]", "<s>", *"abcdefghijklmnopqrstuvwxyz,.0123456789_\u0120", "th", "the", "##e", "fox"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    scores = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    merges = [("t", "h"), ("th", "e")]
    joined = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "_"), normalizers.Prepend("_")])
    steps = [
        (models.BPE(ids, merges), normalizers.NFC(), pre_tokenizers.ByteLevel(), decoders.ByteLevel()),
        (
            *(models.WordPiece(ids, unk_token="[UNK]"), normalizers.BertNormalizer()),
            *(pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()),
        ),
        (models.Unigram(scores, 0), joined, pre_tokenizers.Metaspace("_"), decoders.Metaspace("_")),
        (models.WordLevel(ids, "[UNK]"), normalizers.Lowercase(), pre_tokenizers.Whitespace(), decoders.Fuse()),
        (
            *(models.BPE(ids, [], continuing_subword_prefix="##", unk_token="[UNK]"), normalizers.Strip()),
            *(pre_tokenizers.FixedLength(5), decoders.Strip("#", 1, 0)),
        ),
    ]
    contents = []
    for model, *others in steps:
        made = Tokenizer(model)
        made.normalizer, made.pre_tokenizer, made.decoder = others
        made.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
        made.enable_padding(length=8)
        made.enable_truncation(6)
        contents.append((JSON, made.to_str().encode()))
    trained = io.BytesIO()
    sentences = ["the quick brown fox jumps over the lazy dog", "a fox and a dog, 12 times"] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=trained, vocab_size=45, minloglevel=2, model_type="bpe"
    )
    return [*contents, (SENTENCEPIECE, trained.getvalue())]


LETTERS = {"user": ["x", "y"], "model": ["z", "w"]}  # turns in the vocabulary of `writer_task`
INTERRUPTED = ("tfprune.export.device.generator", "tfprune.export.device.writer_file", "ai_edge_litert.")


@contextlib.contextmanager
def interrupts(folder: Path) -> Iterator[Callable[[Random], str]]:
    """Yield a function that interrupts a call of a generator, and compares the next one with a fresh generator's."""
    from hub_writers import writer_task

    from tfprune.export import to_generator

    path = folder / "writer.tflite"
    to_generator(writer_task(), path, length=16, prefill=(2, 4), max_tokens=6, verbose=0)
    yield interrupting(path)


def interrupting(path: Path) -> Callable[[Random], str]:
    """Return a function that interrupts a call at one of its lines, and raises where the next one is another text."""
    generators, signatures = {}, Signatures(InterpretedFile(str(path), threads=1))
    for runtime, is_there in (("in place", True), ("interpreter", False)):
        with patch.object(writer_file, "_has_compiled_model", return_value=is_there):
            generator = generators[runtime] = Generator(path, threads=1)
        assert generator.runtime.endswith("in place") == is_there
        generator._form = dataclasses.replace(generator._form, turns=LETTERS)

    def fresh(prompt: list[int], count: int) -> list[int]:
        """Continue a prompt token by token, in other caches."""
        text, tokens = signatures.begin(), []
        scores = [text.decode(token) for token in prompt][-1]
        while len(tokens) < count and scores.argmax() not in generator._form.stop:
            tokens.append(int(scores.argmax()))
            scores = text.decode(tokens[-1])
        return tokens

    def work(random: Random) -> str:
        runtime = random.choice([*generators])
        generator = generators[runtime]
        ids = [random.randrange(1, generator.vocabulary) for _ in range(11)]
        name = random.choice(["read", "write", "perplexity", "turn", "pieces"])
        cached = ids[: random.randrange(1, 11)]

        def prepared() -> tuple[Any, Callable[[], object]]:
            generator.generate(cached, max_tokens=1)
            talk = generator.chat()
            return talk, {
                "read": lambda: generator.generate(ids, max_tokens=1),
                "write": lambda: generator.generate(ids[:4], max_tokens=8, temperature=1.0, seed=0),
                "perplexity": lambda: generator.perplexity(ids),
                "turn": lambda: talk.send("b", max_tokens=1),
                "pieces": lambda: [*talk.stream("b", max_tokens=1)],
            }[name]

        _, call = prepared()
        _, lines = interrupted_at(0, call)
        talk, call = prepared()
        is_interrupted, _ = interrupted_at(random.randint(1, lines), call)
        assert is_interrupted
        prompt = [*ids[: random.randrange(1, 11)], random.randrange(1, generator.vocabulary)]
        if name in ("turn", "pieces"):
            prompt = [*talk.tokens, *generator._tokenizer.encode("xcyz")[bool(talk.tokens) :]]
            answer = generator._tokenizer.decode(fresh(prompt, 1))
            assert talk.send("c", max_tokens=1) == answer
        assert generator.generate(prompt, max_tokens=3) == fresh(prompt, 3)
        return f"as fresh: {name}, {runtime}"

    return work


def interrupted_at(line: int, call: Callable[[], object]) -> tuple[bool, int]:
    """Interrupt a call at a line of the generator or its runtime; return whether it was, and how many lines ran."""
    lines, before = 0, sys.gettrace()

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_globals.get("__name__", "").startswith(INTERRUPTED):
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True, lines
    finally:
        sys.settrace(before)
    return False, lines


TARGETS = {
    "messages": messages,
    "jobs": jobs,
    "folders": folders,
    "archives": archives,
    "texts": texts,
    "interrupts": interrupts,
}
