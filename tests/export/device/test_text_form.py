"""The tokenizer of a file: ids that only its model has."""

from __future__ import annotations

import io

import pytest

from tfprune.export.device.writer_file import JSON, SENTENCEPIECE, TextForm, Tokenizer


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
@pytest.mark.parametrize("content", [b"\xff\xfe damaged", b"{}", b"[1]"])
def test_refuses_content_of_another_kind(kind, content):
    pytest.importorskip(kind)
    with pytest.raises(ValueError, match=f"of the kind '{kind}' in the file"):
        Tokenizer(TextForm(kind, [], []), content)
