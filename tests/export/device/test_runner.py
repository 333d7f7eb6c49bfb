"""Runner. The truth is Keras' predict, and the interpreter driven by hand."""

import contextlib
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfprune.export.device import runner as board
from tfprune.export.device import runner as runner_module
from tfprune.export.device.runner import IOTensor, Runner
from tfprune.export.file.container import encode
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import in_order
from tfprune.export.file.schema import MissingPackage

FLOAT = {"dense": 1e-6, "two": 1e-6, "tokens": 1e-6, "fixed": 1e-6, "int8": 0.03, "int8_float_io": 0.03}


def assert_like_keras(outputs, expected, tolerance):
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("name", FLOAT)
def test_outputs_are_those_of_keras(cases, name):
    case = cases[name]
    outputs = Runner(case.path).predict(case.inputs)
    if name == "two":
        outputs = [outputs["output_0"], outputs["output_1"]]
        assert_like_keras(outputs, case.expected, FLOAT[name])
    else:
        assert_like_keras([outputs], [case.expected], FLOAT[name])


@pytest.mark.parametrize("method", [None, "gzip", "xz"])
def test_packed_files_and_bytes_run_alike(cases, tmp_path, method):
    case = cases["dense"]
    path = tmp_path / "model"
    path.write_bytes(encode(case.data, method))
    wanted = Runner(case.path).predict(case.inputs)
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(Runner(source).predict(case.inputs), wanted)


@pytest.mark.parametrize("name", ["dense", "fixed", "int8"])
@pytest.mark.parametrize("rows", [1, 2, 3, 31, 32, 33, 70])
def test_any_number_of_rows_gives_what_single_rows_give(cases, name, rows):
    inputs = np.resize(cases[name].inputs, (rows, *cases[name].inputs.shape[1:]))
    runner = Runner(cases[name].path)
    single = [runner.predict(np.stack([row, row]))[:1] for row in inputs]
    np.testing.assert_allclose(runner.predict(inputs), np.concatenate(single), rtol=0, atol=1e-6)


def test_memory_is_allocated_only_when_the_shape_changes_and_never_resized(cases):
    runner = Runner(cases["dense"].path)
    interpreters = [runner._interpreter]
    for rows in (1, 1, 5, 5, 5, 4, 4):
        runner.predict(cases["dense"].inputs[:rows])
        interpreters.append(runner._interpreter)
    first, five, four = dict.fromkeys(map(id, interpreters))
    assert [id(interpreter) for interpreter in interpreters] == [first] * 3 + [five] * 3 + [four] * 2


@pytest.mark.parametrize("most", [1, 5])
def test_threads_that_share_a_runner_get_their_own_answers(cases, most):
    """The answers of eight threads at once are those of one call after the other, with and without new shapes."""
    path, runner = cases["dense"].path, Runner(cases["dense"].path)
    inputs = [np.resize(cases["dense"].inputs, (min(number, most), 8)) + number for number in range(1, 9)]
    expected = [Runner(path).predict(rows) for rows in inputs]

    def wrong(number):
        return sum(not np.array_equal(runner.predict(inputs[number]), expected[number]) for _ in range(200))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(wrong, range(8))) == 0


def test_several_inputs_go_by_name_or_in_order(cases):
    case, runner = cases["two"], Runner(cases["two"].path)
    by_name = runner.predict(case.inputs)
    assert list(by_name) == [info.name for info in runner.outputs] == ["output_0", "output_1"]
    ordered = [case.inputs[info.name] for info in runner.inputs]
    for given_inputs in (ordered, tuple(ordered)):
        in_list = runner.predict(given_inputs)
        assert isinstance(in_list, list)
        for output, wanted in zip(in_list, by_name.values(), strict=True):
            np.testing.assert_array_equal(output, wanted)


def test_one_input_may_come_in_a_list_or_a_dict(cases):
    case, runner = cases["dense"], Runner(cases["dense"].path)
    wanted = runner.predict(case.inputs)
    np.testing.assert_array_equal(runner.predict([case.inputs]), wanted)
    np.testing.assert_array_equal(runner.predict({"vector": case.inputs}), wanted)
    np.testing.assert_array_equal(runner.predict(case.inputs.astype(np.float64)), wanted)


def test_inputs_and_outputs_are_described(cases):
    runner = Runner(cases["int8"].path, threads=2)
    assert [str(info) for info in runner.inputs] == ["image ?x8x8x3 int8"]
    assert [str(info) for info in runner.outputs] == ["output_0 ?x3 int8"]
    assert Runner(cases["fixed"].path).inputs[0].shape == (2, 8)
    assert Runner(cases["tokens"].path).inputs[0].dtype == "int32"
    assert runner.runtime.startswith("ai-edge-litert ")


def test_int8_inputs_and_outputs_are_scaled_as_the_file_says(cases):
    """The same run by hand, with the scales and zero points that the interpreter tells."""
    case = cases["int8"]
    runner = Runner(case.path)
    interpreter = runner._interpreter
    entry, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (scale, zero), (out_scale, out_zero) = entry["quantization"], end["quantization"]
    outputs = runner.predict(case.inputs[:1])
    quantized = np.clip(np.round(case.inputs[:1] / scale) + zero, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(interpreter.get_tensor(entry["index"]), quantized)
    by_hand = (interpreter.get_tensor(end["index"]).astype(np.float64) - out_zero) * out_scale
    np.testing.assert_allclose(outputs, by_hand, rtol=1e-6)


def io_tensor(dtype, scales=(), zeros=()):
    parameters = {"scales": np.array(scales, np.float32), "zero_points": np.array(zeros, np.int32)}
    shape = np.array([1, 4], np.int32)
    detail = {"index": 0, "dtype": dtype, "shape": shape, "shape_signature": shape}
    return IOTensor.of("x", {**detail, "quantization_parameters": parameters})


def test_quantization_by_hand():
    tensor = io_tensor(np.int8, [0.5], [3])
    quantized = tensor.encode(np.array([0.0, 1.0, -1000.0, np.inf]))
    assert quantized.tolist() == [3, 5, -128, 127]
    assert quantized.dtype == np.int8
    assert tensor.decode(quantized).tolist() == [0.0, 1.0, -65.5, 62.0]
    assert tensor.decode(quantized).dtype == np.float32
    with pytest.raises(ValueError, match="'x', which the file holds as int8. Received: NaN"):
        tensor.encode(np.array([np.nan]))


@given(st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=20))
def test_quantization_is_off_by_half_a_step_at_most(values):
    tensor = io_tensor(np.int8, [0.5], [3])
    values = np.array(values, np.float32)
    np.testing.assert_allclose(tensor.decode(tensor.encode(values)), values, rtol=0, atol=0.25)


def test_whole_numbers_stay_exact():
    tensor = io_tensor(np.int32)
    assert tensor.encode(np.array([1.0, 7.0])).tolist() == [1, 7]
    assert tensor.encode(np.array([2**31 - 1], np.int64)).tolist() == [2**31 - 1]
    for bad in ([0.5], [np.nan], [np.inf], np.array([2**31], np.int64)):
        with pytest.raises(ValueError, match="whole numbers that int32 can hold for input 'x'"):
            tensor.encode(np.array(bad))
    assert io_tensor(np.int64).decode(np.array([5])).dtype == np.int64
    with pytest.raises(TypeError, match="Expected numbers of type int32 for input 'x'.*<U"):
        tensor.encode(np.array(["word"]))


def test_float16_comes_out_as_float32():
    assert io_tensor(np.float16).encode([0.5]).dtype == np.float16
    assert io_tensor(np.float16).decode(np.array([0.5], np.float16)).dtype == np.float32


def test_outputs_with_numbers_go_by_number_and_all_others_as_the_graph_lists_them():
    tensors = [(index, f"t{index}") for index in (3, 1, 2)]
    numbered = {"output_10": (1, "t1"), "output_2": (2, "t2"), "output_0": (3, "t3")}
    assert list(in_order(tensors, numbered)) == ["output_0", "output_2", "output_10"]
    named = {"alpha": (1, "t1"), "beta": (2, "t2"), "gamma": (3, "t3")}
    assert in_order(tensors, named) == {"gamma": 3, "alpha": 1, "beta": 2}
    assert in_order(tensors, {}) == {"t3": 3, "t1": 1, "t2": 2}
    assert in_order(tensors, {"other": (9, "t9")}) == {"t3": 3, "t1": 1, "t2": 2}


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("dense", np.zeros((2, 9)), r"'vector' \?x8. Received: 'vector' 2x9"),
        ("dense", np.zeros(8), r"'vector' \?x8. Received: 'vector' 8\. Pass x\[None\] for a single sample x\."),
        ("dense", np.zeros(9), r"'vector' \?x8. Received: 'vector' 9\.$"),
        ("dense", np.zeros((0, 8)), "at least one.*Received: 'vector' 0x8"),
        ("dense", np.float32(1), "Received: 'vector' scalar"),
        ("fixed", np.zeros((2, 7)), "'vector' 2x8. Received: 'vector' 2x7"),
        ("dense", [[1.0] * 8, [2.0] * 8], r"Expected 1 input\(s\).*Received: 2. Pass numbers as one NumPy array"),
        ("two", np.zeros((1, 3)), r"Expected 2 input\(s\).*'left' \?x3.*Received: 1"),
        ("two", {"left": np.zeros((1, 3))}, r"inputs named \[.*'right'.*Received: names \['left'\]"),
        ("two", {"left": np.zeros((2, 3)), "right": np.zeros((3, 2))}, "same number of rows.*'right' 3x2"),
        ("tokens", np.full((1, 6), 0.5), "whole numbers that int32 can hold for input 'tokens'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(cases, name, inputs, message):
    with pytest.raises(ValueError, match=message):
        Runner(cases[name].path).predict(inputs)


def test_a_failed_run_says_why_and_spoils_nothing(cases):
    runner = Runner(cases["tokens"].path)
    with pytest.raises(ValueError, match="ai-edge-litert .* says: .*out of bounds.*Received: 'tokens' 1x6"):
        runner.predict(np.full((1, 6), 99))
    np.testing.assert_allclose(runner.predict(cases["tokens"].inputs), cases["tokens"].expected, atol=1e-6)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, None, 1025, 2**40])
def test_threads_must_be_an_integer_that_a_device_may_have(cases, threads):
    error = ValueError if type(threads) is int else TypeError
    with pytest.raises(error, match=f"integer from 1 to 1024. Received: threads={threads}[. ]"):
        Runner(cases["dense"].path, threads=threads)


def test_files_that_do_not_load_are_refused_by_name(cases, refused, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(refused)
    with pytest.raises(ValueError, match=r"model\.tflite', which ai-edge-litert .* cannot load: .*version '99'"):
        Runner(path)
    path.write_bytes(cases["dense"].data[:1000])
    with pytest.raises(ValueError, match=r"model\.tflite', which is damaged or cut short"):
        Runner(path)
    with pytest.raises(ValueError, match="does not exist"):
        Runner(tmp_path / "missing.tflite")


def test_an_error_does_not_repeat_the_file(cases, monkeypatch):
    """What the interpreter says of an argument that is too large for it."""
    monkeypatch.setattr(runner_module, "MAX_THREADS", 2**41)
    with pytest.raises(ValueError, match=r"cannot load: .*incompatible.*\. Export the model again") as caught:
        Runner(cases["dense"].path, threads=2**40)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", [1000, 2**32 - 1])
def test_a_signature_that_names_no_tensor_is_refused(cases, number):
    model = load_objects(cases["dense"].data)
    model.signatureDefs[0].outputs[0].tensorIndex = number
    with pytest.raises(ValueError, match=f"signature 'serving_default' that names tensor {number} "):
        Runner(save_objects(model))


def test_a_batch_of_billions_that_only_the_signature_claims_is_refused(cases):
    model = load_objects(cases["fixed"].data)
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shapeSignature = np.array([2**31 - 1, 8], np.int32)
    with pytest.raises(ValueError, match=r"2147483647x8 in its signature and \dx8 in its graph"):
        Runner(save_objects(model))


def test_other_interpreters_are_taken_in_turn(cases, monkeypatch):
    absent = ("no_such_package", "interpreter", "no-such-package")
    monkeypatch.setattr(board, "_INTERPRETERS", (absent, *board._INTERPRETERS[2:]))
    runner = Runner(cases["dense"].path)
    assert runner.runtime.startswith("tensorflow 2.")
    np.testing.assert_allclose(runner.predict(cases["dense"].inputs), cases["dense"].expected, atol=1e-6)
    monkeypatch.setattr(board, "_INTERPRETERS", (absent,))
    with pytest.raises(MissingPackage, match=r'none of no-such-package is installed. Run pip install "tfprune'):
        Runner(cases["dense"].path)
    assert issubclass(MissingPackage, ImportError)
    assert issubclass(MissingPackage, ValueError)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["dense", "int8", "tokens", "fixed"]),
    shape=st.lists(st.integers(0, 9), max_size=4),
    dtype=st.sampled_from(["float32", "float16", "float64", "int8", "int32", "uint64", "bool"]),
    value=st.sampled_from([0, 1, -1, 2**40, 0.5, np.nan, -np.inf]),
)
def test_any_array_is_run_or_refused_and_spoils_nothing(runners, cases, name, shape, dtype, value):
    with np.errstate(all="ignore"):
        array = np.full(shape, value).astype(dtype)
    runner, wanted = runners[name]
    with contextlib.suppress(ValueError):
        assert len(runner.predict(array)) == len(array)
    np.testing.assert_array_equal(runner.predict(cases[name].inputs), wanted)


@pytest.fixture(scope="module")
def runners(cases):
    """Return runners, and what each gives for its case."""
    runners = {name: Runner(case.path) for name, case in cases.items()}
    return {name: (runner, runner.predict(cases[name].inputs)) for name, runner in runners.items()}


FUZZ = """
    import sys
    import numpy as np
    from tfprune.export.device.runner import Runner

    data = open(sys.argv[1], "rb").read()
    generator = np.random.default_rng(int(sys.argv[2]))
    refused = 0
    for trial in range(40):
        damaged = bytearray(data)
        for bit in generator.integers(0, 8 * len(data), 3):
            damaged[bit // 8] ^= 1 << bit % 8
        print(trial, flush=True)
        try:
            runner = Runner(bytes(damaged))
            if all(np.prod([n or 1 for n in info.shape]) < 10**6 for info in runner.inputs):
                runner.predict([np.zeros([n or 1 for n in info.shape]) for info in runner.inputs])
        except ValueError:
            refused += 1
    assert refused > 10, refused
"""


@pytest.mark.parametrize("name", ["dense", "int8"])
def test_damaged_files_are_run_or_refused(cases, name):
    """In a process of its own, with damage that is the same in every run: the interpreter checks much, not all."""
    command = [sys.executable, "-c", textwrap.dedent(FUZZ), str(cases[name].path), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_outputs_without_rows_are_refused_in_chunks_and_returned_otherwise(cases, monkeypatch):
    runner = Runner(cases["fixed"].path)
    monkeypatch.setattr(runner, "_invoke", lambda arrays: [np.float32(1)])
    assert runner.predict(np.zeros((2, 8))) == 1
    with pytest.raises(ValueError, match="one row per row of the input.*'output_0' of shape scalar for 2 row"):
        runner.predict(np.zeros((3, 8)))


def test_the_device_half_loads_neither_keras_nor_tensorflow():
    modules = [
        *("device.runner", "device.verify", "device.benchmark", "device.processes", "file.container", "file.inspect"),
        *("file.report", "file.reader", "file.document", "rewriting.rewrite"),
    ]
    imports = "".join(f"import tfprune.export.{module}\n" for module in modules)
    heavy = "{'keras', 'tensorflow', 'ai_edge_litert', 'tflite_runtime'}"
    code = f"{imports}import sys\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_running_a_file_loads_neither_keras_nor_tensorflow(cases):
    code = f"""
import sys
from tfprune.export import Runner, inspect
Runner({str(cases["dense"].path)!r}); inspect({str(cases["dense"].path)!r})
print(sorted({{'keras', 'tensorflow'}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is not installed (extra `micro`)")
def test_questions_about_a_file_need_no_keras(cases):
    code = f"""
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = None
from tfprune.export import micro_support, sparse_inference, vela
assert micro_support({str(cases["dense"].path)!r}).runs
assert not sparse_inference({str(cases["dense"].path)!r}).sparsity
try:
    micro_support(3)
except TypeError as error:
    print(error)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Expected a Keras model, or a path" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["dense", "int8", "int8_float_io"])
def test_pixels_are_not_taken_in_silence(cases, name):
    runner = Runner(cases[name].path)
    pixels = np.arange(20, 20 + cases[name].inputs[:2].size, dtype=np.uint8).reshape(cases[name].inputs[:2].shape)
    if name == "int8":
        with pytest.raises(
            ValueError, match="real numbers between .* Received: uint8 from 0 to 255.* clipped. Scale"
        ):
            runner.predict(pixels)
        return
    with pytest.warns(UserWarning, match=r"Input '\w+' takes floats, and gets uint8 from \d+ to \d+, as they are"):
        given = runner.predict(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(runner.predict(pixels.astype(np.float32)), given)
        runner.predict(pixels > 100)


def test_public_names_are_lazy_and_complete():
    from tfprune import export

    searches = {"CompressReport", "Remote", "Vela", "VelaReport", "compress", "vela"}
    files = {"add_metadata", "rewrite", "share_weights", "sparsify", "pack", "unpack"}
    models = {"to_tflite", "make_sparse_ready", "sparse_inference"}
    reports = {"BenchmarkReport", "ExportReport", "ModelReport", "SparseInferenceReport", "VerifyReport"}
    reports |= {"EvaluateReport", "QuantizationErrorReport"}
    runs = {"Runner", "benchmark", "correct_biases", "evaluate", "inspect", "latency", "quantization_error", "verify"}
    micro = {"ArrayReport", "ComponentReport", "MicroReport", "MicroSupportReport"}
    micro |= {"c_array", "component", "micro_support"}
    values = {
        "CheckReport",
        "check",
        "Micro",
        "Quantization",
        "Search",
        "DamageReport",
        "damage",
        "PruneTfliteReport",
        "prune_tflite",
    }
    values |= {"ShrinkTfliteReport", "shrink_tflite", "Generator", "GeneratorReport", "to_generator"}
    values |= {"Embedder", "to_embedder", "WebReport", "web", "EdgeQuantizer"}
    values |= {"FitReport", "Trainer", "TrainerReport", "load_trained", "to_trainer"}
    assert set(export.__all__) == runs | files | models | reports | micro | searches | values
    assert set(export.__all__) <= set(dir(export))
    assert export.Runner is Runner
    assert callable(export.verify)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = export.nothing


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 80), seed=st.integers(0, 99))
def test_a_fixed_batch_takes_any_batch(cases, rows, seed):
    inputs = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    (kernel,) = cases["fixed"].kernels
    np.testing.assert_allclose(Runner(cases["fixed"].path).predict(inputs), inputs @ kernel, atol=1e-5)


def test_the_first_graph_runs_when_the_signature_belongs_to_another():
    detail = {"name": "x", "index": 0, "dtype": np.float32, "shape": np.array([1]), "shape_signature": np.array([1])}
    detail["quantization_parameters"] = {"scales": np.array([]), "zero_points": np.array([])}
    signed = SimpleNamespace(
        get_input_details=lambda: {"a": {**detail, "name": "y"}}, get_output_details=lambda: {"b": detail}
    )
    interpreter = SimpleNamespace(
        get_input_details=lambda: [detail],
        get_output_details=lambda: [detail],
        get_signature_list=lambda: {"other": {}},
        get_signature_runner=lambda key: signed,
    )
    inputs, outputs, _ = runner_module._io_tensors(interpreter, None)
    assert [inputs[0].info.name, outputs[0].info.name] == ["x", "b"]


ZEROED = """
import sys
from pathlib import Path
from tfprune.export.device.runner import random_inputs
from tfprune.export.device.runner import Runner
data = Path(sys.argv[1]).read_bytes()
for start in range(8, len(data) - 3, 4):
    try:
        runner = Runner(data[:start] + bytes(4) + data[start + 4 :])
        runner.predict(random_inputs(runner.inputs, runner.outputs, rows=1))
    except ValueError:
        pass
"""


@pytest.mark.programs
@pytest.mark.parametrize("name", ["dense", "int8_float_io"])
def test_no_word_that_becomes_zero_ends_the_process(cases, name):
    done = subprocess.run([sys.executable, "-c", ZEROED, cases[name].path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_one_file_of_a_folder_is_loaded(cases, tmp_path):
    case = cases["dense"]
    (tmp_path / "README.md").write_text("# model")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "old.tflite").mkdir()  # a folder
    (tmp_path / ".hidden.tflite").write_bytes(b"")
    stored = tmp_path / ".cache" / "blob"  # a cache of downloads holds files, and links to them
    stored.write_bytes(encode(case.data, "packed"))
    (tmp_path / "model.TFZ").symlink_to(stored)
    runner = Runner.from_folder(str(tmp_path), threads=2)
    expected = Runner(case.data).predict(case.inputs)
    np.testing.assert_array_equal(runner.predict(case.inputs), expected)


def test_a_folder_without_one_file_is_refused_by_name(cases, tmp_path):
    with pytest.raises(ValueError, match=r"no files\. Pass the folder that the model file is in\."):
        Runner.from_folder(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(ValueError, match=r"with none of them, but 'model\.keras'\."):
        Runner.from_folder(tmp_path)
    for name in ("b.tfz", "a.tflite"):
        (tmp_path / name).write_bytes(cases["dense"].data)
    with pytest.raises(ValueError, match=r"several 'a\.tflite', 'b\.tfz'\. Pass the path of one of them to Runner\."):
        Runner.from_folder(tmp_path)
    for wrong in (tmp_path / "a.tflite", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"cannot be listed \(N.*\)\. To run a file, pass it to Runner\."):
            Runner.from_folder(wrong)
    for wrong in (None, 3, b"folder"):
        with pytest.raises(TypeError, match="`folder` as the path of a folder"):
            Runner.from_folder(wrong)
