"""A .tflite file that exists, written anew: smaller, and right."""

import re

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from export_table import KINDS, convert

import tfprune
from tfprune.export.device.runner import Runner
from tfprune.export.file.container import read_model
from tfprune.export.file.document import load_objects, read_metadata, save_objects, with_metadata
from tfprune.export.file.inspect import inspect
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.rewriting import rewrite as rewrite_module
from tfprune.export.rewriting.rewrite import FileForm, rewrite
from tfprune.export.rewriting.sparsify import sparsify

layers = keras.layers


@pytest.fixture(scope="module")
def images(exports):
    return exports("mixed", "float32").inputs


@pytest.fixture(scope="module")
def plain(exports):
    """A float32 file as another exporter writes it: dense."""
    return exports("mixed", "float32").data


@pytest.fixture(scope="module", params=KINDS)
def content(request, exports):
    """The same network in every format."""
    return exports("mixed", request.param).data


def test_a_foreign_file_shrinks_and_gives_what_it_gave(content, images, tmp_path):
    report = rewrite(content, tmp_path / "small.tflite", check_on=images)
    assert report.bytes == (tmp_path / "small.tflite").stat().st_size < len(content)
    before, after = Runner(content).predict(images), Runner(tmp_path / "small.tflite").predict(images)
    rounded = any(weight.dtype == "int8" for weight in read(content).weights)
    np.testing.assert_allclose(after, before, atol=(0.02 if rounded else 1e-6) * np.abs(before).max())
    graph = read(read_model(tmp_path / "small.tflite"))
    assert any(weight.sparse for weight in graph.weights)
    assert (report.nnz, report.size) == (
        sum(w.nnz for w in read(content).weights),
        sum(w.size for w in graph.weights),
    )


def test_an_unknown_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'size', 'latency', 'dense' or 'sparse'. Received: optimize='speed'"):
        rewrite(b"", tmp_path / "small.tflite", optimize="speed")


def test_a_file_may_be_written_over_itself(content, images, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    rewrite(path, path)
    assert path.stat().st_size < len(content)
    once = path.read_bytes()
    rewrite(path, path)
    assert path.read_bytes() == once  # nothing is left to gain


def test_a_file_that_does_not_run_is_refused_and_the_old_one_kept(plain, tmp_path):
    target = tmp_path / "old"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"Expected a file that runs.*Nothing was written"):
        rewrite(plain, target, check_on=np.zeros((1, 5), "float32"))
    assert target.read_bytes() == b"old"


def run_signature(data, key, images):
    (output,) = Interpreter(model_content=data).get_signature_runner(key)(image=images[:1]).values()
    return output


def test_a_graph_that_is_not_compared_stays_as_it_is(plain, images, joined, tmp_path):
    two = joined(plain, plain)
    report = rewrite(two, tmp_path / "small.tflite")
    small = (tmp_path / "small.tflite").read_bytes()
    assert report.bytes == len(small) < len(two)
    first, second = read(small).subgraphs
    assert any(tensor.sparse for tensor in first.tensors)
    assert second.operators == read(two).subgraphs[1].operators
    assert not any(tensor.sparse for tensor in second.tensors)
    np.testing.assert_array_equal(run_signature(small, "second", images), run_signature(two, "second", images))
    before, after = (run_signature(data, "first", images) for data in (two, small))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())
    reasons = {row.reason for row in sparsify(two).rows if row.form == "dense" and row.sparsity > 0.8}
    assert reasons == {"other graphs than the first read it, and stay as they are"}


def test_a_second_signature_that_sparse_weights_spoil_on_arm_is_reported(joined, tmp_path, plain):
    """A file that holds such weights already: it runs here, and is refused for what it gives on ARM."""
    image = keras.Input((16, 16, 3), batch_size=1)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(layers.ZeroPadding2D(1)(image))
    x = layers.MaxPooling2D()(layers.Conv2D(64, 1, activation="relu")(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 1, activation="relu")(x))
    spoiled = tfprune.wrap(keras.Model(image, layers.Dense(10)(x)))
    tfprune.update_masks(spoiled, 0.9)
    two = joined(sparsify(plain).data, convert(tfprune.strip(spoiled)))
    with pytest.raises(ValueError, match=r"wrong outputs on ARM: .*MAX_POOL_2D.*Nothing was written"):
        rewrite(two, tmp_path / "model.tflite")


def test_half_precision_is_not_asked_for_where_zeros_are_stored_sparse(plain, images, tmp_path):
    half = with_metadata(plain, {"reduced_precision_support": b"fp16accfp16", "other": b"stays"})
    assert "half precision  fp16accfp16" in re.sub(" {3,}", "  ", str(inspect(half)))
    report = rewrite(half, tmp_path / "sparse.tflite", check_on=images)
    assert report.left_out == ("reduced_precision_support",)
    assert "metadata reduced_precision_support: half precision has no sparse kernels" in str(report)
    left = read_metadata((tmp_path / "sparse.tflite").read_bytes())
    assert left.keys() >= {"other"}
    assert "reduced_precision_support" not in left
    dense = rewrite(half, tmp_path / "dense.tflite", check_on=images, optimize="dense")
    assert dense.left_out == ()
    assert read_metadata((tmp_path / "dense.tflite").read_bytes())["reduced_precision_support"] == b"fp16accfp16"


def test_sparse_only_is_refused_where_no_weight_gets_smaller(tmp_path):
    keras.utils.set_random_seed(0)
    content = convert(keras.Sequential([keras.Input((16,)), layers.Dense(16)]))
    with pytest.raises(ValueError, match=r"optimize='sparse'.*Prune the model first"):
        rewrite(content, tmp_path / "model.tflite", optimize="sparse")
    assert not (tmp_path / "model.tflite").exists()


def test_what_is_no_tflite_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a TFLite file"):
        rewrite(b"PK\x03\x04 a Keras file", tmp_path / "model.tflite")


def test_a_form_that_changes_another_signature_is_not_written(cases, joined, tmp_path, monkeypatch):
    content, other = joined(cases["dense"].data, cases["dense"].data), load_objects(cases["dense"].data)
    for buffer in other.buffers:
        if buffer.data is not None and len(buffer.data) >= 256:
            buffer.data = (-buffer.data.view(np.float32)).view(np.uint8)
    changed = FileForm("changed", ModelFile(joined(cases["dense"].data, save_objects(other))))
    monkeypatch.setattr(rewrite_module, "candidate_files", lambda *_, **__: [changed])
    with pytest.raises(ValueError, match="'second/.*differs"):
        rewrite(content, tmp_path / "rewritten.tflite")
    samples = cases["dense"].inputs
    rewrite(content, tmp_path / "rewritten.tflite", check_on=samples, verbose=0)  # the first graph alone
