"""The committed files of the packed format, as the readers here read them. The truth is the content beside each."""

import binascii
import struct
import subprocess
import zlib
from hashlib import sha256

import numpy as np
import pytest
from other_readers import OTHER_READERS, SANITIZERS, compiled, needs_cc
from tfz_vectors import CODERS, DAMAGED, FOLDER, of_form, packed

from tfprune.base.arrays import FORMS, expand
from tfprune.export import unpack

NAMES = sorted(path.stem for path in FOLDER.glob("*.tfz"))
MUTANTS = 40  # of each file


def content_of(name: str) -> bytes:
    return (FOLDER / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_python_reads_each(name):
    assert unpack(FOLDER / f"{name}.tfz") == content_of(name)


def test_all_forms_and_coders_are_there():
    forms, coders = set(), set()
    for name in NAMES:
        data = (FOLDER / f"{name}.tfz").read_bytes()
        *_, count, coder, length = struct.unpack_from("<3sBQIIBI", data)
        table = expand(data[25 : 25 + length], coder, limit=2**20)
        forms |= {table[17 * piece + 8] for piece in range(count)}
        coders |= {coder, *(kind for kind, _ in struct.iter_unpack("<BI", table[17 * count :]))}
    assert forms == set(range(len(FORMS)))
    assert coders == {0, 1, 2, 3}
    assert sum(path.stat().st_size for folder in (FOLDER, DAMAGED) for path in folder.iterdir()) < 400_000


@pytest.mark.parametrize("path", sorted(DAMAGED.glob("*.tfz")), ids=lambda path: path.stem)
def test_python_refuses_what_breaks_a_rule(path):
    with pytest.raises(ValueError, match="packed file"):
        unpack(path)


@pytest.mark.parametrize("read", OTHER_READERS)
def test_other_readers_refuse_what_breaks_a_rule(read):
    rows = read(DAMAGED)
    assert len(rows) > 25
    assert all("refusal" in row for row in rows.values())


@pytest.mark.parametrize("read", OTHER_READERS)
def test_other_readers_read_each(read):
    digests = {name: row.get("digest", row) for name, row in read(FOLDER).items()}
    assert digests == {f"{name}.tfz": sha256(content_of(name)).hexdigest() for name in NAMES}


@pytest.mark.programs
def test_every_form_with_every_coder():
    """The combinations that are not committed, too."""
    random = np.random.default_rng(1)
    for number in range(len(FORMS)):
        for name, coder in CODERS.items():
            _, content, pieces = of_form(number, random, coder)
            data = packed(4, content, pieces, coder)
            assert unpack(data) == content, (number, name)


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        changed[random.integers(len(data))] = random.integers(256)
    return bytes(changed[: random.integers(len(data)) if random.random() < 0.1 else None])


@pytest.mark.parametrize("read", OTHER_READERS)
def test_other_readers_refuse_what_python_refuses(read, tmp_path, monkeypatch):
    sums: list[int] = []
    monkeypatch.setattr(zlib, "crc32", lambda data: sums.append(binascii.crc32(data)) or sums[-1])
    random, expected = np.random.default_rng(2), {}
    for name in NAMES:
        for number in range(MUTANTS):
            data = damaged((FOLDER / f"{name}.tfz").read_bytes(), random)
            sums.clear()
            content = unpacked(data)
            if content is None and sums:  # damage that only the checksum shows: with the right one, it counts
                data = data[:12] + sums[-1].to_bytes(4, "little") + data[16:]
                content = unpacked(data)
            path = tmp_path / f"{name}_{number:03}.tfz"
            path.write_bytes(data)
            expected[path.name] = None if content is None else sha256(content).hexdigest()
    refused = sum(digest is None for digest in expected.values())
    assert len(expected) / 4 < refused < len(expected) * 3 / 4
    assert {name: row.get("digest") for name, row in read(tmp_path).items()} == expected


def unpacked(data: bytes) -> bytes | None:
    try:
        return unpack(data)
    except ValueError:
        return None


@needs_cc
@pytest.mark.programs
def test_damage_leads_c_to_no_memory_that_it_does_not_own(tmp_path):
    program = compiled(tmp_path, SANITIZERS)
    files = sorted(map(str, [*FOLDER.glob("*.tfz"), *DAMAGED.glob("*.tfz")]))
    completed = subprocess.run([program, "--mutants", "200", *files], capture_output=True, text=True, check=False)
    assert not completed.returncode, completed.stderr[-2000:]
    assert completed.stdout.endswith("0 bytes were not released\n")
