"""An open batch that is fixed. The truth is LiteRT itself, which resizes the open file."""

import json
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from export_table import convert, run_resized
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import param

from tfprune.export.device.web import _RUNTIMES
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.file.report import open_batch
from tfprune.export.keras_side.convert import convert as convert_model
from tfprune.export.rewriting import shapes as module
from tfprune.export.rewriting.rewrite import rewrite
from tfprune.export.rewriting.shapes import check_batch

layers = keras.layers
KERNELS = Path(__file__).parents[3] / "bench" / "kernels.mjs"
PLAIN = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def fix_batch(content, batch):
    return module.fix_batch(ModelFile(content), batch).content


def bound_output(content, array):
    """Return the output as LiteRT.js reads it: from memory that is there before the file runs."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    before = [interpreter.get_tensor(detail["index"]).shape for detail in interpreter.get_output_details()]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], array)
    interpreter.invoke()
    after = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
    assert before == [output.shape for output in after]
    return after[0]


def built(*stack, shape):
    keras.utils.set_random_seed(0)
    return convert(keras.Sequential([keras.Input(shape), *stack]))


def drawn(content, batch):
    shapes = [(batch, *info.shape[1:]) for info in read(content).inputs]
    return [np.random.default_rng(batch).random(shape, np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def mobilenet():
    keras.utils.set_random_seed(0)
    return convert(keras.applications.MobileNet((32, 32, 3), alpha=0.25, weights=None, classes=10))


@pytest.mark.programs
@pytest.mark.parametrize("batch", [1, 3])
def test_mobilenet_has_no_shape_that_is_computed_and_gives_the_same(mobilenet, batch, tmp_path):
    assert "SHAPE" in read(mobilenet).ops
    report = rewrite(mobilenet, tmp_path / "fixed.tflite", batch=batch, optimize="dense")
    content = (tmp_path / "fixed.tflite").read_bytes()
    assert not {"SHAPE", "STRIDED_SLICE", "PACK"} & {*read(content).ops, *report.ops}
    (image,) = drawn(mobilenet, batch)
    np.testing.assert_array_equal(bound_output(content, image), run_resized(mobilenet, [image])[0])
    assert [info.shape for info in read(content).inputs] == [(batch, 32, 32, 3)]
    assert [info.shape for info in read(content).outputs] == [(batch, 10)]
    assert report.max_abs_diff == 0
    assert len(content) < len(mobilenet)


def test_the_output_of_the_open_file_has_no_memory_before_it_runs(small):
    model = load_objects(small)
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = None  # what is not enough
    with pytest.raises(ValueError, match="Tensor data is null"):
        bound_output(save_objects(model), np.zeros((1, 12), np.float32))


STACKS = {
    "flatten": ((4, 4, 3), lambda: [layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)]),
    "pooling": ((6, 6, 2), lambda: [layers.Conv2D(3, 3, padding="same"), layers.GlobalAveragePooling2D()]),
    "reshape": (
        (12,),
        lambda: [layers.Reshape((3, 4)), layers.Dense(2), layers.Reshape((2, 3)), layers.Permute((2, 1))],
    ),
    "unrolled LSTM": ((3, 4), lambda: [layers.LSTM(3, unroll=True)]),
    "upsampling": ((3, 3, 2), lambda: [layers.Conv2DTranspose(2, 3, strides=2), layers.UpSampling2D()]),
    "repeated": ((5,), lambda: [layers.RepeatVector(3), layers.Conv1D(4, 2), layers.Flatten()]),
}


@pytest.fixture(scope="module")
def small():
    shape, make = STACKS["reshape"]
    return built(*make(), shape=shape)


@pytest.mark.parametrize(
    "name", ["reshape", *(param(name, marks=pytest.mark.programs) for name in STACKS if name != "reshape")]
)
def test_small_networks_give_what_the_resized_file_gives(name):
    shape, make = STACKS[name]
    content = built(*make(), shape=shape)
    for batch in (1, 4):
        fixed = fix_batch(content, batch)
        check_batch(ModelFile(fixed), batch)
        assert fix_batch(fixed, batch) == fixed
        assert "SHAPE" not in read(fixed).ops
        assert all(tensor.shapeSignature is None for tensor in load_objects(fixed).subgraphs[0].tensors)
        (array,) = drawn(content, batch)
        right, outputs = (
            run_resized(data, [array], experimental_op_resolver_type=PLAIN)[0] for data in (content, fixed)
        )
        np.testing.assert_array_equal(outputs, right)
        np.testing.assert_allclose(bound_output(fixed, array), run_resized(content, [array])[0], atol=1e-6)


STEPS = st.lists(st.sampled_from(["dense", "flatten", "fold", "swap", "repeat"]), min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(steps=STEPS, batch=st.integers(1, 5))
def test_any_stack_of_reshaping_layers_gives_what_the_resized_file_gives(steps, batch):
    inputs = x = keras.Input((4, 6))
    for step in steps:
        size = int(np.prod(x.shape[1:]))
        if step == "dense":
            x = layers.Dense(4)(x)
        elif step == "flatten":
            x = layers.Flatten()(x)
        elif step == "repeat":
            x = layers.RepeatVector(2)(layers.Flatten()(x))
        else:
            x = layers.Reshape((2, size // 2) if step == "fold" else (size // 2, 2))(x)
    content = convert(keras.Model(inputs, layers.Dense(2)(x)))
    fixed = fix_batch(content, batch)
    (array,) = drawn(content, batch)
    right, outputs = (run_resized(data, [array], experimental_op_resolver_type=PLAIN)[0] for data in (content, fixed))
    np.testing.assert_array_equal(outputs, right)
    assert "SHAPE" not in read(fixed).ops


@pytest.mark.programs
def test_litert_js_gives_what_it_gives_with_a_batch_from_the_converter(tmp_path):
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is not installed (apt-get install nodejs npm)")
    npm = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--prefix",
        tmp_path,
        str(_RUNTIMES["litert"]).replace(" ", "@"),
    ]
    if subprocess.run(npm, capture_output=True, check=False).returncode:
        pytest.skip("npm cannot install @litertjs/core: no network")
    network = keras.Sequential([keras.Input((12,)), layers.Dense(6), layers.Reshape((2, 3))])
    (tmp_path / "right.tflite").write_bytes(convert_model(network, batch=1))
    (tmp_path / "fixed.tflite").write_bytes(fix_batch(convert_model(network), 1))
    np.random.default_rng(0).random(12, np.float32).tofile(tmp_path / "input.bin")
    names = [tmp_path / name for name in ("right.tflite", "fixed.tflite", "input.bin")]
    done = subprocess.run(["node", KERNELS, tmp_path, *names, "1"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["difference"] == 0  # not a number if all outputs are zeros


@pytest.mark.programs
def test_a_loop_has_a_batch_of_its_own(tmp_path):
    network = keras.Sequential([keras.Input((3, 4)), layers.LSTM(3)])
    content = convert_model(network)  # with a batch of 1, because the loop needs one
    assert fix_batch(content, 1) == content
    with pytest.raises(ValueError, match=r"or has a batch of 2. Received: batch=2, and .* 1x3x4\. Convert"):
        rewrite(content, tmp_path / "fixed.tflite", batch=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.programs
def test_each_signature_gets_the_batch(signatures, tmp_path):
    rewrite(signatures, tmp_path / "fixed.tflite", batch=2, optimize="dense")
    content = (tmp_path / "fixed.tflite").read_bytes()
    interpreter, before = (Interpreter(model_content=data) for data in (content, signatures))
    array = np.random.default_rng(0).random((2, 4), np.float32)
    for name in ("first", "second"):
        runner, right = (each.get_signature_runner(name) for each in (interpreter, before))
        assert [*runner.get_input_details().values()][0]["shape_signature"].tolist() == [2, 4]
        for output, value in right(x=array).items():
            np.testing.assert_allclose(runner(x=array)[output], value, atol=1e-6)


@pytest.fixture
def signatures():
    """A file whose signatures start at two graphs, both with an open batch."""
    import tensorflow as tf

    class Two(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def first(self, x):
            return {"y": tf.reshape(x, [tf.shape(x)[0], 2, 2])}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def second(self, x):
            return {"y": tf.reshape(2 * x, [tf.shape(x)[0], 4, 1])}

    module = Two()
    functions = [module.first.get_concrete_function(), module.second.get_concrete_function()]
    return tf.lite.TFLiteConverter.from_concrete_functions(functions, module).convert()


def converted(function, shape):
    import tensorflow as tf

    traced = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32)]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert()


def test_shapes_that_depend_on_values_are_refused():
    import tensorflow as tf

    content = converted(lambda x: tf.where(x > 0.5), [None, 8])
    with pytest.raises(ValueError, match=r"can be fixed. Received: batch=1, .*depends on the values of the inputs"):
        fix_batch(content, 1)


def test_other_open_dimensions_are_refused():
    import tensorflow as tf

    content = converted(tf.nn.relu, [None, None, 3])
    with pytest.raises(
        ValueError, match=r"whose batch alone is open. Received: .* \?x\?x3\. Convert the model again"
    ):
        fix_batch(content, 1)


def test_a_batch_with_which_the_file_does_not_run_is_refused(tmp_path):
    import tensorflow as tf

    content = converted(lambda x: tf.reshape(x, [3, -1]) * 2, [None, 4])
    with pytest.raises(ValueError, match=r"can be fixed\. Received: batch=2, with which this happens: .*reshape"):
        rewrite(content, tmp_path / "fixed.tflite", batch=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("batch", "error"), [(0, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_a_batch_is_a_positive_integer(batch, error, tmp_path, small):
    with pytest.raises(error, match="`batch` to be an integer"):
        rewrite(small, tmp_path / "fixed.tflite", batch=batch)


def test_a_damaged_file_is_refused(small):
    model = load_objects(small)
    model.subgraphs[0].operators[3].inputs = model.subgraphs[0].operators[3].inputs[:1]
    with pytest.raises(ValueError, match="can be fixed"):
        fix_batch(save_objects(model), 1)


def test_what_the_run_has_not_shown_is_refused(small, monkeypatch):
    monkeypatch.setattr(module, "_tensors_of_runs", lambda *_: {})
    with pytest.raises(ValueError, match="no run shows the shape of"):
        module._with_batch(ModelFile(small), 1)
    assert open_batch(read(small).inputs)
