"""A language model's file that writes: pieces, ends, prompts in parts, and prompts that do not fit."""

from __future__ import annotations

import json
import threading
from random import Random

import damaged
import numpy as np
import pytest

from tfprune.export import Generator
from tfprune.export.device import writer_file
from tfprune.export.device.writer_file import InterpretedFile, Signatures
from tfprune.export.file.document import load_objects, save_objects


@pytest.fixture(scope="module")
def generator(writer):
    return Generator(writer, threads=1)


def greedy(path, prompt, count):
    """Write with `decode` alone, a token at a time, and no other code of the generator."""
    text = Signatures(InterpretedFile(str(path), threads=1)).begin()
    for token in prompt[:-1]:
        text.decode(token)
    tokens = [prompt[-1]]
    while len(tokens) <= count:
        tokens.append(int(text.decode(tokens[-1]).argmax()))
    return tokens[1:]


@pytest.mark.parametrize("length", [1, 2, 3, 6, 9, 15])
def test_a_prompt_in_parts_is_the_same_as_token_by_token(generator, writer, length):
    prompt = np.random.default_rng(length).integers(1, generator.vocabulary, length).tolist()
    count = min(4, generator.length - length)
    stops = [*range(generator.vocabulary)]
    expected = greedy(writer, prompt, count)
    assert (
        generator.generate(prompt, max_tokens=count)[: len(expected)] == expected[: _until_end(generator, expected)]
    )
    assert generator.generate(prompt, stop=stops) == []


def _until_end(generator, tokens):
    ends = [place for place, token in enumerate(tokens) if token in generator._form.stop]
    return ends[0] if ends else len(tokens)


def test_texts_and_pieces(generator):
    text = generator.generate("the fox", max_tokens=8)
    pieces = list(generator.stream("the fox", max_tokens=8))
    assert "".join(pieces) == text and len(pieces) > 1
    ids = generator.generate(generator._tokenizer.encode("the fox"), max_tokens=8)
    assert generator._tokenizer.decode(ids) == text


def test_the_text_ends_before_a_stop_text(generator):
    text = generator.generate("the fox", max_tokens=8)
    for stop in (text[1:3], text[2:4], text[-1]):
        written = [*generator.stream("the fox", max_tokens=8, stop=["no such text", stop])]
        assert "".join(written) == text[: text.index(stop)]


def test_the_cache_is_filled_to_its_end(generator):
    prompt = [3] * (generator.length - 2)
    assert len(generator.generate(prompt)) <= 2
    assert len(generator.generate(prompt, max_tokens=2, temperature=1.0, seed=1)) <= 2


@pytest.mark.parametrize(
    ("prompt", "settings", "error"),
    [
        ([], {}, "an empty prompt"),
        ([10**6], {}, "id 1000000"),
        ([-1], {}, "id -1"),
        ([3] * 16, {}, "fewer than 16 tokens.*Received: 16 tokens"),
        ([3] * 10, {"max_tokens": 7}, "a prompt of 10 and max_tokens=7"),
        ([3], {"max_tokens": 0}, "max_tokens"),
        ([3], {"stop": "end"}, "texts for a text only"),
        ("the fox", {"stop": [""]}, "not empty"),
        ("the \ud83d fox", {}, "whole characters.*ud83d"),
    ],
)
def test_refusals(generator, prompt, settings, error):
    with pytest.raises(ValueError, match=error):
        generator.generate(prompt, **settings)


@pytest.mark.parametrize("prompt", [[[3, 4]], [0.5], None, [[3], [4, 5]], b"the fox"])
def test_prompts_of_other_types(generator, prompt):
    with pytest.raises(TypeError, match="a flat list of token ids"):
        generator.generate(prompt)


@pytest.mark.parametrize("stop", [3, None, b"the"])
def test_stops_of_other_types(generator, stop):
    with pytest.raises(TypeError, match=f"a list of texts and token ids. Received: stop={stop!r}"):
        generator.generate("the fox", stop=stop)


def test_after_an_interrupted_call_the_text_is_that_of_a_fresh_generator(writer):
    work = damaged.interrupting(writer)
    ends = {work(Random(number)) for number in range(200)}
    assert len(ends) == 10, "five kinds of calls, in both runtimes"


@pytest.mark.parametrize("name", ["stream", "perplexity", "generate"])
def test_a_text_cannot_go_on_after_another_was_begun(generator, name):
    calls = {"stream": lambda ids: next(generator.stream(ids)), "perplexity": generator.perplexity}
    call = calls.get(name, generator.generate)
    expected = call([9, 2, 4]), generator.generate([3, 5, 7], max_tokens=3)
    stream = generator.stream([3, 5, 7], max_tokens=3)
    assert next(stream) == expected[1][0]
    assert call([9, 2, 4]) == expected[0]
    with pytest.raises(ValueError, match="one text at a time"):
        next(stream)
    assert generator.generate([3, 5, 7], max_tokens=3) == expected[1]


def test_threads_write_their_own_text_or_are_refused(writer):
    generator = Generator(writer, threads=1)
    prompts = {name: [name, 5, 7, 9] for name in (3, 4)}
    expected = {name: generator.generate(prompt, max_tokens=4) for name, prompt in prompts.items()}
    ends = []

    def write(name):
        for _ in range(20):
            try:
                ends.append(generator.generate(prompts[name], max_tokens=4) == expected[name])
            except ValueError as error:
                ends.append("one text at a time" in str(error))

    threads = [threading.Thread(target=write, args=(name,)) for name in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [True] * 40


@pytest.mark.parametrize("is_in_place", [True, False])
def test_scores_that_are_no_numbers_are_refused_and_leave_no_trace(writer, tmp_path, monkeypatch, is_in_place):
    model = load_objects(writer.read_bytes())
    positions = next(t for t in model.subgraphs[0].tensors if t.name == b"decode_weight_1:0")
    values = np.array(model.buffers[positions.buffer].data).view(np.float32).reshape(positions.shape)
    values[8:] = np.nan  # what a longer text leaves in the caches
    model.buffers[positions.buffer].data = values.reshape(-1).view(np.uint8)
    (tmp_path / "damaged.tflite").write_bytes(save_objects(model))
    monkeypatch.setattr(writer_file, "_has_compiled_model", lambda: is_in_place)
    damaged_generator = Generator(tmp_path / "damaged.tflite", threads=1)
    assert damaged_generator.runtime.endswith("in place") == is_in_place
    for call in (damaged_generator.perplexity, damaged_generator.generate):
        with pytest.raises(ValueError, match=r"scores that are numbers. Received: nan after (9|10) tokens"):
            call([3] * 10)
        assert damaged_generator.generate([3, 5, 7], max_tokens=3) == greedy(writer, [3, 5, 7], 3)


def test_other_files(writer, tmp_path):
    model = load_objects(writer.read_bytes())
    model.signatureDefs = []
    (tmp_path / "other.tflite").write_bytes(save_objects(model))
    with pytest.raises(ValueError, match="with the signatures `decode` and `prefill_N`"):
        Generator(tmp_path / "other.tflite")
    (tmp_path / "empty.tflite").write_bytes(b"")
    (tmp_path / "text.tflite").write_bytes(b"no model at all")
    (tmp_path / "short.tflite").write_bytes(writer.read_bytes()[:-100])
    for name in ("empty", "text", "short", "missing"):
        with pytest.raises(ValueError, match=f"{name}.tflite"):
            Generator(tmp_path / f"{name}.tflite")
    assert not list(tmp_path.glob("*.cache"))
    with pytest.raises(TypeError, match="Expected the path"):
        Generator(writer.read_bytes())


def test_perplexity_is_that_of_keras(generator, writer):
    report = json.loads((writer.parent / "report.json").read_text())
    # what the export compared both on
    ids = np.random.default_rng(0).integers(0, generator.vocabulary, 8).tolist()
    assert generator.perplexity(ids) == pytest.approx(report["keras_perplexity"], rel=1e-4)
    with pytest.raises(ValueError, match="at least two tokens"):
        generator.perplexity(ids[:1])
