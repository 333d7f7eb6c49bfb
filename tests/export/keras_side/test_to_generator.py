"""Files that write what Keras writes, of classes of KerasHub, dense and smaller."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
from tiers import in_test_all

import tfprune
from tfprune.export import Generator, pack, share_weights, to_generator
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import read
from tfprune.export.keras_side import to_generator as to_generator_module
from tfprune.export.keras_side.language_model import text_content
from tfprune.models.anatomy import kernels, to_matrix

hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra `hub`)")
hub_writers = pytest.importorskip("hub_writers")

PROMPT = [3, 5, 7, 9, 2]


def written_by_keras(model, prompt, count, *, length=16):
    """Write greedily with the model's own loop, its own caches and its own sampler."""
    model.compile(sampler="greedy", run_eagerly=True)
    inputs = {name: np.zeros((1, length), "int32") for name in ("token_ids", "padding_mask")}
    inputs["token_ids"][0, : len(prompt)], inputs["padding_mask"][0, : len(prompt)] = prompt, 1
    tokens = model.generate_step(inputs, stop_token_ids=None)["token_ids"]
    return np.asarray(tokens)[0, len(prompt) : len(prompt) + count].tolist()


def test_the_file_of_the_session(writer):
    report = json.loads(writer.with_name("report.json").read_text())
    assert report["equal"] == report["written"] == 6 and report["difference"] < 1e-5
    assert report["perplexity"] == pytest.approx(report["keras_perplexity"], rel=1e-4)
    task = hub_writers.writer_task()
    text = "the brown fox"
    ids = task.preprocessor.tokenizer(text)
    assert Generator(writer, threads=1).generate(np.asarray(ids).tolist(), max_tokens=5) == written_by_keras(
        task, np.asarray(ids).tolist(), 5
    )


def test_the_vocabulary_is_one_tensor(writer):
    tables = [tensor for tensor in read(writer.read_bytes()).weights if 50 in tensor.shape]
    assert len(tables) == 1  # for looking up and for the scores, in all signatures


def test_shares_of_bytes_and_of_the_weights_that_a_token_reads(writer):
    report = json.loads(writer.with_name("report.json").read_text())
    weights = [(weight.path, weight.shape) for weight in hub_writers.writer_task().backbone.weights]
    blocks = [(path, math.prod(shape), len(shape) > 1) for path, shape in weights if "transformer_layer" in path]
    kernels, table = 4 * sum(size for _, size, is_matrix in blocks if is_matrix), 4 * 50 * 16
    attention = sum(size for path, size, _ in blocks if "self_attention/" in path)
    bytes_of, read_of = ({part: both[place] for part, both in report["shares"].items()} for place in (0, 1))
    assert bytes_of["vocabulary"] == pytest.approx(table / report["bytes"])
    assert read_of["vocabulary"] == pytest.approx(table / (table + kernels), rel=0.02)  # and some biases
    assert read_of["blocks"] == pytest.approx(1 - read_of["vocabulary"])
    rest = 1 - attention / sum(size for _, size, _ in blocks)
    assert read_of["units"] / read_of["blocks"] == pytest.approx(rest, rel=0.03)


@pytest.mark.parametrize("family", [in_test_all("Gemma3"), in_test_all("Llama")])
def test_other_classes(family, tmp_path):
    model = hub_writers.writer(family)
    to_generator(model, tmp_path / "writer.tflite", length=16, prefill=(4,), check_on=[PROMPT], max_tokens=4)
    file = Generator(tmp_path / "writer.tflite", threads=1)
    assert file.generate(PROMPT, max_tokens=8) == written_by_keras(model, PROMPT, 8)


@pytest.mark.programs
def test_number_formats_of_tied_tables_behind_a_scaled_norm(tmp_path):
    keras.utils.set_random_seed(0)
    sizes = {"num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 64, "intermediate_dim": 128}
    backbone = hub.models.Gemma3Backbone(500, None, num_layers=2, head_dim=32, **sizes)
    model = hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=None)
    for layer in model.backbone.layers:
        for weight in layer.weights:
            if weight.path.endswith("scale"):  # channels of different ranges, as in trained models
                weight.assign(np.exp(np.random.default_rng(0).normal(size=weight.shape)) - 1)
    size = 4 * model.count_params()
    for scheme, most, allowed in (("int8", 0.3, 0.1), ("int4", 0.17, 0.4)):
        path = tmp_path / "writer.tflite"
        report = to_generator(model, path, length=16, prefill=(4,), quantize=scheme, check_on=[PROMPT])
        assert report.difference < allowed and report.written == 8
        assert report.perplexity > 1 and report.prefill_speed > 0, "half of the length is left for the prompt"
        tables = [each for each in read(path.read_bytes()).weights if 500 in each.shape and each.dtype != "float16"]
        assert len(tables) == 1, "float16 are scales of blocks"
        assert path.stat().st_size < most * size + 150_000
        if scheme == "int8":
            packed = tmp_path / "writer.tfz"
            packed.write_bytes(pack(path))
            texts = [Generator(each, threads=1).generate(PROMPT, max_tokens=4) for each in (path, packed)]
            assert texts[0] == texts[1]
            assert len(pack(share_weights(path, levels=8))) < 0.7 * packed.stat().st_size
            assert share_weights(path, levels=256) == save_objects(load_objects(path.read_bytes()))
        if scheme == "int4":
            with pytest.raises(ValueError, match="a file with 8-bit weights"):
                share_weights(path)


@pytest.mark.slow
def test_blocks_with_their_own_heads_and_one_without(tmp_path):
    from hub_extreme import backbone, texts

    model = hub.models.LlamaCausalLM(backbone=backbone("Llama, 4 keys", blocks=3), preprocessor=None)
    parts = {"units": 0.5, "heads": 0.5}
    masked, report = tfprune.prune_units(model, texts(count=4), sparsity=parts, reconstruction=None, verbose=0)
    smaller = tfprune.shrink(masked, report.plan, into="class")
    counts = [row.kept for row in report.rows if row.kind == "heads"]
    assert len(set(counts)) > 1, "blocks of different numbers of heads are what this is about"
    for each, name in ((smaller, "smaller.tflite"), (masked, "masked.tflite")):
        to_generator(each, tmp_path / name, length=16, prefill=(4,), check_on=[PROMPT], max_tokens=8)
        written = Generator(tmp_path / name, threads=1).generate(PROMPT, max_tokens=8)
        assert written == written_by_keras(smaller, PROMPT, 8)
    graph = read((tmp_path / "smaller.tflite").read_bytes()).subgraphs[0]
    caches = [graph.tensors[index].shape for index in graph.inputs]
    assert sorted(shape[1] for shape in caches if len(shape) == 4) == sorted(2 * [count for count in counts if count])


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (lambda: hub_writers.BACKBONES["BertBackbone"](), "a backbone, without a head"),
        (lambda: hub.models.BartSeq2SeqLM(hub_writers.BACKBONES["BartBackbone"](), None), "an encoder-decoder"),
        (lambda: hub_writers.writer("RWKV7"), "RWKV7CausalLM"),
        (lambda: hub_writers.writer("Qwen3_5"), "which keeps states of the shapes"),
        (lambda: hub_writers.writer("GPTNeoX"), "same scores with its cache as without.*GPTNeoXCausalLM"),
        (lambda: hub_writers.writer("PaliGemma"), "also reads"),
        (lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), "Sequential, which has none"),
    ],
)
def test_refused_models(model, error, tmp_path):
    with pytest.raises(ValueError, match=error):
        to_generator(model(), tmp_path / "writer.tflite", length=16)
    assert not list(tmp_path.iterdir())


def test_files_above_two_gigabytes_are_refused_before_the_conversion(tmp_path, monkeypatch):
    model = hub_writers.writer_task()
    monkeypatch.setattr(to_generator_module, "LARGEST_FILE", 4 * model.count_params())
    with pytest.raises(ValueError, match="of less than 2 GB in float32.*Use quantize='int8', quantize='int4', or a"):
        to_generator(model, tmp_path / "writer.tflite", length=16)
    monkeypatch.setattr(to_generator_module, "LARGEST_FILE", model.count_params() // 2)
    with pytest.raises(ValueError, match=r"of less than 2 GB in int4.*Use a smaller model"):
        to_generator(model, tmp_path / "writer.tflite", length=16, quantize="int4")


def test_a_tokenizer_of_an_unknown_kind_is_left_out():
    model = hub_writers.writer_task()
    model.preprocessor.tokenizer.merges = None
    form, content = text_content(model)
    assert (form.tokenizer, content) == ("", b"") and form.stop == [0]


def test_refused_arguments(tmp_path):
    model = hub_writers.writer_task()
    for settings, error in (
        ({"length": 17}, "at most 16, as many positions as"),
        ({"length": 16, "prefill": ()}, "at least one number in `prefill`"),
        ({"length": 16, "quantize": "int2"}, "int2"),
        ({"length": 16, "check_on": [[1]]}, "at least two ids from 0 to 49"),
        ({"length": 16, "check_on": [[1, 50]]}, "from 0 to 49"),
        ({"length": 16, "check_on": ["the \ud83d fox"]}, "whole characters"),
    ):
        with pytest.raises(ValueError, match=error):
            to_generator(model, tmp_path / "writer.tflite", **settings)
    for texts in ("the fox", 3):
        with pytest.raises(TypeError, match="a list of texts"):
            to_generator(model, tmp_path / "writer.tflite", length=16, check_on=texts)


@pytest.mark.programs
def test_a_file_has_the_integers_that_were_chosen_with_the_zeros(tmp_path):
    keras.utils.set_random_seed(0)
    sizes = {"num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 64, "intermediate_dim": 128}
    backbone = hub.models.Gemma3Backbone(500, None, num_layers=1, head_dim=32, **sizes)
    tokens = np.random.default_rng(0).integers(500, size=(16, 12))
    samples = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    settings = {"criterion": "sparsegpt", "filters": "decoder_block", "allocation": "uniform"}
    sparse, report = tfprune.prune_weights(backbone, samples, 0.5, rounding=tfprune.Rounding(4, block=32), **settings)
    model = hub.models.Gemma3CausalLM(backbone=sparse, preprocessor=None)
    path = tmp_path / "writer.tflite"
    to_generator(model, path, length=16, prefill=(4,), check_on=[PROMPT], max_tokens=4, quantize="int4", tolerance=9)
    contents = set()
    for tensor in read(path.read_bytes()).weights:
        if tensor.dtype == "int4":
            halves = np.stack([tensor.values.raw & 15, tensor.values.raw >> 4], axis=-1).ravel()[: tensor.size]
            contents.add(((halves ^ 8).astype(np.int8) - 8).reshape(tensor.shape).tobytes())
    decoder_kernels = [kernel for kernel in kernels(sparse) if "decoder_block" in kernel.path]
    assert len(decoder_kernels) == len(report.rows) == 7
    for kernel in decoder_kernels:
        rows = to_matrix(keras.ops.convert_to_numpy(kernel.variable), kernel)
        blocks = rows.reshape(-1, 32)
        steps = np.abs(blocks).max(axis=1, keepdims=True) / 7
        integers = np.rint(blocks / np.where(steps > 0, steps, 1)).astype(np.int8)
        assert integers.reshape(rows.shape).tobytes() in contents, kernel.path
