"""The demo: prune a small CNN while it trains, export it, run the files, and search for the best one."""

from __future__ import annotations

import shlex
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfprune
from tfprune.base.folders import TemporaryFolder
from tfprune.export.compressing.compress import compress
from tfprune.export.compressing.report import CompressReport
from tfprune.export.device.benchmark import benchmark
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.device.runner import run_on_device
from tfprune.export.keras_side.to_tflite import to_tflite
from tfprune.export.rewriting.rewrite import rewrite
from tfprune.masking.strip import SparsityReport
from tfprune.report import Report, table

matplotlib.use("Agg")

_SPARSITY = 0.9
_EPOCHS = 15
_SEARCH_SECONDS = 60.0
_BATCH_SIZE = 32

_Tell = Callable[[str, float], None]  # the step that runs, and the fraction of the demo that is done


@dataclass(frozen=True)
class DemoRow(Report):
    """One exported model.

    Attributes:
        model: `dense` or `pruned`, and the type of its numbers.
        accuracy: Fraction of held-out digits recognized by the file, in [0, 1].
        nnz: Non-zero entries of its kernels.
        bytes: Size of the .tflite file.
        packed_bytes: Size of the smallest form of the model when packed, which `Runner` reads directly.
        latency_ms: Median time of one image, one thread, on this machine.
    """

    model: str
    accuracy: float
    nnz: int
    bytes: int
    packed_bytes: int
    latency_ms: float


@dataclass(frozen=True)
class DemoReport(Report):
    """The files that the demo built, and its search."""

    rows: tuple[DemoRow, ...]
    runtime: str
    folder: str
    search: CompressReport

    def __str__(self) -> str:
        cells = [
            [
                row.model,
                f"{row.accuracy:.1%}",
                f"{row.nnz:,}",
                f"{row.bytes:,}",
                f"{row.packed_bytes:,}",
                f"{row.latency_ms:.3f}",
            ]
            for row in self.rows
        ]
        header = ["model", "accuracy", "non-zeros", "bytes", "bytes, packed", "latency, ms"]
        note = f"Accuracy was measured by {self.runtime}, in a process without TensorFlow and Keras."
        folder = shlex.quote(self.folder)
        opened = f"In a browser: cd {folder} && tfprune web dense-web.tfz pruned-web.tfz page"
        most = f"{self.search.max_drop:.0%}"
        searched = f"What `tfprune compress` finds in {_SEARCH_SECONDS:.0f} seconds, losing at most {most}:"
        parts = [
            table(header, cells),
            f"{note}\nModels and picture: {self.folder}\n{opened}",
            searched,
            str(self.search),
        ]
        return "\n\n".join(parts)


_Rows = tuple[tuple[DemoRow, ...], str]  # and the interpreter


@dataclass
class _History(keras.callbacks.Callback):
    """Collect sparsity per step and accuracy per epoch, and report the progress of training."""

    tell: _Tell
    what: str
    span: tuple[float, float]
    steps: list[int] = field(default_factory=list)
    sparsity: list[float] = field(default_factory=list)
    epoch_ends: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.steps.append(len(self.steps) + 1)
        self.sparsity.append((logs or {}).get("sparsity", 0.0))
        first, last = self.span
        self.tell(self.what, first + (last - first) * len(self.steps) / (_EPOCHS * self.params["steps"]))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epoch_ends.append(len(self.steps))
        self.accuracy.append((logs or {})["val_accuracy"])


def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    digits = load_digits()
    images = (digits.images[..., np.newaxis] / 16).astype("float32")
    return train_test_split(images, digits.target, test_size=0.25, random_state=0, stratify=digits.target)


def _model() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(64, 3, padding="same", strides=2, activation="relu", name="conv_2"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def _train(model: keras.Model, data: tuple[np.ndarray, ...], callbacks: list[keras.callbacks.Callback]) -> None:
    x, held_x, y, held_y = data
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        x, y, batch_size=_BATCH_SIZE, epochs=_EPOCHS, validation_data=(held_x, held_y), verbose=0, callbacks=callbacks
    )


def run_demo(folder: str | Path, *, tell: _Tell = lambda what, done: None) -> DemoReport:
    """Train, prune, export, run without TensorFlow, draw the picture, and search for the best file.

    Args:
        folder: Where the models and `demo.png` go; made if it is missing.
        tell: Called with the current step and the fraction of the work that is done.

    Returns:
        One row per exported model, and the report of the search.

    Raises:
        ValueError: If the folder cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Expected a folder that can be made. Received: {str(folder)!r} ({error.strerror})."
        ) from error
    keras.utils.set_random_seed(0)
    data = _data()

    dense = _model()
    dense_history = _History(tell, "training the dense model", (0.0, 0.1))
    _train(dense, data, [dense_history])

    wrapped = tfprune.wrap(dense)
    schedule = tfprune.schedules.Polynomial(_SPARSITY, end=0.7)
    history = _History(tell, f"pruning it to {_SPARSITY:.0%} while it trains", (0.1, 0.2))
    _train(wrapped, data, [tfprune.PruningCallback(schedule, every=20), history])
    pruned = tfprune.strip(wrapped)

    rows, runtime = _export({"dense": dense, "pruned": pruned}, data, folder, tell)
    _draw(folder / "demo.png", history, dense_history.accuracy[-1], tfprune.sparsity_report(pruned))
    tell(f"searching for the best file, {_SEARCH_SECONDS:.0f} seconds", 0.6)
    x, held_x, y, held_y = data
    searched = folder / "demo-search"
    shutil.rmtree(searched, ignore_errors=True)  # of an earlier demo, which trained another model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Expected time for")  # on slow machines: the time of the demo is fixed
        search = compress(dense, (x, y), (held_x, held_y), folder=searched, time=_SEARCH_SECONDS, verbose=0)
    tell("done", 1.0)
    return DemoReport(rows, runtime, str(folder), search)


def _export(models: dict[str, keras.Model], data: tuple[np.ndarray, ...], folder: Path, tell: _Tell) -> _Rows:
    x, held_x, _, held_y = data
    exports: list[tuple[str, Path, int, int, int]] = []
    for name, model in models.items():
        for quantize in (None, "int8"):
            label = f"{name}, {quantize or 'float32'}"
            tell(f"exporting and verifying: {label}", 0.2 + 0.08 * len(exports))
            packed, path = (folder / f"{name}-{quantize or 'float32'}.{suffix}" for suffix in ("tfz", "tflite"))
            calibration = [x[:100]] if quantize else None
            built = to_tflite(
                model,
                packed,
                compress="packed",
                quantize=quantize,
                calibration=calibration,
                check_on=held_x,
            )
            plain = rewrite(packed, path, check_on=held_x)
            if quantize is None:  # LiteRT.js takes one image at a time
                rewrite(packed, folder / f"{name}-web.tfz", compress="packed", target="web", check_on=held_x[:1])
            exports.append((label, path, built.nnz, plain.bytes, built.bytes))
    tell("running the files without TensorFlow", 0.52)
    accuracies, runtime = _without_tensorflow([path for _, path, *_ in exports], held_x, held_y)
    rows: list[DemoRow] = []
    for (label, path, nnz, size, packed_size), accuracy in zip(exports, accuracies, strict=True):
        tell(f"timing: {label}", 0.54 + 0.01 * len(rows))
        rows.append(DemoRow(label, accuracy, nnz, size, packed_size, benchmark(path, runs=500).median_ms))
    return tuple(rows), runtime


def _without_tensorflow(paths: list[Path], x: np.ndarray, y: np.ndarray) -> tuple[list[float], str]:
    """Measure the accuracy of the packed files in a process where TensorFlow cannot be imported."""
    files = [str(path.with_suffix(".tfz").resolve()) for path in paths]
    with TemporaryFolder() as folder:
        write_job(folder, "job", settings={"files": files}, arrays={"x": x, "y": y})
        completed = run_job(run_on_device, folder, timeout=300)
        if not completed.ok:
            raise ValueError(f"Expected the exported files to run without TensorFlow. Received: {completed.reason}.")
        result, _ = read_job(folder, "result")
    return result["accuracies"], result["runtime"]


def _draw(
    path: Path,
    history: _History,
    dense_accuracy: float,
    report: SparsityReport,
) -> None:
    """Draw accuracy and sparsity over steps, and the zeros of each layer."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2), layout="constrained")
    left.plot(history.steps, history.sparsity, color="tab:orange", label="sparsity")
    left.plot(history.epoch_ends, history.accuracy, "o-", color="tab:blue", markersize=4, label="accuracy, pruned")
    left.axhline(dense_accuracy, color="tab:blue", linestyle="--", linewidth=1, label="accuracy, dense")
    left.set(xlabel="optimizer step", ylabel="fraction", ylim=(0, 1.03), title="Pruned while it trains")
    left.legend(loc="lower right")
    rows = report.rows[::-1]  # bars are drawn from the bottom up
    names, nonzeros = [row.layer for row in rows], [row.nnz / 1000 for row in rows]
    zeros = [(row.size - row.nnz) / 1000 for row in rows]
    widest = max(row.size for row in rows) / 1000
    right.barh(names, nonzeros, color="tab:blue", label="non-zero")
    right.barh(names, zeros, left=nonzeros, color="lightgrey", label="zero")
    for index, row in enumerate(rows):
        right.annotate(f" {row.sparsity:.0%} of {row.size:,}", (row.size / 1000, index), va="center")
    right.set(xlabel="kernel entries, thousands", title="Zeros per layer", xlim=(0, 1.4 * widest))
    right.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    plt.close(figure)
