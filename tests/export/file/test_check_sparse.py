"""Sparse tensors that lie. The truth is the reader on the schema module, which finds the numbers in another way."""

import struct

import numpy as np
import pytest

from tfprune.export.device.runner import Runner
from tfprune.export.file.container import read_model
from tfprune.export.file.reader import check_sparse, check_structure, read


def refused_by_reader(data):
    try:
        for weight in read(data).weights:
            list(weight.values.pieces())
    except ValueError as error:
        return "sparse tensor" in str(error)
    return False


def test_files_with_and_without_sparse_tensors_pass(cases, sparse):
    assert _weight(sparse).values.dimensions
    check_sparse(sparse)
    for case in cases.values():
        check_sparse(case.data)


def test_what_the_reader_refuses_is_refused(sparse):
    count = 0
    for start in range(8, len(sparse), 2):
        for lie in (b"\xff\x7f", b"\x00\x00", b"\x05\x00"):
            data = sparse[:start] + lie + sparse[start + 2 :]
            try:
                check_structure(data)
            except ValueError:
                continue
            if refused_by_reader(data):
                count += 1
                with pytest.raises(ValueError, match="sparse tensor"):
                    check_sparse(data)
    assert count > 50


def test_runner_refuses_an_index_outside_its_row(sparse):
    """The interpreter would write beyond the tensor."""
    indices = np.concatenate(
        [dimension.indices for dimension in _weight(sparse).values.dimensions if dimension.indices is not None]
    )
    place = sparse.index(struct.pack("<I", len(indices)) + indices.tobytes()) + 4
    data = sparse[:place] + b"\xff" + sparse[place + 1 :]
    with pytest.raises(ValueError, match=r"damaged or cut short \(an index of a sparse tensor is outside"):
        Runner(data)
    with pytest.raises(ValueError, match="outside"):
        read_model(data)


def _weight(data):
    return next(weight for weight in read(data).weights if weight.sparse)
