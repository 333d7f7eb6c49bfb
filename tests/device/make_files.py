"""Make the files that check.py runs where Keras and TensorFlow are not installed: python make_files.py FOLDER."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import keras
import numpy as np
from models import Network, network

from tfprune.export.device.processes import Completed
from tfprune.export.file.container import encode
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side import convert as conversion
from tfprune.export.keras_side.convert import _convert_job, convert
from tfprune.export.keras_side.sparse_ready import make_sparse_ready
from tfprune.export.keras_side.to_trainer import to_trainer
from tfprune.export.rewriting.shapes import spell_out_padding
from tfprune.export.rewriting.sparse_convolutions import spread_convolutions
from tfprune.export.rewriting.sparsify import sparsify

NETWORKS = ("mlp", "cnn", "mobilenet", "recurrent", "attention")  # grid.py takes all
READY = "mobilenet"  # also as sparse kernels run it on ARM
LEARNING, BATCH = "cnn", 16  # also as a file that is trained further
SPREAD = "unet"  # made with the first network: its 3x3 convolutions as sparse 1x1 convolutions between shifts
# How far a file may be from Keras, as a fraction of the largest output.
TOLERANCES = {None: 1e-5, "float16": 2e-3, "dynamic": 0.05, "int8": 0.15}
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "tflite": bytes,
    "sparse.tflite": lambda content: sparsify(content).data,
}
# By suffix: how it is packed, and the form that has to come out of it again.
PACKED = {"tflite.xz": ("xz", "tflite"), "tfz": ("packed", "tflite"), "sparse.tfz": ("packed", "sparse.tflite")}


def make(name: str, folder: Path) -> list[dict]:
    """Write every form of a model's files, the samples and Keras' outputs; return a row for each file."""
    conversion.run_job = _convert_here
    net = network(name)
    write_arrays(folder / f"{name}.npz", net)
    rows = []
    for quantize, tolerance in TOLERANCES.items():
        stem, content = f"{name}_{quantize or 'float32'}", _converted(net, quantize)
        plain = {suffix: form(content) for suffix, form in FORMS.items()}
        packed = {suffix: encode(plain[origin], method) for suffix, (method, origin) in PACKED.items()}
        for suffix, data in {**plain, **packed}.items():
            path = folder / f"{stem}.{suffix}"
            path.write_bytes(data)
            apart = name == NETWORKS[0] and not rows  # verify and bench, whose processes take seconds, emulated
            row = {"file": path.name, "samples": f"{name}.npz", "tolerance": tolerance, "apart": apart}
            if suffix in PACKED and quantize is not None:  # run once for each model; the same bytes give the same
                row["same"] = f"{stem}.{PACKED[suffix][1]}"
            rows.append(row)
    if name == READY:
        path = folder / f"{name}_ready.sparse.tflite"
        path.write_bytes(
            sparsify(ModelFile.open(convert(make_sparse_ready(net.model))).after(spell_out_padding).content).data
        )
        rows.append({"file": path.name, "samples": f"{name}.npz", "tolerance": TOLERANCES[None], "apart": True})
    if name == LEARNING:
        rows.append(_learning(net, folder))
    if name == NETWORKS[0]:
        rows += [_spread(folder), *_spread_built(folder)]
    return rows


def _learning(net: Network, folder: Path) -> dict:
    """Write a network that goes on learning, and Keras' outputs after an epoch in the order that the device takes."""
    random, [samples] = np.random.default_rng(1), net.samples.values()
    x = random.normal(size=(45, *samples.shape[1:])).astype(np.float32)
    y = random.integers(0, net.model.output_shape[-1], len(x)).astype(np.int32)
    net.model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    row = {"file": f"{LEARNING}_trainer.tfz", "samples": f"{LEARNING}_trainer.npz", "tolerance": 1e-4, "learns": True}
    to_trainer(net.model, folder / row["file"], batch_size=BATCH, compress="packed")
    masks = [kernel.numpy() != 0 if len(kernel.shape) > 1 else 1.0 for kernel in net.model.trainable_weights]
    order = np.random.default_rng(0).permutation(len(x))
    for rows in np.split(order, range(BATCH, len(x), BATCH)):
        net.model.train_on_batch(x[rows], y[rows])
        for weight, mask in zip(net.model.trainable_weights, masks, strict=True):
            weight.assign(weight * mask)
    np.savez(folder / row["samples"], input_0=x, label_0=y, output_0=net.model.predict(x, verbose=0))
    return row


def _spread(folder: Path) -> dict:
    """Write a network of 3x3 convolutions as sparse kernels run it on ARM; return its row."""
    net = network(SPREAD)
    write_arrays(folder / f"{SPREAD}.npz", net)
    file, gain = spread_convolutions(ModelFile.open(convert(net.model, batch=1)))
    assert gain > 1
    path = folder / f"{SPREAD}_spread.sparse.tflite"
    path.write_bytes(sparsify(file.content).data)
    assert ModelFile.open(path).inference.active
    return {"file": path.name, "samples": f"{SPREAD}.npz", "tolerance": TOLERANCES[None], "apart": False}


def _spread_built(folder: Path) -> list[dict]:
    """Write networks of many kinds of operators in the same form; outputs of their dense files are the truth."""
    sys.path += [str(Path(__file__).parents[1] / place) for place in ("helpers", "export/rewriting")]
    from file_graphs import FileGraph
    from test_sparse_convolutions import numbers, outputs, pools, spread

    rows = []
    for build in (numbers, pools):
        graph = FileGraph(0, shape=(1, 16, 16, 3))
        content, name = graph.content(*build(graph)), f"{build.__name__}_spread"
        image = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)
        arrays = {f"output_{place}": array for place, array in enumerate(outputs(content, image))}
        np.savez(folder / f"{name}.npz", input_0=image, **arrays)
        (folder / f"{name}.sparse.tflite").write_bytes(spread(content))
        row = {"file": f"{name}.sparse.tflite", "samples": f"{name}.npz"}
        rows.append({**row, "tolerance": TOLERANCES[None], "apart": False})
    return rows


def _convert_here(module: str, folder: Path, **settings: Any) -> Completed:
    """Do what the converter's own process does, which takes longer to load TensorFlow than to convert these."""
    _convert_job(folder)
    return Completed(ok=True, reason="", output="")


def _converted(net: Network, quantize: str | None) -> bytes:
    calibration = [net.samples] if quantize == "int8" else None
    return convert(net.model, quantize=quantize, calibration=calibration)


def write_arrays(path: Path, net: Network) -> None:
    """Name the arrays so that their order survives: input_0 and on in the model's order, output_0 and on."""
    arrays = {f"input_{place}": array for place, array in enumerate(net.samples.values())}
    arrays |= {f"output_{place}": array for place, array in enumerate(net.outputs())}
    np.savez(path, **arrays)


def make_all(make: Callable[[str, Path], list[dict]], names: Iterable[str], folder: Path) -> None:
    """Make the files of each network in a process, and write down what was made."""
    folder.mkdir(parents=True, exist_ok=True)
    # Side by side, as most of the time is TensorFlow's start for each file; afresh, as it does not survive a fork.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        jobs = {name: pool.submit(make, name, folder) for name in names}
        files = {name: job.result() for name, job in jobs.items()}
    (folder / "files.json").write_text(json.dumps(files, indent=2), encoding="utf-8")


if __name__ == "__main__":
    make_all(make, NETWORKS, Path(sys.argv[1]))
