"""Files taken apart and put together. The truth is what the reader and the interpreter make of both."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flipped import FLIPS, flipped
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.device.runner import Runner
from tfprune.export.file.document import (
    add_constant,
    add_operator,
    add_tensor,
    add_values,
    load_objects,
    operator_code,
    save_objects,
    unpack_objects,
    with_values_inside,
)
from tfprune.export.file.reader import read

NAMES = ["dense", "int8", "int8_float_io", "two", "tokens", "fixed"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_put_together_again_is_the_same_file(cases, name):
    case = cases[name]
    again = save_objects(load_objects(case.data))
    assert read(again) == read(case.data)
    outputs, expected = Runner(again).predict(case.inputs), Runner(case.data).predict(case.inputs)
    for one, other in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_model_gives_the_same_bytes(cases, name):
    model = load_objects(cases[name].data)
    first = save_objects(model)
    assert save_objects(model) == first == save_objects(load_objects(first))


@pytest.mark.parametrize("name", NAMES)
def test_values_begin_at_multiples_of_sixteen(cases, name):
    data = save_objects(load_objects(cases[name].data))
    model = schema.Model.GetRootAs(data, 0)
    buffers = [model.Buffers(place) for place in range(model.BuffersLength())]
    starts = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
    assert len(starts) >= 2
    assert not any(start % 16 for start in starts)


def test_values_behind_the_flatbuffer_come_inside(cases):
    """Other programs put the values of large files there, at a multiple of 16."""
    from flatbuffers.builder import Builder

    data, model = cases["dense"].data, load_objects(cases["dense"].data)
    moved = max(model.buffers, key=lambda buffer: 0 if buffer.data is None else len(buffer.data))
    values, moved.data = bytes(moved.data), None
    moved.offset, moved.size = 2**16, len(values)
    builder = Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    outside = bytes(builder.Output()).ljust(2**16, b"\0") + values
    inside = with_values_inside(outside)
    assert save_objects(load_objects(outside)) == inside
    assert read(inside) == read(data)
    np.testing.assert_array_equal(
        Runner(inside).predict(cases["dense"].inputs), Runner(data).predict(cases["dense"].inputs)
    )
    assert with_values_inside(data) == data


def test_metadata_signatures_and_options_stay(cases):
    before = load_objects(cases["int8"].data)
    after = load_objects(save_objects(before))
    assert [entry.name for entry in after.metadata] == [entry.name for entry in before.metadata]
    assert after.signatureDefs[0].signatureKey == before.signatureDefs[0].signatureKey
    for old, new in zip(before.subgraphs[0].operators, after.subgraphs[0].operators, strict=True):
        assert (old.builtinOptions is None) == (new.builtinOptions is None)
        if old.builtinOptions is not None:
            assert vars(new.builtinOptions) == vars(old.builtinOptions)
    for old, new in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True):
        if old.quantization is not None and old.quantization.scale is not None:
            np.testing.assert_array_equal(new.quantization.scale, old.quantization.scale)
            np.testing.assert_array_equal(new.quantization.zeroPoint, old.quantization.zeroPoint)


def test_values_and_operators_are_added_once(cases):
    model = load_objects(cases["dense"].data)
    place = add_values(model, np.arange(5, dtype="<f4"))
    np.testing.assert_array_equal(model.buffers[place].data.view("<f4"), np.arange(5))
    first = operator_code(model, schema.BuiltinOperator.DENSIFY)
    assert operator_code(model, schema.BuiltinOperator.DENSIFY) == first
    added = load_objects(save_objects(model)).operatorCodes[first]
    assert (added.builtinCode, added.deprecatedBuiltinCode) == (schema.BuiltinOperator.DENSIFY, 124)
    assert operator_code(model, schema.BuiltinOperator.FULLY_CONNECTED) < first


def test_a_constant_and_an_operator_that_takes_it_run(cases):
    """ADD of a constant at the end, and SQUARE of the input in front of what took the input."""
    case = cases["dense"]
    model = load_objects(case.data)
    graph = model.subgraphs[0]
    plain = Runner(case.data).predict(case.inputs)
    (output,), (entry,) = graph.outputs, graph.inputs
    shift = add_constant(model, graph, name=b"shift", values=np.arange(4, dtype=np.float32))
    shifted = add_tensor(graph, graph.tensors[output], name=b"shifted")
    add_operator(model, graph, name="ADD", inputs=[output, shift], outputs=[shifted], options=schema.AddOptionsT())
    graph.outputs = np.array([shifted], np.int32)
    model.signatureDefs[0].outputs[0].tensorIndex = shifted
    np.testing.assert_allclose(Runner(save_objects(model)).predict(case.inputs), plain + np.arange(4), rtol=1e-6)
    squared = add_tensor(graph, graph.tensors[entry], name=b"squared")
    graph.operators[0].inputs = np.array([squared, *graph.operators[0].inputs[1:]], np.int32)
    add_operator(model, graph, name="SQUARE", inputs=[entry], outputs=[squared])
    subgraph = read(save_objects(model)).subgraphs[0]
    assert subgraph.operators[0].name == "SQUARE"
    assert subgraph.operators[-1].name == "ADD"
    assert subgraph.tensors[shift].shape == (4,)
    after = Runner(save_objects(model)).predict(case.inputs)
    np.testing.assert_allclose(after, Runner(case.data).predict(case.inputs**2) + np.arange(4), rtol=1e-5)


def test_a_tensor_is_added_beside_the_one_that_it_is_like(cases):
    model = load_objects(cases["int8"].data)
    graph = model.subgraphs[0]
    old = graph.tensors[graph.inputs[0]]
    before = vars(old).copy()
    new = graph.tensors[add_tensor(graph, old, name=b"twin", buffer=0)]
    assert vars(old) == before
    assert vars(new) == {**before, "name": b"twin", "buffer": 0}


def test_operators_of_old_files_are_found(cases):
    """Before 2020 an operator's number stood in another field only."""
    model = load_objects(cases["dense"].data)
    count = len(model.operatorCodes)
    for code in model.operatorCodes:
        code.builtinCode = 0
    operator_code(model, schema.BuiltinOperator.FULLY_CONNECTED)
    assert len(model.operatorCodes) == count


def test_values_behind_the_flatbuffer_that_share_bytes_are_refused(cases):
    """Taken into it, each would be written for itself: a small file could fill the memory."""
    model = load_objects(cases["dense"].data)
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data, buffer.offset, buffer.size = None, 64, 900
    with pytest.raises(ValueError, match="its values together are longer than it is"):
        unpack_objects(save_objects(model))


def test_values_in_other_files_are_refused(cases):
    model = load_objects(cases["dense"].data)
    model.externalBuffers = [schema.ExternalBufferT(id=1, length=8)]
    with pytest.raises(ValueError, match="keeps options of operators, or values, elsewhere"):
        load_objects(save_objects(model))


def test_a_name_shared_by_many_parts_is_refused_before_it_is_copied(cases):
    """Each of 20,000 entries points at the same entry, with a name of 1 MB: 20 GB when unpacked."""
    import tracemalloc

    model = load_objects(cases["dense"].data)
    model.metadata = [schema.MetadataT(name=b"x" * 2**20, buffer=0)] + [schema.MetadataT(name=b"", buffer=0)] * 20_000
    data = bytearray(save_objects(model))
    packed = schema.Model.GetRootAs(data, 0)
    start = packed._tab.Vector(packed._tab.Offset(16))
    first = start + int.from_bytes(data[start : start + 4], "little")
    for place in range(start, start + 4 * packed.MetadataLength(), 4):
        data[place : place + 4] = (first - place).to_bytes(4, "little", signed=True)
    tracemalloc.start()
    with pytest.raises(ValueError, match="its parts together are longer than it is"):
        load_objects(bytes(data))
    assert tracemalloc.get_traced_memory()[1] < 20 * len(data)
    tracemalloc.stop()


def test_what_cannot_be_packed_is_refused(cases):
    model = load_objects(cases["dense"].data)
    model.subgraphs[0].tensors[0].shape = ["wide"]
    with pytest.raises(ValueError, match="Expected a model that makes a TFLite file"):
        save_objects(model)


def test_foreign_and_endless_bytes_are_refused(endless):
    for data in (b"", b"PK\x03\x04", endless):
        with pytest.raises(ValueError, match="Expected a"):
            load_objects(data)


@given(flips=FLIPS, name=st.sampled_from(NAMES))
def test_flipped_bits_raise_nothing_but_value_errors(cases, flips, name):
    data = flipped(cases[name].data, flips)
    try:
        model = load_objects(data)
    except ValueError:
        return
    try:
        again = save_objects(model)
    except ValueError:
        return
    assert len(again) < 10 * len(data)
