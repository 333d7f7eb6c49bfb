"""What `optimize="latency"` would write, asked before it is written, and why operators stay dense."""

from __future__ import annotations

import json

import numpy as np
import pytest
from file_graphs import SAME, VALID, FileGraph

from tfprune.export.device.benchmark import benchmark
from tfprune.export.device.runner import Runner, has_avx
from tfprune.export.file import schema
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.ask import sparse_inference
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.rewriting import rewrite as rewriting
from tfprune.export.rewriting.rewrite import candidate_files, rewrite
from tfprune.export.rewriting.sparse_convolutions import spread_convolutions

SHAPE = (1, 16, 16, 3)


def body(graph: FileGraph, x: int, *, zeros: float = 0.95, channels: int = 64) -> int:
    for _ in range(3):
        x = graph.convolution(x, channels, zeros=zeros)
    return x


def network(zeros: float, *, shape: tuple[int, ...] = SHAPE) -> FileGraph:
    graph = FileGraph(0, shape=shape)
    graph.graph.outputs = np.array([body(graph, graph.input, zeros=zeros)], np.int32)
    return graph


def content_of(graph: FileGraph) -> bytes:
    return graph.content(*graph.graph.outputs)


def opened(graph: FileGraph, *, places: tuple[int, ...]) -> FileGraph:
    """Leave dimensions of all maps open."""
    for tensor in graph.graph.tensors:
        if len(tensor.shape) == 4 and tensor.buffer == 0:
            tensor.shapeSignature = np.where([n in places for n in range(4)], -1, tensor.shape).astype(np.int32)
    return graph


def in_integers(graph: FileGraph) -> FileGraph:
    """Let all operators compute in int8."""
    scale = schema.QuantizationParametersT(scale=np.ones(1, np.float32), zeroPoint=np.zeros(1, np.int64))
    for tensor in graph.graph.tensors:
        tensor.type, tensor.quantization = schema.TensorType.INT8, scale
        if tensor.buffer:
            kind = np.int8 if len(tensor.shape) > 1 else np.int32
            tensor.type = getattr(schema.TensorType, np.dtype(kind).name.upper())
            graph.model.buffers[tensor.buffer].data = np.ones(tensor.shape, kind).ravel().view(np.uint8)
    return graph


@pytest.mark.parametrize("zeros", [0.95, 0.7, 0.0])
def test_the_prediction_is_the_gain_of_the_file_that_is_written(zeros):
    content = content_of(network(zeros))
    rewriting = sparse_inference(content).rewriting
    file, gain = spread_convolutions(ModelFile.open(content))
    assert rewriting.pays == (file.content != content)
    assert rewriting.gain == pytest.approx(gain) if rewriting.pays else rewriting.gain < 1.1
    assert {row.sparse for row in rewriting.rows} == {rewriting.pays}
    assert json.loads(json.dumps(sparse_inference(content).as_dict()))["rewriting"]["pays"] == rewriting.pays


@pytest.mark.parametrize("zeros", [0.0, 0.5])
@pytest.mark.parametrize("channels", [16, 48, 128])
@pytest.mark.parametrize("depth", [3, 24])
def test_no_file_is_offered_that_is_slower_by_the_estimate(zeros, channels, depth):
    graph = FileGraph(0, shape=(1, 16, 16, depth))
    file = ModelFile.open(graph.content(graph.mean(body(graph, graph.input, zeros=zeros, channels=channels))))
    spread, gain = spread_convolutions(file)
    assert (spread, gain) == (file, 1.0) or gain >= 1.1
    names = [form.name for form in candidate_files(file, name="dense", optimize="latency") if not form.refusal]
    assert any("sparse 1x1" in name for name in names) == (gain > 1)
    assert gain == 1.0 or zeros == 0.5 and channels > 16


def test_it_pays_from_the_zeros_that_the_report_names():
    start = sparse_inference(content_of(network(0.0))).rewriting.pays_from
    gains = [spread_convolutions(ModelFile.open(content_of(network(start + more))))[1] for more in (-0.1, 0.02)]
    assert gains[0] == 1.0 and gains[1] >= 1.1
    report = sparse_inference(content_of(network(0.3)))
    assert f"it pays from about {start:.0%} zeros" in str(report) and report.rewriting.verdict in str(
        report.rewriting
    )


def transposed(graph: FileGraph) -> int:
    return graph.transposed(body(graph, graph.input), 8, stride=3)


def strided(graph: FileGraph) -> int:
    return windowed(graph, strideH=3, strideW=3, padding=SAME)


def dilated(graph: FileGraph) -> int:
    return windowed(graph, dilationHFactor=6, dilationWFactor=6, padding=SAME)


def widened(graph: FileGraph) -> int:
    return graph.convolution(graph.pad(body(graph, graph.input), sides=3), 64, zeros=0.95, padding=VALID)


def windowed(graph: FileGraph, **options: int) -> int:
    options = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, **options}
    inputs = [body(graph, graph.input), graph.weights(64, 3, 3, 64, zeros=0.95), graph.weights(64)]
    length = -(-16 // options["strideH"])
    return graph.operator("CONV_2D", inputs, (1, length, length, 64), kind="Conv2DOptions", **options)


def reversed_rows(graph: FileGraph) -> int:
    return graph.operator("REVERSE_V2", [body(graph, graph.input), graph.integers(1)], (1, 16, 16, 64))


@pytest.mark.parametrize(
    ("operators", "kind", "reason"),
    [
        (transposed, "TRANSPOSE_CONV", "twice as high and as wide, as strides of 2"),
        (strided, "CONV_2D", "its strides are 3 and 3; 1 or 2"),
        (dilated, "CONV_2D", "3x3 with dilation (6, 6) reaches too far"),
        (widened, "CONV_2D", "padding='same' and 'valid' have a form"),
        (reversed_rows, "REVERSE_V2", "REVERSE_V2 has no form with channels first"),
    ],
)
def test_operators_without_a_form_are_named_with_what_to_change(operators, kind, reason):
    graph = FileGraph(0, shape=SHAPE)
    content = graph.content(body(graph, operators(graph)))
    rows = [row for row in sparse_inference(content).rewriting.rows if row.kind == kind and reason in row.reason]
    assert len(rows) == 1 and rows[0].name.startswith("tensor_") and not rows[0].sparse


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (network(0.95, shape=(4, 16, 16, 3)), "it takes 4 images at once: build the model with batch_size=1"),
        (
            opened(network(0.95), places=(1, 2)),
            "the size of its image is open: give keras.Input a height and a width",
        ),
        (in_integers(network(0.95)), "it computes with int8; sparse kernels compute in float32"),
    ],
)
def test_whole_files_that_cannot_run_sparse_say_what_to_change(graph, reason):
    rewriting = sparse_inference(content_of(graph)).rewriting
    assert not rewriting.pays and rewriting.gain == 1 and not rewriting.gains
    assert reason in rewriting.rows[0].reason and reason in rewriting.verdict


def test_kernels_of_float16_count_as_those_of_float32():
    graph = network(0.95)
    rows = sparse_inference(content_of(graph)).rewriting.rows
    for operator in [*graph.graph.operators]:
        source, kernel, bias = operator.inputs
        values = np.frombuffer(bytes(graph.model.buffers[graph.graph.tensors[kernel].buffer].data), np.float32)
        half = graph.constant(values.reshape(graph.shape(kernel)).astype(np.float16))
        unpacked = graph.operator("DEQUANTIZE", [half], graph.shape(kernel))
        operator.inputs = np.array([source, unpacked, bias], np.int32)
    halves = sparse_inference(content_of(graph)).rewriting.rows
    assert [(row.sparse, row.reason) for row in halves] == [(row.sparse, row.reason) for row in rows]


@pytest.mark.parametrize(
    ("channels", "zeros", "reason"), [(64, 0.2, "it has too few zeros, 20%"), (4, 0.95, "too few channels, 4 to 4")]
)
def test_convolutions_that_zeros_do_not_make_faster_say_so(channels, zeros, reason):
    graph = FileGraph(0, shape=(1, 16, 16, channels))
    content = graph.content(body(graph, graph.input, zeros=zeros, channels=channels))
    rewriting = sparse_inference(content).rewriting
    assert not rewriting.pays and all(reason in row.reason for row in rewriting.rows)


def test_upsampling_of_a_file_whose_batch_was_open_runs_sparse():
    graph = FileGraph(0, shape=SHAPE)
    content = graph.content(body(graph, graph.enlarged_in_turn(body(graph, graph.input))))
    file, gain = spread_convolutions(ModelFile.open(content))
    assert gain == pytest.approx(sparse_inference(content).rewriting.gain) and "TILE" not in file.graph.ops
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    np.testing.assert_allclose(Runner(file.content).predict(image), Runner(content).predict(image), atol=1e-4)


@pytest.mark.programs
def test_an_open_batch_is_the_only_obstacle_and_fixing_it_is_enough(tmp_path):
    content = content_of(opened(network(0.95), places=(0,)))
    rewriting = sparse_inference(content).rewriting
    assert rewriting.pays and "batch=1" in rewriting.reasons[0]
    still = rewrite(content, tmp_path / "open.tflite", optimize="latency")
    assert still.gain is None and "give batch=1" in still.candidates[-1].reason
    assert rewrite(content, tmp_path / "one.tflite", optimize="latency", batch=1).gain == pytest.approx(
        rewriting.gain
    )


@pytest.mark.programs
def test_a_small_sparse_file_can_be_made_fast_later(tmp_path):
    content = content_of(network(0.95))
    rewrite(content, tmp_path / "small.tflite", optimize="sparse")
    later = rewrite(tmp_path / "small.tflite", tmp_path / "fast.tflite", optimize="latency")
    assert later.gain == pytest.approx(sparse_inference(content).rewriting.gain)


@pytest.mark.programs
def test_reports_say_where_a_file_is_for_or_why_there_is_none(tmp_path):
    fast = rewrite(content_of(network(0.95)), tmp_path / "fast.tflite", optimize="latency")
    assert f"ARM and browsers, about {fast.gain:.1f} times as fast as the dense file" in str(fast)
    assert "not for" in str(fast) and "optimize='dense'" in str(fast) and "x86 with AVX" in fast.card()
    measured = benchmark(tmp_path / "fast.tflite", runs=1, warmup=0)
    assert ("slower here than its dense form" in str(measured)) == has_avx()
    assert not benchmark(content_of(network(0.95)), runs=1, warmup=0).dense_because
    dense = rewrite(content_of(network(0.3)), tmp_path / "dense.tflite", optimize="latency")
    row = dense.candidates[-1]
    assert dense.gain is None and not row.bytes and not row.verified
    assert "by the estimate, below 1.1; it pays from about" in row.reason and row.reason in str(dense)


@pytest.mark.programs
def test_a_stock_cnn_with_an_open_batch_is_pruned_to_a_file_with_fast_zeros(tmp_path):
    content = content_of(opened(network(0.0, shape=(1, 12, 12, 3)), places=(0,)))
    samples = np.random.default_rng(0).normal(size=(24, 12, 12, 3)).astype(np.float32)
    goal = {"sparsity": 0.9, "optimize": "latency"}
    still = prune_tflite(content, tmp_path / "open.tflite", samples, **goal)
    assert "give batch=1" in still.file.candidates[-1].reason and not still.file.sparse_inference.active
    fast = prune_tflite(content, tmp_path / "fast.tflite", samples, batch=1, **goal)
    assert fast.file.gain > 1.5 and fast.file.sparse_inference.active


def pointwise(graph: FileGraph) -> int:
    """Return the mean of 1x1 convolutions, which sparse kernels take as they are."""
    x = graph.convolution(graph.pad(graph.input, sides=1), 16, stride=2, padding=VALID)
    for _ in range(3):
        x = graph.convolution(graph.depthwise(x), 128, size=1, zeros=0.9)
    return graph.mean(x)


def test_the_estimate_of_a_form_that_runs_sparse_as_it_is():
    graph = FileGraph(0, shape=(1, 32, 32, 3))
    file = ModelFile.open(graph.content(pointwise(graph)))
    dense, sparse, *others = candidate_files(file, name="dense", optimize="latency")
    assert dense.estimate == 1 and sparse.name == "dense, sparse" and sparse.estimate == pytest.approx(4, rel=0.3)
    assert all(form.refusal for form in others)


@pytest.mark.programs
def test_of_forms_on_sparse_kernels_the_one_with_the_highest_estimate_is_written(tmp_path):
    """Sparse kernels take a small branch as it is; with more bytes, they take the large one too."""
    graph = FileGraph(0, shape=(1, 32, 32, 3))
    content = graph.content(pointwise(graph), graph.mean(body(graph, graph.input)))
    forms = candidate_files(ModelFile.open(content), name="dense", optimize="latency")
    estimates = {form.name: form.estimate for form in forms}
    fast = rewrite(content, tmp_path / "fast.tflite", optimize="latency")
    assert fast.gain == max(estimates.values()) and 1 < estimates["dense, sparse"] < fast.gain
    (row,) = (each for each in fast.candidates if each.name.endswith(", sparse"))
    assert row.verified and row.bytes < fast.tflite_bytes and "by an estimate" in row.reason


def test_a_form_on_sparse_kernels_that_is_slower_by_the_estimate_is_not_written(tmp_path, monkeypatch):
    graph = FileGraph(0, shape=(1, 32, 32, 3))
    content = graph.content(pointwise(graph))
    assert rewrite(content, tmp_path / "sparse.tflite", optimize="latency").sparse_inference.active
    monkeypatch.setattr(rewriting, "spread_convolutions", lambda file: (file, 1.0))
    monkeypatch.setattr(rewriting, "estimated_gain", lambda file: 0.83)
    dense = rewrite(content, tmp_path / "dense.tflite", optimize="latency")
    assert not dense.sparse_inference.active and dense.gain is None
    assert "about 0.83 times as fast as on dense kernels, by an estimate" in str(dense)
