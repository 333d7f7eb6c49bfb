"""Mobile nets with 1x1 convolutions at 90 % zeros on an emulated Raspberry Pi 4: dense files against sparse ones.

Times are the emulator's, so only their ratio counts. They are processor time of one thread, file after file in turn,
for first weights of several seeds, each in a process of its own: within one they hardly differ, between processes and
seeds, which leave other channels that nothing reads, by some per cent.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Row, at_least, at_most

SPARSITY = 0.9
SIZE = 224
SEEDS, ROUNDS = (0, 1, 2), 3
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests/device"))
BLOCKS = [(16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (160, 3, 2, 6), (320, 1, 1, 6)]


def measure() -> list[Row]:
    import keras
    import root

    if root.obstacle():
        sys.stderr.write(f"skipped: {root.obstacle()}\n")
        return []
    python, rows = root.build(ROOT / "build/aarch64"), []
    for name, (build, bar) in MODELS.items():
        told = []
        for seed in SEEDS:
            keras.utils.set_random_seed(seed)
            with tempfile.TemporaryDirectory() as folder:
                write_files(build(), Path(folder))
                _link_checkout(Path(folder))
                told.append(_run(python, Path(folder)))
        ratios = [run["ratio"] for run in told]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        what = f"{name}, {SIZE} px, emulated: dense / sparse, median of {len(SEEDS)} seeds ({each})"
        rows.append(at_least(what, statistics.median(ratios), bar))
        difference = max(run["difference"] for run in told)
        rows.append(at_most(f"{name}: sparse outputs from Keras', relative", difference, 1e-4, unit="", digits=6))
    return rows


def write_files(model, folder: Path) -> None:
    """Prune in one go, export both ways, and keep what Keras says of one image."""
    import tfprune
    from tfprune.export import make_sparse_ready, to_tflite

    # Statistics of one batch keep the size of the activations through a net that was not trained.
    rows = model.inputs[0].shape[0] or 4
    image = np.random.default_rng(0).uniform(-1, 1, (rows, *model.inputs[0].shape[1:])).astype(np.float32)
    pruned = tfprune.wrap(model, filters=_is_pointwise)
    tfprune.update_masks(pruned, SPARSITY)
    pruned = tfprune.strip(pruned)
    for layer in pruned.layers:
        if hasattr(layer, "moving_mean"):
            layer.momentum = 0.0
    pruned(image, training=True)
    to_tflite(pruned, folder / "dense.tflite", optimize="dense", check_on=image[:1])
    ready = make_sparse_ready(pruned)
    to_tflite(ready, folder / "sparse.tflite", optimize="latency", check_on=image[:1])
    np.savez(folder / "image.npz", x=image[:1], y=pruned.predict(image[:1], verbose=0))


def _is_pointwise(layer) -> bool:
    return tuple(getattr(layer, "kernel_size", ())) == (1, 1) or type(layer).__name__ == "Dense"


def _link_checkout(folder: Path) -> None:
    """Let a Python whose path holds the folder find the checkout as if it were installed."""
    (folder / "tfprune").mkdir()
    for path in [*(ROOT / "tfprune").iterdir(), ROOT / "export"]:
        (folder / "tfprune" / path.name).symlink_to(path)


def _run(python: Path, folder: Path) -> dict[str, float]:
    """Time both files in one process of the emulated Python."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parent)])}
    command = [str(python), __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout)


def time_files(folder: Path) -> dict[str, float]:
    """Run both files in turn and compare the sparse one with Keras: what the emulated process does."""
    from common import interleaved, median_ratio

    from tfprune.export import Runner

    with np.load(folder / "image.npz") as archive:
        image, expected = archive["x"], archive["y"]
    runners = {name: Runner(folder / f"{name}.tflite") for name in ("dense", "sparse")}
    outputs = {name: runner.predict(image) for name, runner in runners.items()}  # and warms up
    runs = {name: lambda runner=runner: runner.predict(image) for name, runner in runners.items()}
    seconds = interleaved(runs, rounds=ROUNDS, clock=time.process_time)
    difference = np.abs(outputs["sparse"] - expected).max() / np.abs(expected).max()
    return {"ratio": median_ratio(seconds["dense"], seconds["sparse"]), "difference": float(difference)}


def _mobilenet():
    import keras

    return keras.applications.MobileNet(weights=None)


def _mobilenet_v2():
    import keras

    return keras.applications.MobileNetV2(weights=None)


def _with_gates():
    """MobileNetV2's widths and depths, each block with a squeeze-and-excite gate."""
    import keras
    from keras import layers

    image = keras.Input(
        (SIZE, SIZE, 3), batch_size=1
    )  # XNNPACK's sparse kernels get gates right in the first row only
    maps = _normalized(layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(image), active=layers.ReLU(6))
    for width, repeats, strides, expansion in BLOCKS:
        for repeat in range(repeats):
            maps = _inverted(maps, width, strides=strides if repeat == 0 else 1, expansion=expansion)
    maps = _normalized(layers.Conv2D(1280, 1, use_bias=False)(maps), active=layers.ReLU(6))
    scores = layers.Dense(1000, "softmax")(layers.GlobalAveragePooling2D()(maps))
    return keras.Model(image, scores)


def _inverted(maps, width: int, *, strides: int, expansion: int):
    from keras import layers

    inputs, channels = maps, maps.shape[-1] * expansion
    if expansion > 1:
        maps = _normalized(layers.Conv2D(channels, 1, use_bias=False)(maps), active=layers.ReLU(6))
    maps = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(maps)
    maps = _normalized(maps, active=layers.ReLU(6))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(maps)
    gate = layers.Conv2D(max(8, channels // 16), 1, activation="relu")(gate)
    maps = layers.Multiply()([maps, layers.Conv2D(channels, 1, activation="sigmoid")(gate)])
    maps = _normalized(layers.Conv2D(width, 1, use_bias=False)(maps))
    return layers.Add()([inputs, maps]) if strides == 1 and inputs.shape[-1] == width else maps


def _normalized(maps, active=None):
    from keras import layers

    maps = layers.BatchNormalization()(maps)
    return active(maps) if active else maps


MODELS = {
    "MobileNet": (_mobilenet, 4.5),
    "MobileNetV2": (_mobilenet_v2, 3.0),
    "MobileNetV2 with gates": (_with_gates, 3.0),
}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(time_files(Path(sys.argv[1]))))
        sys.exit()
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
