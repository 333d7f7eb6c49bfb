"""The range of inputs: from quantization, metadata and types, and the warnings about samples far off it."""

import flatbuffers
import numpy as np
import pytest
from file_graphs import FileGraph
from refusals import refused

from tfprune.base.spec import ArgumentError
from tfprune.export.device.runner import Runner
from tfprune.export.file.document import load_objects, with_metadata
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.pruning.samples import (
    check_pixels,
    check_range,
    compare_outputs,
    constant_outputs,
    input_range,
    refuse_same_outputs,
    spread_over,
)


def metadata(*, stats=None, normalization=None):
    """Metadata of one input, written slot by slot as metadata_schema.fbs numbers them."""
    builder = flatbuffers.Builder()

    def table(**slots):
        builder.StartObject(8)
        for slot, (prepend, value) in slots.items():
            prepend(int(slot[1:]), value, 0)
        return builder.EndObject()

    def floats(numbers):
        return builder.PrependUOffsetTRelativeSlot, builder.CreateNumpyVector(np.array(numbers, np.float32))

    def tables(offset):
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(offset)
        return builder.PrependUOffsetTRelativeSlot, builder.EndVector()

    def child(offset):
        return builder.PrependUOffsetTRelativeSlot, offset

    slots = {}
    if normalization:
        mean, deviation = map(floats, normalization)
        options = table(_0=mean, _1=deviation)
        slots["_4"] = tables(table(_0=(builder.PrependUint8Slot, 1), _1=child(options)))
    if stats:
        low, high = map(floats, stats)
        slots["_5"] = child(table(_0=high, _1=low))
    graph = table(_2=tables(table(**slots)))
    builder.Finish(table(_3=tables(graph)), b"M001")
    return bytes(builder.Output())


RANGES = {
    "image": ({"normalization": ([127.5], [127.5])}, (-1, 1)),
    "channels": ({"normalization": ([120, 100, 110], [60, 50, 55])}, (-2, 3.1)),
    "stats": ({"normalization": ([127.5], [127.5]), "stats": ([-2], [5])}, (-2, 5)),
    "nothing": ({}, None),
    "empty range": ({"stats": ([1], [1])}, None),
    "not finite": ({"stats": ([0], [np.inf])}, None),
}


def ranges_of(content):
    return [input_range(load_objects(content), tensor) for tensor in Runner(content)._inputs]


@pytest.mark.parametrize("name", RANGES)
def test_the_range_of_metadata(cases, name):
    entries, limits = RANGES[name]
    (found,) = ranges_of(with_metadata(cases["dense"].data, {"TFLITE_METADATA": metadata(**entries)}))
    assert (found and (found.low, found.high)) == (limits and pytest.approx(limits))


def test_damaged_metadata_are_no_metadata(cases):
    whole, generator = metadata(stats=([-1], [1]), normalization=([0], [255])), np.random.default_rng(0)
    for _ in range(50):
        damaged = bytearray(whole[: generator.integers(len(whole) + 1)])
        for place in generator.integers(0, max(len(damaged), 1), 3 if damaged else 0):
            damaged[place] = generator.integers(256)
        ranges_of(with_metadata(cases["dense"].data, {"TFLITE_METADATA": bytes(damaged)}))


def test_the_range_of_integers(cases):
    for kind in ("int8", "int8_float_io"):
        (found,) = ranges_of(cases[kind].data)
        assert found.is_clipped and found.high - found.low == pytest.approx(255 * found.step)
        assert (
            found.low <= cases[kind].inputs.min() + found.step and cases[kind].inputs.max() <= found.high + found.step
        )
    assert ranges_of(cases["tokens"].data) == [None]


def test_samples_far_off_the_range(cases):
    content = with_metadata(cases["dense"].data, {"TFLITE_METADATA": metadata(stats=([-1], [1]))})
    (found,) = ranges_of(content)
    right = np.linspace(-1, 1, 50)
    assert not check_range(right, found, name="x") and not check_range(right * 0.5, found, name="x")
    assert "numbers from -255 to 255, 100% of them outside" in check_range(right * 255, found, name="x")[0]
    assert "expects -1 to 1, by the file's metadata" in check_range(right / 255, found, name="x")[0]
    assert "a small part of that" in check_range(right / 255, found, name="x")[0]


@pytest.mark.parametrize("before", ["", "transpose", "scale"])
def test_pixels_that_nothing_scales_are_named(before):
    graph = FileGraph(0, shape=(1, 6, 6, 3))
    image = graph.input
    if before == "scale":
        image = graph.binary("MUL", image, graph.constant(np.full((1, 1, 1, 3), 1 / 255, np.float32)))
    image = graph.transpose(image, 0, 2, 1, 3) if before else image
    content = graph.content(graph.convolution(image, 4))
    model, (tensor,) = load_objects(content), Runner(content)._inputs
    pixels = np.linspace(0, 255, 20 * 6 * 6 * 3, dtype=np.float32).reshape(20, 6, 6, 3)
    found = check_pixels(pixels, tensor, model=model)
    assert len(found) == (before != "scale")
    assert all("from 0 to 255" in text and "scale the samples" in text for text in found)
    for right in (pixels / 255, pixels - 127, pixels * 4, pixels.astype(np.uint8), pixels[:, 0, 0]):
        assert not check_pixels(right, tensor, model=model)


def test_random_numbers_have_the_range(cases, tmp_path):
    content = with_metadata(cases["dense"].data, {"TFLITE_METADATA": metadata(stats=([-3], [5]))})
    (found,) = ranges_of(content)
    np.testing.assert_allclose(spread_over(np.array([0, 0.5, 1]), found), [-3, 1, 5])
    report = prune_tflite(content, tmp_path / "a.tflite", "random", sparsity=0.5, optimize="dense")
    assert "was drawn from -3 to 5, by the file's metadata" in report.warnings[1]
    report = prune_tflite(cases["int8"].data, tmp_path / "b.tflite", "random", sparsity=0.5, optimize="dense")
    assert "by its quantization" in report.warnings[1]


def test_the_report_warns_of_samples_that_hardly_change_the_outputs(cases, tmp_path):
    export = cases["dense"]
    right = prune_tflite(export.data, tmp_path / "a.tflite", export.inputs, sparsity=0.3, optimize="dense")
    assert not [text for text in right.warnings if "Check the preprocessing" in text]
    faint = export.inputs[:1] + 0.001 * export.inputs
    wrong = prune_tflite(export.data, tmp_path / "a.tflite", faint, sparsity=0.3, optimize="dense")
    assert "hardly changes" in wrong.warnings[0] and f"Warning: {wrong.warnings[0]}" in str(wrong)


def test_outputs_that_hardly_change():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(32, 4))
    assert not constant_outputs({"x": values}, samples=32)
    assert "'x' of the dense file hardly changes" in constant_outputs({"x": 1 + 0.01 * values}, samples=32)[0]
    one_class = np.abs(values) + [0, 9, 0, 0]
    assert "at the same index for all samples" in constant_outputs({"x": one_class}, samples=32)[0]
    assert not constant_outputs({"x": np.array(3.0)}, samples=32)


def test_errors_of_large_outputs_are_those_of_small_ones(monkeypatch):
    from tfprune.export.pruning import samples as module

    generator = np.random.default_rng(0)
    dense = generator.normal(size=(8, 5, 7)).astype(np.float32)
    pruned = dense[-3:] + generator.normal(size=(3, 5, 7)).astype(np.float32) / 9
    error = np.sqrt(np.square(pruned - dense[-3:]).mean() / dense.var(axis=0).mean())
    for block in (1, 24, 2**20):
        monkeypatch.setattr(module, "_BLOCK", block)
        (row,) = compare_outputs({"x": dense}, {"x": pruned}, held=3)
        assert row.error == pytest.approx(error, rel=1e-5) and row.agreement is None


def test_numbers_that_are_no_classes_have_no_agreement():
    """Landmarks stay near their places in a cropped face, whichever point has the largest coordinate."""
    generator = np.random.default_rng(0)
    landmarks = generator.uniform(0, 192, 936) + generator.normal(0, 5, (40, 936))
    logits = generator.normal(size=10) + generator.normal(0, 3, (40, 10))
    powers = np.exp(np.full((40, 10), -3.0) + 6 * (np.arange(10) == 2))  # one class for all samples, as probabilities
    for dense, agreement in ((landmarks, None), (logits, 0.8), (powers / powers.sum(axis=1)[:, None], 0.8)):
        pruned = dense[-5:].copy()
        pruned[0] = np.roll(pruned[0], 1)
        (row,) = compare_outputs({"x": dense}, {"x": pruned}, held=5)
        assert row.agreement == agreement


def test_held_out_samples_that_show_no_error_are_refused(cases, tmp_path):
    """Any two files agree on one sample again and again, and on samples with the same outputs."""
    x = np.random.default_rng(0).uniform(size=(64, *cases["dense"].inputs.shape[1:])).astype(np.float32)
    x[-8:] = x[-1:]
    with refused(ArgumentError, "samples"):
        prune_tflite(cases["dense"].data, tmp_path / "a.tflite", x, sparsity=0.3)
    outputs = np.arange(64.0)[:, None]
    refuse_same_outputs({"x": outputs}, rows=64, held=8)
    outputs[-8:] = 0
    with pytest.raises(ValueError, match="the last 8, that change the outputs"):
        refuse_same_outputs({"x": outputs}, rows=64, held=8)
    refuse_same_outputs({"x": outputs, "y": np.arange(64.0)[:, None]}, rows=64, held=8)


def test_a_function_that_makes_samples_is_to_be_called(cases, tmp_path):
    with pytest.raises(TypeError, match=r"arrays in `samples`\. Received: a function\. Call it: metadata\(\)\."):
        prune_tflite(cases["dense"].data, tmp_path / "a.tflite", metadata, sparsity=0.3)
