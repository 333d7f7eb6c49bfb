"""A run of prune_units that was stopped goes on where it stopped, and ends as if it had not been."""

from __future__ import annotations

import shutil

import keras
import numpy as np
import pytest
from small_transformer import numpy, texts, transformer
from tiers import first

from tfprune import prune_units
from tfprune.methods.one_shot import removal

SETTINGS = {"sparsity": {"units": 0.5, "heads": 0.25}, "holdout": 0, "verbose": 0}


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("update", first("sequential", "parallel"))
@pytest.mark.parametrize("steps", first(3, 1))
def test_a_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch, steps, update):
    model, x = transformer(), texts()
    expected, report = prune_units(model, x, reconstruction=update, **SETTINGS)
    whole, done = removal._moments, []

    def stopped(*args, **kwargs):
        if len(done) == steps:
            raise Stopped
        done.append(1)
        return whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(removal, "_moments", stopped)
        with pytest.raises(Stopped):
            prune_units(model, x, reconstruction=update, folder=tmp_path, **SETTINGS)
    assert len(list(tmp_path.glob("channels_*.npz")) + list(tmp_path.glob("heads_*.npz"))) == steps
    assert not list(tmp_path.glob("*.partial"))
    counted = []
    with monkeypatch.context() as patch:
        patch.setattr(removal, "_moments", lambda *args, **kwargs: counted.append(1) or whole(*args, **kwargs))
        masked, other = prune_units(model, x, reconstruction=update, folder=tmp_path, **SETTINGS)
    assert len(counted) == len(report.rows) - steps
    for one, two in zip(expected.get_weights(), masked.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_array_equal(report.plan.keep, other.plan.keep)
    assert [(row.group, row.kept) for row in other.rows] == [(row.group, row.kept) for row in report.rows]
    np.testing.assert_allclose([row.error.after for row in other.rows], [row.error.after for row in report.rows])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("done")
    prune_units(transformer(), texts(), folder=folder, **SETTINGS)
    return folder


def test_a_folder_of_another_run_is_refused(done):
    model, x = transformer(), texts()
    with pytest.raises(ValueError, match="of the same run"):
        prune_units(model, x, folder=done, criterion="wanda", **SETTINGS)
    with pytest.raises(ValueError, match="of the same run"):
        prune_units(model, texts(seed=5), folder=done, **SETTINGS)
    model.get_layer("out").bias.assign(np.ones(3))
    with pytest.raises(ValueError, match="of the same run"):
        prune_units(model, x, folder=done, **SETTINGS)
    with pytest.raises(TypeError, match="`folder` to be a path"):
        prune_units(model, x, folder=3, **SETTINGS)


def test_a_damaged_file_is_named(done, tmp_path):
    model, x = transformer(), texts()
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    (tmp_path / "channels_001.npz").write_bytes(b"no file")
    with pytest.raises(ValueError, match="channels_001.npz.*Delete it"):
        prune_units(model, x, folder=tmp_path, **SETTINGS)
    np.savez(tmp_path / "channels_001.npz", keep=np.ones(3, bool))
    with pytest.raises(ValueError, match="channels_001.npz': .*Delete it"):
        prune_units(model, x, folder=tmp_path, **SETTINGS)
    (tmp_path / "channels_001.npz").unlink()
    masked, _ = prune_units(model, x, folder=tmp_path, **SETTINGS)
    assert np.isfinite(numpy(masked(keras.ops.convert_to_tensor(x)))).all()
