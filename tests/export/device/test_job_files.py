"""Job files that are damaged: one error that names the file."""

from __future__ import annotations

import json

import damaged
import numpy as np
import pytest

from tfprune.export.device.processes import read_job, write_job


@pytest.fixture
def folder(tmp_path):
    write_job(tmp_path, "job", settings={"form": "list"}, arrays={"a": np.ones(3), "b": np.zeros((2, 2))})
    return tmp_path


CONTENTS = [
    ("json", b"", "Expected JSON"),
    ("json", b"[" * 100_000, "Expected JSON"),
    ("json", b"[]", "the fields of a _Content"),
    ("json", b'{"settings": [], "arrays": []}', "'settings' to be of type dict"),
    ("json", json.dumps({"settings": {}, "arrays": ["a", "b", "c"]}).encode(), "no array 'array_2'"),
    ("npz", b"", "not a zip file"),
    ("npz", b"\x93NUMPY", "not a zip file"),
]


@pytest.mark.parametrize(("suffix", "content", "words"), CONTENTS)
def test_a_damaged_file_is_named(folder, suffix, content, words):
    (folder / f"job.{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"Received: '{folder}/job.(json|npz)': .*{words}"):
        read_job(folder, "job")


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_a_missing_file_and_a_folder_in_its_place_are_named(folder, suffix):
    path = folder / f"job.{suffix}"
    path.unlink()
    with pytest.raises(ValueError, match=f"'{path}': .*No such file"):
        read_job(folder, "job")
    path.mkdir()
    with pytest.raises(ValueError, match=f"'{path}': .*Is a directory"):
        read_job(folder, "job")


def test_made_up_damage_raises_nothing_else():
    findings, ends = damaged.fuzz("jobs", range(400))
    assert not findings
    assert ends["refused"] > 200
