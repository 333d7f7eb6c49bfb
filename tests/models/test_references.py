"""Functions and data that workers look up: the same things again, and a reason where they cannot."""

import json
from functools import partial

import numpy as np
import pytest

from tfprune.models.tasks import DataReference, import_path, imported, read_referred, referred

X, Y = np.arange(6.0).reshape(3, 2), np.arange(3)


def load():
    return X, Y


class Loader:
    def load(self):
        return X, Y


def test_a_function_of_a_module_is_found_again():
    path = import_path(load, expected="a function")
    assert imported(path, expected="it") is load
    assert imported(import_path(Loader.load, expected="a function"), expected="it") is Loader.load


@pytest.mark.parametrize("thing", [lambda: (X, Y), partial(load), Loader().load, Loader()])
def test_what_has_no_name_in_a_module_is_refused(thing):
    with pytest.raises(ValueError, match="Expected a function that workers can import. .* Leave out `jobs`"):
        import_path(thing, expected="a function")


def test_a_function_of_the_main_program_is_refused(monkeypatch):
    monkeypatch.setattr(load, "__module__", "__main__")
    with pytest.raises(ValueError, match="Received: '__main__:load'.* nor the main program"):
        import_path(load, expected="a function")


@pytest.mark.parametrize("path", ["no_such_module:load", "test_references:no_such_name"])
def test_what_is_not_there_is_named(path):
    with pytest.raises(ValueError, match=f"Expected workers that can import it. Received, on .*: '{path}'"):
        imported(path, expected="it")


def test_data_come_from_a_function_or_a_file_wherever_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez_compressed("train.npz", x=X, y=Y)
    for data in (load, "train.npz", tmp_path / "train.npz"):
        reference = DataReference.of(data)
        sent = DataReference.read(json.loads(json.dumps(reference.settings())))
        monkeypatch.chdir("/")
        for each in (reference, sent):
            for array, expected in zip(each.load(), (X, Y), strict=True):
                np.testing.assert_array_equal(array, expected)
        monkeypatch.chdir(tmp_path)
    assert (
        DataReference.of((X, Y))
        is DataReference.of(X)
        is DataReference.of(iter([]))
        is DataReference.of(None)
        is None
    )


def test_files_that_cannot_be_read_are_named(tmp_path):
    np.savez(tmp_path / "other.npz", samples=X)
    np.savez(tmp_path / "objects.npz", x=X.astype(object), y=Y)
    (tmp_path / "broken.npz").write_bytes(b"PK")
    for name in ("none", "other", "objects", "broken"):
        with pytest.raises(ValueError, match=rf"an .npz file with the arrays x and y.*Received, on .*{name}.npz: "):
            DataReference.of(tmp_path / f"{name}.npz").load()

    with pytest.raises(ValueError, match="Expected `validation_data` to be an .npz file"):
        DataReference.of(tmp_path / "none.npz", argument="validation_data").load()

    def fails():
        raise FileNotFoundError("no /mnt/data here")

    with pytest.raises(ValueError, match="no /mnt/data here. Each worker has to see"):
        DataReference.of(fails).load()


def test_other_data_than_at_the_start_are_refused(tmp_path):
    np.savez(tmp_path / "valid.npz", x=X, y=Y)
    settings = referred(DataReference.of(tmp_path / "valid.npz", argument="validation_data"), (X, Y))
    settings = json.loads(json.dumps(settings))
    for array, expected in zip(read_referred(settings, tuple), (X, Y), strict=True):
        np.testing.assert_array_equal(array, expected)
    np.savez(tmp_path / "valid.npz", x=X, y=Y[::-1])
    with pytest.raises(ValueError, match="the same `validation_data` on each worker. .*others from .*valid.npz than"):
        read_referred(settings, tuple)
