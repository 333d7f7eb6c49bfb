"""Recognize shoulder exercises from a smartwatch: train, prune and export for a Raspberry Pi.

    pip download --no-deps seglearn==1.2.5 --dest wrist-data      # the data: 11 MB, BSD license
    python sample_apps/wrist_exercises.py                         # minutes; --smoke: seconds, on made-up motion
    python sample_apps/wrist_device.py wrist-output/conv-pruned-dynamic.tflite.xz wrist-output/recording.npz

Ten people did seven exercises; six axes were recorded at 50 Hz. People 8 to 10 are held out: the file has to
recognize the exercises of people who are not in the training data.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the data module when run as a file

import keras
import numpy as np

import tfprune
from sample_apps.data import wrist
from sample_apps.data.wrist import RATE, Watch, Windows
from tfprune.export import Runner, benchmark, to_tflite
from tfprune.report import table

HELD_OUT = (8, 9, 10)


@dataclass(frozen=True)
class Measured:
    """The measurements of one exported file; accuracy in [0, 1], latency of one window in milliseconds."""

    accuracy: float
    nonzeros: int
    plain_bytes: int
    xz_bytes: int
    latency: float


def main() -> None:
    options = parse()
    watch = wrist.synthetic() if options.smoke else wrist.read(options.data)
    epochs, names, formats = options.epochs, ("dense", "pruned"), (None, "dynamic")
    if options.smoke:
        print("--smoke: two epochs on made-up motion instead of recordings; the accuracy means nothing")
        epochs, names, formats = 2, ("pruned",), ("dynamic",)
    known = windows(watch, [person for person in set(watch.person) if person not in HELD_OUT])
    unknown = windows(watch, HELD_OUT)
    options.output.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Measured]] = {}
    models = [(kind, name) for kind in (conv, lstm) for name in names]
    for seed, (kind, name) in itertools.product(range(options.seeds), models):
        sparsity = options.sparsity if name == "pruned" else None
        model = train(kind, known, classes=len(watch.names), epochs=epochs, sparsity=sparsity, seed=seed)
        for quantize in formats:
            path = options.output / f"{kind.__name__}-{name}-{quantize or 'float32'}.tflite.xz"
            measured = measure(model, path, quantize, unknown)
            print(f"{path.name}: accuracy {measured.accuracy:.1%}, {measured.xz_bytes:,} bytes", flush=True)
            files.setdefault(path.name, []).append(measured)
    recording = options.output / "recording.npz"
    record(watch, HELD_OUT[-1], recording)
    print()
    print(table(["file", "accuracy", "non-zeros", "bytes", "bytes, xz", "latency, ms"], rows(files)))
    note = "Means over the seeds, accuracy with its standard deviation. " if options.seeds > 1 else ""
    print(f"\n{note}Accuracy on {len(unknown[0]):,} windows of people that the model never saw, through Runner.")
    device, file = Path(__file__).with_name("wrist_device.py"), options.output / "conv-pruned-dynamic.tflite.xz"
    print(f"Now here, or copied to a Raspberry Pi: python {device} {file} {recording}")


def conv(classes: int) -> list[keras.layers.Layer]:
    layers = keras.layers
    return [
        layers.Conv1D(64, 5, strides=2, activation="relu", name="conv_1"),
        layers.Conv1D(128, 5, strides=2, activation="relu", name="conv_2"),
        layers.Conv1D(128, 3, activation="relu", name="conv_3"),
        layers.GlobalAveragePooling1D(),
        layers.Dropout(0.5),
        layers.Dense(classes, activation="softmax", name="exercise"),
    ]


def lstm(classes: int) -> list[keras.layers.Layer]:
    layers = keras.layers
    return [
        layers.AveragePooling1D(4),  # 12.5 samples per second show a movement as well, in a quarter of the steps
        layers.LSTM(96, name="lstm"),
        layers.Dropout(0.5),
        layers.Dense(classes, activation="softmax", name="exercise"),
    ]


def train(
    kind: Callable[[int], list[keras.layers.Layer]],
    known: Windows,
    *,
    classes: int,
    epochs: int,
    sparsity: float | None,
    seed: int,
) -> keras.Model:
    """Train from the same initial weights on the same batches, pruned or (sparsity None) not."""
    keras.utils.set_random_seed(seed)
    x, y = known
    scale = keras.layers.Normalization(name="scale")  # part of the model, so that the device feeds plain measurements
    scale.adapt(x)
    model = keras.Sequential([keras.Input(x.shape[1:], name="motion"), scale, *kind(classes)])
    callbacks: list[keras.callbacks.Callback] = []
    if sparsity is not None:
        model = tfprune.wrap(model)
        schedule = tfprune.schedules.Polynomial(sparsity, begin=0.1, end=0.7)
        # "erk" prunes the small layers less: the first convolution and the classifier.
        callbacks.append(tfprune.PruningCallback(schedule, every=20, allocation="erk"))
    rate = keras.optimizers.schedules.CosineDecay(0.002, epochs * -(-len(x) // 32))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=epochs, callbacks=callbacks, verbose=0)
    return model if sparsity is None else tfprune.strip(model)


def measure(model: keras.Model, path: Path, quantize: str | None, unknown: Windows) -> Measured:
    """Export a model, and measure the exported file."""
    # Rounded weights move scores most where two exercises are close: an LSTM was seen to be off by 0.103 in one, just
    # above the default tolerance, and to recognize as many windows as before.
    tolerance = 0.3 if quantize else None
    report = to_tflite(model, path, quantize=quantize, compress="xz", check_on=unknown[0][:200], tolerance=tolerance)
    accuracy = float(np.mean(Runner(path).predict(unknown[0]).argmax(axis=1) == unknown[1]))
    return Measured(accuracy, report.nnz, report.tflite_bytes, report.bytes, benchmark(path, runs=300).median_ms)


def rows(files: dict[str, list[Measured]]) -> Iterator[list[str]]:
    for name, seeds in files.items():
        values = np.array([astuple(measured) for measured in seeds])
        accuracy, nonzeros, plain, packed, latency = values.mean(axis=0)
        spread = f" ± {values[:, 0].std(ddof=1):.1%}" if len(seeds) > 1 else ""
        yield [name, f"{accuracy:.1%}{spread}", *(f"{n:,.0f}" for n in (nonzeros, plain, packed)), f"{latency:.3f}"]


def windows(watch: Watch, people: Sequence[int]) -> Windows:
    """Cut the recordings of some people into windows that overlap by half."""
    parts, exercises = [], []
    for motion, exercise, person in zip(watch.motion, watch.exercise, watch.person, strict=True):
        if person in people:
            parts.append(wrist.cut(motion))
            exercises += [exercise] * len(parts[-1])
    return np.concatenate(parts), np.array(exercises)


def record(watch: Watch, person: int, path: Path) -> None:
    """Write ten seconds of each exercise of a person, one after the other: plain numbers and names, no pickle."""
    mine = np.flatnonzero(watch.person == person)
    first = [next(index for index in mine if watch.exercise[index] == number) for number in range(len(watch.names))]
    motion = [watch.motion[index][: 10 * RATE].astype("float32") for index in first]
    exercise = np.repeat(np.arange(len(motion)), [len(part) for part in motion])
    np.savez(path, motion=np.concatenate(motion), exercise=exercise, names=np.array(watch.names), rate=RATE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Recognize exercises from a smartwatch: train dense and pruned models, and export them for a Pi.",
        epilog="The data: pip download --no-deps seglearn==1.2.5 --dest wrist-data",
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in seconds, on made-up motion")
    parser.add_argument("--data", type=Path, default=Path("wrist-data"), metavar="DIR", help="folder of the wheel")
    parser.add_argument("--sparsity", type=fraction, default=0.8, help="fraction of zeros (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("wrist-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


def fraction(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"expected the fraction of zeros, at least 0 and below 1, and not {text}")
    return float(text)


if __name__ == "__main__":
    main()
