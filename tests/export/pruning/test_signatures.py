"""Files with several signatures: samples by signature, weights of one graph, and weights that graphs share."""

import numpy as np
import pytest
from file_graphs import FileGraph

from tfprune.base.spec import ArgumentError
from tfprune.export.device.runner import find_interpreter
from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import read
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.pruning.shrink import shrink_tflite


def shared(export, joined):
    """Return a file with the signatures `first` and `second`, of the same graph and the same weights."""
    model = load_objects(joined(export.data, export.data))
    for tensor, other in zip(*(graph.tensors for graph in model.subgraphs), strict=True):
        other.buffer = tensor.buffer
    return save_objects(model)


def signature_runner(path, signature):
    """Return a function that runs a signature of a file."""
    return find_interpreter()[0](model_path=str(path)).get_signature_runner(signature)


def outputs(content, signature, x):
    """Return what the interpreter says, one sample at a time."""
    runner = find_interpreter()[0](model_content=content).get_signature_runner(signature)
    ((name, detail),) = runner.get_input_details().items()
    scale, zero = detail["quantization"]
    x = x if not scale else np.clip(np.rint(x / scale) + zero, -128, 127).astype(np.int8)
    return np.concatenate([next(iter(runner(**{name: row[np.newaxis]}).values())) for row in x[:8]])


def test_each_graph_is_pruned_on_its_samples(cases, joined, tmp_path):
    content = joined(cases["two"].data, cases["dense"].data)
    vectors = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    samples = {"first": [vectors[:, :3], vectors[:, 3:5]], "second": vectors}
    report = prune_tflite(content, tmp_path / "sparse.tflite", samples, sparsity=0.6, optimize="dense")
    kernels = [weight for weight in read(content).weights if weight.size > 8]
    assert len(report.layers) == len(kernels) and not report.skipped
    assert report.sparsity == pytest.approx(0.6, abs=0.05)
    assert [row.signature for row in report.errors] == ["first", "first", "second"]
    assert (report.samples, report.held_out) == (112, 16)
    alone = prune_tflite(cases["dense"].data, tmp_path / "alone.tflite", vectors, sparsity=report.sparsity)
    assert {row.size for row in alone.layers} < {row.size for row in report.layers}
    assert "second: " in str(report) and all(row.error < 1 for row in report.errors)


@pytest.mark.parametrize("name", ["dense", "int8"])
def test_shared_weights_are_pruned_once_and_seen_by_all(cases, joined, tmp_path, name):
    content = shared(cases[name], joined)
    x = np.random.default_rng(0).uniform(size=(24, *cases[name].inputs.shape[1:])).astype(np.float32)
    report = prune_tflite(content, tmp_path / "sparse.tflite", {"second": x}, sparsity=0.7, optimize="dense")
    pruned = (tmp_path / "sparse.tflite").read_bytes()
    assert report.sparsity == pytest.approx(0.7, abs=0.03) and not report.skipped
    assert {row.signature for row in report.errors} == {"second"}
    assert any("'first' share pruned weights and have no samples" in text for text in report.warnings)
    with pytest.raises(ValueError, match="samples of each signature whose outputs move.* none of 'first'"):
        prune_tflite(content, tmp_path / "none.tflite", {"second": x}, max_error=0.5)
    first, second = (outputs(pruned, signature, x) for signature in ("first", "second"))
    assert np.array_equal(first, second)  # the graphs are the same
    assert not np.array_equal(first, outputs(content, "first", x))
    samples = {"second": x, "first": x}
    both = prune_tflite(content, tmp_path / "both.tflite", samples, sparsity=0.7, optimize="dense")
    assert (tmp_path / "both.tflite").read_bytes() == pruned
    assert {row.signature for row in both.errors} == {"first", "second"} and both.layers == report.layers
    assert not any("share pruned weights" in text for text in both.warnings)


@pytest.mark.parametrize("is_by_name", [True, False])
def test_a_signature_without_samples_keeps_its_weights(cases, joined, tmp_path, is_by_name):
    """Samples without the name of a signature are those of the first graph."""
    content = joined(cases["dense"].data, cases["int8"].data)
    samples = {"first": cases["dense"].inputs} if is_by_name else cases["dense"].inputs
    report = prune_tflite(content, tmp_path / "sparse.tflite", samples, sparsity=0.7)
    assert report.sparsity == pytest.approx(0.7, abs=0.02)
    assert {row.reason.partition(": ")[2] for row in report.skipped} == {"its signature 'second' has no samples"}
    pruned = (tmp_path / "sparse.tflite").read_bytes()
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 3))
    assert np.array_equal(*(outputs(each, "second", images) for each in (content, pruned)))


@pytest.mark.programs
def test_a_language_model_is_pruned_by_its_steps(writer, tmp_path):
    """Samples are tokens with the caches that lie before them; prefill has the same weights as decode."""
    random = np.random.default_rng(0)
    steps, caches = [], {}
    runner = signature_runner(writer, "decode")
    shapes = {name: tuple(detail["shape"]) for name, detail in runner.get_input_details().items()}
    for position in [*range(12)] * 8:
        if not position:
            caches = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name.startswith("kv")}
        token = random.integers(1, 16, (1, 1)).astype(np.int32)
        steps.append({"tokens": token, "input_pos": np.array([position], np.int32), **caches})
        caches = {name: array for name, array in runner(**steps[-1]).items() if name in caches}
    samples = {name: np.concatenate([step[name] for step in steps]) for name in shapes}
    report = prune_tflite(writer, tmp_path / "sparse.tflite", {"decode": samples}, sparsity=0.4, optimize="dense")
    assert report.sparsity == pytest.approx(0.4, abs=0.05) and max(row.error for row in report.errors) < 0.4
    assert {row.reason for row in report.skipped} == {
        "GATHER: operators of other kinds or scales use the same weights"
    }
    decode, prefill = (signature_runner(tmp_path / "sparse.tflite", name) for name in ("decode", "prefill_4"))
    empty = {name: np.zeros(shapes[name], np.float32) for name in caches}
    tokens, by_steps = np.array([[3, 1, 4, 1]], np.int32), empty
    for place in range(4):
        outputs = decode(tokens=tokens[:, place : place + 1], input_pos=np.array([place], np.int32), **by_steps)
        by_steps = {name: outputs[name] for name in empty}
    at_once = prefill(tokens=tokens, input_pos=np.arange(4, dtype=np.int32), **empty)
    assert all(np.allclose(at_once[name], by_steps[name], atol=1e-5) for name in empty)
    with pytest.raises(ValueError, match="For signature 'prefill_4': .*first dimensions differ: 'input_pos' 4,"):
        prune_tflite(writer, tmp_path / "none.tflite", {"prefill_4": samples}, sparsity=0.5)


def test_names_that_do_not_fit(cases, joined, tmp_path):
    content = joined(cases["dense"].data, cases["int8"].data)
    vectors = cases["dense"].inputs
    with pytest.raises(ValueError, match=r"of which the file has 'first', 'second'.*Received: names \['third'\]"):
        prune_tflite(content, tmp_path / "none.tflite", {"third": vectors}, sparsity=0.5)
    with pytest.raises(TypeError, match="For signature 'second': .*samples=None"):
        prune_tflite(content, tmp_path / "none.tflite", {"first": vectors, "second": None}, sparsity=0.5)
    with pytest.raises(ValueError, match="For signature 'second': Expected samples of shape"):
        prune_tflite(content, tmp_path / "none.tflite", {"second": vectors}, sparsity=0.5)
    model = load_objects(content)
    first, second = model.signatureDefs
    second.subgraphIndex, second.inputs, second.outputs = 0, first.inputs, first.outputs
    with pytest.raises(ValueError, match="the same graph under two names"):
        twice = dict.fromkeys(["first", "second"], vectors)
        prune_tflite(save_objects(model), tmp_path / "none.tflite", twice, sparsity=0.5)
    assert not list(tmp_path.iterdir())


def test_channels_are_removed_on_the_samples_of_the_first_signature(cases, joined, tmp_path):
    graph, samples = FileGraph(0, shape=(1, 64)), np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    model = load_objects(graph.content(graph.dense(graph.dense(graph.input, 32), 8)))
    ends = (model.subgraphs[0].inputs[0], model.subgraphs[0].outputs[0])
    entry, leaving = (
        schema.TensorMapT(name=name, tensorIndex=end) for name, end in zip((b"x", b"y"), ends, strict=True)
    )
    model.signatureDefs = [schema.SignatureDefT(inputs=[entry], outputs=[leaving], signatureKey=b"main")]
    content, made = save_objects(model), []
    for given in (samples, {"x": samples}, {"main": samples}, {"main": {"x": samples}}):
        shrink_tflite(content, tmp_path / "small.tflite", given, flops=0.7, verbose=0)
        made.append((tmp_path / "small.tflite").read_bytes())
    assert len({*made}) == 1 and len(made[0]) < len(content)
    (tmp_path / "small.tflite").unlink()
    two = joined(cases["dense"].data, cases["dense"].data)
    for given in ({"second": cases["dense"].inputs}, dict.fromkeys(["first", "second"], cases["dense"].inputs)):
        with pytest.raises(
            ArgumentError, match="the first graph \\('first'\\), in .* Received: samples for 'second'"
        ):
            shrink_tflite(two, tmp_path / "small.tflite", given, flops=0.7)
    assert not list(tmp_path.iterdir())
