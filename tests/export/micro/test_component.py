"""Files as firmware takes them: what is written compiles and prints PASS, and what firmware lacks is said by name."""

import json
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from compiled_component import needs_compiler, run_component, run_library

from tfprune.base.spec import ArgumentError
from tfprune.export import component, micro_support
from tfprune.export.command_line.cli import main
from tfprune.export.file import schema
from tfprune.export.file.document import inputs_of, load_objects, operator_name, save_objects
from tfprune.export.file.inspect import inspect
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.convert import convert
from tfprune.export.micro.interpreter import KNOWN_OPERATORS, boards, run_files
from tfprune.export.micro.reports import byte_lines, find_firmware, firmwares, fit_firmware
from tfprune.export.rewriting.sparsify import sparsify

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")

MANIFEST = {
    "wake_word": "Hello",
    "author": "A",
    "trained_languages": ["en"],
    "website": "https://example.org/",
    "micro": {"probability_cutoff": 0.9, "sliding_window_size": 4},
}
FEATURES = 40


@pytest.fixture(scope="module")
def unpacking(network) -> bytes:
    """Return a file whose layers unpack their weights with DECODE, one of them in two parts."""
    from tfprune.export.micro.micro import _Candidates

    return _Candidates(ModelFile(network.files["int8"])).write((1, 2, 2, 1)).file.content


@pytest.fixture(scope="module")
def streaming() -> bytes:
    """Return a wake word as microWakeWord converts them: a ring buffer in a variable, int8 in and uint8 out."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    kernel, head = (random.normal(size=shape).astype(np.float32) / 4 for shape in ((5, 1, FEATURES, 8), (8, 1)))

    class WakeWord(tf.Module):
        def __init__(self):
            super().__init__()
            self.state = tf.Variable(tf.zeros((1, 2, 1, FEATURES)))

        @tf.function(input_signature=[tf.TensorSpec((1, 3, FEATURES), tf.float32)])
        def __call__(self, x):
            joined = tf.concat([self.state, x[:, :, None]], 1)
            self.state.assign(joined[:, 3:])
            y = tf.nn.relu(tf.nn.conv2d(joined, kernel, 1, "VALID"))
            return tf.sigmoid(tf.reshape(y, (1, 8)) @ head)

    model = WakeWord()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.__call__.get_concrete_function()], model)
    converter.experimental_enable_resource_variables = converter._experimental_variable_quantization = True
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type, converter.inference_output_type = tf.int8, tf.uint8
    samples = random.uniform(0, 10, (20, 1, 3, FEATURES)).astype(np.float32)
    converter.representative_dataset = lambda: ([sample] for sample in samples)
    return converter.convert()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_changed_weight(content: bytes) -> bytes:
    """Return a file with one bit of a weight of its last layer flipped."""
    model = load_objects(content)
    graph = model.subgraphs[0]
    last = [each for each in graph.operators if operator_name(model, each) == "FULLY_CONNECTED"][-1]
    buffer = model.buffers[graph.tensors[inputs_of(last)[1]].buffer]
    buffer.data = buffer.data.copy()
    buffer.data[np.flatnonzero(buffer.data)[0]] ^= 0x40
    return save_objects(model)


# What is written compiles, and the self test passes where it should.


@needs_compiler
@pytest.mark.programs
@pytest.mark.parametrize("kind", ["int8", "float32", "unpacking", "streaming"])
def test_a_component_for_esp_idf_compiles_and_passes(network, unpacking, streaming, tmp_path, kind):
    content = {**network.files, "unpacking": unpacking, "streaming": streaming}[kind]
    report = component(content, tmp_path / "digits", firmware="esp-tflite-micro")
    assert run_component(tmp_path / "digits") == "PASS"
    assert {*report.files} <= {f"digits/{name}" for name in files_of(tmp_path / "digits")}
    assert report.runs == (16 if kind == "streaming" else 4) and not report.rewritten
    assert 1 < report.different <= report.runs
    header = (tmp_path / "digits" / "include" / "digits.h").read_text()
    assert f"digits_arena_size = {report.arena};" in header and report.arena > 0.6 * micro_support(content).arena


@needs_compiler
@pytest.mark.programs
def test_a_changed_weight_fails(network, tmp_path):
    folder = tmp_path / "digits"
    component(network.files["int8"], folder, firmware="esp-tflite-micro", check_on=network.samples)
    source = tmp_path / "digits" / "digits.cc"
    content = bytes(int(byte, 16) for byte in re.findall(r"0x[0-9a-f]{2}", source.read_text()))
    changed = with_changed_weight(content)
    source.write_text(source.read_text().replace(byte_lines(content), byte_lines(changed)))
    assert run_component(tmp_path / "digits") == "FAIL: the bytes of the model are not those of the file"
    test = tmp_path / "digits" / "digits_test.cc"  # with the right sum, the outputs are compared
    test.write_text(test.read_text().replace(str(zlib.crc32(content)), str(zlib.crc32(changed))))
    assert run_component(tmp_path / "digits") == "FAIL: the outputs differ"


@needs_compiler
@pytest.mark.programs
def test_an_operator_that_is_not_registered_fails(network, tmp_path):
    component(network.files["int8"], tmp_path / "digits", firmware="esp-tflite-micro")
    header = tmp_path / "digits" / "include" / "digits.h"
    header.write_text(re.sub(r"static_cast<int>\(resolver.AddReshape\(\)\) == 0", "true", header.read_text()))
    assert run_component(tmp_path / "digits").startswith("FAIL: the arena is too small, or an operator is missing")


@needs_compiler
@pytest.mark.programs
@pytest.mark.parametrize("kind", ["unpacking", "streaming"])
def test_a_library_for_arduino_compiles_and_passes(unpacking, streaming, tmp_path, kind):
    content = {"unpacking": unpacking, "streaming": streaming}[kind]
    report = component(content, tmp_path / "my-digits.zip", firmware="arduino")
    with zipfile.ZipFile(tmp_path / "my-digits.zip") as archive:
        assert sorted(archive.namelist()) == sorted(report.files)
        archive.extractall(tmp_path / "libraries")
    assert run_library(tmp_path / "libraries" / "my_digits") == "PASS"
    assert (report.rewritten == ("TFLM_DECODE as dense weights",)) is (kind == "unpacking")


def test_the_same_file_gives_the_same_library(network, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        component(network.files["int8"], tmp_path / name / "digits.zip", firmware="arduino")
    assert (tmp_path / "a/digits.zip").read_bytes() == (tmp_path / "b/digits.zip").read_bytes()


# ESPHome.


@pytest.mark.programs
def test_a_wake_word_for_esphome_is_the_file_and_its_manifest(streaming, tmp_path):
    report = component(streaming, tmp_path / "hello", firmware="esphome", manifest=MANIFEST)
    files = files_of(tmp_path / "hello")
    assert {*files} == {"hello.json", "hello.tflite"} and len(files["hello.tflite"]) < len(streaming)
    steps = np.random.default_rng(0).uniform(0, 10, (30, 3, FEATURES)).astype(np.float32)
    before, after = run_files([streaming, files["hello.tflite"]], [steps])
    assert before.equals(after) and np.ptp(after.outputs[0]) > 0
    written = json.loads(files["hello.json"])
    arena = written["micro"].pop("tensor_arena_size")
    least = micro_support(files["hello.tflite"], firmware="esphome").arena
    assert least < micro_support(streaming, firmware="esphome").arena
    assert 1.5 * least <= arena == report.arena < 1.5 * least + 16 and arena % 16 == 0
    assert written == {
        "type": "micro",
        "version": 2,
        "model": "hello.tflite",
        "wake_word": "Hello",
        "author": "A",
        "trained_languages": ["en"],
        "website": "https://example.org/",
        "micro": {
            "probability_cutoff": 0.9,
            "sliding_window_size": 4,
            "feature_step_size": 10,
            "minimum_esphome_version": "2024.7.0",
        },
    }
    assert {*report.defaults} == {"feature_step_size", "minimum_esphome_version"}


WRONG = {
    "wake_word": {"wake_word": ""},
    "author": {"author": None},
    "trained_languages": {"trained_languages": "en"},
    "version": {"version": 1},
    "type": {"type": "onnx"},
    "micro.probability_cutoff": {"micro": {"probability_cutoff": 97}},
    "micro.feature_step_size": {"micro": {"probability_cutoff": 0.5, "feature_step_size": 40}},
}


@pytest.mark.parametrize("field", WRONG)
def test_a_manifest_that_esphome_refuses_is_refused(streaming, tmp_path, field):
    with pytest.raises(ArgumentError, match=field) as refused:
        component(streaming, tmp_path / "hello", firmware="esphome", manifest={**MANIFEST, **WRONG[field]})
    assert refused.value.argument == "manifest" and not [*tmp_path.iterdir()]


def test_a_manifest_is_needed_for_esphome_and_for_nothing_else(streaming, tmp_path):
    with pytest.raises(ArgumentError, match='"wake_word": "Okay Nabu"'):
        component(streaming, tmp_path / "hello", firmware="esphome")
    with pytest.raises(ArgumentError, match="Leave it out"):
        component(streaming, tmp_path / "hello", firmware="esp-tflite-micro", manifest=MANIFEST)
    with pytest.raises(TypeError, match="manifest"):
        component(streaming, tmp_path / "hello", firmware="esphome", manifest=5)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="manifest of a wake word"):
        component(streaming, tmp_path / "hello", firmware="esphome", manifest=tmp_path / "broken.json")


def test_an_output_of_int8_becomes_the_uint8_that_esphome_takes(tmp_path, converting_here):
    import keras

    layers = [keras.layers.Flatten(), keras.layers.Dense(1, "sigmoid")]
    model = keras.Sequential([keras.Input((3, FEATURES)), *layers])
    samples = np.random.default_rng(0).uniform(0, 10, (20, 3, FEATURES)).astype(np.float32)
    with converting_here():
        content = convert(model, quantize="int8", calibration=samples, io_dtype="int8", batch=1)
    report = component(content, tmp_path / "hello", firmware="esphome", manifest=MANIFEST)
    assert report.rewritten == ("int8 output as uint8",)
    (info,) = inspect(tmp_path / "hello/hello.tflite").outputs
    assert info.dtype == "uint8"
    before, after = run_files([content, tmp_path / "hello/hello.tflite"], [samples])
    assert np.array_equal(before.raw[0].astype(int) + 128, after.raw[0]) and np.ptp(after.raw[0]) > 0
    assert np.array_equal(before.outputs[0], after.outputs[0])


def test_a_file_that_esphome_does_not_load_says_why(network, streaming, tmp_path):
    report = micro_support(network.files["int8"], firmware="esphome")
    assert report.runs and not report.passed and "(1, steps, 40)" in report.firmware.reason
    model = load_objects(streaming)
    model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])].shape = np.array([1, 3, FEATURES + 1], np.int32)
    _, fit = fit_firmware(ModelFile(save_objects(model)), find_firmware("esphome"))
    assert "(1, steps, 40)" in fit.reason and "microWakeWord" in fit.reason


# What firmware lacks.


def test_operators_of_written_files_are_in_the_list_or_refused_by_name(network, unpacking, streaming, tmp_path):
    import tensorflow as tf

    floats = tf.lite.TFLiteConverter.from_keras_model(network.model).convert()
    sums = of_function(lambda x: tf.reverse(tf.math.reduce_min(x, -1), [1]), (1, 4, 6))
    contents = [*network.files.values(), unpacking, streaming, floats, sums]
    for name, firmware in firmwares().items():
        for number, content in enumerate(contents):
            file = ModelFile.open(content)
            fitted, fit = fit_firmware(file, firmware)
            lacking = {*fitted.graph.ops} - {*firmware.operators}
            assert {*fit.missing} == lacking and all(operator in fit.reason for operator in lacking)
            path = tmp_path / f"m{number}_{name.replace('-', '_')}{'.zip' if name == 'arduino' else ''}"
            if fit.reason:
                with pytest.raises(ValueError, match=re.escape(fit.reason)):
                    component(content, path, firmware=name, manifest=MANIFEST if name == "esphome" else None)
                assert not path.exists()


def of_function(function, *shapes) -> bytes:
    """Return a float32 file of a function."""
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


def test_operators_that_are_missing_are_refused_by_name_with_advice(tmp_path):
    import tensorflow as tf

    content = of_function(lambda x: tf.math.reduce_min(x, -1), (1, 4, 6))
    report = micro_support(content, firmware="arduino")
    assert report.runs and not report.passed and report.firmware.missing == ("REDUCE_MIN",)
    with pytest.raises(ValueError, match="it has no REDUCE_MIN.*Replace the layers"):
        component(content, tmp_path / "least.zip", firmware="arduino")
    assert micro_support(content, firmware="esp-tflite-micro").passed


def substituted(name):
    """Return a file with an operator, and what stands for it."""
    import tensorflow as tf

    functions = {
        "SQUEEZE": (lambda x: tf.squeeze(x, 1), (1, 1, 3, 4), "RESHAPE"),
        "EXPAND_DIMS": (lambda x: tf.expand_dims(x, 2) * 2.0, (1, 3, 4), "RESHAPE"),
        "TRANSPOSE": (lambda x: tf.transpose(x, (0, 2, 1, 3)), (1, 1, 3, 4), "RESHAPE"),
        "SPLIT": (lambda x: tf.concat(tf.split(x, 2, axis=1)[::-1], 1), (1, 4, 3), "SPLIT_V"),
        "SLICE": (lambda x: tf.slice(x, (0, 1, 2), (1, 2, -1)), (1, 4, 5), "STRIDED_SLICE"),
    }
    function, shape, substitute = functions[name]
    return of_function(function, shape), substitute


@pytest.mark.parametrize("name", ["SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SPLIT", "SLICE"])
def test_what_stands_for_an_operator_gives_the_same_outputs(name):
    content, substitute = substituted(name)
    model = load_objects(content)
    if name not in ModelFile.open(content).graph.ops:
        model = with_operator(model, name, substitute)
        content = save_objects(model)
    fitted, fit = fit_firmware(ModelFile.open(content), find_firmware("esphome"))
    assert f"{name} as {substitute}" in fit.rewritten and name not in fitted.graph.ops
    (info,) = fitted.graph.inputs
    values = np.random.default_rng(0).normal(size=info.shape).astype(np.float32)
    before, after = run_files([content, fitted], [values])
    assert not after.reason and before.equals(after) and np.ptp(after.outputs[0]) > 0


def with_operator(model, name, substitute):
    """Return a file as other converters write it: with the operator, where this one writes its substitute."""
    graph = model.subgraphs[0]
    operator = next(each for each in graph.operators if operator_name(model, each) == substitute)
    code = getattr(schema.BuiltinOperator, name)
    model.operatorCodes.append(schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1))
    operator.opcodeIndex = len(model.operatorCodes) - 1
    source, second = inputs_of(operator)
    values = {"EXPAND_DIMS": [2], "TRANSPOSE": [0, 2, 1, 3]}.get(name)
    if values is not None:
        constant = graph.tensors[second]
        model.buffers[constant.buffer].data = np.frombuffer(np.int32(values).tobytes(), np.uint8)
        constant.shape = np.array([len(values)], np.int32)
    operator.inputs = np.array([source] if values is None else [source, second], np.int32)
    words = "".join(word.capitalize() for word in name.split("_"))
    operator.builtinOptions = getattr(schema, f"{words}OptionsT")()
    if name == "SQUEEZE":
        operator.builtinOptions.squeezeDims = [1]
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{words}Options")
    return model


def test_an_open_length_is_refused(tmp_path):
    content = of_function(lambda x: x * 2.0, (1, None, 3))
    with pytest.raises(ValueError, match="fixed shapes"):
        component(content, tmp_path / "twice", firmware="esp-tflite-micro")


def test_a_transpose_that_moves_numbers_is_refused():
    import tensorflow as tf

    content = of_function(lambda x: tf.transpose(x, (0, 2, 1)), (1, 3, 4))
    _, fit = fit_firmware(ModelFile.open(content), find_firmware("esphome"))
    assert fit.missing == ("TRANSPOSE",) and not fit.rewritten


def test_weights_that_firmware_cannot_unpack_are_dense_again(network, unpacking):
    fitted, fit = fit_firmware(ModelFile.open(unpacking), find_firmware("arduino"))
    assert fit.fits and fit.rewritten == ("TFLM_DECODE as dense weights",)
    before, after, dense = run_files([unpacking, fitted, network.files["int8"]], [network.samples])
    assert after.equals(before) and after.equals(dense)
    assert {*inspect(fitted.content).ops} <= {*find_firmware("arduino").operators}


def test_a_sparse_file_says_how_to_write_it(network, tmp_path):
    content = sparsify(network.files["int8"], forms=("csr",)).data
    with pytest.raises(ValueError, match="it has no DENSIFY.*target='micro'"):
        component(content, tmp_path / "digits", firmware="esp-tflite-micro")


def test_the_lists_name_operators_that_the_interpreter_knows():
    for firmware in firmwares().values():
        assert {*firmware.operators} <= KNOWN_OPERATORS and len({*firmware.operators}) == len(firmware.operators)
        assert firmware.version and firmware.source
    assert len(find_firmware("esphome").operators) == 20  # that its resolver has room for
    with pytest.raises(ArgumentError, match="esphome"):
        find_firmware("tasmota")


# Boards.


def test_boards_say_what_their_system_leaves():
    assert len(boards()) >= 25
    assert all(0 < board.usable <= board.ram < 2**21 and board.flash and board.source for board in boards().values())
    esp = boards()["esp32-s3"]
    assert (esp.ram, esp.usable) == (512 * 1024, 362 * 1024)


@pytest.mark.programs
def test_a_file_fits_where_the_usable_ram_is_enough(network):
    content = network.files["int8"]
    report = micro_support(content)
    arena = report.arena
    for fit in report.boards:
        board = boards()[fit.board]
        assert fit.ram_left == board.ram - board.reserved - arena and fit.usable == board.usable
    exact = micro_support(content, board=f"flash={len(content)},ram={arena}")
    assert exact.passed and exact.boards[0].flash_left == exact.boards[0].ram_left == 0
    assert not micro_support(content, board=f"flash={len(content)},ram={arena - 1}").passed
    assert "of 524,288 bytes of RAM its system leaves 370,688" in str(micro_support(content, board="esp32-s3"))


@pytest.mark.parametrize("name, words", [("esp32s3", "'esp32-s3'"), ("uno", "'uno-r4'"), ("z80", "flash=1048576")])
def test_an_unknown_board_is_refused_with_those_that_are_close(network, name, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        micro_support(network.files["int8"], board=name)


@pytest.mark.parametrize("text", ["flash=1", "flash=1,ram=x", "flash=0,ram=1", "ram=1,ram=2", "flash=1,ram=1,rom=1"])
def test_memory_by_hand_that_cannot_be_read_is_refused(network, text):
    with pytest.raises(ValueError, match="in bytes"):
        micro_support(network.files["int8"], board=text)


# Folders and zip files.


def test_a_folder_is_written_whole_or_not_at_all(network, unpacking, tmp_path):
    folder = tmp_path / "digits"
    component(network.files["int8"], folder, firmware="esp-tflite-micro")
    before = files_of(folder)
    component(unpacking, folder, firmware="esp-tflite-micro")
    after = files_of(folder)
    assert {*before} == {*after} and before != after
    (folder / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="'mine.txt'"):
        component(network.files["int8"], folder, firmware="esp-tflite-micro")
    (folder / "mine.txt").unlink()
    assert files_of(folder) == after and [*tmp_path.iterdir()] == [folder]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        component(network.files["int8"], tmp_path / "file", firmware="esp-tflite-micro")


@pytest.mark.parametrize("name", ["class", "1", "digits.zip"])
def test_a_folder_whose_name_makes_none_in_cpp_is_refused(network, tmp_path, name):
    with pytest.raises(ValueError, match="Call it model"):
        component(network.files["int8"], tmp_path / name, firmware="esp-tflite-micro")
    with pytest.raises(ValueError, match="Call it model.zip"):
        component(network.files["int8"], tmp_path / name.removesuffix(".zip"), firmware="arduino")
    assert not [*tmp_path.iterdir()]


def test_samples_are_what_the_self_test_feeds(network, tmp_path):
    report = component(
        network.files["int8"], tmp_path / "a", firmware="esp-tflite-micro", check_on=network.samples[:1]
    )
    assert (report.runs, report.different) == (1, 1) and "one output for all" in str(report)
    with pytest.raises(ArgumentError, match="shape"):
        component(network.files["int8"], tmp_path / "b", firmware="esp-tflite-micro", check_on=network.samples[:, :4])
    with pytest.raises(ValueError, match="2 arrays"):
        component(network.files["int8"], tmp_path / "b", firmware="esp-tflite-micro", check_on=[network.samples] * 2)


# The command.


def test_the_command_writes_a_component_after_its_report(streaming, tmp_path, capsys):
    (tmp_path / "wake.tflite").write_bytes(streaming)
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    options = [
        "--for",
        "esphome",
        "--component",
        str(tmp_path / "hello"),
        "--manifest",
        str(tmp_path / "manifest.json"),
    ]
    assert main(["micro", str(tmp_path / "wake.tflite"), *options, "--board", "esp32-s3"]) == 0
    text = capsys.readouterr().out
    assert "ESPHome, micro_wake_word 2026.6.5: FITS" in text and "hello/hello.json" in text
    assert {*files_of(tmp_path / "hello")} == {"hello.json", "hello.tflite"}


def test_the_command_says_what_is_missing_and_writes_nothing(network, tmp_path, capsys):
    (tmp_path / "digits.tflite").write_bytes(network.files["int8"])
    folder = tmp_path / "digits"
    command = ["micro", str(tmp_path / "digits.tflite"), "--component", str(folder)]
    assert main([*command, "--for", "esphome"]) == 1
    assert "an input of shape (1, steps, 40)" in capsys.readouterr().out and not folder.exists()
    assert main(command) == 2
    assert "Expected --for esphome" in capsys.readouterr().err
    assert main([*command[:2], "--check-on", "x.npy"]) == 2
    assert "--component" in capsys.readouterr().err
