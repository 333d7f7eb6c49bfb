"""The tokenizer of a file: ids that only its model has."""

from __future__ import annotations

import io

import damaged
import pytest

from tfprune.export.device.writer_file import JSON, SENTENCEPIECE, TextForm, Tokenizer, read_text_form

PANIC = b"""{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}"""  # no Exception, where Rust raises it


def test_ids_beyond_the_tokenizer_have_no_text():
    sentencepiece = pytest.importorskip("sentencepiece")
    content = io.BytesIO()
    sentences = iter(["the quick brown fox jumps over the lazy dog"] * 4)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=content, vocab_size=40, model_type="char", minloglevel=2
    )
    tokenizer = Tokenizer(TextForm(SENTENCEPIECE, [], []), content.getvalue())
    ids = tokenizer.encode("the fox")
    assert tokenizer.decode([*ids, 100, *ids]) == "the fox the fox"


@pytest.mark.parametrize("kind", [SENTENCEPIECE, JSON])
@pytest.mark.parametrize("content", [b"\xff\xfe damaged", b"{}", b"[1]", b"", b'{"model": {"type": "BPE"}}', PANIC])
def test_refuses_content_of_another_kind(kind, content):
    pytest.importorskip(kind)
    with pytest.raises(ValueError, match=f"of the kind '{kind}' in the file"):
        Tokenizer(TextForm(kind, [], []), content)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(("start", [True]), ("start", [-1]), ("stop", [2**40]), ("stop", [[]])),
        *(("turns", {"user": turn}) for turn in (3, ["a"], ["a", 1], "ab", ["\ud83d", ""])),
    ],
)
def test_refuses_what_no_export_says_about_texts(place, value):
    form = TextForm(**{"tokenizer": "", "start": [], "stop": [], place: value})
    with pytest.raises(ValueError, match=f"Received: something else as {place}"):
        read_text_form(form.as_metadata(b""))


def test_a_tokenizer_that_would_cut_or_fill_texts_gives_all_ids_and_no_others():
    pytest.importorskip("tokenizers")
    pytest.importorskip("sentencepiece")
    for kind, content in damaged.tokenizer_contents():  # which fill up to 8 and cut to 6
        tokenizer = Tokenizer(TextForm(kind, [], []), content)
        assert len(tokenizer.encode("fox " * 20)) >= 20 and len(tokenizer.encode("a")) < 8


def test_damaged_texts_are_refused_in_sentences():
    pytest.importorskip("tokenizers")
    findings, ends = damaged.fuzz("texts", range(300))
    assert not findings, findings[0]
    assert set(ends) == {"accepted", "refused"}
