"""The inference file of a trainer. The truth is Keras with what was learned, the desk's file, and the runtime."""

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.export import Runner, Trainer, load_trained, to_tflite, to_trainer
from tfprune.export.command_line.cli import main
from tfprune.export.device.runner import plain_interpreter
from tfprune.export.file import schema
from tfprune.export.file.document import add_constant, add_operator, add_tensor, operator_name, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.rewriting.frozen import _fold, frozen

CLASSES = 5


def network():
    image = keras.Input((9, 9, 2))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
    x = layers.Add()([x, layers.Conv2D(8, 1)(y)])
    x = layers.Flatten()(layers.MaxPooling2D()(layers.BatchNormalization()(x)))
    x = layers.LayerNormalization()(layers.Dense(12, "tanh")(x))
    return keras.Model(image, layers.Dense(CLASSES)(x))


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Return a wrapped model, a trainer of it that has learned something since, its inputs and its file."""
    keras.utils.set_random_seed(0)
    model, random = tfprune.wrap(network()), np.random.default_rng(0)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tfprune.update_masks(model, 0.8)
    path = tmp_path_factory.mktemp("frozen") / "images.tfz"
    x, y = random.random((64, 9, 9, 2)).astype(np.float32), random.integers(0, CLASSES, 64)
    to_trainer(model, path, batch_size=8, compress="packed", check_on=(x, y))
    trainer = Trainer(path)
    trainer.fit(x, y, epochs=2, learning_rate=0.01)
    return model, trainer, x, path


@pytest.mark.programs
def test_the_device_writes_the_file_that_the_desk_would(taught, tmp_path):
    model, trainer, x, _ = taught
    here = trainer.to_tflite(tmp_path / "here.tflite", optimize="dense", check_on=x)
    there = tfprune.wrap(network())
    load_trained(there, trainer)
    desk = to_tflite(there, tmp_path / "desk.tflite", optimize="dense", check_on=x)
    outputs = Runner(tmp_path / "here.tflite").predict(x)
    np.testing.assert_allclose(outputs, there.predict(x, verbose=0), atol=1e-5)
    assert not np.allclose(outputs, model.predict(x, verbose=0), atol=1e-2)  # it has learned
    sizes = {"SHAPE", "STRIDED_SLICE", "PACK"}  # that Flatten computes in the desk's file
    assert here.ops == {name: count for name, count in desk.ops.items() if name not in sizes}
    assert here.bytes < 1.05 * desk.bytes
    kept = sum(np.count_nonzero(mask) for mask in trainer.masks.values()) + 8 * 9  # which no wrapper prunes
    assert (desk.nnz, here.nnz) == (kept, kept + 8 + 12)  # and those of two norms behind no layer


def test_what_the_device_writes_is_sparse_and_packed_as_asked(taught, tmp_path):
    _, trainer, x, _ = taught
    report = trainer.to_tflite(tmp_path / "mine.tfz", compress="packed", batch=2)
    assert report.bytes < report.tflite_bytes
    np.testing.assert_allclose(Runner(tmp_path / "mine.tfz").predict(x), trainer.predict(x), atol=1e-5)
    with pytest.raises(ValueError, match=r"`x` of shape \?x9x9x2 .*Received: 64x9x9x1"):
        trainer.to_tflite(tmp_path / "mine.tfz", check_on=x[..., :1])
    with pytest.raises(ValueError, match=r"Received: optimize='fast'"):
        trainer.to_tflite(tmp_path / "mine.tfz", optimize="fast")


def test_the_command_trains_and_writes_both_files(taught, tmp_path, capsys):
    _, trainer, x, path = taught
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.arange(64) % CLASSES)
    data = f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}"
    state = tmp_path / "images.npz"
    command = ["train", str(path), "--data", data, "--epochs", "2", "--state", str(state)]
    assert main([*command, "--export", str(tmp_path / "mine.tfz")]) == 0
    assert "16 steps in" in capsys.readouterr().out
    trainer.load(state)
    np.testing.assert_allclose(Runner(tmp_path / "mine.tfz").predict(x), trainer.predict(x), atol=1e-5)
    assert main([*command, "--export", data.split(",")[0]]) != 0
    assert "x.npy" in capsys.readouterr().err


# The operators behind a layer, in files that are written by hand.

NUMBERS = np.array([0.5, -2, 3], np.float32)


def dense(*steps):
    """Return a file with a dense layer, then operators: a name, a constant or None, and whether it stands first."""
    model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()])
    graph = schema.SubGraphT(tensors=[], operators=[])
    model.subgraphs = [graph]
    like = schema.TensorT(type=schema.TensorType.FLOAT32, buffer=0)
    values = np.random.default_rng(0).random((3, 4), np.float32)
    kernel = add_constant(model, graph, name=b"kernel", values=values)
    source = add_tensor(graph, like, name=b"x", shape=np.array([2, 4], np.int32))
    last = add_tensor(graph, like, name=b"y0", shape=np.array([2, 3], np.int32))
    options = schema.FullyConnectedOptionsT()
    add_operator(model, graph, name="FULLY_CONNECTED", inputs=[source, kernel, -1], outputs=[last], options=options)
    shape = [2, 3]
    for number, (name, values, is_first) in enumerate(steps):
        inputs = [last]
        if values is not None:
            shape, kind = (values, np.int32) if name == "RESHAPE" else (shape, np.float32)
            constant = add_constant(model, graph, name=b"c%d" % number, values=np.asarray(values, kind))
            inputs = [constant, last] if is_first else [last, constant]
        last = add_tensor(graph, like, name=b"y%d" % (number + 1), shape=np.array(shape, np.int32))
        kinds = {"MUL": schema.MulOptionsT, "ADD": schema.AddOptionsT, "SUB": schema.SubOptionsT}
        made = kinds[name]() if name in kinds else None
        add_operator(model, graph, name=name, inputs=inputs, outputs=[last], options=made)
    graph.inputs, graph.outputs = np.array([source], np.int32), np.array([last], np.int32)
    return ModelFile(save_objects(model))


def computed(file):
    interpreter = plain_interpreter(file.content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], np.linspace(-1, 1, 8, dtype="f").reshape(2, 4)
    )
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


STEPS = {
    "heads": (
        [("RESHAPE", [1, 2, 3, 1], False), ("MUL", NUMBERS[:, None], False), ("RELU", None, False)],
        ["RESHAPE"],
    ),
    "samples and heads": ([("RESHAPE", [3, 2], False), ("MUL", [[1], [2], [3]], False)], ["RESHAPE", "MUL"]),
    "a norm": ([("MUL", NUMBERS, False), ("ADD", NUMBERS, False), ("RELU", None, False)], []),
    "numbers in front": ([("MUL", NUMBERS, True), ("ADD", NUMBERS, True)], []),
    "one number": ([("MUL", 3, False), ("SUB", [2], False), ("RELU6", None, False)], []),
    "a row": ([("ADD", [NUMBERS], False)], []),
    "number less outputs": ([("SUB", NUMBERS, True)], ["SUB"]),
    "numbers of samples": ([("MUL", [[1], [2]], False)], ["MUL"]),
    "behind an activation": ([("RELU", None, False), ("MUL", NUMBERS, False)], ["MUL"]),
    "another activation": ([("TANH", None, False)], ["TANH"]),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_follows_a_layer_becomes_a_part_of_it_where_it_treats_channels_alone(name):
    steps, rest = STEPS[name]
    file = dense(*steps)
    folded = file.after(_fold)
    model = folded.objects()
    kinds = [operator_name(model, operator) for operator in model.subgraphs[0].operators]
    assert kinds == ["FULLY_CONNECTED", *rest]
    np.testing.assert_allclose(computed(folded), computed(file), rtol=1e-6, atol=1e-6)


def test_an_output_that_others_read_stays():
    file = dense(("MUL", NUMBERS, False))
    with file.edit() as edit:
        graph = edit.model.subgraphs[0]
        graph.outputs = np.array([*graph.outputs, *graph.operators[0].outputs], np.int32)
    assert edit.file.after(_fold) == edit.file


@pytest.mark.programs
def test_loops_are_refused(tmp_path):
    to_tflite(keras.Sequential([keras.Input((4, 3)), layers.LSTM(2)]), tmp_path / "loop.tflite")
    with pytest.raises(ValueError, match=r"without loops. Received: 'serving_default' with WHILE"):
        frozen(ModelFile.open(tmp_path / "loop.tflite"), "serving_default", prepare=lambda _: None, names={})
