"""Any .tflite file with fewer channels: the limit is met, and outputs stay near those of the file."""

import numpy as np
import pytest
from file_graphs import FileGraph
from tiers import first

from tfprune.export import micro_support
from tfprune.export.device.runner import Runner
from tfprune.export.file.reader import read
from tfprune.export.micro.micro import Micro
from tfprune.export.pruning.shrink import shrink_tflite


@pytest.fixture(scope="module")
def images(exports):
    return exports("unpruned", "float32").inputs


@pytest.mark.parametrize("kind", first("int8", "float32", "float16"))
def test_the_limit_is_met_and_the_file_equals_the_one_with_zeros(exports, tmp_path, kind):
    export, path = exports("unpruned", kind), tmp_path / "small.tflite"
    report = shrink_tflite(export.data, path, export.inputs, flops=0.6)
    assert report.flops_kept <= 0.6 * report.flops
    assert report.file.max_abs_diff <= (0 if kind == "int8" else 1e-6 * report.file.scale)
    assert report.bytes_before == len(export.data) > path.stat().st_size
    assert sum(row.channels - row.kept for row in report.groups) > 0
    assert {row.reason for row in report.skipped} >= {"an output of the file"}
    held = export.inputs[-report.held_out :]
    for row, values, dense in zip(
        report.errors, Runner(path).predict(held), Runner(export.data).predict(export.inputs), strict=True
    ):
        error = np.sqrt(np.square(values - dense[-len(held) :]).mean() / dense.var(axis=0).mean())
        assert row.error == pytest.approx(error, rel=1e-3)
        assert error < 0.6


def multiplications(content):
    """Those of the kernels of a file, as its shapes say."""
    graph, total = read(content).subgraphs[0], 0
    for operator in graph.operators:
        if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"):
            places = 2 if operator.name == "TRANSPOSE_CONV" else None
            shape = graph.tensors[operator.outputs[0] if places is None else operator.inputs[places]].shape
            total += int(np.prod(shape[1:-1])) * graph.tensors[operator.inputs[1]].size
    return total


def test_the_report_counts_what_the_shapes_of_both_files_say(exports, images, tmp_path):
    content, path = exports("unpruned", "float32").data, tmp_path / "small.tflite"
    report = shrink_tflite(content, path, images, flops=0.5)
    assert report.flops == 2 * multiplications(content)
    assert report.flops_kept == 2 * multiplications(path.read_bytes())


def line():
    """Return a file whose channels others can make up for: half of the hidden ones are sums of the other half."""
    graph = FileGraph(0, shape=(1, 1, 1, 6))
    hidden = graph.convolution(graph.input, 6, size=1)
    mixed = graph.convolution(hidden, 12, size=1)
    content = graph.content(graph.dense(graph.reshape(graph.convolution(mixed, 8, size=1), 1, 8), 4))
    return content, np.random.default_rng(0).normal(size=(256, 1, 1, 6)).astype(np.float32)


def test_nearer_than_without_new_values(tmp_path):
    content, x = line()
    report = shrink_tflite(content, tmp_path / "small.tflite", x, flops=0.7)
    assert report.errors[0].error < 0.2


@pytest.mark.programs
def test_limits_of_bytes_and_of_the_error(tmp_path):
    content, x = line()
    small = shrink_tflite(content, tmp_path / "small.tflite", x, max_bytes=int(0.8 * len(content)))
    assert 0.7 * len(content) < small.file.bytes == (tmp_path / "small.tflite").stat().st_size <= 0.8 * len(content)
    with pytest.raises(ValueError, match="from which 1 to 95 % were removed. Received: 9 bytes"):
        shrink_tflite(content, tmp_path / "none.tflite", x, max_bytes=9)
    near = shrink_tflite(content, tmp_path / "near.tflite", x, max_error=0.2)
    more = shrink_tflite(content, tmp_path / "more.tflite", x, flops=int(0.9 * near.flops_kept))
    assert near.errors[0].error <= 0.2 < more.errors[0].error


def test_channels_stay_a_multiple_of_a_number(exports, images, tmp_path):
    report = shrink_tflite(exports("unpruned", "float32").data, tmp_path / "small", images, flops=0.7, round_to=4)
    assert all(row.kept % 4 == 0 or row.kept == row.channels for row in report.groups)


@pytest.mark.programs
def test_the_same_file_each_time(exports, images, tmp_path):
    for name in ("a", "b"):
        shrink_tflite(exports("unpruned", "float32").data, tmp_path / name, images, flops=0.6)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_operator_without_a_rule_is_named(tmp_path):
    graph = FileGraph(0, shape=(1, 1, 1, 6))
    hidden = graph.convolution(graph.convolution(graph.input, 8, size=1), 8, size=1)
    summed = graph.operator("CUMSUM", [hidden, graph.integers(3)], (1, 1, 1, 8), kind="CumsumOptions")
    content = graph.content(graph.dense(graph.reshape(summed, 1, 8), 4))
    x = np.random.default_rng(0).normal(size=(32, 1, 1, 6)).astype(np.float32)
    report = shrink_tflite(content, tmp_path / "small.tflite", x, flops=0.8)
    assert any(row.reason == "CUMSUM: no rule for this operator" for row in report.skipped)


def early_and_late():
    """Return a file whose first channels take most of the RAM, and the last most of the weights."""
    graph = FileGraph(0, shape=(1, 12, 12, 3))
    early = graph.convolution(graph.convolution(graph.input, 12), 12)
    late = graph.dense(graph.dense(graph.mean(early), 48), 48)
    return graph.content(graph.dense(late, 4)), np.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("f4")


@pytest.mark.programs
def test_channels_that_take_the_most_ram_go_first_until_the_file_keeps_to_an_arena(tmp_path):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed: see the extra `micro`")
    content, x = early_and_late()
    before, path = micro_support(content).arena, tmp_path / "small.tflite"
    report = shrink_tflite(content, path, x, target=Micro(arena=int(0.8 * before)))
    assert 0.7 * before < micro_support(path).arena <= 0.8 * before
    assert [row.channels - row.kept for row in report.groups][2:] == [0, 0, 0]
    assert sum(row.channels - row.kept for row in report.groups) > 0
    both = shrink_tflite(content, path, x, flops=0.5, target=Micro(arena=int(0.8 * before)))
    assert both.flops_kept <= 0.5 * both.flops and micro_support(path).arena <= 0.8 * before


def test_an_arena_that_no_file_keeps_to_is_refused_with_what_is_left(tmp_path):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed: see the extra `micro`")
    content, x = early_and_late()
    with pytest.raises(ValueError, match=r"arena=100 bytes; without all channels that may go, .* still takes [\d,]+"):
        shrink_tflite(content, tmp_path / "none.tflite", x, target=Micro(arena=100))
    assert not list(tmp_path.iterdir())


WRONG = {
    "Expected `flops`.*a fraction of the cost now": {"flops": 1.5},
    "For 50 % of the cost now pass flops=0.5": {"flops": 50},
    "Expected a limit that can be met.*the file still has": {"flops": 0.001},
    "Expected `round_to`": {"flops": 0.5, "round_to": 0},
    "Expected one of `flops`, `max_bytes` and `max_error`, or a `target` with an arena.*none of them": {},
    "flops=0.5, max_error=0.1": {"flops": 0.5, "max_error": 0.1},
    "Expected `max_error`": {"max_error": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_limits_that_do_not_fit(exports, images, tmp_path, message):
    with pytest.raises(ValueError, match=message):
        shrink_tflite(exports("unpruned", "float32").data, tmp_path / "none.tflite", images, **WRONG[message])
    assert not list(tmp_path.iterdir())


def test_files_and_samples_that_do_not_fit(exports, tmp_path):
    graph = FileGraph(0, shape=(1, 6))
    content, path = graph.content(graph.dense(graph.input, 4)), tmp_path / "none.tflite"
    x = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    with pytest.raises(ValueError, match="channels that can be removed.*an output of the file"):
        shrink_tflite(content, path, x, flops=0.5)
    with pytest.raises(TypeError, match="samples=None"):
        shrink_tflite(content, path, None, flops=0.5)
    with pytest.raises(ValueError, match="samples of shape"):
        shrink_tflite(content, path, x[:, :3], flops=0.5)
    assert not path.exists()
