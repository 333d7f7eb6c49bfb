"""Files that take less RAM on microcontrollers: the same outputs, fewer operators, an order that keeps less alive."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export import micro_support, rewrite
from tfprune.export.file.document import load_objects, operator_name, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.micro.interpreter import chip_arena, drop_unused, largest_live, run_files
from tfprune.export.micro.memory import _dependences, _orders, save_memory

CHANNELS = 12


def stream_of(kernels, *, first=0.0, reads_twice=False):
    """Return an int8 file of one frame at a time that mixes depthwise kernels of these lengths over a ring buffer."""
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    random = np.random.default_rng(0)
    width = CHANNELS // len(kernels)
    longest = max(kernels)
    weights = [random.normal(size=(length, 1, width, 1)).astype(np.float32) for length in kernels]
    point = random.normal(size=(1, 1, CHANNELS, CHANNELS)).astype(np.float32) / 3

    class Mixed(tf.Module):
        def __init__(self):
            super().__init__()
            self.rings = [tf.Variable(tf.fill((1, longest - 1, 1, CHANNELS), first)) for _ in range(2)]

        @tf.function(input_signature=[tf.TensorSpec((1, 1, 1, CHANNELS), tf.float32)])
        def __call__(self, x):
            for ring in self.rings:
                window = tf.concat([ring, x], 1)
                ring.assign(window[:, 1:])
                parts = tf.split(window, len(kernels), axis=3)
                tails = [part[:, -length:] for part, length in zip(parts, kernels, strict=True)]
                made = [
                    tf.nn.depthwise_conv2d(tail, weight, (1, 1, 1, 1), "VALID") + 0.1
                    for tail, weight in zip(tails, weights, strict=True)
                ]
                x = tf.nn.relu(tf.nn.conv2d(tf.concat(made, 3), point, 1, "VALID"))
            return x + tf.reduce_mean(self.rings[0], 1, keepdims=True) if reads_twice else x

    model = Mixed()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.__call__.get_concrete_function()], model)
    converter.experimental_enable_resource_variables = True
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter._experimental_variable_quantization = True
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([row[np.newaxis]] for row in frames())
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def frames(count=60):
    return np.random.default_rng(1).uniform(0, 4, (count, 1, 1, CHANNELS)).astype(np.float32)


def saved(content):
    model = load_objects(content)
    save_memory(model)
    drop_unused(model)
    return model


def counts(model):
    return ModelFile(save_objects(model)).graph.ops


@pytest.fixture(scope="module")
def mixed():
    return stream_of([3, 7])


def test_branches_of_a_mixed_convolution_become_one_with_the_same_outputs(mixed):
    model = saved(mixed)
    ops = counts(model)
    assert ops["DEPTHWISE_CONV_2D"] == 2 and "CONCATENATION" in ops and "STRIDED_SLICE" not in ops
    assert "CALL_ONCE" not in ops and len(model.subgraphs) == 1
    before, after = run_files([mixed, save_objects(model)], [frames()])
    assert not before.reason and after.equals(before)
    assert np.unique(before.raw[0]).size > 20


@pytest.mark.programs
@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4).filter(lambda each: max(each) > 1))
def test_any_lengths_of_kernels(kernels):
    content = stream_of(kernels)
    model = saved(content)
    before, after = run_files([content, save_objects(model)], [frames(20)])
    assert not before.reason and after.equals(before)
    joined = sum(kernels) * 2 >= max(kernels) * len(kernels)  # else zeros would take more flash than is saved
    if joined:
        assert counts(model)["DEPTHWISE_CONV_2D"] == 2


def test_first_values_that_are_no_zeros_stay():
    content = stream_of([3, 7], first=1.0)
    model = saved(content)
    assert counts(model)["CALL_ONCE"] == 1
    before, after = run_files([content, save_objects(model)], [frames()])
    assert not before.reason and after.equals(before)


def test_what_reads_a_variable_after_it_is_set_stays_behind():
    content = stream_of([3, 5], reads_twice=True)
    model = load_objects(content)
    names = [operator_name(model, each) for each in model.subgraphs[0].operators]
    assert names.count("READ_VARIABLE") > names.count("ASSIGN_VARIABLE")
    before, after = run_files([content, save_objects(saved(content))], [frames()])
    assert not before.reason and after.equals(before)


def test_orders_keep_what_depends_on_each_other(mixed):
    model = load_objects(mixed)
    graph = model.subgraphs[0]
    for order in _orders(model, graph):
        assert len(order) == len(graph.operators)
        places = {id(operator): place for place, operator in enumerate(order)}
        for operator, before in zip(graph.operators, _dependences(model, graph.operators), strict=True):
            assert all(places[id(graph.operators[each])] < places[id(operator)] for each in before)


@pytest.mark.programs
def test_less_is_alive_and_less_ram_is_needed(mixed, tmp_path):
    assert largest_live(saved(mixed)) < largest_live(load_objects(mixed))
    report = rewrite(mixed, tmp_path / "small.tflite", target="micro", check_on=frames())
    assert report.micro.arena < report.micro.dense_arena
    assert report.micro.curve[0][0] < len(mixed)


def test_an_arena_on_32_bits_holds_what_is_alive(mixed):
    pytest.importorskip("mcufit", reason="mcufit is not installed: see the extra `micro`")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    files = [ModelFile(mixed), ModelFile(save_objects(saved(mixed)))]
    runs = run_files(files, [frames(2)])
    before, after = (chip_arena(file, run) for file, run in zip(files, runs, strict=True))
    for chip, run in zip((before, after), runs, strict=True):
        assert 7 * CHANNELS + 6 * CHANNELS < chip.activations < chip.total < run.arena  # a window and what is read
        assert chip.kernels > 2 * 6 * CHANNELS  # the ring buffers
    assert after.total < before.total and after.kernels < before.kernels


def test_the_report_says_where_most_is_alive(mixed):
    report = micro_support(save_objects(saved(mixed)))
    most = max(report.operators, key=lambda each: each.live)
    assert most.live == largest_live(load_objects(save_objects(saved(mixed))))
    assert f"{most.live:,} bytes of tensors, at operator {most.operator}" in str(report)
    window = next(each for each in report.operators if each.operator.endswith("CONCATENATION"))
    assert window.added == 96 >= 7 * CHANNELS  # bytes, in steps of 16
