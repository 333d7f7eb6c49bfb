"""Language models and encoders of KerasHub on JAX, as files that write and embed: by LiteRT's converter."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfprune.export import Embedder, Generator, to_embedder, to_generator
from tfprune.export.file.reader import read

hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra `hub`)")
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="LiteRT's converter takes such models from JAX"),
    pytest.mark.usefixtures("converter"),
]
PROMPT, TEXTS = [3, 5, 7, 9, 2], ["the quick fox", "the dog"]
SIZES = {"num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 64, "intermediate_dim": 128}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    backbone = hub.models.Gemma3Backbone(500, None, num_layers=1, head_dim=32, **SIZES)
    return hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=None)


def test_a_file_writes_what_keras_writes_with_one_table_of_the_vocabulary(model, tmp_path, converter):
    path = tmp_path / "writer.tflite"
    if converter == "tensorflow":
        with pytest.raises(ValueError, match=r"backend 'tensorflow'.* Received: 'jax'.* TFPRUNE_CONVERTER=litert"):
            to_generator(model, path, length=16)
        return
    report = to_generator(model, path, length=16, prefill=(4,), check_on=[PROMPT], max_tokens=4)
    assert report.equal == report.written == 4 and report.difference < 1e-5
    assert len(Generator(path, threads=1).generate(PROMPT, max_tokens=8)) == 8
    to_generator(model, path, length=16, prefill=(4,), check_on=[PROMPT], max_tokens=4, quantize="int8")
    tables = [weight.dtype for weight in read(path.read_bytes()).weights if 500 in weight.shape]
    assert tables == ["int8"]


def test_a_file_for_the_engine_writes_what_its_plain_file_writes(tmp_path, converter):
    pytest.importorskip("litert_lm_builder", reason="litert-lm-builder is not installed (extra `litertlm`)")
    if converter == "tensorflow":
        return
    import hub_writers

    task, texts = hub_writers.with_tokenizer("Qwen3"), []
    for name in ("writer.tflite", "writer.litertlm"):
        to_generator(task, tmp_path / name, length=16, prefill=(4,), max_tokens=2, verbose=0)
        texts.append(Generator(tmp_path / name, threads=1).generate("the fox", max_tokens=8))
    assert texts[0] == texts[1]


def test_an_encoder_gives_the_vectors_of_keras(tmp_path, converter):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "over", "dog", "."]
    tokenizer = hub.models.BertTokenizer(vocabulary=words, lowercase=True)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 16}
    backbone = hub.models.BertBackbone(vocabulary_size=len(words), **sizes)
    report = to_embedder(backbone, tmp_path / "encoder.tflite", tokenizer=tokenizer, length=8, check_on=TEXTS)
    assert report.max_abs_diff < 1e-5
    vectors = Embedder(tmp_path / "encoder.tflite").encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
