"""Damaged, foreign and lying files: what reads a file without running it gives an answer or a ValueError, at once."""

import contextlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfprune.export.file.container import _XZ_MEMORY_LIMIT, XZ, encode, read_model
from tfprune.export.file.document import load_objects
from tfprune.export.file.inspect import inspect, page
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import check_structure, read
from tfprune.export.keras_side.ask import sparse_inference
from tfprune.export.rewriting.shapes import spell_out_padding
from tfprune.export.rewriting.share_weights import share_weights
from tfprune.export.rewriting.sparsify import sparsify


def opened(data):
    file = ModelFile.open(data)
    return file.metadata, file.signatures, file.graph, file.objects(), file.after(spell_out_padding).content


READERS = [
    check_structure,
    read_model,
    read,
    load_objects,
    inspect,
    page,
    sparse_inference,
    opened,
    share_weights,
    sparsify,
]
MEMORY = 2**25  # bytes at once; the files have a few thousand
LIES = [0, 1, 0x7F, 0xFF, 0x7FFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1]


@pytest.fixture(scope="module")
def files(cases, sparse):
    """Return plain files, and sparse and packed ones."""
    plain = [case.data for case in cases.values()]
    return [*plain, sparse, *(encode(cases["int8"].data, method) for method in ("gzip", "xz", "packed"))]


@st.composite
def damage(draw):
    """Draw a way to damage a file, which takes its bytes and those of another."""
    place = draw(st.floats(0, 1))
    kind = draw(st.sampled_from(["bit", "lie", "cut", "graft", "swap", "noise"]))
    amount = draw(st.integers(0, 255))
    lie = draw(st.sampled_from(LIES)).to_bytes(8, "little")[: draw(st.sampled_from([1, 2, 4, 8]))]

    def apply(data, other):
        start = int(place * (len(data) - 1))
        if kind == "bit":
            return data[:start] + bytes([data[start] ^ 1 << amount % 8]) + data[start + 1 :]
        if kind == "lie":  # numbers stand at multiples of four
            start = start // 4 * 4
            return data[:start] + lie + data[start + len(lie) :]
        if kind == "cut":
            return data[: start + 1]
        if kind == "graft":
            return data[:start] + other[start:]
        if kind == "swap":
            return (
                data[:start] + data[start + amount : start + 2 * amount] + data[start : start + amount] + data[start:]
            )
        noise = np.random.default_rng(amount).integers(0, 256, amount, np.uint8).tobytes()
        return data[:start] + noise + data[start + len(noise) :]

    return apply


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@settings(max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    damages=st.lists(damage(), min_size=1, max_size=3),
)
def test_damage_gives_an_answer_or_a_value_error_and_takes_little_memory(files, reader, chosen, damages):
    data, other = (files[number % len(files)] for number in chosen)
    for apply in damages:
        data = apply(data, other) or b"\0"
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        reader(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY + (
        _XZ_MEMORY_LIMIT if data.startswith(XZ) else 0
    )  # an xz header says what its decoder takes


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@settings(max_examples=60, deadline=5000)
@given(data=st.binary(max_size=300).map(lambda tail: b"\x1c\x00\x00\x00TFL3" + tail))
def test_noise_behind_the_right_first_bytes_is_refused_or_read(reader, data):
    with contextlib.suppress(ValueError):
        reader(data)


@pytest.mark.parametrize("reader", [inspect, sparse_inference], ids=lambda reader: reader.__name__)
def test_every_number_of_a_sparse_file_may_lie(sparse, reader):
    """Each aligned number in turn becomes the largest; no answer may take long or much."""
    for start in range(8, len(sparse), 4):
        for lie in (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"):
            with contextlib.suppress(ValueError):
                reader(sparse[:start] + lie + sparse[start + 4 :])
