"""verify and missing_zeros. The truth is Keras' predict, and counts made by hand."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiers import in_test_ci

from tfprune.export.device import verify as verify_module
from tfprune.export.device.processes import Completed, name_of
from tfprune.export.device.runner import Runner
from tfprune.export.device.verify import TOLERANCES, format_tolerance, verify
from tfprune.export.file.container import encode
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import read
from tfprune.export.keras_side.convert import INTEGERS
from tfprune.export.keras_side.to_tflite import _kernels_read, _missing_zeros, to_tflite


def test_a_right_file_passes(cases):
    case = cases["dense"]
    report = verify(case.path, samples=case.inputs, expected=case.expected)
    assert (report.passed, report.reason, report.tolerance) == (True, "", 1e-4)
    assert report.max_abs_diff < 1e-5
    assert report.scale == np.abs(case.expected).max()
    assert report.runtime.startswith("ai-edge-litert ")
    assert report.open_batch == tuple(info.name for info in read(case.data).inputs)
    fixed = load_objects(case.data)
    for tensor in fixed.subgraphs[0].tensors:
        tensor.shapeSignature = None
    assert verify(save_objects(fixed)).open_batch == ()


def test_several_outputs_in_a_list_or_by_name(cases):
    case = cases["two"]
    packed = encode(case.data, "xz")
    assert verify(packed, samples=case.inputs, expected=case.expected).passed
    named = {"output_1": case.expected[1], "output_0": case.expected[0]}
    assert verify(packed, samples=case.inputs, expected=named).passed
    report = verify(packed, samples=case.inputs, expected=[case.expected[0], case.expected[1] + 1])
    assert "'output_1' differs by up to 1" in report.reason


def test_a_wrong_output_fails_with_its_numbers(cases):
    case = cases["dense"]
    scale = np.abs(case.expected).max()
    wrong = case.expected.copy()
    wrong[np.unravel_index(np.abs(wrong).argmin(), wrong.shape)] += 0.02 * scale
    report = verify(case.path, samples=case.inputs, expected=wrong, tolerance=0.01)
    assert not report.passed
    assert report.max_abs_diff == pytest.approx(0.02 * scale, rel=1e-3)
    assert "'output_0' differs by up to" in report.reason
    assert "allowed: 0.01 of" in report.reason
    assert verify(case.path, samples=case.inputs, expected=wrong, tolerance=0.03).passed


def test_int8_files_are_compared_in_float(cases):
    case = cases["int8"]
    report = verify(case.path, samples=case.inputs, expected=case.expected, tolerance=0.05)
    assert report.passed
    assert report.max_abs_diff > 0


def test_a_refused_file_fails_with_the_interpreters_words(cases, refused, tmp_path):
    case = cases["dense"]
    path = tmp_path / "refused.tflite"
    path.write_bytes(refused)
    assert "'" + str(path) + "', which ai-edge-litert" in verify(path).reason
    report = verify(refused, samples=case.inputs, expected=case.expected)
    assert not report.passed
    assert "cannot load" in report.reason
    assert "version '99'" in report.reason
    assert report.reason.endswith("Install the newest ai-edge-litert")
    assert (report.max_abs_diff, report.scale, report.runtime) == (None, None, "")


def test_inputs_that_do_not_fit_fail_and_name_the_interpreter(cases):
    report = verify(cases["dense"].path, samples=np.zeros((2, 9)))
    assert "Received: 'vector' 2x9" in report.reason
    assert report.runtime.startswith("ai-edge-litert ")


def test_a_wrong_shape_fails(cases):
    case = cases["dense"]
    report = verify(case.path, samples=case.inputs, expected=case.expected[:2])
    assert report.reason == "output 'output_0' has the shape (5, 4), expected: (2, 4)"


def test_without_expected_outputs_they_must_be_finite(cases):
    case = cases["dense"]
    report = verify(case.path, samples=case.inputs)
    assert (report.passed, report.max_abs_diff) == (True, None)
    report = verify(case.path, samples=np.full((1, 8), np.nan))
    assert report.reason == "output(s) ['output_0'] hold values that are not finite"


def test_a_crash_or_an_endless_run_fails(cases, monkeypatch):
    case = cases["dense"]
    seen = {}

    def crash(work, folder, *, timeout):
        seen.update(work=name_of(work), timeout=timeout)
        return Completed(ok=False, reason="killed by SIGSEGV", output="")

    monkeypatch.setattr(verify_module, "runner_on", lambda on, package, each_second: crash)
    report = verify(case.path, samples=case.inputs, timeout=7)
    assert (report.passed, report.reason) == (False, "killed by SIGSEGV")
    assert seen == {"work": "tfprune.export.device.verify:_verify_job", "timeout": 7}


def test_bad_arguments_are_refused(cases, tmp_path):
    case = cases["dense"]
    with pytest.raises(ValueError, match="damaged or cut short"):
        verify(case.data[:1000], samples=case.inputs)
    with pytest.raises(ValueError, match="does not exist"):
        verify(tmp_path / "missing", samples=case.inputs)
    for error, value in ((ValueError, -1), (ValueError, float("inf")), (TypeError, True), (TypeError, "1")):
        with pytest.raises(error, match=f"`tolerance` to be a number of at least 0. Received: tolerance={value!r}"):
            verify(case.path, samples=case.inputs, tolerance=value)
    for error, value in ((ValueError, 0), (TypeError, True), (TypeError, None)):
        with pytest.raises(error, match=f"`timeout` to be a number above 0. Received: timeout={value!r}"):
            verify(case.path, samples=case.inputs, timeout=value)
    with pytest.raises(ValueError, match=r"outputs \['output_0'\].*Received: 2 value"):
        verify(case.path, samples=case.inputs, expected=[case.expected, case.expected])
    with pytest.raises(ValueError, match=r"Received: \['wrong'\]"):
        verify(case.path, samples=case.inputs, expected={"wrong": case.expected})


def compare(output, expected, tolerance=0.1):
    return verify_module._compare({"y": np.array(output)}, np.array(expected), tolerance)


def test_the_scale_is_the_largest_expected_value():
    assert compare([10.0, 0.9], [10.0, 0.0]).reason == ""
    assert compare([10.0, 1.1], [10.0, 0.0]).reason != ""
    assert compare([10.0, 0.5], [10.0, 0.0])[1:] == (0.5, 10.0, pytest.approx(0.5 / 2**0.5))
    assert compare([0.0, 1e-7], [0.0, 0.0]).reason == ""
    assert compare([0.0, 2e-7], [0.0, 0.0]).reason != ""


def test_values_that_are_not_finite_must_agree():
    inf, nan = np.inf, np.nan
    assert compare([1.0, nan, inf], [1.0, nan, inf]).reason == ""
    assert "1 values that are not finite where finite" in compare([nan, 1.0], [1.0, 1.0]).reason
    assert "where the expected values are not finite" in compare([1.0, -inf], [1.0, inf]).reason
    assert "where the expected values are not finite" in compare([1.0, 1.0], [1.0, nan]).reason


def test_of_several_outputs_the_worst_for_its_scale_counts():
    outputs = {"large": np.array([1001.0]), "small": np.array([1.5])}
    worst = verify_module._compare(outputs, {"large": np.array([1000.0]), "small": np.array([1.0])}, 0.1)
    assert "'small'" in worst.reason
    assert (worst.difference, worst.scale) == (0.5, 1.0)


def test_zeros_of_keras_are_found_in_the_file(cases):
    graph = read(cases["dense"].data)
    kernels = [(f"dense_{kernel.size}", kernel.size, int((kernel == 0).sum())) for kernel in cases["dense"].kernels]
    assert kernels == [("dense_128", 128, 64), ("dense_64", 64, 32)]
    assert _missing_zeros(graph, kernels) == []
    assert _missing_zeros(graph, [("dense_128", 128, 65)]) == [
        "kernel 'dense_128' has 65 zeros in 128 entries; the file has one with 64 zeros of that size to match"
    ]
    assert _missing_zeros(graph, [("lost", 99, 1)]) == [
        "kernel 'lost' has 1 zeros in 99 entries; the file has none of that size to match"
    ]
    assert _missing_zeros(graph, [("plain", 99, 0)]) == []


def graph_with(*zeros, size=100, dtype="float32"):
    tensors = [SimpleNamespace(size=size, nnz=size - count, dtype=dtype) for count in zeros]
    tensors.append(SimpleNamespace(size=size, nnz=None, dtype="float32"))
    return SimpleNamespace(subgraphs=[SimpleNamespace(tensors=tensors)])


def test_each_kernel_needs_a_weight_of_its_own():
    kernels = [("a", 100, 90), ("b", 100, 50), ("c", 100, 0)]
    assert _missing_zeros(graph_with(50, 90, 0), kernels) == []
    assert _missing_zeros(graph_with(95, 60), kernels) == []
    assert len(_missing_zeros(graph_with(90, 40), kernels)) == 1
    assert len(_missing_zeros(graph_with(90), kernels)) == 1
    assert len(_missing_zeros(graph_with(90, 50, dtype="int32"), kernels)) == 2, "counts and sizes are no weights"
    assert _missing_zeros(graph_with(90), [("a", 100, 90), ("twin", 100, 90)]) == [], "equal kernels are merged"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a tf.function runs on TensorFlow alone")
def test_kernels_that_a_function_of_tensorflow_reads_are_looked_for():
    import tensorflow as tf

    class Compiled(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.used, self.unused = keras.layers.Dense(4, name="used"), keras.layers.Dense(4, name="unused")

        def build(self, shape):
            self.used.build(shape)
            self.unused.build(shape)

        @tf.function
        def call(self, inputs):
            return self.used(inputs)

    x, data = keras.Input((3,)), np.ones((1, 3))
    model = keras.Model(x, keras.layers.Dense(2, name="out")(Compiled(name="compiled")(x)))
    model(data, training=False)  # traces the function
    assert [row.path for row in _kernels_read(model, data)] == ["compiled/used/kernel", "out/kernel"]


def test_a_kernel_that_the_graph_does_not_read_is_not_looked_for():
    tokens = keras.Input((3,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(10, 4, tie_weights=False, name="embedding")
    x = keras.layers.LSTM(4, name="lstm")(embedding(tokens))
    model = keras.Model(tokens, keras.layers.Dense(10, name="dense")(x))
    for weight, zeros in (
        (embedding.embeddings, 7),
        (embedding.reverse_embeddings, 30),
        (model.layers[-1].kernel, 5),
    ):
        value = np.ones(weight.shape, "float32")
        value.flat[:zeros] = 0
        weight.assign(value)
    rows = _kernels_read(model, np.ones((1, 3)))
    assert [row.path for row in rows] == [
        "embedding/embeddings",
        "lstm/kernel",
        "lstm/recurrent_kernel",
        "dense/kernel",
    ]
    kernels = [(row.path, row.size, row.size - row.nnz) for row in rows]
    assert _missing_zeros(graph_with(7, 5, size=40), kernels) == []
    assert len(_missing_zeros(graph_with(7, 4, size=40), kernels)) == 1


@given(zeros=st.lists(st.integers(1, 100), min_size=1, max_size=6), data=st.data())
def test_kernels_match_in_any_order_and_more_zeros_are_welcome(zeros, data):
    counts = [min(100, count + data.draw(st.integers(0, 5))) for count in data.draw(st.permutations(zeros))]
    assert _missing_zeros(graph_with(*counts), [(str(place), 100, count) for place, count in enumerate(zeros)]) == []
    counts[counts.index(max(counts))] = min(zeros) - 1
    lost = _missing_zeros(graph_with(*counts), [(str(place), 100, count) for place, count in enumerate(zeros)])
    assert lost


@pytest.mark.parametrize(("name", "allowed"), [("dense", 1e-4), ("int8", 0.35), ("int8_float_io", 0.35)])
def test_the_default_tolerance_is_that_of_the_number_format(cases, name, allowed):
    case = cases[name]
    report = verify(case.path, samples=case.inputs, expected=case.expected)
    assert (report.passed, report.tolerance) == (True, allowed), report.reason
    assert re.search(rf"^tolerance +{allowed:g}$", str(report), re.MULTILINE)
    assert ("root mean square" in str(report)) == (allowed > 1e-4)
    assert not verify(case.path, samples=case.inputs, expected=2 * case.expected).passed


@pytest.mark.parametrize("quantize", [None, "int8", *map(in_test_ci, ["float16", "dynamic", "int16x8", "int4"])])
def test_formats_are_read_from_files(quantize, tmp_path):
    """The truth is the argument that made the file. A table of 8 bits is looked up, which is not computing."""
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).integers(0, 50, (40, 32)).astype(np.int32)
    layers = [keras.Input((32,), dtype="int32"), keras.layers.Embedding(50, 32), keras.layers.Flatten()]
    if quantize == "int16x8":  # the converter takes no whole numbers with it
        samples, layers = samples / np.float32(50), [keras.Input((32,)), keras.layers.Dense(64)]
    path = tmp_path / "model.tflite"
    model = keras.Sequential([*layers, keras.layers.Dense(16)])
    to_tflite(model, path, quantize=quantize, calibration=samples if quantize in INTEGERS else None, optimize="dense")
    assert format_tolerance(read(path.read_bytes())) == TOLERANCES[quantize]


def test_a_second_graph_without_finite_outputs_does_not_pass(cases, joined):
    broken = load_objects(cases["dense"].data)
    for buffer in broken.buffers:
        if buffer.data is not None and len(buffer.data) >= 256:
            buffer.data = np.full(len(buffer.data), 255, np.uint8)  # weights that are not numbers
    content = joined(cases["dense"].data, save_objects(broken))
    assert Runner(content).signatures == ("first", "second") and verify(cases["dense"].data).passed
    report = verify(content)
    assert not report.passed and "second/" in report.reason and "first/" not in report.reason


def test_pixels_are_warned_of_before_the_file_runs(cases):
    case = cases["dense"]
    pixels = np.full(case.inputs.shape, 200, np.uint8)
    with pytest.warns(UserWarning, match="takes floats, and gets uint8 from 200 to 200"):
        report = verify(case.path, pixels)
    assert report.passed
