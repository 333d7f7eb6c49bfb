"""Conversations: what is read of each turn, what is kept, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from tfprune.export import Generator
from tfprune.export.device.writer_file import CachedText

TURNS = {"user": ["x", "y"], "model": ["z", "w"]}
WITH_SYSTEM = {"system": ["v", "u"], **TURNS}
START, A, B, U, V, W, X, Y, Z = 0, 1, 2, 21, 22, 23, 24, 25, 26  # ids of the tiny tokenizer


@pytest.fixture
def generator(writer):
    """Return a generator whose turns are separated by letters of the tiny vocabulary."""
    generator = Generator(writer, threads=1)
    generator._form = dataclasses.replace(generator._form, turns=TURNS)
    return generator


def test_a_turn_continues_the_tokens_of_all_turns(generator, writer):
    talk, other = generator.chat(), Generator(writer, threads=1)
    prompt = [START, X, A, Y, Z]
    answer = other.generate(prompt, max_tokens=2)
    assert talk.send("a", max_tokens=2) == other._tokenizer.decode(answer)
    assert talk.tokens == [*prompt, *answer, W]
    prompt = [*talk.tokens, X, B, Y, Z]
    "".join(talk.stream("b", max_tokens=2))
    assert talk.tokens == [*prompt, *other.generate(prompt, max_tokens=2), W]


def test_only_new_tokens_are_read(generator, monkeypatch):
    talk = generator.chat()
    talk.send("a", max_tokens=2)
    lengths, prefill = [], CachedText.prefill
    monkeypatch.setattr(CachedText, "prefill", lambda text, ids: (lengths.append(len(ids)), prefill(text, ids)))
    talk.send("b", max_tokens=1)
    assert lengths == [5]  # the last token of the answer, the end of its turn, and all but one of the new turn


def test_a_turn_that_was_interrupted_was_not_said(generator, monkeypatch):
    talk, decode = generator.chat(instructions="b"), CachedText.decode

    def interrupted(text, token):
        if len(text.tokens) > 6:  # the prompt and a token of the answer
            raise KeyboardInterrupt
        return decode(text, token)

    monkeypatch.setattr(CachedText, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        talk.send("a", max_tokens=3)
    monkeypatch.undo()
    assert talk.tokens == []
    assert talk.send("a", max_tokens=2) == generator.chat(instructions="b").send("a", max_tokens=2)


def test_what_was_heard_of_an_answer_is_kept_when_the_next_turn_begins(generator):
    talk = generator.chat()
    first, unheard = talk.stream("a", max_tokens=3), generator.chat().stream("b")
    next(first)
    heard = [*talk.tokens]
    assert heard[:5] == [START, X, A, Y, Z] and heard[-1] == W and len(heard) > 6
    talk.send("b", max_tokens=1)
    assert talk.tokens[: len(heard) + 2] == [*heard, X, B]
    with pytest.raises(ValueError, match="one turn at a time"):
        next(first)
    kept = [*talk.tokens]
    first.close()
    assert talk.tokens == kept
    next(unheard)


def test_a_conversation_that_is_full_is_as_it_was(generator):
    talk = generator.chat()
    talk.send("a", max_tokens=1)
    before = [*talk.tokens]
    with pytest.raises(ValueError, match="fewer than 16 tokens"):
        talk.send("aaaaaaa")
    assert talk.tokens == before and talk.send("a", max_tokens=1)


def test_instructions_have_a_turn_or_begin_the_first(generator):
    talk = generator.chat(instructions="b")
    talk.send("a", max_tokens=1)
    assert talk.tokens[:6] == [START, X, B, A, Y, Z]  # the tiny tokenizer has no line breaks
    generator._form = dataclasses.replace(generator._form, turns=WITH_SYSTEM)
    assert generator.chat(instructions="b").tokens == [START, V, B, U]


def test_refusals(generator, writer):
    with pytest.raises(ValueError, match="tokens for turns"):
        Generator(writer, threads=1).chat()
    with pytest.raises(ValueError, match="without 'w', which separates turns"):
        generator.chat().send("www")
    with pytest.raises(ValueError, match="temperature"):
        generator.chat().send("a", temperature=-1)
    with pytest.raises(TypeError, match="a text as `text`"):
        generator.chat().send(["a"])
    with pytest.raises(TypeError, match="a text as `instructions`"):
        generator.chat(instructions=3)
