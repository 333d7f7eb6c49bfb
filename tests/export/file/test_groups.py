"""Which operators XNNPACK runs sparse: what the rules say of small networks, and what an ARM processor does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from after import after
from tiers import in_test_ci

from tfprune.export.file.document import (
    REDUCED_PRECISION,
    add_values,
    builtin_code,
    load_objects,
    operator_code,
    read_metadata,
    save_objects,
    with_metadata,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.xnnpack import Analysis
from tfprune.export.rewriting.shapes import spell_out_padding
from tfprune.export.rewriting.sparsify import sparsify

PI = Path(__file__).parents[3] / "build/aarch64"
SIZE = 12  # of the images; the first convolution gives maps of 6x6
ZEROS = 0.9


@dataclass(frozen=True)
class Net:
    """A network: what XNNPACK makes of it on ARM, a part of the reason, and what follows its first convolution.

    `sparse`: its sparse kernels run it. `dense`: it stays dense, and right. `wrong`: with sparse weights it does not
    load, or gives wrong outputs.
    """

    verdict: str
    reason: str
    build: Callable[[Any], Any]
    entry: str = "padded"


def layers() -> Any:
    import keras

    return keras.layers


def conv1(x, channels=24, activation=None):
    return layers().Conv2D(channels, 1, activation=activation)(x)


def depthwise(x, size=3, strides=1, padding="same", **options):
    return layers().DepthwiseConv2D(size, strides, padding, activation="relu", **options)(x)


def pad(x, amount=1):
    return layers().ZeroPadding2D(amount)(x)


def pool(x, keepdims=False):
    return layers().GlobalAveragePooling2D(keepdims=keepdims)(x)


def head(x):
    return layers().Dense(10)(pool(x))


def gated(x, gate, first="relu"):
    """Squeeze and excite, by 1x1 convolutions."""
    squeezed = conv1(conv1(pool(x, keepdims=True), 8, first))
    return layers().Multiply()([x, gate(squeezed)])


def sum_of(*x):
    return layers().Add()([*x])


def cut(image):
    """Two first convolutions, of which XNNPACK sees the second one later, because it does not take REVERSE_V2."""
    import keras

    later = keras.ops.flip(layers().MaxPooling2D(3, 1, "same")(image), axis=1)
    return [layers().Conv2D(16, 3, 2, activation="relu")(pad(x)) for x in (image, later)]


def with_mean(x):
    """A product with its mean, for which XNNPACK looks for a group."""
    return layers().Multiply()([x, conv1(conv1(pool(x, keepdims=True)))])


def gated_by_dense(x):
    wide = layers().Dense(24, activation="sigmoid")(layers().Dense(8, activation="relu")(pool(x)))
    return layers().Multiply()([x, layers().Reshape((1, 1, 24))(wide)])


def residual(x):
    return layers().Add()([x, conv1(depthwise(x))])


def activation(name):
    return lambda x: layers().Activation(name)(x)


def times_sixth(x):
    import keras

    return keras.ops.multiply(layers().ReLU(6.0)(x), np.full((1, 1, 1, 1), 1 / 6, np.float32))


def mean_over(*axes):
    import keras

    return lambda x: keras.ops.mean(x, axis=axes, keepdims=True)


NETS = {
    "only_1x1": Net("sparse", "", lambda x: head(conv1(conv1(x)))),
    "mobilenet": Net(
        "sparse", "", lambda x: head(conv1(depthwise(pad(conv1(depthwise(conv1(x))), 2), 5, 2, padding="valid")))
    ),
    "residual": Net("sparse", "", lambda x: head(residual(conv1(x)))),
    "gate": Net("sparse", "", lambda x: head(conv1(gated(conv1(x), activation("sigmoid"))))),
    "gate_with_constant": Net("sparse", "", lambda x: head(conv1(gated(conv1(x), times_sixth)))),
    "hard_silu": Net("sparse", "", lambda x: head(conv1(activation("hard_silu")(conv1(x))))),
    "silu": Net("sparse", "", lambda x: head(conv1(activation("silu")(conv1(x))))),
    "upsampled": Net("sparse", "", lambda x: head(conv1(layers().UpSampling2D(interpolation="bilinear")(conv1(x))))),
    "two_dense_layers": Net(
        "sparse", "", lambda x: layers().Dense(10)(layers().Dense(300, activation="relu")(pool(conv1(x))))
    ),
    "pool_flattened": Net("sparse", "", lambda x: layers().Dense(10)(layers().Flatten()(pool(conv1(x), True)))),
    "two_convolutions_after_pool": Net(
        "sparse", "", lambda x: layers().Flatten()(conv1(conv1(pool(conv1(x), True), 8, "relu"), 10))
    ),
    "same_padding": Net("dense", "padding='same' with strides", lambda x: head(conv1(x)), entry="same"),
    "wide_first_kernel": Net("dense", "it is 7x7", lambda x: head(conv1(x)), entry="wide"),
    "gate_by_dense": Net("dense", "4 and 2 dimensions", lambda x: head(conv1(gated_by_dense(conv1(x))))),
    "hard_sigmoid_gate": Net(
        "dense", "shape (1, 1, 1, 1)", lambda x: head(conv1(gated(conv1(x), activation("hard_sigmoid"))))
    ),
    "concatenated": Net(
        "dense",
        "CONCATENATION",
        lambda x: head(conv1((lambda y: layers().Concatenate()([y, conv1(y)]))(conv1(x)))),
    ),
    "without_pool": Net("dense", "no mean", lambda x: conv1(conv1(x), 10)),
    "max_pool": Net("wrong", "MAX_POOL_2D", lambda x: head(conv1(layers().MaxPooling2D()(conv1(x))))),
    "same_depthwise": Net(
        "wrong", "padding='same' with strides", lambda x: head(conv1(depthwise(conv1(x), strides=2)))
    ),
    "odd_depthwise": Net(
        "wrong",
        "padding='same' with strides",
        lambda x: head(conv1(depthwise(conv1(depthwise(pad(conv1(x)), strides=2, padding="valid")), strides=2))),
    ),
    "uneven_padding": Net(
        "wrong",
        "it pads 1, 0, 1, 0",
        lambda x: head(conv1(depthwise(pad(conv1(x), ((1, 0), (1, 0))), strides=2, padding="valid"))),
    ),
    "wide_depthwise": Net("wrong", "it is 7x7", lambda x: head(conv1(depthwise(conv1(x), size=7)))),
    "multiplier": Net("wrong", "depth multiplier", lambda x: head(conv1(depthwise(conv1(x), depth_multiplier=2)))),
    "strided_1x1": Net("wrong", "needs stride 1", lambda x: head(conv1(layers().Conv2D(24, 1, 2)(conv1(x))))),
    "convolution_3x3": Net(
        "wrong", "only 1x1", lambda x: head(conv1(layers().Conv2D(24, 3, padding="same")(conv1(x))))
    ),
    "normalized_sum": Net(
        "wrong", "4 and 1 dimensions", lambda x: head(conv1(layers().BatchNormalization()(residual(conv1(x)))))
    ),
    "one_convolution_after_pool": Net(
        "wrong", "unless two or more", lambda x: layers().Flatten()(conv1(pool(conv1(x), True), 10))
    ),
    "kept_dimensions": Net("wrong", "leave keepdims out", lambda x: pool(conv1(x), True)),
    "mean_over_channels": Net(
        "wrong",
        "not reduce exactly",
        lambda x: head((lambda y: layers().Multiply()([y, mean_over(3)(y)]))(conv1(x))),
    ),
    "cut_before_a_sum": Net("dense", "REVERSE_V2", lambda x: head(conv1(sum_of(conv1(x[0], 16), x[1]))), entry="cut"),
    "cut_beside_a_mean": Net(
        "wrong", "REVERSE_V2", lambda x: head(sum_of(conv1(with_mean(conv1(x[0])), 16), x[1])), entry="cut"
    ),
    "image_out": Net("wrong", "leaves the model", lambda x: conv1(gated(conv1(x), activation("sigmoid")), 10)),
}


def model_of(net: Net) -> Any:
    """Build a network whose 1x1 kernels are 90 % zeros, all of them for the first channel that they take."""
    import keras

    keras.utils.set_random_seed(3)
    image = keras.Input((SIZE, SIZE, 3), batch_size=1)
    first = {
        "padded": lambda: layers().Conv2D(16, 3, 2, activation="relu")(pad(image)),
        "same": lambda: layers().Conv2D(16, 3, 2, "same", activation="relu")(image),
        "cut": lambda: cut(image),
        "wide": lambda: layers().Conv2D(16, 7, 2, activation="relu")(pad(image, 3)),
    }[net.entry]()
    model = keras.Model(image, net.build(first))
    data = np.random.default_rng(4)
    for layer in model.layers:
        layer.set_weights([_weight(data, weight.shape) for weight in layer.get_weights()])
    return model


def _weight(data: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return data.uniform(0.5, 1.0, shape).astype(np.float32)
    weight = data.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
    if shape[:2] == (1, 1):
        weight *= 3 * (data.random(shape) > ZEROS)
        weight[:, :, 0] = 0
    return (np.abs(weight) if shape[-1] == 1 else weight).astype(np.float32)


def convert(model: Any) -> bytes:
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def with_a_sparse_kernel(data: bytes) -> bytes:
    """Store the first 1x1 kernel sparse, by a loop of its own: one is enough for XNNPACK to look for groups."""
    from ai_edge_litert import schema_py_generated as schema

    model = load_objects(data)
    graph = model.subgraphs[0]
    place, user = next(
        (number, operator)
        for number, operator in enumerate(graph.operators)
        if builtin_code(model.operatorCodes[operator.opcodeIndex]) == schema.BuiltinOperator.CONV_2D
        and list(graph.tensors[operator.inputs[1]].shape[1:3]) == [1, 1]
    )
    kernel = graph.tensors[user.inputs[1]]
    rows = np.asarray(model.buffers[kernel.buffer].data).view(np.float32).reshape(kernel.shape[0], -1)
    outer = schema.DimensionType.DENSE
    dense = [schema.DimensionMetadataT(format=outer, denseSize=int(size)) for size in kernel.shape[:-1]]
    places, ends = [], [0]
    for row in rows:
        places += np.flatnonzero(row).tolist()
        ends.append(len(places))
    inner = schema.DimensionMetadataT(
        format=schema.DimensionType.SPARSE_CSR,
        arraySegmentsType=schema.SparseIndexVector.Int32Vector,
        arraySegments=schema.Int32VectorT(values=ends),
        arrayIndicesType=schema.SparseIndexVector.Int32Vector,
        arrayIndices=schema.Int32VectorT(values=places),
    )
    sparsity = schema.SparsityParametersT(traversalOrder=[0, 1, 2, 3], dimMetadata=[*dense, inner])
    stored = schema.TensorT(name=b"stored", shape=kernel.shape, type=kernel.type, sparsity=sparsity)
    stored.buffer = add_values(model, rows[rows != 0])
    unpacked = schema.TensorT(name=b"unpacked", shape=kernel.shape, type=kernel.type)
    graph.tensors += [stored, unpacked]
    densify = schema.OperatorT(
        opcodeIndex=operator_code(model, schema.BuiltinOperator.DENSIFY),
        inputs=[len(graph.tensors) - 2],
        outputs=[len(graph.tensors) - 1],
    )
    user.inputs = [user.inputs[0], len(graph.tensors) - 1, user.inputs[2]]
    graph.operators.insert(place, densify)
    return save_objects(model)


def with_infinite_channel(data: bytes) -> bytes:
    """Let the first channel of the first convolution be infinite: times zero it is NaN, unless zeros are skipped."""
    from ai_edge_litert import schema_py_generated as schema

    model = load_objects(data)
    graph = model.subgraphs[0]
    first = next(
        operator
        for operator in graph.operators
        if builtin_code(model.operatorCodes[operator.opcodeIndex]) == schema.BuiltinOperator.CONV_2D
    )
    bias = graph.tensors[first.inputs[2]]
    values = np.asarray(model.buffers[bias.buffer].data).view(np.float32).copy()
    values[0] = np.inf
    bias.buffer = add_values(model, values)
    return save_objects(model)


@dataclass(frozen=True)
class Files:
    """A network as files, and what Keras says of one image."""

    dense: bytes
    sparse: bytes
    probe: bytes
    image: np.ndarray
    expected: np.ndarray


@pytest.fixture(scope="module")
def files() -> Callable[[str], Files]:
    made: dict[str, Files] = {}

    def make(name: str) -> Files:
        if name not in made:
            model = model_of(NETS[name])
            image = np.random.default_rng(5).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
            dense = convert(model)
            sparse = with_a_sparse_kernel(dense)
            expected = np.asarray(model(image, training=False))
            made[name] = Files(dense, sparse, with_infinite_channel(sparse), image, expected)
        return made[name]

    return make


def of_main(data: bytes) -> Analysis:
    return ModelFile(data).analyses[0]


def verdict(data: bytes) -> str:
    analysis = of_main(data)
    if analysis.hazards:
        return "wrong"
    return "sparse" if any(group.whole and group.taken for group in analysis.groups) else "dense"


# Of each verdict some; `make test-ci` takes all.
QUICK = {"only_1x1", "mobilenet", "gate", "same_padding", "hard_sigmoid_gate", "max_pool", "same_depthwise"}


@pytest.mark.parametrize("name", [name if name in QUICK else in_test_ci(name) for name in NETS])
def test_the_rules_tell_what_a_processor_does(name, files):
    assert verdict(files(name).dense) == NETS[name].verdict


@pytest.mark.parametrize(
    "name", [name if name in QUICK else in_test_ci(name) for name, net in NETS.items() if net.reason]
)
def test_the_reason_names_what_stands_in_the_way(name, files):
    analysis = of_main(files(name).dense)
    causes = [cause for group in analysis.groups for _, cause in (*group.obstacles, *group.leaks)]
    assert any(NETS[name].reason in cause for cause in causes), causes


@pytest.mark.parametrize("name", ["mobilenet", "max_pool"])
def test_how_weights_are_stored_changes_no_group(name, files):
    dense, sparse = of_main(files(name).dense), of_main(files(name).sparse)
    assert not dense.sparse
    assert sparse.sparse
    assert [group.zeros for group in sparse.groups] == [group.zeros for group in dense.groups]
    assert sparse.hazards == dense.hazards


def test_more_than_two_thirds_of_a_group_have_to_be_zero(files):
    groups = [group for group in of_main(files("only_1x1").dense).groups if group.size]
    assert [group.size for group in groups] == [16 * 24 + 24 * 24]
    zeros = sum(np.count_nonzero(kernel == 0) for kernel in _kernels(files("only_1x1").dense))
    assert groups[0].zeros == zeros
    assert groups[0].sparsity == pytest.approx(zeros / groups[0].size)
    exactly = replace_zeros(files("only_1x1").dense, 640)
    assert [group.taken for group in of_main(exactly).groups if group.size] == [False]
    more = replace_zeros(files("only_1x1").dense, 641)
    assert [group.taken for group in of_main(more).groups if group.size] == [True]


def test_a_group_with_few_zeros_is_no_hazard(files):
    assert of_main(files("max_pool").dense).hazards
    assert not of_main(replace_zeros(files("max_pool").dense, 0)).hazards


def test_every_graph_is_looked_at_and_its_hazards_are_the_file_s(files, joined):
    first, second = files("mobilenet").dense, files("max_pool").dense
    graphs = ModelFile(joined(first, second)).analyses
    assert [graph.hazards for graph in graphs] == [of_main(first).hazards, of_main(second).hazards]
    assert ModelFile(joined(first, second)).inference.hazards == of_main(second).hazards
    forward, backward = (ModelFile(joined(*pair)).inference for pair in [(first, second), (second, first)])
    assert (forward.eligible, backward.eligible) == (True, False)  # what `Runner` runs decides
    # Zeros of the first graph alone would be harmless.
    assert {row.form for row in sparsify(first, forms=("csr",)).rows} > {"csr"}
    rows = sparsify(joined(first, second), forms=("csr",)).rows
    assert {row.form for row in rows} == {"dense"}
    assert any("MAX_POOL_2D" in row.reason for row in rows)


def test_a_batch_is_read_from_the_graph_it_belongs_to(files, joined):
    gate = load_objects(files("gate").dense)
    for tensor in gate.subgraphs[0].tensors:
        if len(tensor.shape) == 4:
            tensor.shapeSignature = [-1, *(int(length) for length in tensor.shape[1:])]
    first, second = ModelFile(joined(files("gate").dense, save_objects(gate))).analyses
    assert first.hazards == ()
    assert "first row only" in second.hazards[0]


def _kernels(data: bytes) -> list[np.ndarray]:
    model = load_objects(data)
    tensors = [tensor for tensor in model.subgraphs[0].tensors if len(tensor.shape) == 4]
    values = [(tensor, model.buffers[tensor.buffer].data) for tensor in tensors]
    return [
        np.asarray(raw).view(np.float32) for tensor, raw in values if raw is not None and tensor.shape[1:3].max() == 1
    ]


def replace_zeros(data: bytes, zeros: int) -> bytes:
    """Return the file with 1x1 kernels that hold so many zeros together, and ones elsewhere."""
    model = load_objects(data)
    for tensor in model.subgraphs[0].tensors:
        raw = model.buffers[tensor.buffer].data
        if raw is not None and len(tensor.shape) == 4 and tensor.shape[1:3].max() == 1:
            values = np.ones(len(raw) // 4, np.float32)
            here = min(zeros, values.size)
            values[:here] = 0
            zeros -= here
            tensor.buffer = add_values(model, values)
    assert zeros == 0
    return save_objects(model)


def test_integer_files_have_no_groups(cases):
    analysis = of_main(cases["int8"].data)
    assert not any(group.size for group in analysis.groups)
    assert any("computes with int8" in role.reason for role in analysis.roles)


def test_float16_weights_count_as_what_they_unpack_to(files):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model_of(NETS["mobilenet"]))
    converter.optimizations, converter.target_spec.supported_types = [tf.lite.Optimize.DEFAULT], [tf.float16]
    half = converter.convert()
    assert verdict(half) == "sparse"
    assert [group.zeros for group in of_main(half).groups] == [
        group.zeros for group in of_main(files("mobilenet").dense).groups
    ]


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64])
def test_nonsense_is_refused(data):
    with pytest.raises(ValueError, match="Expected"):
        of_main(data)


def test_a_long_chain_takes_no_deep_recursion():
    from ai_edge_litert import schema_py_generated as schema

    steps = 4000
    tensors = [
        schema.TensorT(name=b"%d" % number, shape=[1, 2, 2, 3], type=schema.TensorType.FLOAT32)
        for number in range(steps + 1)
    ]
    operators = [schema.OperatorT(opcodeIndex=0, inputs=[number], outputs=[number + 1]) for number in range(steps)]
    graph = schema.SubGraphT(name=b"main", tensors=tensors, operators=operators, inputs=[0], outputs=[steps])
    code = schema.OperatorCodeT(
        deprecatedBuiltinCode=schema.BuiltinOperator.RELU, builtinCode=schema.BuiltinOperator.RELU
    )
    model = schema.ModelT(version=3, operatorCodes=[code], subgraphs=[graph], buffers=[schema.BufferT()])
    assert len(of_main(save_objects(model)).steps) == steps


# What the device runs: for each network its error, or its largest difference and whether NaN came out of the probe.
SCRIPT = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

def run(path, image):
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

for name in sys.argv[2:]:
    folder = sys.argv[1] + "/" + name
    image, expected = np.load(folder + "/image.npy"), np.load(folder + "/expected.npy")
    result = {"name": name}
    try:
        output = run(folder + "/sparse.tflite", image)
        if output.shape == expected.shape:
            result["difference"] = float(np.abs(output - expected).max() / np.abs(expected).max())
        result["nan"] = bool(np.isnan(run(folder + "/probe.tflite", image)).any())
    except RuntimeError as error:
        result["error"] = str(error)
    print("RESULT" + json.dumps(result), flush=True)
"""


ODD, SPELLED = "odd_depthwise", "odd_depthwise_spelled_out"
HALF = {REDUCED_PRECISION: b"fp16accfp16"}
# Of a Raspberry Pi 4 and 5, and how they run a sparse file that asks for half precision, which only the second has.
PROCESSORS = {"cortex-a72": "sparse", "cortex-a76": "dense"}


def spelled_out(made: Files) -> Files:
    return replace(made, sparse=after(made.sparse, spell_out_padding), probe=after(made.probe, spell_out_padding))


def asking_for_half_precision(made: Files) -> Files:
    return replace(made, sparse=with_metadata(made.sparse, HALF), probe=with_metadata(made.probe, HALF))


def sparsified(made: Files) -> Files:
    """The dense file that asks for half precision, after `sparsify` has left that out."""
    sparse = sparsify(with_metadata(made.dense, HALF)).data
    return replace(made, sparse=sparse, probe=with_infinite_channel(sparse))


def write(folder: Path, made: Files) -> None:
    folder.mkdir()
    (folder / "sparse.tflite").write_bytes(made.sparse)
    (folder / "probe.tflite").write_bytes(made.probe)
    np.save(folder / "image.npy", made.image)
    np.save(folder / "expected.npy", made.expected)


@pytest.mark.programs
@pytest.mark.skipif(not (PI / "READY").exists(), reason="no emulated ARM processor: python tests/device/root.py")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_an_arm_processor_agrees(processor, files, tmp_path):
    changed = {
        SPELLED: spelled_out(files(ODD)),
        "half": asking_for_half_precision(files("mobilenet")),
        "sparsified_half": sparsified(files("mobilenet")),
    }
    expected = {name: net.verdict for name, net in NETS.items()} | dict.fromkeys(changed, "sparse")
    expected["half"] = PROCESSORS[processor]
    for name in expected:
        write(tmp_path / name, changed[name] if name in changed else files(name))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [str(PI / "usr/bin/python3"), str(tmp_path / "script.py"), str(tmp_path), *expected]
    environment = os.environ | {"QEMU_CPU": processor, "PYTHONPATH": ""}
    completed = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    lines = [line.partition("RESULT")[2] for line in completed.stdout.splitlines() if "RESULT" in line]
    seen = {result["name"]: measured(result) for result in map(json.loads, lines)}
    assert seen == expected, completed.stderr[-2000:]


def test_a_file_that_asks_for_half_precision_runs_dense_until_it_is_made_sparse_here(files):
    half = asking_for_half_precision(files("mobilenet")).sparse
    report = ModelFile(half).inference
    assert report.eligible
    assert not report.active
    assert any(REDUCED_PRECISION in reason for reason in report.reasons)
    again = sparsified(files("mobilenet")).sparse
    assert REDUCED_PRECISION not in read_metadata(again)
    assert ModelFile(again).inference.active


def measured(result: dict[str, Any]) -> str:
    """Dense kernels make NaN of the probe's infinity times zero; wrong ones fail or give other outputs."""
    if result.get("difference", 1.0) > 1e-3:
        return "wrong"
    return "dense" if result["nan"] else "sparse"


def test_a_gate_is_a_hazard_where_a_batch_may_hold_more_rows_than_one(files):
    """Measured on an emulated ARM processor: in batches of 2, 3 and 4 all rows but the first were wrong."""
    data = files("gate").dense
    assert of_main(data).hazards == ()
    model = load_objects(data)
    for tensor in model.subgraphs[0].tensors:
        if len(tensor.shape) == 4:
            tensor.shapeSignature = [-1, *(int(length) for length in tensor.shape[1:])]
    (hazard,) = of_main(save_objects(model)).hazards
    assert "(MUL): in a batch it is right for the first row only" in hazard
