"""Sparse weights unpacked: the same outputs, and a weight that is not pruned stays sparse."""

import numpy as np
import pytest
from export_table import KINDS

from tfprune.export.device.runner import Runner
from tfprune.export.file.document import save_objects
from tfprune.export.file.reader import read
from tfprune.export.pruning.layers import unpack_sparse
from tfprune.export.rewriting.sparsify import sparsify


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_outputs_without_sparse_weights(exports, kind):
    export = exports("image", kind)
    sparse = sparsify(export.data, forms=("csr",)).data
    dense = save_objects(unpack_sparse(sparse))
    before, after = (sum(weight.sparse for weight in read(content).weights) for content in (sparse, dense))
    unpacked = [operator.name for operator in read(dense).subgraphs[0].operators if operator.name == "DENSIFY"]
    assert before > 2 and after == len(unpacked) == 1  # the depthwise weight, which is not pruned
    pairs = zip(*(_outputs(content, export.inputs) for content in (dense, sparse)), strict=True)
    assert all(np.array_equal(found, right) for found, right in pairs)


def _outputs(content, inputs):
    outputs = Runner(content).predict(inputs)
    return outputs if isinstance(outputs, list) else [outputs]
