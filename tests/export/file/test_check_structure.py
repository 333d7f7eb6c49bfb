"""Whole or not. The truth is files cut at every place, and what the interpreter makes of them."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flipped import FLIPS, flipped
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.file.reader import check_structure, long_vectors

NAMES = ["dense", "int8", "int8_float_io", "two", "tokens", "fixed"]


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_pass_and_what_follows_does_not_matter(cases, name):
    check_structure(cases[name].data)
    check_structure(cases[name].data + bytes(100))


@pytest.mark.parametrize("name", NAMES)
def test_files_cut_anywhere_are_refused(cases, name):
    data = cases[name].data
    for length in range(len(data) - 4):  # up to three bytes of padding at the end are no part
        with pytest.raises(ValueError, match="a part "):
            check_structure(data[:length])


def test_a_version_without_parts_to_check_passes(refused):
    check_structure(refused)


def test_parts_that_share_parts_without_end_are_refused_at_once(endless):
    with pytest.raises(ValueError, match="a part is used without end"):
        check_structure(endless)


@given(flips=FLIPS, name=st.sampled_from(NAMES))
def test_damage_raises_nothing_but_value_errors(cases, flips, name):
    data = flipped(cases[name].data, flips)
    try:
        check_structure(data)
    except ValueError as error:
        assert str(error).startswith("a part ")


def test_values_may_be_anything(cases):
    """Damage within the weights is damage to numbers, which no structure shows."""
    data = bytearray(cases["dense"].data)
    kernel = cases["dense"].kernels[0].T.astype("<f4").tobytes()
    start = bytes(data).index(kernel)
    data[start : start + len(kernel)] = np.full(len(kernel), 0xFF, np.uint8).tobytes()
    check_structure(bytes(data))


@pytest.mark.parametrize("name", NAMES)
def test_long_vectors_lie_where_the_schema_finds_them(cases, name):
    data = cases[name].data
    vectors = long_vectors(data, smallest=32)
    assert set(_vectors(data, smallest=32)) <= {data[start : start + size] for start, size, _ in vectors}
    ends = [0, *(start + size for start, size, _ in vectors)]
    assert all(size >= 32 and start >= end for (start, size, _), end in zip(vectors, ends, strict=False))
    assert ends[-1] <= len(data)


@pytest.mark.parametrize("name", NAMES)
def test_values_know_how_long_an_entry_of_their_first_dimension_is(cases, name):
    data = cases[name].data
    rows = {data[start : start + size]: row for start, size, row in long_vectors(data, smallest=32)}
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    tensors = [(tensor, model.buffers[tensor.buffer].data) for tensor in model.subgraphs[0].tensors]
    long = [(tensor.shape, values) for tensor, values in tensors if values is not None and values.nbytes >= 32]
    assert long
    for shape, values in long:
        assert rows[values.tobytes()] == values.nbytes // shape[0]


def test_positions_of_a_sparse_tensor_are_long_vectors_of_their_width():
    wide, narrow, bytewise = np.arange(20, dtype="<i4"), np.arange(30, dtype="<u2"), np.arange(40, dtype="u1")
    kinds = schema.SparseIndexVector
    data = _sparse_file((kinds.Int32Vector, wide), (kinds.Uint16Vector, narrow), (kinds.Uint8Vector, bytewise))
    parts = [data[start : start + size] for start, size, _ in long_vectors(data, smallest=32)]
    assert sorted(parts) == sorted(vector.tobytes() for vector in (wide, narrow, bytewise))


def test_vectors_that_overlap_are_listed_once_and_do_not_fill_the_memory(endless):
    with pytest.raises(ValueError, match="a part is used without end"):
        long_vectors(endless, smallest=1)


def _vectors(data, smallest):
    """Return the values of buffers, and the scales of tensors, that take so many bytes."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    scales = [tensor.quantization.scale for tensor in tensors if tensor.quantization is not None]
    vectors = [buffer.data for buffer in model.buffers] + scales
    return [vector.tobytes() for vector in vectors if vector is not None and vector.nbytes >= smallest]


def _sparse_file(*vectors):
    """Return a file with a tensor that has a dimension for each vector, given with the number of its kind."""
    holders = {1: schema.Int32VectorT, 2: schema.Uint16VectorT, 3: schema.Uint8VectorT}
    model, graph, tensor = schema.ModelT(), schema.SubGraphT(), schema.TensorT()
    model.version, model.subgraphs, graph.tensors = 3, [graph], [tensor]
    tensor.sparsity = schema.SparsityParametersT()
    tensor.sparsity.dimMetadata = []
    for kind, vector in vectors:
        dimension = schema.DimensionMetadataT()
        dimension.arrayIndicesType, dimension.arrayIndices = kind, holders[kind]()
        dimension.arrayIndices.values = vector
        tensor.sparsity.dimMetadata.append(dimension)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
