"""Ways to make one trained CNN smaller, by what each needs: accuracy lost, epochs, multiply-adds and bytes.

python bench/which_method.py [FOLDER] [--seeds 0 1 2]   # a folder keeps the trained networks
python bench/which_method.py [FOLDER] --seeds 0 --only prune_weights --zeros 0.95   # some of the ways

The network is that of sample_apps/fashion_cnn.py, trained for ten epochs on 55,000 images of Fashion-MNIST. Zeros are
split by LAMP unless a method has a split of its own, and ways without labels see 512 training images. Ways that train
go on for two epochs with a learning rate that falls from 0.001 along a cosine. Bytes are those of the packed int8
file. Means over the seeds; the table's accuracy is that of the Keras model on the test images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import compress as trained_networks
import fashion
import keras
import numpy as np

import tfprune
from tfprune.export import to_tflite
from tfprune.report import table

ZEROS, FLOPS = (0.7, 0.8, 0.9, 0.95), (0.5, 0.25, 0.125)
SAMPLES, EPOCHS, BATCH = 512, 2, 128
Data = tuple[np.ndarray, np.ndarray]
Way = Callable[[keras.Model, float, Data], keras.Model]


@dataclass(frozen=True)
class Result:
    """What a smaller network is worth: accuracy in percent, bytes of its packed int8 file."""

    accuracy: float
    packed_bytes: int


def trained(
    model: keras.Model, data: Data, *callbacks: keras.callbacks.Callback, epochs: int = EPOCHS
) -> keras.Model:
    rate = keras.optimizers.schedules.CosineDecay(0.001, epochs * -(-len(data[0]) // BATCH))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(*data, batch_size=BATCH, epochs=epochs, callbacks=[*callbacks], verbose=0)
    return model


def at_once(model: keras.Model, sparsity: float, data: Data) -> keras.Model:
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, sparsity, allocation="lamp")
    return wrapped


def solved(model: keras.Model, sparsity: float, data: Data) -> keras.Model:
    return tfprune.reconstruct(at_once(model, sparsity, data), model, data[0][:SAMPLES], verbose=0)[0]


def one_shot(criterion: str) -> Way:
    return lambda model, sparsity, data: tfprune.prune_weights(
        model, data[0][:SAMPLES], sparsity, criterion=criterion, batch_size=64, verbose=0
    )[0]


def gradual(model: keras.Model, sparsity: float, data: Data) -> keras.Model:
    schedule = tfprune.schedules.Polynomial(sparsity, end=0.6)
    return trained(tfprune.wrap(model), data, tfprune.PruningCallback(schedule, every=25, allocation="lamp"))


def channels(model: keras.Model, flops: float, data: Data) -> keras.Model:
    return tfprune.shrink(model, tfprune.plan_shrink(model, tfprune.budget(flops=flops), verbose=0))


def solved_channels(model: keras.Model, flops: float, data: Data) -> keras.Model:
    plan = tfprune.plan_shrink(model, tfprune.budget(flops=flops), verbose=0)
    zeroed = tfprune.zero_channels(model, plan)
    return tfprune.shrink(tfprune.reconstruct(zeroed, model, data[0][:SAMPLES], verbose=0)[0], plan)


def trained_channels(model: keras.Model, flops: float, data: Data) -> keras.Model:
    return trained(channels(model, flops, data), data)


def penalized_channels(model: keras.Model, flops: float, data: Data) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    plan = tfprune.plan_shrink(copy, tfprune.budget(flops=flops), verbose=0)
    trained(copy, data, tfprune.research.GrowingPenalty(plan), epochs=EPOCHS // 2)
    return trained(tfprune.shrink(copy, plan), data, epochs=EPOCHS - EPOCHS // 2)


OF_ZEROS: Mapping[str, Way] = {
    "largest weights stay (`update_masks`)": at_once,
    "the same, then `reconstruct`": solved,
    'SparseGPT (`prune_weights(criterion="sparsegpt")`)': one_shot("sparsegpt"),
    "ALPS (`prune_weights`)": one_shot("alps"),
    "gradual pruning (`PruningCallback`)": gradual,
}
OF_CHANNELS: Mapping[str, Way] = {
    "`plan_shrink`, `shrink`": channels,
    "the same, with `reconstruct`": solved_channels,
    "`plan_shrink`, `shrink`, training": trained_channels,
    "`plan_shrink`, `GrowingPenalty`, `shrink`, training": penalized_channels,
}


def measure(model: keras.Model, data: Data, test: Data) -> Result:
    model = tfprune.strip(model)
    classes = model.predict(test[0], batch_size=1000, verbose=0).argmax(axis=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tfz")
        to_tflite(model, path, quantize="int8", calibration=data[0][:100], compress="packed", tolerance=1)
        return Result(100 * float(np.mean(classes == test[1])), path.stat().st_size)


def results(
    ways: Mapping[str, Way], levels: Sequence[float], seeds: Sequence[int], folder: Path
) -> dict[tuple[str, float], list[Result]]:
    x, y = fashion.read("train")
    data, test = (x[: -trained_networks.HELD_OUT], y[: -trained_networks.HELD_OUT]), fashion.read("t10k")
    by_method: dict[tuple[str, float], list[Result]] = {}
    for seed in seeds:
        model = trained_networks.trained("cnn", seed, data, folder / f"{seed}.keras")
        by_method.setdefault(("dense", 1.0), []).append(measure(model, data, test))
        for name, way in ways.items():
            for level in levels:
                keras.utils.set_random_seed(seed)
                result = measure(way(model, level, data), data, test)
                by_method.setdefault((name, level), []).append(result)
                sys.stderr.write(f"seed {seed}, {name}, {level}: {result}\n")
            keras.backend.clear_session()
    return by_method


def lines(found: Mapping[tuple[str, float], list[Result]], levels: Sequence[float]) -> list[list[str]]:
    dense = statistics.mean(result.accuracy for result in found["dense", 1.0])

    def cell(name: str, level: float) -> str:
        accuracy = [result.accuracy for result in found[name, level]]
        spread = f" ± {statistics.stdev(accuracy):.1f}" if len(accuracy) > 1 else ""
        kib = statistics.mean(result.packed_bytes for result in found[name, level]) / 1024
        return f"{statistics.mean(accuracy) - dense:+.1f}{spread} ({kib:.1f})"

    names = dict.fromkeys(name for name, _ in found if name != "dense")
    return [["dense", f"{dense:.2f} %"], *([name, *(cell(name, level) for level in levels)] for name in names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="keeps the trained networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="a part of the names of the ways to measure")
    parser.add_argument("--zeros", type=float, nargs="+", default=ZEROS)
    options = parser.parse_args()
    if not fashion.is_there():
        return
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        for title, ways, levels in (("zeros", OF_ZEROS, options.zeros), ("multiply-adds left", OF_CHANNELS, FLOPS)):
            selection = {name: way for name, way in ways.items() if options.only in name}
            if not selection:
                continue
            results_by_method = results(selection, levels, options.seeds, folder)
            rows = [[*row, *[""] * (1 + len(levels) - len(row))] for row in lines(results_by_method, levels)]
            sys.stdout.write(f"\n{table([title, *(f'{level:.3g}' for level in levels)], rows)}\n")
    sys.stdout.write("\nPoints of accuracy against the dense network ± deviation (KiB of the packed int8 file)\n")


if __name__ == "__main__":
    main()
