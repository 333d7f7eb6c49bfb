"""Whole files that lack something: each command and function says in a sentence what, and what to do."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from tfprune.export.command_line.cli import main
from tfprune.export.device.runner import Runner
from tfprune.export.device.verify import verify
from tfprune.export.file.container import is_model_file
from tfprune.export.file.inspect import foreign_operators, inspect
from tfprune.export.file.reader import find_missing_values
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.pruning.shrink import shrink_tflite


def packed(model):
    """Pack by the schema's own classes: what tfprune writes is never like these files."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def largest(model):
    """Return the index of the buffer with the largest weight."""
    return max(range(len(model.buffers)), key=lambda index: np.size(model.buffers[index].data))


def newer(model):
    model.version = 4


def without_buffers(model):
    model.buffers, model.metadata = None, None


def with_one_buffer(model):
    model.buffers = model.buffers[:1]


def stripped(model):
    for buffer in model.buffers:
        buffer.data = None


def cut(model):
    buffer = model.buffers[largest(model)]
    buffer.offset, buffer.size, buffer.data = 10**6, len(buffer.data), None


def with_weights_elsewhere(model):
    index = largest(model)
    values, model.buffers[index].data = model.buffers[index].data, None
    model.externalBufferGroups = [schema.ExternalBufferGroupT(name=b"weights.bin")]
    model.externalBuffers = [schema.ExternalBufferT(id=1, group=0, offset=0, length=len(values))]
    for tensor in model.subgraphs[0].tensors:
        if tensor.buffer == index:
            tensor.externalBuffer, tensor.buffer = 1, 0


def naming_a_tensor(model):
    model.signatureDefs[0].inputs[0].tensorIndex = 999


def naming_a_graph(model):
    model.signatureDefs[0].subgraphIndex = 5


LACKS = {
    newer: r"of version 3\. Received: .*, which has version 4\. Install the newest",
    without_buffers: "has no buffer 1, in which tensor '.*' lies. Convert the network again",
    with_one_buffer: "has no buffer 1, in which tensor '.*' lies. Convert the network again",
    stripped: "has no values for tensor '.*', which an operator reads. Convert the network again",
    cut: r"names values up to byte 1,000,\d+\. Copy all of the file again",
    with_weights_elsewhere: r"keeps weights in 'weights\.bin'\. Convert the network again",
    naming_a_tensor: "signature 'serving_default' that names tensor 999 'vector', of",
    naming_a_graph: "signature 'serving_default' of graph 5, of 1 graphs",
}


def changed(cases, change):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(cases["dense"].data, 0))
    change(model)
    return packed(model)


@pytest.mark.parametrize("change", LACKS, ids=lambda change: change.__name__)
def test_a_sentence_says_what_a_file_lacks(cases, change, tmp_path, capsys):
    content, samples = changed(cases, change), cases["dense"].inputs
    calls = [
        lambda: inspect(content),
        lambda: verify(content),
        lambda: Runner(content),
        lambda: prune_tflite(content, tmp_path / "none.tflite", samples, sparsity=0.5),
        lambda: shrink_tflite(content, tmp_path / "none.tflite", samples, flops=0.5),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=LACKS[change]):
            call()
    path = tmp_path / "file.tflite"
    path.write_bytes(content)
    assert main(["inspect", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file.tflite"]


def test_the_interpreter_reads_none_of_the_stripped_files(cases):
    interpreter = Interpreter(model_content=changed(cases, stripped))
    interpreter.allocate_tensors()
    with pytest.raises(RuntimeError, match="lacks data"):
        interpreter.invoke()


def test_a_whole_file_lacks_nothing(cases):
    assert [name for name, case in cases.items() if find_missing_values(case.data)] == []


def test_values_behind_the_flatbuffer_are_read_and_pruned(cases, tmp_path):
    """As files above 2 GB keep them, and those of LiteRT Quantizer."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(cases["dense"].data, 0))
    buffer = model.buffers[largest(model)]
    values, buffer.data, buffer.offset, buffer.size = buffer.data, None, 2, len(buffer.data)
    buffer.offset = -(-len(packed(model)) // 16) * 16
    content, samples = packed(model).ljust(buffer.offset, b"\0") + bytes(values), cases["dense"].inputs
    np.testing.assert_allclose(Runner(content).predict(samples), cases["dense"].expected, atol=1e-6)
    assert inspect(content).nnz == inspect(cases["dense"].data).nnz
    prune_tflite(content, tmp_path / "behind.tflite", samples, sparsity=0.5)
    prune_tflite(cases["dense"].data, tmp_path / "inside.tflite", samples, sparsity=0.5)
    outputs = [Runner(tmp_path / f"{name}.tflite").predict(samples) for name in ("behind", "inside")]
    np.testing.assert_array_equal(*outputs)


def test_operators_that_an_interpreter_may_lack_are_named(cases):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(cases["dense"].data, 0))
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode = 300, 127
    report = inspect(packed(model))
    assert report.foreign_operators["BUILTIN_300"].startswith("newer than the installed ai-edge-litert")
    assert "BUILTIN_300: newer" in str(report)
    assert not verify(packed(model)).passed
    needs = foreign_operators(["CONV_2D", "TFLite_Detection_PostProcess", "FlexErf", "Mine"])
    assert [*needs] == ["FlexErf", "Mine"]
    assert "TensorFlow" in needs["FlexErf"]
    assert "custom" in needs["Mine"]


def test_a_name_makes_a_model_file(tmp_path, capsys):
    """A damaged one is then not taken for a Keras model."""
    (tmp_path / "a.tflite").write_bytes(b"none of them")
    assert is_model_file(tmp_path / "a.tflite")
    assert not is_model_file(tmp_path / "a.keras")
    arguments = ["--sparsity", "0.5", "--samples", str(tmp_path / "x.npy")]
    for name, text in (("a", "whose content begins with"), ("b", "does not exist")):
        assert main(["prune", str(tmp_path / f"{name}.tflite"), *arguments]) == 2
        assert text in capsys.readouterr().err or name == "a"
