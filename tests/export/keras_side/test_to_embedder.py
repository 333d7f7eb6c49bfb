"""Files of encoders that turn texts into vectors, against Keras."""

from __future__ import annotations

import hashlib

import keras
import numpy as np
import pytest

from tfprune.export import Embedder, to_embedder

hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra `hub`)")
hub_models = pytest.importorskip("hub_models")

WORDS = ["the", "fox", "jump", "##s", "##ed", "over", "dog", ".", ",", "grusse"]
TEXTS = ["The fox jumps over the dog.", "dog", "the cat, jumped", "Grüße"]


@pytest.fixture(scope="module")
def tokenizer():
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return hub.models.BertTokenizer(vocabulary=[*specials, *WORDS], lowercase=True, strip_accents=True)


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return hub_models.BACKBONES["BertBackbone"]()


@pytest.mark.programs
def test_vectors_are_those_of_keras(encoder, tokenizer, tmp_path):
    report = to_embedder(encoder, tmp_path / "encoder.tflite", tokenizer=tokenizer, length=16)
    assert report.bytes == (tmp_path / "encoder.tflite").stat().st_size
    certificate = report.certificate()  # of this call, not of the one of to_tflite inside of it
    assert certificate.function == "to_embedder" and certificate.arguments["length"] == 16
    content = (tmp_path / "encoder.tflite").read_bytes()
    assert certificate.file == {
        "name": "encoder.tflite",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.tflite"]
    embedder = Embedder(tmp_path / "encoder.tflite", threads=1)
    vectors = embedder.encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):  # without padding, one text at a time
        ids = np.array([[2, *np.asarray(tokenizer(text)), 3]])
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}
        mean = np.asarray(encoder(inputs)["sequence_output"])[0].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    with pytest.raises(ValueError, match="at most 16 tokens. Received: 20 in text 1"):
        embedder.encode(["dog", "dog " * 18])
    for texts in ("dog", 3, ["dog", 3]):
        with pytest.raises(TypeError, match="a list of texts"):
            embedder.encode(texts)
    with pytest.raises(ValueError, match="at least one text"):
        embedder.encode([])


def test_refusals(encoder, tokenizer, writer, tmp_path):
    path = tmp_path / "encoder.tflite"
    with pytest.raises(ValueError, match="at most 16, as many positions"):
        to_embedder(encoder, path, tokenizer=tokenizer, length=17)
    with pytest.raises(ValueError, match="a tokenizer of word pieces.*GPT2Tokenizer"):
        to_embedder(encoder, path, tokenizer=hub_models.gpt2_tokenizer(), length=16)
    for texts in ("dog", 3, ["dog", 3]):
        with pytest.raises(TypeError, match="a list of texts"):
            to_embedder(encoder, path, tokenizer=tokenizer, length=16, check_on=texts)
    with pytest.raises(ValueError, match="whole characters"):
        to_embedder(encoder, path, tokenizer=tokenizer, length=16, check_on=["dog \ud83d"])
    plain = keras.Sequential([keras.Input((3,), name="values"), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="an encoder with the inputs"):
        to_embedder(plain, path, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="a file of tfprune.export.to_embedder"):
        Embedder(writer)
    with pytest.raises(TypeError, match="the path"):
        Embedder(b"content")
    assert not list(tmp_path.iterdir())
