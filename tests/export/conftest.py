"""Small .tflite files made by the stock converter, with what Keras says they should give."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_table import Export, convert, export_of, read, write
from once import filled_once

from tfprune.export.device.processes import Completed, name_of

# Beside keras_side; test_verify and test_forms start processes, and files that crash.
CHECKED_HERE = (
    *("test_quantization_error", "test_correct_biases", "test_sparsify", "test_rewrite", "test_damage"),
    *("test_prune_tflite", "test_input_range", "test_foreign_files", "test_signatures"),
    "test_variables",
    *("test_shrink_tflite", "test_web", "test_in_browser"),
    *("test_labels", "test_target", "test_fix_batch"),
)
APART = ("test_convert", "test_scripts")  # where the converter has its process, as users have it


@contextmanager
def _converting_here() -> Iterator[None]:
    from tfprune.export.keras_side import convert
    from tfprune.export.keras_side.convert import _convert_job

    def work(child: Any, folder: Path, **settings: Any) -> Completed:
        assert name_of(child).startswith(f"{_convert_job.__module__}:")
        _convert_job(folder)
        return Completed(ok=True, reason="", output="")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "run_job", work)
        yield


@pytest.fixture(scope="session")
def converting_here():
    """Return a context in which the converter works in this process, where TensorFlow is loaded already."""
    return _converting_here


@contextmanager
def _checking_here() -> Iterator[None]:
    from tfprune.export.device import generator, processes, quantization_error, verify
    from tfprune.export.pruning import prune, shrink

    run_apart = processes.run_job
    works = (verify._verify_job, quantization_error._round_job, prune._run_job, shrink._run_job)
    jobs = {name_of(work): work for work in (*works, generator._run_write_job)}

    @functools.wraps(run_apart)
    def run_here(work: Any, folder: str, *, timeout: float, **settings: Any) -> Completed:
        if name_of(work) not in jobs:
            return run_apart(work, folder, timeout=timeout, **settings)
        try:
            jobs[name_of(work)](Path(folder))
        except (TypeError, ValueError) as error:
            return Completed(ok=False, reason=str(error).rstrip("."), output="")
        return Completed(ok=True, reason="", output="")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "run_job", run_here)
        patch.setattr(quantization_error, "run_job", run_here)
        patch.setattr(prune, "run_job", run_here)
        patch.setattr(generator, "run_job", run_here)
        yield


@pytest.fixture(scope="module", autouse=True)
def checker(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let files be run in this process where the tests are not about processes."""
    is_about_models = "keras_side" in request.path.parts or request.path.stem in CHECKED_HERE
    with _checking_here() if is_about_models else nullcontext():
        yield


@pytest.fixture(scope="module", autouse=True)
def converter(request: pytest.FixtureRequest, converting_here: Any) -> Iterator[None]:
    """Spare modules that are not about the converter its process, which takes seconds to load TensorFlow."""
    with nullcontext() if request.module.__name__.rpartition(".")[2] in APART else converting_here():
        yield


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Export]:
    """Return a function that gives a network of the table in a number format."""
    return functools.cache(functools.partial(export_of, tmp_path_factory))


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Export]:
    """Return one file of each kind, by name."""
    folder = filled_once(tmp_path_factory, "cases", _write_cases)
    return {path.stem: read(folder, path.stem) for path in folder.glob("*.tflite")}


def _write_cases(folder: Path) -> None:
    import keras

    keras.utils.set_random_seed(7)
    data = np.random.default_rng(7)
    dense, conv, two, embedding = (build(keras) for build in (_dense, _conv, _two, _embedding))
    vectors = data.normal(size=(5, 8)).astype(np.float32)
    images = data.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    pair = {"left": vectors[:, :3], "right": vectors[:, 3:5]}
    tokens = data.integers(0, 11, (5, 6)).astype(np.int32)
    fixed = keras.Sequential([keras.Input((8,), batch_size=2, name="vector"), keras.layers.Dense(4)])
    write(folder, "dense", convert(dense), dense, vectors)
    write(folder, "int8", convert(conv, "int8", images, io="int8"), conv, images)
    write(folder, "int8_float_io", convert(conv, "int8", images), conv, images)
    write(folder, "two", convert(two), two, pair)
    write(folder, "tokens", convert(embedding), embedding, tokens)
    free = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    free.set_weights(fixed.get_weights())
    write(folder, "fixed", convert(fixed), free, vectors)


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a tiny language model with random weights and the tokenizer of a few sentences."""
    pytest.importorskip("keras_hub", reason="keras-hub is not installed (extra `hub`)")
    return filled_once(tmp_path_factory, "writer", _write_writer) / "writer.tflite"


def _write_writer(folder: Path) -> None:
    from hub_writers import writer_task

    from tfprune.export import to_generator

    report = to_generator(writer_task(), folder / "writer.tflite", length=16, prefill=(2, 4), max_tokens=6)
    (folder / "report.json").write_text(json.dumps(report.as_dict()))


@pytest.fixture(scope="session")
def refused(cases: dict[str, Export]) -> bytes:
    """Return a whole file that every interpreter refuses: an operator of it is of a later version."""
    from tfprune.export.file.document import load_objects, save_objects

    model = load_objects(cases["dense"].data)
    model.operatorCodes[0].version = 99
    return save_objects(model)


@pytest.fixture(scope="session")
def sparse() -> bytes:
    """Return a file with a sparse kernel: rows of compressed entries behind DENSIFY."""
    import keras

    from tfprune.export.rewriting.sparsify import sparsify

    layer = keras.layers.Dense(24)
    model = keras.Sequential([keras.Input((48,), name="vector"), layer])
    places = np.arange(48 * 24).reshape(48, 24)
    layer.kernel.assign(np.where(places % 11 == 0, places, 0))
    return sparsify(convert(model)).data


@pytest.fixture(scope="session")
def joined() -> Callable[[bytes, bytes], bytes]:
    """Return a function that puts two files into one, with the signatures `first` and `second`."""
    from tfprune.export.file.document import load_objects, save_objects

    def join(first: bytes, second: bytes) -> bytes:
        model, other = load_objects(first), load_objects(second)
        (graph,) = other.subgraphs
        for tensor in graph.tensors:
            tensor.buffer += len(model.buffers)
        for operator in graph.operators:
            operator.opcodeIndex += len(model.operatorCodes)
        model.buffers += other.buffers
        model.operatorCodes += other.operatorCodes
        model.subgraphs.append(graph)
        model.signatureDefs += other.signatureDefs
        for number, signature in enumerate(model.signatureDefs):
            signature.signatureKey, signature.subgraphIndex = (b"first", b"second")[number], number
        return save_objects(model)

    return join


@pytest.fixture(scope="session")
def endless() -> bytes:
    """Return a graph listed 5,000 times with the same 5,000 operators: 45 kB, and minutes to walk."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    builder = flatbuffers.Builder(2**16)
    schema.OperatorStart(builder)
    operator = schema.OperatorEnd(builder)
    schema.SubGraphStartOperatorsVector(builder, 5000)
    for _ in range(5000):
        builder.PrependUOffsetTRelative(operator)
    operators = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddOperators(builder, operators)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 5000)
    for _ in range(5000):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.OperatorCodeStart(builder)
    code = schema.OperatorCodeEnd(builder)
    schema.ModelStartOperatorCodesVector(builder, 1)
    builder.PrependUOffsetTRelative(code)
    codes = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddOperatorCodes(builder, codes)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def _dense(keras: Any) -> Any:
    """Two kernels, of which the entries below the median of their magnitudes are zero."""
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8,), name="vector"), *layers])
    for layer in layers:
        kernel = layer.kernel.numpy()
        layer.kernel.assign(kernel * (np.abs(kernel) > np.median(np.abs(kernel))))
    return model


def _conv(keras: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


def _two(keras: Any) -> Any:
    """Inputs of different widths, and outputs whose order is not that of their names or widths."""
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    both = keras.layers.Concatenate()([keras.layers.Dense(4)(left), right])
    heads = [keras.layers.Dense(width)(both) for width in (5, 2)]
    return keras.Model([left, right], heads)


def _embedding(keras: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32", name="tokens"),
            keras.layers.Embedding(11, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
