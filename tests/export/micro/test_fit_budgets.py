"""Files for microcontrollers: equal outputs in the interpreter, budgets that are kept, and what is refused."""

import numpy as np
import pytest

from tfprune.export import Micro, Runner, inspect, rewrite
from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.micro.interpreter import aligned, find_board, fits, run_files
from tfprune.export.micro.micro import _Candidates


@pytest.mark.parametrize("kind", ["int8", "float32"])
def test_each_form_gives_the_dense_outputs(network, kind):
    dense = network.files[kind]
    candidates = _Candidates(ModelFile(dense))
    plans = [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 3, 1), (5, 1, 20, 2), (24, 7, 13, 4)]
    written = [candidates.write(plan) for plan in plans]
    expected, *runs = run_files([dense, *(one.file for one in written)], [network.samples])
    assert [run.reason for run in runs] == [""] * len(plans)
    assert all(run.equals(expected) for run in runs)
    kernels = [np.count_nonzero(weight) for weight in network.model.get_weights() if weight.ndim > 1]
    assert sum(row.nnz for row in inspect(written[1].file.content).rows) == sum(kernels)
    ops = written[3].file.graph.ops
    # Parts: 5 + 1 + 20 + 2; the 20 are joined in tens, and these once more.
    assert (ops["TFLM_DECODE"], ops["CONCATENATION"]) == (28, 1 + 3 + 1)


@pytest.mark.programs
def test_a_depthwise_layer_is_cut_by_the_channels_of_its_input(network):
    """With two outputs for each channel, int8 and float32; a part of the input takes RAM as well."""
    tf = pytest.importorskip("tensorflow")
    kernel = np.random.default_rng(0).normal(size=(5, 5, 48, 2)).astype(np.float32)
    kernel[np.random.default_rng(1).random(kernel.shape) < 0.8] = 0
    samples = network.samples[:, :5, :5, :1] + np.arange(48, dtype=np.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 5, 5, 48))])
    def whole_map(x):
        return tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "VALID") + 0.1 * np.arange(96, dtype=np.float32)

    for integers in (False, True):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([whole_map.get_concrete_function()])
        if integers:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([row[None]] for row in samples)
        dense = converter.convert()
        candidates = _Candidates(ModelFile(dense))
        written = [candidates.write((pieces,)) for pieces in (1, 2, 4, 5)]
        expected, *runs = run_files([dense, *(one.file for one in written)], [samples])
        assert [run.reason for run in runs] == [""] * 4
        assert all(run.equals(expected) for run in runs)
        widths = [kernel[..., :channels, :].size * (1 if integers else 4) for channels in (48, 24, 12, 10)]
        assert [one.rows[0].buffer for one in written] == [*map(aligned, widths)]
        assert integers or runs[2].arena < 0.8 * runs[0].arena


def test_values_that_are_few_become_tables(network):
    from tfprune.export.rewriting.share_weights import share_weights

    dense = share_weights(dense_int8(network), levels=4)
    candidate = _Candidates(ModelFile(dense)).write((1, 0, 1, 0))
    assert {row.stored for row in candidate.rows} == {"table", "dense"}
    expected, run = run_files([dense, candidate.file], [network.samples])
    assert run.equals(expected)


def dense_int8(network) -> bytes:
    """Return the int8 file with weights that are not zero."""
    model = load_objects(network.files["int8"])
    for tensor in model.subgraphs[0].tensors:
        if len(tensor.shape) > 1 and model.buffers[tensor.buffer].data is not None and tensor.type == 9:
            size = len(model.buffers[tensor.buffer].data)
            values = np.random.default_rng(size).integers(1, 100, size).astype(np.int8)
            model.buffers[tensor.buffer].data = values.view(np.uint8)
    return save_objects(model)


@pytest.mark.programs
def test_a_file_is_rewritten_within_its_budgets(network, tmp_path):
    target = tmp_path / "micro.tflite"
    report = rewrite(network.files["int8"], target, target="micro", check_on=network.samples)
    micro = report.micro
    assert micro.flash == report.bytes == target.stat().st_size < 0.6 * micro.dense_flash
    assert sum(row.bytes for row in micro.rows) < 0.32 * sum(row.dense_bytes for row in micro.rows)
    assert micro.samples == len(network.samples)
    (flash, arena), *_ = micro.curve
    assert micro.curve == tuple(sorted(micro.curve))
    tight = rewrite(network.files["int8"], target, target=Micro(arena=arena - 1000)).micro
    assert tight.arena <= arena - 1000
    assert tight.flash > flash
    small = rewrite(network.files["int8"], target, target=Micro(flash=flash + 500)).micro
    assert small.flash <= flash + 500
    assert small.arena <= arena


@pytest.mark.programs
def test_budgets_that_no_file_keeps_are_refused_with_the_nearest(network, tmp_path):
    target = tmp_path / "micro.tflite"
    with pytest.raises(ValueError, match=r"arena=500 and flash=900 bytes. Received: at best [\d,]+ bytes of arena"):
        rewrite(network.files["int8"], target, target=Micro(arena=500, flash=900))
    assert not target.exists()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"target": "mikro"}, ValueError, "target"),
        ({"target": 1000}, TypeError, "None, 'micro', 'web', or a Micro"),
        ({"target": "micro", "compress": "xz"}, ValueError, "compress"),
        ({"target": "micro", "optimize": "dense"}, ValueError, "optimize"),
        ({"target": "micro", "optimize": "latency"}, ValueError, "optimize"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(network, tmp_path, settings, error, says):
    with pytest.raises(error, match=says):
        rewrite(network.files["int8"], tmp_path / "micro.tflite", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("budget", "error"), [({"arena": 0}, ValueError), ({"flash": 2.5}, TypeError)])
def test_budgets_are_positive_integers(budget, error):
    with pytest.raises(error, match=f"`{next(iter(budget))}` to be an integer"):
        Micro(**budget)


@pytest.mark.programs
def test_sparse_weights_become_dense_before_they_are_packed(sparse, tmp_path):
    """No kernel of the interpreter reads them, and `prune_tflite` writes them."""
    report = rewrite(sparse, tmp_path / "micro.tflite", target="micro")
    assert "DENSIFY" in inspect(sparse).ops and "DENSIFY" not in report.ops and "TFLM_DECODE" in report.ops
    x = np.random.default_rng(0).normal(size=(5, *inspect(sparse).inputs[0].shape[1:])).astype(np.float32)
    (run,) = run_files([ModelFile.open(tmp_path / "micro.tflite")], [x])
    assert np.allclose(run.outputs[0], Runner(sparse).predict(x), atol=1e-5)


def test_operators_that_are_missing_are_named(network, tmp_path):
    model = load_objects(network.files["float32"])
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.CONV_2D:
            code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.GELU, 127
    with pytest.raises(ValueError, match="Received: GELU"):
        rewrite(save_objects(model), tmp_path / "micro.tflite", target="micro")


@pytest.mark.programs
def test_an_open_batch_becomes_1(network, cases, tmp_path):
    """The stock converter leaves the batch open, and works out shapes while the model runs."""
    case = cases["int8"]
    report = rewrite(case.data, tmp_path / "micro.tflite", target="micro", check_on=case.inputs)
    assert not {"SHAPE", "STRIDED_SLICE", "PACK"} & {*report.ops}


def test_what_the_interpreter_refuses_is_told(network, cases, tmp_path):
    tokens = cases["tokens"]
    with pytest.raises(ValueError, match="does not: Does not support type .* INT32. Nothing was written"):
        rewrite(tokens.data, tmp_path / "tokens.tflite", target="micro", check_on=tokens.inputs)
    assert not list(tmp_path.iterdir())


def test_a_weight_of_another_graph_stays_dense(network):
    model = load_objects(network.files["int8"])
    weight = next(tensor for tensor in model.subgraphs[0].tensors if list(tensor.shape) == [24, 3, 3, 3])
    other = type(model.subgraphs[0])(tensors=[weight], inputs=[], outputs=[], operators=[])
    model.subgraphs.append(other)
    candidate = _Candidates(ModelFile(save_objects(model))).write((0, 1, 1, 1))
    assert candidate.rows[0].reason == "another graph reads it, too"
    assert _Candidates(ModelFile(save_objects(model))).plan(10**9, 0)[0] == 0


def test_boards():
    assert fits(10**6, 10**5, board="nano33")[0].fits
    (lacking,) = fits(10**6, 40_000, board="zero")
    assert str(lacking) == "lacks 737,856 bytes of flash and 15,424 bytes of RAM"
    with pytest.raises(ValueError, match="Did you mean 'pico'"):
        find_board("picoo")
    with pytest.raises(TypeError, match="name of a board"):
        find_board(2)


@pytest.mark.programs
def test_where_nothing_else_fits_the_file_stays_dense(network, tmp_path):
    (dense,) = run_files([network.files["int8"]], [network.samples])
    report = rewrite(network.files["int8"], tmp_path / "micro.tflite", target=Micro(arena=dense.arena))
    assert report.micro.arena <= dense.arena
    assert {row.stored for row in report.micro.rows} == {"dense"}
    assert report.bytes < report.micro.dense_flash
