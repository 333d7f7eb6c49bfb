"""Trimmed tokenizers against those that read them: SentencePiece itself, its own protobuf, and `tokenizers`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from tfprune.compact.vocabulary import _read_vocabulary, _SentencePieceModel

sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")

PAGES = sorted((Path(__file__).parents[2] / "docs" / "explanation").glob("*.md"))
LINES = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if line.strip()]
OTHERS = ["Grüße aus Zürich: 3.5 €", "日本語 and emoji 😀", "a  b   c", ""]
SPECIAL = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
SPECIAL |= {f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}


def trained(model_type: str, *, size: int = 600, **settings) -> bytes:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=content, model_type=model_type, vocab_size=size,
        user_defined_symbols=["<start_of_turn>", "\n"], control_symbols=["<unused0>", "<unused1>"],
        minloglevel=2, **SPECIAL, **settings,
    )  # fmt: skip
    return content.getvalue()


def gemma(content: bytes):
    return keras_hub.models.GemmaTokenizer(proto=content)


def chosen(tokenizer, texts: list[str]) -> tuple[list[int], dict]:
    """Return the ids that texts need, and the arguments of the tokenizer with these alone."""
    vocabulary = _read_vocabulary(tokenizer)
    used = {int(number) for text in texts for number in np.asarray(tokenizer(text)).reshape(-1)}
    kept = sorted(vocabulary.with_parts(used | vocabulary.fixed))
    return kept, vocabulary.arguments(kept)


@pytest.mark.parametrize(
    "model_type, fallback", [("unigram", True), ("bpe", True), ("unigram", False), ("bpe", False)]
)
def test_sentencepiece_writes_the_texts_in_the_same_pieces(model_type, fallback):
    content = trained(model_type, byte_fallback=fallback, size=800 if fallback else 500)
    whole, random = sentencepiece.SentencePieceProcessor(model_proto=content), np.random.default_rng(0)
    for count in (1, 5, 40):
        texts = [LINES[place] for place in random.choice(len(LINES), count, replace=False)]
        texts += OTHERS[:1] if fallback else []
        kept, arguments = chosen(gemma(content), texts)
        small = sentencepiece.SentencePieceProcessor(model_proto=arguments["proto"])
        assert small.vocab_size() == len(kept) < whole.vocab_size()
        for text in texts:
            assert small.encode(text, out_type=str) == whole.encode(text, out_type=str)
            assert [kept[number] for number in small.encode(text)] == whole.encode(text)
        for text in OTHERS if fallback else ():
            assert small.decode(small.encode(text)) == whole.decode(whole.encode(text))  # in more pieces, or bytes


def test_the_file_is_what_sentencepieces_protobuf_reads():
    from sentencepiece import sentencepiece_model_pb2

    content = trained("unigram", byte_fallback=True, size=800, self_test_sample_size=3)
    kept, arguments = chosen(gemma(content), LINES[:3])
    whole, small = sentencepiece_model_pb2.ModelProto(), sentencepiece_model_pb2.ModelProto()
    whole.ParseFromString(content)
    small.ParseFromString(arguments["proto"])
    assert [*small.pieces] == [whole.pieces[number] for number in kept]  # texts, scores and types
    assert small.normalizer_spec == whole.normalizer_spec
    assert len(whole.self_test_data.samples) == 3
    assert not small.HasField("self_test_data")  # SentencePiece would test sentences that need other pieces
    assert small.trainer_spec.vocab_size == len(kept)
    whole.trainer_spec.vocab_size = len(kept)
    assert small.trainer_spec == whole.trainer_spec
    texts = {piece.piece for piece in small.pieces}
    assert {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "\n", "<0x00>", "<0xFF>"} <= texts
    assert not {"<unused0>", "<unused1>"} & texts  # reserved, and in no text


def test_ids_of_special_pieces_follow_them():
    content = trained("bpe", size=500)
    small = _SentencePieceModel(_SentencePieceModel(content).with_pieces([1, 2, 3, 9, 20]))
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=_SentencePieceModel(content).with_pieces([1, 2, 3, 9])
    )
    assert (processor.eos_id(), processor.bos_id(), processor.unk_id()) == (0, 1, 2)
    assert [piece.text for piece in small.pieces][:3] == ["<eos>", "<bos>", "<unk>"]


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"\xff"])
def test_a_damaged_file_is_refused(damage):
    with pytest.raises(ValueError, match=r"a file of SentencePiece. Received: damaged content"):
        _SentencePieceModel(damage(trained("bpe", size=500)))


def byte_pairs():
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def test_byte_pairs_write_the_texts_in_the_same_tokens():
    import tokenizers

    whole, random = byte_pairs(), np.random.default_rng(0)
    model = json.loads(whole.to_str())["model"]
    merges = [" ".join(pair) for pair in model["merges"]]
    for count in (1, 5, 40):
        texts = [LINES[place] for place in random.choice(len(LINES), count, replace=False)]
        hub = keras_hub.models.GPT2Tokenizer(vocabulary=model["vocab"], merges=merges)
        used = {number for text in texts for number in whole.encode(text).ids}
        vocabulary = _read_vocabulary(hub)
        kept = sorted(vocabulary.with_parts(used | vocabulary.fixed))
        arguments = vocabulary.arguments(kept)
        assert len(kept) < len(model["vocab"])
        assert len(arguments["merges"]) >= len(kept) - 257  # the bytes, and a special token
        pairs = [tuple(merge.split(" ")) for merge in arguments["merges"]]
        small = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=arguments["vocabulary"], merges=pairs))
        small.pre_tokenizer = whole.pre_tokenizer
        for text in texts:
            assert small.encode(text).tokens == whole.encode(text).tokens
            assert [kept[number] for number in small.encode(text).ids] == whole.encode(text).ids


def test_tokenizers_that_cannot_be_rewritten_are_refused_by_name():
    pieces = {"bos_piece": "<s>", "pad_piece": "<pad>", "eos_piece": "</s>", "unk_piece": "<unk>"}
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=content, vocab_size=300, minloglevel=2, **pieces
    )
    offset = keras_hub.models.XLMRobertaTokenizer(proto=content.getvalue())
    with pytest.raises(
        ValueError, match=r"Received: XLMRobertaTokenizer, whose ids are not those.*Keep the vocabulary"
    ):
        _read_vocabulary(offset)
    with pytest.raises(ValueError, match="Received: ByteTokenizer, whose vocabulary is of an unknown kind"):
        _read_vocabulary(keras_hub.tokenizers.ByteTokenizer())
    cut = keras_hub.models.GemmaTokenizer(proto=trained("bpe", size=500), sequence_length=8)
    with pytest.raises(ValueError, match="GemmaTokenizer, which cuts texts to sequence_length=8"):
        _read_vocabulary(cut)
