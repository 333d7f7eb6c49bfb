"""Files that keep values from one run to the next: samples are runs that follow each other."""

import numpy as np
import pytest

from tfprune.export.device.runner import Runner, find_interpreter
from tfprune.export.file.document import load_objects, operator_name, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.micro.interpreter import run_files
from tfprune.export.pruning.channels import file_channels, mixing_layers
from tfprune.export.pruning.layers import find_layers
from tfprune.export.pruning.pieces import LiveTensors, Pieces, with_variables
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.pruning.shrink import shrink_tflite

BEGIN = 0.5  # of each entry of the first buffer
STATES = np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 2, 24)  # that the second one begins with


@pytest.fixture(scope="module")
def ring():
    """Return a network over the last four inputs, and over its last three activations."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    first, second = (random.normal(size=shape).astype(np.float32) / 6 for shape in ((32, 24), (72, 3)))

    class Ring(tf.Module):
        def __init__(self):
            super().__init__()
            self.inputs, self.states = tf.Variable(tf.fill((1, 3, 8), BEGIN)), tf.Variable(STATES)

        @tf.function(input_signature=[tf.TensorSpec((1, 8), tf.float32)])
        def __call__(self, x):
            inputs = tf.concat([self.inputs, x[:, None]], 1)
            self.inputs.assign(inputs[:, 1:])
            y = tf.nn.relu(tf.reshape(inputs, (1, 32)) @ first)
            states = tf.concat([self.states, y[:, None]], 1)
            self.states.assign(states[:, 1:])
            return tf.reshape(states, (1, 72)) @ second

    model = Ring()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.__call__.get_concrete_function()], model)
    converter.experimental_enable_resource_variables = True
    return converter.convert()


@pytest.fixture(scope="module")
def stream():
    steps = np.random.default_rng(1).normal(size=(120, 8)).astype(np.float32)
    return (np.cumsum(steps, axis=0) * 0.3 % 2).astype(np.float32)


def runs_of(content, stream):
    (entry,) = load_objects(content).subgraphs[0].inputs
    return [{int(entry): row[np.newaxis]} for row in stream]


def test_the_values_that_each_run_reads(ring, stream):
    buffer = next(index for index, length in lengths(ring).items() if length == (1, 3, 8))
    before = np.concatenate([np.full((3, 8), BEGIN, np.float32), stream])
    for number, run in enumerate(with_variables(ring, runs_of(ring, stream[:9]))):
        assert np.array_equal(run[buffer][0], before[number : number + 3])


def lengths(content):
    pieces = Pieces(load_objects(content))
    return {index: tuple(pieces.graph.tensors[index].shape) for index in pieces.variables}


def test_values_follow_from_a_changed_file(ring, stream, tmp_path):
    """Pieces get what the changed file itself would assign, not the values of the dense file."""
    runs, model = with_variables(ring, runs_of(ring, stream[:20])), load_objects(ring)
    pieces = Pieces(model)
    first, last = find_layers(pieces)[0]
    first.write(pieces, first.weights / 2, first.stored)
    changed = with_variables(save_objects(model), runs_of(ring, stream[:20]))
    live = LiveTensors(pieces, runs, folder=tmp_path)
    live.advance(last.operators[0].step)
    buffer = next(index for index, length in lengths(ring).items() if length == (1, 2, 24))
    assert len(pieces.states) == 2 and not np.array_equal(runs[-1][buffer], changed[-1][buffer])
    rows = [live.get(run, last.operators[0].activation)[0, :48] for run in range(len(live))]
    assert np.allclose(rows, [run[buffer].reshape(-1) for run in changed], atol=1e-6)


def frame_by_frame(content, stream):
    interpreter = find_interpreter()[0](model_content=content)
    interpreter.allocate_tensors()
    rows = []
    for frame in stream:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], frame[np.newaxis])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.array(rows)


def test_a_stream_of_frames_prunes_the_file(ring, stream, tmp_path):
    report = prune_tflite(ring, tmp_path / "sparse.tflite", stream, sparsity=0.5, optimize="dense")
    assert report.sparsity == pytest.approx(0.5, abs=0.02) and not report.skipped
    dense, sparse = (frame_by_frame(each, stream) for each in (ring, (tmp_path / "sparse.tflite").read_bytes()))
    error = np.sqrt(np.square(dense - sparse)[-report.held_out :].mean() / dense.var(axis=0).mean())
    assert report.errors[0].error == pytest.approx(error, rel=1e-4)
    model = load_objects(ring)
    for layer in find_layers(Pieces(model))[0]:
        weights = np.where(np.abs(layer.weights) > np.median(np.abs(layer.weights)), layer.weights, 0)
        layer.write(Pieces(model), weights, layer.stored)
    magnitude = np.square(frame_by_frame(save_objects(model), stream) - dense)[-report.held_out :].mean()
    assert np.square(dense - sparse)[-report.held_out :].mean() < 0.6 * magnitude
    assert np.array_equal(Runner(tmp_path / "sparse.tflite").predict(stream), sparse)


def test_a_run_of_any_number_of_frames_is_refused(ring, stream, tmp_path):
    model = load_objects(ring)
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, 8], np.int32)
    with pytest.raises(ValueError, match="one sample in each run.*Export the model with a batch of 1"):
        with_variables(save_objects(model), runs_of(ring, stream))


def test_channels_go_from_ring_buffers_and_from_their_first_values(ring, stream, tmp_path):
    report = shrink_tflite(ring, tmp_path / "small.tflite", stream, flops=0.5)
    kept = report.groups[0].kept
    assert kept <= 12 and report.flops_kept * 2 <= report.flops and report.file.max_abs_diff < 1e-5
    model = load_objects((tmp_path / "small.tflite").read_bytes())
    first, last = (layer.weights for layer in find_layers(Pieces(model))[0])
    (store,) = [each for each in Pieces(model).stores() if model.subgraphs[0].tensors[each.read[0]].shape[1] == 2]
    ((graph, operator),) = store.first
    constant = graph.tensors[operator.inputs[1]]
    states = np.asarray(model.buffers[constant.buffer].data).view(np.float32).reshape(2, kept)
    places = [[STATES[0, row].tolist().index(entry) for entry in states[row]] for row in range(2)]
    assert places[0] == places[1] == sorted(places[0])
    assert np.allclose(
        by_hand(first[0], last[0], states, stream), frame_by_frame(save_objects(model), stream), atol=1e-5
    )


@pytest.mark.programs
def test_the_smaller_ring_runs_in_the_interpreter_for_microcontrollers(ring, stream, tmp_path):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed: see the extra `micro`")
    plain, micro = (tmp_path / name for name in ("plain.tflite", "micro.tflite"))
    report = shrink_tflite(ring, plain, stream, flops=0.5)
    there = shrink_tflite(ring, micro, stream, flops=0.5, target="micro")
    assert there.file.micro is not None and there.file.max_abs_diff == report.file.max_abs_diff
    (run,) = run_files([ModelFile.open(micro)], [stream])
    assert np.allclose(run.outputs[0], frame_by_frame(plain.read_bytes(), stream), atol=1e-5)


def by_hand(first, last, states, stream):
    """Return the outputs of the network of `ring` by NumPy; the last column of a kernel is the bias."""
    inputs, rows = np.full((3, 8), BEGIN), []
    for frame in stream:
        window = np.concatenate([inputs, frame[np.newaxis]])
        y = np.maximum(first[:, :32] @ window.ravel() + first[:, 32:].sum(axis=1), 0)
        held = np.concatenate([states, y[np.newaxis]])
        rows.append(last[:, : held.size] @ held.ravel() + last[:, held.size :].sum(axis=1))
        inputs, states = window[1:], held[1:]
    return np.array(rows)


@pytest.mark.parametrize("case", ["no first value", "read by a signature", "grows"])
def test_variables_that_cannot_lose_channels_hold_them(ring, case):
    model = load_objects(ring)
    main = model.subgraphs[0]
    if case == "no first value":
        main.operators = [each for each in main.operators if operator_name(model, each) != "CALL_ONCE"]
        del model.subgraphs[1]
        says = "nothing sets its first value"
    elif case == "read by a signature":
        model.subgraphs.append(model.subgraphs[1])  # which nothing runs for first values
        says = "another graph of the file uses it, too"
    else:
        assigned = [main.tensors[tensor] for store in Pieces(model).stores() for tensor in store.assigned]
        for tensor in assigned:
            tensor.shape = tensor.shape + np.array([0, 1, 0], np.int32)
        says = "its size changes"
    pieces = Pieces(model)
    channels = file_channels(pieces, mixing_layers(pieces))
    states = next(group for group in channels.groups if len(group.bundles) == 24)
    assert states.stuck and says in states.reason
