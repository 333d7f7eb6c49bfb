"""What a file is run on. The truth is plain LiteRT, driven by hand."""

import json

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from export_table import run_resized

from tfprune.export.command_line.cli import main
from tfprune.export.device.benchmark import benchmark
from tfprune.export.device.runner import Runner, batch_inputs, inputs_from_job, inputs_to_job, random_inputs
from tfprune.export.device.verify import verify
from tfprune.export.file.report import TensorInfo
from tfprune.export.rewriting.rewrite import rewrite


def info(shape, dtype="float32", name="x"):
    return TensorInfo(name, shape, dtype)


def converted(function, *shapes):
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, tf.float32, name=f"x{index}") for index, shape in enumerate(shapes)]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


@pytest.fixture(scope="module")
def spectrogram():
    """Frames of 400 samples, 160 apart: what the file declares, one sample, is shorter than a frame."""
    import tensorflow as tf

    window = tf.constant(np.random.default_rng(0).normal(size=(400, 1, 8)).astype(np.float32))
    return converted(lambda audio: tf.nn.conv1d(audio[..., None], window, 160, "VALID"), [1, None])


@pytest.fixture(scope="module")
def audio():
    return np.random.default_rng(1).normal(size=(1, 1280)).astype(np.float32)


def test_a_file_that_must_be_resized_before_allocation_runs(spectrogram, audio, tmp_path):
    with pytest.raises(RuntimeError):
        Interpreter(model_content=spectrogram).allocate_tensors()
    wanted = run_resized(spectrogram, [audio])[0]
    runner = Runner(spectrogram)
    assert runner.inputs[0].shape == (1, None)
    np.testing.assert_array_equal(runner.predict(audio), wanted)
    assert verify(spectrogram, samples=audio, expected=wanted).passed
    assert benchmark(spectrogram, samples=audio, runs=1, warmup=0).median_ms > 0
    rewrite(spectrogram, tmp_path / "new.tflite", check_on=audio)
    np.testing.assert_array_equal(Runner(tmp_path / "new.tflite").predict(audio), wanted)


def test_the_command_line_runs_it_too(spectrogram, audio, tmp_path, capsys):
    (tmp_path / "model.tflite").write_bytes(spectrogram)
    np.save(tmp_path / "audio.npy", audio)
    for command in ("verify", "bench"):
        arguments = [command, tmp_path / "model.tflite", "--samples", tmp_path / "audio.npy", "--json"]
        assert main([str(argument) for argument in arguments]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report.get("passed", True)


def test_without_inputs_such_a_file_is_refused_with_what_to_give(spectrogram, tmp_path):
    reason = verify(spectrogram).reason
    assert "Received: 'x0' 1x8. Try other lengths for the dimensions marked ?: 'x0' 1x?" in reason
    with pytest.raises(ValueError, match="pass `samples` that it runs on"):
        benchmark(spectrogram, runs=1)
    with pytest.raises(ValueError, match="with `check_on`"):
        rewrite(spectrogram, tmp_path / "new.tflite")
    assert not list(tmp_path.iterdir())


def test_a_file_that_no_shape_suits_is_refused_at_once(spectrogram):
    from tfprune.export.file.document import load_objects, save_objects

    model = load_objects(spectrogram)
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = None
    with pytest.raises(ValueError, match="Expected a TFLite file that runs.*cannot load"):
        Runner(save_objects(model))


@pytest.fixture(scope="module")
def unbatched():
    """Inputs whose first dimension is not a batch: a state, and 64 numbers that all rows share."""
    return converted(lambda state, scale: state * scale + 1.0, [1, 2, 12, 64], [64])


def test_inputs_without_a_common_batch_keep_their_shapes(unbatched, tmp_path):
    assert [input_.shape for input_ in Runner(unbatched).inputs] == [(1, 2, 12, 64), (64,)]
    report = verify(unbatched)
    assert report.passed, report.reason
    assert benchmark(unbatched, runs=1, warmup=0).batch_size == 1
    assert rewrite(unbatched, tmp_path / "new.tflite").bytes > 0
    with pytest.raises(ValueError, match="Expected batch_size=1 for a file .* Received: batch_size=3"):
        benchmark(unbatched, runs=1, batch_size=3)


def test_one_input_that_is_no_batch_keeps_its_length():
    """A net that gives one row of classes for a sound."""
    import tensorflow as tf

    sound = converted(lambda x: tf.reshape(tf.reduce_max(tf.reshape(x, [60, 10]), axis=0), [1, 10]), [600])
    assert verify(sound).passed


def test_a_shared_vector_beside_a_free_batch(audio):
    data = converted(lambda rows, scale: rows * scale, [None, 8], [8])
    rows, scale = np.ones((3, 8), np.float32), np.arange(8, dtype=np.float32)
    runner = Runner(data)
    np.testing.assert_array_equal(runner.predict([rows, scale]), run_resized(data, [rows, scale])[0])
    assert verify(data).passed


def test_which_first_dimensions_are_a_batch():
    assert batch_inputs([info((None, 3)), info((64,))], [info((None, 2))]) == [True, False]
    assert batch_inputs([info((1, 3)), info(())], [info((1, 2)), info((1,))]) == [True, False]
    assert batch_inputs([info((1, 3)), info((64,))], [info((1, 2))]) == [False, False]
    assert batch_inputs([info((600,))], [info((1, 10))]) == [False]


def test_random_inputs_are_the_same_each_time():
    described = [info((None, None, 3)), info((6, 2), "int32"), info(())]
    first, second = (random_inputs(described, [info((None, 1))], rows=4) for _ in range(2))
    for first_array, second_array in zip(first, second, strict=True):
        np.testing.assert_array_equal(first_array, second_array)
    assert [array.shape for array in first] == [(4, 8, 3), (6, 2), ()]
    assert set(first[1].ravel()) <= {0, 1}
    (tokens,) = random_inputs([info((1, 6), "int32")], [info((1, 2))], rows=2)
    assert tokens.shape == (2, 6)


def test_a_random_input_larger_than_memory_is_refused():
    with pytest.raises(
        ValueError, match=r"Expected an input 'x' of at most .* Received: the shape \(1, 2147483647\)"
    ):
        random_inputs([info((None, 2**31 - 1))], [], rows=1)


@pytest.mark.parametrize("inputs", [np.arange(3), [np.arange(3), np.eye(2)], {"a": np.arange(3), "b": np.eye(2)}])
def test_inputs_come_back_as_they_went(inputs):
    returned = inputs_from_job(*inputs_to_job(inputs), draw=lambda: None)
    np.testing.assert_equal(returned, inputs)
    assert type(returned) is type(inputs)


def test_where_nothing_is_given_inputs_are_drawn():
    assert inputs_from_job(*inputs_to_job(None), draw=lambda: ["drawn"]) == ["drawn"]
