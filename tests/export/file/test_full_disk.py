"""Every function that writes, on a full disk: nothing is left, what was there stays, and the error is a sentence.

A limit on the size of files stands in for the disk: the system then refuses to write, as a full disk does, here and
in the processes that are started. A limit of 0 lets nothing be written, a larger one the first files, and an error at
the last moment, when a file is written to the disk, all but that.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from file_graphs import FileGraph
from tiers import in_test_all, in_test_ci

from tfprune import export
from tfprune.base.folders import RunFolder
from tfprune.base.output import save_figure
from tfprune.export.command_line import cli
from tfprune.export.pruning.prune import prune_tflite
from tfprune.report import new_figure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
AT_LAST = -1  # as a limit: all is written, and nothing can be finished
OLD = b"what was there before"
SAMPLES = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
FULL = "|".join(map(os.strerror, (errno.ENOSPC, errno.EFBIG)))


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let no file grow beyond some bytes."""
    import resource

    if limit == AT_LAST:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fails(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def small_model():
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(8)])


def tflite() -> bytes:
    graph = FileGraph(0, shape=(1, 64))
    return graph.content(graph.dense(graph.dense(graph.input, 32), 8))


def command(*words: str) -> Callable[[Path, Path], None]:
    """Return a writer that is a command, and raises what it prints."""

    def write(source: Path, place: Path) -> None:
        said = io.StringIO()
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            code = cli.main([word.format(source=source, place=place) for word in words])
        if code:
            raise ValueError(said.getvalue().strip().splitlines()[-1].removeprefix("tfprune: "))

    return write


def of_file(function: Callable, name: str, *arguments: object, **settings: object) -> Callable[[Path, Path], None]:
    return lambda source, place: function(source / "model.tflite", place / name, *arguments, **settings)


def step(source: Path, place: Path) -> None:
    with RunFolder(place, settings={}, arrays=[]) as run:
        run.remember("made", lambda: {"a": SAMPLES})


def figure(source: Path, place: Path) -> None:
    drawn = new_figure(2, 2)
    drawn.subplots().plot([0, 1])
    save_figure(drawn, place / "made.png")


def damage(source: Path, place: Path) -> None:
    outputs = np.eye(8, dtype="float32")[np.arange(32) % 8]
    export.damage(outputs, outputs, (SAMPLES, np.arange(32) % 8)).save_html(place / "made.html")


def to_tflite(source: Path, place: Path) -> None:
    export.to_tflite(small_model(), place / "made.tflite", verbose=0)


def to_generator(source: Path, place: Path) -> None:
    import hub_writers

    export.to_generator(hub_writers.writer_task(), place / "made.tflite", length=16, prefill=(4,), verbose=0)


def to_embedder(source: Path, place: Path) -> None:
    import hub_models
    import keras_hub

    tokenizer = keras_hub.models.BertTokenizer(
        vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "fox"]
    )
    encoder = hub_models.BACKBONES["BertBackbone"]()
    export.to_embedder(
        encoder, place / "made.tflite", tokenizer=tokenizer, length=16, check_on=["dog fox"], verbose=0
    )


WRITERS = {
    "rewrite": of_file(export.rewrite, "made.tflite", check_on=SAMPLES),
    "rewrite packed": of_file(export.rewrite, "made.tfz", check_on=SAMPLES, compress="packed"),
    "prune_tflite": of_file(prune_tflite, "made.tflite", SAMPLES, sparsity=0.5, verbose=0),
    "shrink_tflite": of_file(export.shrink_tflite, "made.tflite", SAMPLES, flops=0.7, verbose=0),
    "add_metadata": of_file(export.add_metadata, "made.tflite", class_names=[*"abcdefgh"]),
    "c_array": of_file(export.c_array, "made.cc"),
    "web": of_file(export.web, "made", samples=SAMPLES[:1]),
    "inspect --html": command("inspect", "{source}/model.tflite", "--html", "{place}/made.html"),
    "export --labels": command(
        "export", "{source}/model.tflite", "{place}/made.tflite", "--labels", "{source}/names"
    ),
    "damage": damage,
    "plot": figure,
    "step of a run": step,
    "to_tflite": to_tflite,
    "prune": command(
        "prune", "{source}/model.keras", "{place}/made.keras", "--sparsity", "0.5", "--data", "{source}/x.npy"
    ),
    "to_generator": to_generator,
    "to_embedder": to_embedder,
}
IN_TEST_CI, IN_TEST_ALL = ("to_tflite", "prune"), ("to_generator", "to_embedder")


def tier(name: str):
    return in_test_ci(name) if name in IN_TEST_CI else in_test_all(name) if name in IN_TEST_ALL else name


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(tflite())
    (folder / "names").write_text("\n".join("abcdefgh"))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("limit", [0, 700, AT_LAST])
@pytest.mark.parametrize("name", [tier(name) for name in WRITERS])
def test_nothing_is_left(name, limit, source, tmp_path, monkeypatch):
    if (name, limit) == ("web", AT_LAST):
        pytest.skip("its files are not synced one by one")
    if name == "prune":
        small_model().save(source / "model.keras")
        np.save(source / "x.npy", SAMPLES)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    place = tmp_path / "place"
    (tmp_path / "temporary").mkdir()
    place.mkdir()
    for suffix in ("tflite", "tfz", "cc", "h", "html", "png", "keras"):
        (place / f"made.{suffix}").write_bytes(OLD)
    if name == "step of a run":
        with RunFolder(place, settings={}, arrays=[]):
            pass
    before = contents(place)
    with full_disk(limit), pytest.raises(ValueError, match=FULL) as caught:
        WRITERS[name](source, place)
    text = str(caught.value)
    assert re.match("Expected|Cannot write", text) and text.endswith("."), text
    its_own = dict.fromkeys(("run.lock", "run.npz"), b"")  # of the run, which may begin anew
    assert {**contents(place), **its_own} == {**before, **its_own}
    assert list((tmp_path / "temporary").glob("*tfprune*")) == []  # TensorFlow leaves some of its own
