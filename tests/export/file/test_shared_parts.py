"""Equal parts of a file, written once. The truth is the file read again, and the bytes that the parts would take."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.reader import MAX_READS_PER_BYTE, read


def file_of(scales):
    """Return a file whose tensors have these scales."""
    tensors = [
        schema.TensorT(
            name=b"t%d" % number,
            shape=np.int32([1, 7, 7, 16]),
            type=schema.TensorType.INT8,
            buffer=number + 1,
            quantization=schema.QuantizationParametersT(scale=scale, zeroPoint=np.zeros(len(scale), np.int64)),
        )
        for number, scale in enumerate(scales)
    ]
    inputs = np.arange(len(tensors), dtype=np.int32)
    graph = schema.SubGraphT(tensors=tensors, operators=[], inputs=inputs, outputs=inputs[:1])
    buffers = [schema.BufferT() for _ in range(len(tensors) + 1)]
    return schema.ModelT(version=3, operatorCodes=[], subgraphs=[graph], buffers=buffers)


def test_equal_parts_take_their_bytes_once():
    scale = np.linspace(0.1, 0.2, 100, dtype=np.float32)
    one, many = len(save_objects(file_of([scale]))), save_objects(file_of([scale] * 5))
    own = len(save_objects(file_of([scale + np.float32(number) for number in range(5)])))
    assert 12 * len(scale) < one
    assert len(many) < one + 5 * 100  # their names and numbers
    assert own > one + 4 * 4 * len(scale)
    for tensor in load_objects(many).subgraphs[0].tensors:
        np.testing.assert_array_equal(tensor.quantization.scale, scale)
        assert tensor.shape.tolist() == [1, 7, 7, 16]
    assert save_objects(load_objects(many)) == many
    assert len(read(many).subgraphs[0].tensors) == 5


def test_so_much_is_shared_that_the_file_can_be_read_again():
    """A reader stops when parts that point at the same bytes are longer than a file of this size can hold."""
    scale = np.linspace(0.1, 0.2, 4000, dtype=np.float32)
    data = save_objects(file_of([scale] * 300))
    assert len(data) > 300 * 12 * len(scale) / MAX_READS_PER_BYTE
    assert len(load_objects(data).subgraphs[0].tensors) == 300


def test_a_model_is_left_as_it_is():
    model = file_of([np.float32([0.1])] * 2)
    parts = [tensor.quantization for tensor in model.subgraphs[0].tensors]
    save_objects(model)
    assert [tensor.quantization for tensor in model.subgraphs[0].tensors] == parts
    assert all(isinstance(buffer, schema.BufferT) for buffer in model.buffers)


def test_what_is_not_a_model_is_refused():
    with pytest.raises(ValueError, match="Expected a model that makes a TFLite file"):
        save_objects(schema.SubGraphT())
