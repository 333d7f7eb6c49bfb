"""Weights as real numbers, and back."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfprune.export.pruning.pieces import StoredWeight


def tensor(kind, shape, *, scales=(), axis=0, zero_point=0):
    tensor = schema.TensorT()
    tensor.type, tensor.shape = getattr(schema.TensorType, kind), np.array(shape, np.int32)
    if scales:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.float32(scales)
        tensor.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
        tensor.quantization.quantizedDimension = axis
    return tensor


CASES = [
    ("FLOAT32", {}, 0),
    ("FLOAT16", {}, 2e-3),
    ("INT8", {"scales": (0.02, 0.04, 0.02)}, 0.02),
    ("INT8", {"scales": (0.02,)}, 0.01),
    ("UINT8", {"scales": (0.02,), "zero_point": 130}, 0.01),
    ("INT4", {"scales": (0.3, 0.3, 0.3)}, 0.15),
]


@pytest.mark.parametrize("kind, quantization, error", CASES)
def test_values_come_back_on_their_grid_and_zeros_exactly(kind, quantization, error):
    values = np.random.default_rng(0).uniform(-1, 1, (3, 5)).astype(np.float32)
    values[:, ::2] = 0
    stored = StoredWeight.of(tensor(kind, (3, 5), **quantization))
    buffer = schema.BufferT()
    buffer.data = stored.write(values)
    back = stored.read(buffer)
    np.testing.assert_allclose(back, values, atol=error + 1e-6)
    assert (back[:, ::2] == 0).all()


@pytest.mark.parametrize("kind, quantization, error", CASES[2:])
def test_scales_grow_where_values_do_not_fit(kind, quantization, error):
    values = np.random.default_rng(0).uniform(-1, 1, (3, 5)).astype(np.float32) * 20
    stored = StoredWeight.of(tensor(kind, (3, 5), **quantization))
    grown = stored.grown(values)
    buffer = schema.BufferT()
    buffer.data = grown.write(values)
    assert (grown.scales >= stored.scales).all() and (grown.scales > stored.scales).any()
    assert (np.abs(grown.read(buffer) - values) <= grown.steps() / 2 + 1e-5).all()
    assert stored.grown(values / 1000).scales == pytest.approx(stored.scales)


def test_what_is_not_known_is_left_alone():
    assert "int32" in StoredWeight.of(tensor("INT32", (3, 5)))
    assert "not positive" in StoredWeight.of(tensor("INT8", (3, 5), scales=(0.0,)))
    sparse = tensor("FLOAT32", (3, 5))
    sparse.sparsity = schema.SparsityParametersT()
    assert "sparse already" in StoredWeight.of(sparse)
