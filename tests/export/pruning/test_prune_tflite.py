"""Any .tflite file, pruned on samples: the zeros asked for, and outputs near those of the dense file."""

import copy
import inspect

import numpy as np
import pytest
from file_graphs import FileGraph
from terminal import terminal
from tiers import in_test_ci

import tfprune
from tfprune.export.device.runner import Runner
from tfprune.export.file import schema
from tfprune.export.file.container import read_model
from tfprune.export.file.document import (
    add_constant,
    add_operator,
    add_tensor,
    load_objects,
    operator_name,
    save_objects,
)
from tfprune.export.file.inspect import inspect as inspect_file
from tfprune.export.file.reader import read
from tfprune.export.pruning.layers import PLACES
from tfprune.export.pruning.prune import prune_tflite

PRUNED = ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


@pytest.fixture(scope="module")
def content(exports):
    return exports("unpruned", "float32").data


@pytest.fixture(scope="module")
def images(exports):
    return exports("unpruned", "float32").inputs


def magnitude(content, sparsity):
    """The same file with its smallest weights set to zero, layer by layer: what a simple tool would do."""
    model = load_objects(content)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            is_kernel = tensor.shape is not None and len(tensor.shape) > 1 and tensor.shape[0] != 1
            if data is not None and len(data) and is_kernel and tensor.type == schema.TensorType.FLOAT32:
                values = np.array(data).view("<f4")
                values[np.abs(values) < np.quantile(np.abs(values), sparsity)] = 0
                model.buffers[tensor.buffer].data = values.view(np.uint8)
    return save_objects(model)


def distance(file, dense, images):
    pairs = zip(Runner(file).predict(images), Runner(dense).predict(images), strict=True)
    return [float(np.sqrt(np.square(found - right).mean() / right.var(axis=0).mean())) for found, right in pairs]


@pytest.mark.parametrize("kind", ["float32", "int8", *map(in_test_ci, ["float16", "dynamic", "int16x8"])])
def test_zeros_are_there_and_outputs_near_those_of_the_dense_file(exports, tmp_path, kind):
    export = exports("unpruned", kind)
    path = tmp_path / "sparse.tflite"
    report = prune_tflite(export.data, path, export.inputs, sparsity=0.5, optimize="dense")
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    weights = [
        weight for weight in read(path.read_bytes()).weights if weight.size in {row.size for row in report.layers}
    ]
    assert sum(weight.nnz for weight in weights) == sum(row.nnz for row in report.layers)
    assert {row.operator for row in report.layers} == {*PRUNED}
    assert [row.layer for row in report.skipped] and "DEPTHWISE_CONV_2D" in report.skipped[0].reason
    whole = inspect_file(path)
    assert (report.file.nnz, report.file.size) == (whole.nnz, whole.size), "one count, the depthwise weight included"
    assert f"{sum(row.size for row in report.layers):,}" in str(report).partition("pruned weights")[2].splitlines()[0]
    held = export.inputs[-report.held_out :]
    outputs, right = Runner(path).predict(held), Runner(export.data).predict(export.inputs)
    for row, values, dense in zip(report.errors, outputs, right, strict=True):
        spread = np.sqrt(dense.var(axis=0).mean())
        error = np.sqrt(np.square(values - dense[-len(held) :]).mean()) / spread
        assert row.error == pytest.approx(error, rel=1e-3)
        agreement = (values.argmax(1) == dense[-len(held) :].argmax(1)).mean()
        assert row.agreement in (agreement, None)
        assert error < 0.35


def test_far_nearer_than_magnitude(content, images, tmp_path):
    prune_tflite(content, tmp_path / "sparse.tflite", images, sparsity=0.5)
    ours = distance(tmp_path / "sparse.tflite", content, images)
    simple = distance(magnitude(content, 0.5), content, images)
    assert all(2 * mine < other for mine, other in zip(ours, simple, strict=True))


def biases_shared(model):
    """Return how many operators have a bias that another one has as well: the converter shares those of zeros."""
    places = [(PLACES.get(operator_name(model, each)), each.inputs) for each in model.subgraphs[0].operators]
    biases = [inputs[place[2]] for place, inputs in places if place and 0 <= place[2] < len(inputs)]
    return len(biases) - len({*biases})


@pytest.mark.parametrize("kind, bias", [("int8", "INT32"), ("int16x8", "INT64")])
def test_types_scales_and_signatures_stay(exports, tmp_path, kind, bias):
    export = exports("unpruned", kind)
    prune_tflite(export.data, tmp_path / "sparse.tflite", export.inputs, sparsity=0.5, optimize="dense")
    before, after = load_objects(export.data), load_objects((tmp_path / "sparse.tflite").read_bytes())
    assert len(after.signatureDefs) == len(before.signatureDefs)
    tensors, shared = after.subgraphs[0].tensors, biases_shared(before)
    assert len(tensors) <= len(before.subgraphs[0].tensors) + shared
    assert len(after.buffers) <= len(before.buffers) + shared
    for old, new in zip(before.subgraphs[0].operators, after.subgraphs[0].operators, strict=True):
        name = operator_name(before, old)
        if name not in PLACES:
            continue
        activation, weight, place = PLACES[name]
        kernel = before.subgraphs[0].tensors[old.inputs[weight]], tensors[new.inputs[weight]]
        assert kernel[0].type == kernel[1].type == schema.TensorType.INT8
        assert (kernel[1].quantization.scale >= kernel[0].quantization.scale).all()
        if place < len(new.inputs) and new.inputs[place] >= 0:
            assert tensors[new.inputs[place]].type == getattr(schema.TensorType, bias)
            product = tensors[new.inputs[activation]].quantization.scale * kernel[1].quantization.scale
            np.testing.assert_allclose(tensors[new.inputs[place]].quantization.scale, product, rtol=1e-5)


def test_a_weight_of_two_operators_is_pruned_once(content, images, tmp_path):
    model = load_objects(content)
    graph = model.subgraphs[0]
    codes = {code.builtinCode: index for index, code in enumerate(model.operatorCodes)}
    layer = next(
        each for each in graph.operators if each.opcodeIndex == codes[schema.BuiltinOperator.FULLY_CONNECTED]
    )
    twin, output = copy.copy(layer), copy.copy(graph.tensors[layer.outputs[0]])
    output.name = b"twin"
    graph.tensors.append(output)
    twin.outputs = np.array([len(graph.tensors) - 1], np.int32)
    graph.operators.append(twin)
    graph.outputs = np.append(graph.outputs, twin.outputs).astype(np.int32)
    model.signatureDefs = None
    report = prune_tflite(save_objects(model), tmp_path / "two.tflite", images, sparsity=0.5)
    assert len({row.name for row in report.layers}) == len(report.layers) == 5
    outputs = dict(
        zip([row.name for row in report.errors], Runner(tmp_path / "two.tflite").predict(images), strict=True)
    )
    name = graph.tensors[layer.outputs[0]].name.decode()
    np.testing.assert_array_equal(outputs["twin"], outputs[name])


def test_zeros_that_are_there_stay(exports, images, tmp_path):
    dense = exports("unpruned", "float32").data
    prune_tflite(dense, tmp_path / "once.tflite", images, sparsity=0.7, optimize="dense")
    report = prune_tflite(tmp_path / "once.tflite", tmp_path / "twice.tflite", images, sparsity=0.3, optimize="dense")
    assert report.sparsity >= 0.69


@pytest.mark.programs
def test_zeros_that_are_stored_sparse_stay(exports, images, tmp_path):
    dense = exports("unpruned", "float32").data
    stored = prune_tflite(dense, tmp_path / "sparse.tflite", images, sparsity=0.7)
    assert any(weight.sparse for weight in read((tmp_path / "sparse.tflite").read_bytes()).weights)
    report = prune_tflite(tmp_path / "sparse.tflite", tmp_path / "twice.tflite", images, sparsity=0.3)
    assert {row.name for row in report.layers} == {row.name for row in stored.layers}
    weights = read((tmp_path / "twice.tflite").read_bytes()).weights  # of all kernels, also of those that stay dense
    assert report.file.sparsity == 1 - sum(each.nnz for each in weights) / sum(each.size for each in weights)
    assert report.sparsity >= stored.sparsity - 1e-3
    assert report.file.bytes <= 1.02 * stored.file.bytes
    denser = prune_tflite(tmp_path / "sparse.tflite", tmp_path / "twice.tflite", images, sparsity=0.8)
    assert denser.sparsity == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("pattern, sparsity", [(tfprune.patterns.NM(2, 4), 0.5), (tfprune.patterns.Block(1, 4), 0.4)])
def test_patterns(content, images, tmp_path, pattern, sparsity):
    report = prune_tflite(
        content, tmp_path / "sparse.tflite", images, sparsity=sparsity, pattern=pattern, optimize="dense"
    )
    assert report.sparsity == pytest.approx(sparsity, abs=0.05)
    for weight in read((tmp_path / "sparse.tflite").read_bytes()).weights:
        values = weight.values.raw.view("<f4").reshape(weight.shape)
        if weight.size in {row.size for row in report.layers if row.nnz < row.size}:
            assert pattern.allows(values.reshape(len(values), -1, values.shape[-1]) != 0)


@pytest.mark.programs
def test_limits_instead_of_a_sparsity(content, images, tmp_path):
    path = tmp_path / "sparse.tflite"
    by_error = prune_tflite(content, path, images, max_error=0.2)
    assert max(row.error for row in by_error.errors) <= 0.2
    more = prune_tflite(content, path, images, sparsity=round(by_error.sparsity, 2) + 0.01)  # the search's next step
    assert max(row.error for row in more.errors) > 0.2
    limit = int(len(read_model(content)) * 0.8)
    by_bytes = prune_tflite(content, path, images, max_bytes=limit)
    assert by_bytes.file.bytes == path.stat().st_size <= limit
    with pytest.raises(ValueError, match="10 bytes, which none does"):
        prune_tflite(content, path, images, max_bytes=10)


@pytest.mark.programs
def test_the_same_file_each_time(content, images, tmp_path):
    files = []
    for name in ("a", "b"):
        prune_tflite(content, tmp_path / name, images, sparsity=0.5)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


@pytest.mark.programs
def test_an_error_grows_by_no_more_than_a_part_of_itself(content, images, tmp_path):
    dense, away = Runner(content).predict(images), 0.001  # the error of the dense file
    answers = [away + output for output in dense]
    limit = tfprune.Limit(max_relative_drop=0.5, metric="mae", data=(images, answers))
    report = prune_tflite(content, tmp_path / "sparse.tflite", images, max_drop=limit)
    outputs = Runner(tmp_path / "sparse.tflite").predict(images)
    errors = [np.abs(new - right).mean() for new, right in zip(outputs, answers, strict=True)]
    assert [row.before for row in report.lost] == pytest.approx([away] * len(dense), rel=1e-3)
    assert [row.file for row in report.lost] == pytest.approx(errors, rel=1e-3)
    assert max(errors) <= 1.5 * away * 1.001
    assert 0.1 < report.sparsity < 0.9  # so the limit, and not the largest sparsity, ended the search


@pytest.mark.programs
def test_labels_that_have_nothing_to_do_with_the_samples_are_warned_of(tmp_path):
    graph, random = FileGraph(0, shape=(1, 8)), np.random.default_rng(0)
    content = graph.content(graph.dense(graph.unary("RELU", graph.dense(graph.input, 16)), 4))
    samples = random.normal(size=(64, 8)).astype(np.float32)
    labels = Runner(content).predict(samples).argmax(axis=1)
    for y, expected in ((labels, []), (np.roll(labels, 17), ["even this answer keeps the limit"])):
        limit = tfprune.Limit(0.1, data=(samples, y))
        report = prune_tflite(content, tmp_path / "sparse.tflite", samples, max_drop=limit)
        texts = [text for text in report.warnings if "few" not in text]
        assert len(texts) == len(expected) and all(part in text for part, text in zip(expected, texts, strict=True))


def test_random_samples_only_by_name_and_with_a_warning(content, tmp_path):
    report = prune_tflite(content, tmp_path / "sparse.tflite", "random", sparsity=0.5)
    assert "random numbers, not data" in report.warnings[0] and "Warning: the samples are random" in str(report)
    with pytest.raises(TypeError, match="samples=None"):
        prune_tflite(content, tmp_path / "none.tflite", None, sparsity=0.5)
    with pytest.raises(ValueError, match="samples='noise'"):
        prune_tflite(content, tmp_path / "none.tflite", "noise", sparsity=0.5)
    assert not (tmp_path / "none.tflite").exists()


WRONG = {
    "shape 8x8x4 .* 8x8x3|Received: 48x8x8x3": lambda x: x[..., :3],
    "all the same": lambda x: np.ones_like(x),
    "NaN or infinity": lambda x: np.where(x > 2, np.nan, x),
    "at least 3 samples": lambda x: x[:2],
}


@pytest.mark.parametrize("message", WRONG)
def test_samples_that_do_not_fit(content, images, tmp_path, message):
    with pytest.raises(ValueError, match=message):
        prune_tflite(content, tmp_path / "none.tflite", WRONG[message](images), sparsity=0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["int8", "int8_float_io"])
def test_samples_out_of_the_range_of_an_integer_file(cases, tmp_path, kind):
    export = cases[kind]
    with pytest.raises(ValueError, match=r"Expected numbers between .* Received: numbers from .* would be clipped"):
        prune_tflite(export.data, tmp_path / "none.tflite", export.inputs * 255, sparsity=0.5)
    assert not list(tmp_path.iterdir())


def test_arguments_that_do_not_fit(content, images, tmp_path):
    path = tmp_path / "none.tflite"
    with pytest.raises(ValueError, match="one of `sparsity`, `max_bytes`, .* Received: none of them"):
        prune_tflite(content, path, images)
    with pytest.raises(ValueError, match=r"one of `sparsity`, .* Received: sparsity=0.5, max_bytes=1000"):
        prune_tflite(content, path, images, sparsity=0.5, max_bytes=1000)
    with pytest.raises(TypeError, match=r"Pass max_drop=tfprune.Limit\(0.01, data"):
        prune_tflite(content, path, images, max_drop=0.01)
    with pytest.raises(ValueError, match="a Limit with a number"):
        prune_tflite(content, path, images, max_drop=tfprune.Limit(data=(images, images)))
    with pytest.raises(TypeError, match="Expected the name of a metric in the Limit"):
        prune_tflite(content, path, images, max_drop=tfprune.Limit(1, metric=len, mode="min", data=(images, images)))
    with pytest.raises(ValueError, match="Channels are removed by shrink_tflite"):
        prune_tflite(content, path, images, sparsity=0.5, pattern="channel")
    with pytest.raises(ValueError, match="sparsity"):
        prune_tflite(content, path, images, sparsity=1.5)
    with pytest.raises(ValueError, match="`sparsity` with pattern"):
        prune_tflite(content, path, images, max_error=0.5, pattern=tfprune.patterns.NM(2, 4))


def test_a_layer_that_sees_the_same_for_all_samples_is_left_alone(exports, images, tmp_path):
    """Its zeros would seem free, whatever they cost on other samples."""
    model = load_objects(exports("unpruned", "float32").data)
    graph = model.subgraphs[0]
    dense = [each for each in graph.operators if operator_name(model, each) == "FULLY_CONNECTED"]
    zeros = add_constant(model, graph, name=b"zeros", values=np.zeros((1,), np.float32))
    tensor = add_tensor(graph, graph.tensors[dense[1].inputs[0]], name=b"silent")
    options = schema.MulOptionsT()
    add_operator(model, graph, name="MUL", inputs=[dense[1].inputs[0], zeros], outputs=[tensor], options=options)
    graph.operators.remove(dense[1])
    dense[1].inputs = np.array([tensor, *dense[1].inputs[1:]], np.int32)
    graph.operators.append(dense[1])
    report = prune_tflite(save_objects(model), tmp_path / "sparse.tflite", images, sparsity=0.5)
    assert [row.reason for row in report.skipped if "same for all samples" in row.reason]
    assert len(report.layers) == 4


def test_the_last_samples_of_an_open_batch_count(tmp_path):
    """Half of the inputs are zero up to the last samples before those that are held out, and large in these."""
    graph = FileGraph(0, shape=(1, 8))
    weight = graph.constant(np.random.default_rng(0).choice([-1, 1], (6, 8)).astype(np.float32))
    model = load_objects(graph.content(graph.operator("FULLY_CONNECTED", [graph.input, weight, -1], (1, 6))))
    for tensor in model.subgraphs[0].tensors:
        if tensor.shape[0] == 1:
            tensor.shapeSignature = np.int32([-1, tensor.shape[1]])
    samples = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    samples[:, 4:] *= 100 * (np.arange(40) >= 33)[:, None]
    prune_tflite(save_objects(model), tmp_path / "sparse.tflite", samples, sparsity=0.5)
    kept = Runner(tmp_path / "sparse.tflite").predict(np.eye(8, dtype=np.float32)) != 0
    assert kept[4:].all() and not kept[:4].any()


def test_tables_get_zeros(exports, tmp_path):
    export = exports("words", "float32")
    words = np.random.default_rng(0).integers(0, 500, (32, 6)).astype(np.int32)
    report = prune_tflite(export.data, tmp_path / "words.tflite", words, sparsity=0.95)
    assert report.sparsity == pytest.approx(0.95, abs=0.02)
    assert [(row.size, row.sparsity > 0.9) for row in report.layers if row.operator == "GATHER"] == [(16_000, True)]


@pytest.mark.programs
def test_a_crash_is_an_error_here(content, images, tmp_path):
    """In a process of its own: a file whose pieces nobody has tested."""
    from tfprune.export.device import processes
    from tfprune.export.pruning import prune as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_job", inspect.unwrap(processes.run_job))
        report = prune_tflite(content, tmp_path / "sparse.tflite", images, sparsity=0.5)
        assert report.sparsity == pytest.approx(0.5, abs=0.02)
        patch.setattr(module, "_TIMEOUT", 0.01)
        with pytest.raises(ValueError, match="did not finish"):
            prune_tflite(content, tmp_path / "none.tflite", images, sparsity=0.5)
    assert not (tmp_path / "none.tflite").exists()


def test_the_bar_counts_each_layer_when_it_is_measured_and_when_it_is_pruned(content, images, tmp_path):
    with terminal() as shown:
        report = prune_tflite(content, tmp_path / "sparse.tflite", images, sparsity=0.5, verbose=2)
    count = 2 * len(report.layers)
    assert [line.split()[0] for line in shown.seen()] == [f"{count}/{count}"]
    with pytest.raises(ValueError, match="verbose"):
        prune_tflite(content, tmp_path / "none.tflite", images, sparsity=0.5, verbose=3)


@pytest.mark.parametrize(("shape", "advice"), [((8, 3, 6, 5), ".transpose(0, 2, 3, 1)"), ((8, 6, 3, 5), "6x3x5.")])
def test_images_with_channels_at_the_other_end_get_the_order_that_fits(shape, advice, tmp_path):
    graph = FileGraph(0, shape=(1, 6, 5, 3))
    content = graph.content(graph.convolution(graph.input, 4))
    with pytest.raises(ValueError, match=r"samples of shape \?x6x5x3") as caught:
        prune_tflite(content, tmp_path / "none.tflite", np.ones(shape, np.float32), sparsity=0.5)
    assert advice in str(caught.value) and ("transpose" in str(caught.value)) == ("transpose" in advice)
