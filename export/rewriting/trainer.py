"""Trainer: a file of `to_trainer` that goes on learning on a device, with NumPy and LiteRT alone."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import numpy as np

from tfprune.base.arrays import keep_largest, kept_count
from tfprune.base.folders import parse_json, read_arrays, reading
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_number, check_sparsity
from tfprune.export.device.processes import read_job, write_job
from tfprune.export.device.runner import MAX_THREADS, Runner, arrays_of, find_interpreter, random_inputs
from tfprune.export.file.container import Source, check_destination, read_model, source_name, write_atomically
from tfprune.export.file.document import read_metadata
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import keep_order
from tfprune.export.file.report import reason_of, shape_text
from tfprune.export.rewriting.frozen import frozen
from tfprune.export.rewriting.rewrite import ExportReport, rewrite
from tfprune.report import Report, table

METADATA = "TFPRUNE_TRAINER"
LABELS, WEIGHT, RATE, SEED = "labels", "sample_weight", "learning_rate", "seed"  # inputs beside those of the model
_FILE = "hash"  # in a state: the hash of the file that it belongs to
_LOG = logging.getLogger(__name__)
CHECK, RESULT = "check", "result"  # the job in which a file is compared with Keras
_VERSION = 2
_ADVICE = "Write it with trainer.save(path)"
_SAMPLES, _CLOSE = 4, 1e-4  # on which an inference file is compared, and how much of the largest output it may differ
# What interpreters raise for other files.
_NO_FILE = (AttributeError, KeyError, MemoryError, RuntimeError, TypeError, ValueError)


# What a file trains.


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that is trained.

    Attributes:
        path: Its path in the model.
        shape: Its shape.
        positions: The flat positions of the entries that have values; None if all have. Those at the end of the
            weight stand for none.
    """

    path: str
    shape: tuple[int, ...]
    positions: np.ndarray | None = None

    @property
    def size(self) -> int:
        """How many entries it has, zeros included."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """How many entries have values."""
        return self.size if self.positions is None else int(np.count_nonzero(self.positions < self.size))

    def mask(self) -> np.ndarray:
        """Return True where entries have values."""
        if self.positions is None:
            return np.ones(self.shape, bool)
        flat = np.zeros(self.size + 1, bool)
        flat[self.positions] = True
        return flat[:-1].reshape(self.shape)

    def values(self, dense: np.ndarray) -> np.ndarray:
        """Return the values of a dense array, as the file holds them."""
        if self.positions is None:
            return np.asarray(dense, np.float32)
        return np.append(np.ravel(dense), 0).astype(np.float32)[self.positions]

    def dense(self, values: np.ndarray) -> np.ndarray:
        """Return the dense array of values."""
        if self.positions is None:
            return np.array(values, np.float32).reshape(self.shape)
        flat = np.zeros(self.size + 1, np.float32)
        flat[self.positions] = values
        return flat[:-1].reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Task:
    """What a file trains, and how.

    Attributes:
        loss: The name of the loss.
        optimizer: The name of the optimizer.
        learning_rate: The learning rate if none is given.
        batch: Samples in a step.
        inputs: The names of the model's inputs.
        classes: How many classes labels of integers may name; None for other labels.
        is_sum: Whether the loss of a batch is the sum over its samples, and not the mean.
        weights: What is trained, in the order of the state.
        statistics: The paths of statistics, such as those of batch normalization, which follow the weights.
        slots: For each array of the optimizer, which follow these, the index of the weight that it belongs to; -1 for
            none.
        paths: The paths of all weights of the model, in its order.
        channels: Which weights make the channels of statistics, as `StatisticsOwners.as_lists` returns it.
    """

    loss: str
    optimizer: str
    learning_rate: float
    batch: int
    inputs: tuple[str, ...]
    classes: int | None
    is_sum: bool
    weights: tuple[Weight, ...]
    statistics: tuple[str, ...]
    slots: tuple[int, ...]
    paths: tuple[str, ...]
    channels: tuple[Any, ...] = ()

    @property
    def is_pruned(self) -> bool:
        """Whether a weight has masked entries."""
        return any(weight.positions is not None for weight in self.weights)

    def as_bytes(self) -> bytes:
        """Return what the file holds of this: the positions are in its state."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        weights = [[weight.path, list(weight.shape), weight.positions is not None] for weight in self.weights]
        return json.dumps({"version": _VERSION, **values, "weights": weights}).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Task:
        """Read what `as_bytes` returned; positions are empty until the state is read."""
        values = parse_json(content)
        if values["version"] != _VERSION:
            raise ValueError(f"it is of version {values['version']!r}, and this library reads version {_VERSION}")
        return cls(
            loss=values["loss"],
            optimizer=values["optimizer"],
            learning_rate=values["learning_rate"],
            batch=values["batch"],
            inputs=tuple(values["inputs"]),
            classes=values["classes"],
            is_sum=values["is_sum"],
            weights=tuple(
                Weight(path, tuple(shape), np.empty(0, np.int32) if is_pruned else None)
                for path, shape, is_pruned in values["weights"]
            ),
            statistics=tuple(values["statistics"]),
            slots=tuple(values["slots"]),
            paths=tuple(values["paths"]),
            channels=tuple(values["channels"]),
        )


@dataclass(frozen=True)
class FitReport(Report):
    """What happened in `Trainer.fit`.

    Attributes:
        losses: The mean loss of each epoch.
        validation: The loss on the validation data after each epoch, and the accuracy where labels are classes; empty
            without such data.
        steps: How many steps were trained.
        seconds: How long it took.
        processor_seconds: The time that the processor worked in this process, summed over its cores. Times the watts
            of a busy core it is the energy.
        stopped: Why it ended before the last epoch; None if it did not.

    Example:
        >>> report = trainer.fit(x, y, epochs=2)
        >>> len(report.losses), report.steps
        (2, 14)
    """

    losses: tuple[float, ...]
    validation: tuple[Mapping[str, float], ...]
    steps: int
    seconds: float
    processor_seconds: float
    stopped: str | None = None

    def __str__(self) -> str:
        names = list(self.validation[0]) if self.validation else []
        rows = [
            [n + 1, f"{loss:.4g}", *(f"{each[name]:.4g}" for each in self.validation[n : n + 1] for name in names)]
            for n, loss in enumerate(self.losses)
        ]
        text = table(["epoch", "loss", *(f"validation {name}" for name in names)], rows)
        times = f"{self.steps} steps in {self.seconds:.1f} s, {self.processor_seconds:.1f} s of processor time"
        return f"{text}\n{times}{f': {self.stopped}' if self.stopped else ''}"


class Trainer:
    """Load a file of `to_trainer` and train it further, on a device that has NumPy and LiteRT alone.

    Entries under a mask stay zero. Threads may share a trainer and take turns; the file trains one model, so make one
    trainer for each user. A step runs on the runtime's default kernels, XNNPACK's among them: an interpreter without
    them is right, and many times slower.

    Args:
        source: A path, or the bytes of a file of `to_trainer`: plain, gzip, xz or packed.
        threads: Threads of the interpreter, 1 to 1024. Default 1.

    Attributes:
        runtime: The interpreter in use, with its version.
        task: What the file trains: its loss, its optimizer and its weights.
        step: How many steps were trained, since the file was exported.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or `threads` is not an integer.
        ValueError: If the file cannot be read, or is none of `to_trainer`.

    Example:
        >>> trainer = Trainer("digits_trainer.tfz")
        >>> report = trainer.fit(x, y, epochs=3)
        >>> trainer.save("learned.npz")
    """

    runtime: str
    task: Task
    step: int

    def __init__(self, source: Source, *, threads: int = 1) -> None:
        check_count(threads, "threads", least=1, most=MAX_THREADS)
        self._content = read_model(source)
        content = read_metadata(self._content).get(METADATA)
        if content is None:
            raise ArgumentError(
                "source",
                "a file that tfprune.export.to_trainer wrote",
                found=source_name(source),
                advice="Export the model with to_trainer; Runner runs other files.",
            )
        self.step, self._lock = 0, threading.RLock()
        interpreter, self.runtime = find_interpreter()
        self._file = np.frombuffer(hashlib.sha256(self._content).digest(), np.uint8)
        try:
            self.task = Task.from_bytes(content)
            self._interpreter = interpreter(model_content=self._content, num_threads=threads)
            names = self._interpreter.get_signature_list()
            self._call = {name: self._interpreter.get_signature_runner(name) for name in names}
            self._weights = self._read_weights(self._run("save"))
        except _NO_FILE as error:
            raise ValueError(
                f"Expected a file of to_trainer that {self.runtime} can train. Received: {source_name(source)}: "
                f"{reason_of(error) or 'no memory'}. Export the model again, or free memory."
            ) from error
        if not self._is_fast():
            _LOG.warning("%s has no XNNPACK here: steps are right, and many times slower.", self.runtime)

    def _is_fast(self) -> bool:
        """Return whether a delegate runs operators; True if the interpreter does not say so."""
        details = getattr(self._interpreter, "_get_ops_details", None)  # it has no public name for them
        return details is None or any(each["op_name"] == "DELEGATE" for each in details())

    # Training.

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        validation_data: Any = None,
        epochs: int = 1,
        learning_rate: float | None = None,
        patience: int | None = None,
        callback: Callable[[Trainer, int, float], bool | None] | None = None,
        time: float | None = None,
        seed: int = 0,
        verbose: int | str = "auto",
    ) -> FitReport:
        """Train on arrays, in batches of random order; a short last batch counts as the samples that it has.

        Args:
            x: An array for one input; a list in the model's order, or a dict by name, for several.
            y: One label for each sample, as for `model.fit`.
            validation_data: A tuple (x, y) that is evaluated after each epoch. None (the default) is none.
            epochs: How often all samples are seen, at least 1. Default 1.
            learning_rate: That of the optimizer. None (the default) is the one with which the file was exported.
            patience: After how many epochs without a smaller loss on the validation data training stops, at least 1;
                the weights of the best epoch are then set again. None (the default) never stops.
            callback: Called after each step with the trainer, the step's number in this call from 1, and its loss;
                training stops if it returns True. None (the default) calls nothing.
            time: The seconds on the clock after which training stops, in the middle of an epoch. None (the default)
                sets no limit. For a limit of energy, let `callback` compare `time.process_time()`.
            seed: Chooses the order of the samples, at least 0. Default 0.
            verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default)
                shows the bar in a terminal or a notebook, once the call has taken some seconds.

        Returns:
            A report with the loss of each epoch. Print it.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If data does not fit the file, an argument is out of range, or a loss is NaN or infinite: the
                weights are then those of the last whole epoch.
        """
        check_count(epochs, "epochs", least=1)
        check_count(seed, "seed", least=0)
        check_verbose(verbose)
        if patience is not None:
            check_count(patience, "patience", least=1)
            if validation_data is None:
                raise ArgumentError(
                    "patience", "`patience` with `validation_data`", f"{patience}", advice="Pass both."
                )
        limit = math.inf if time is None else check_number(time, "time", above=0)
        arrays = self._samples(x, y)
        watched = None if validation_data is None else _pair(validation_data, "validation_data")
        rows = len(arrays[LABELS])
        with self._lock, Progress(epochs * -(-rows // self.task.batch), verbose=verbose, unit="step") as progress:
            run = _Run(self, epochs, learning_rate, limit, np.random.default_rng(seed), callback, progress.add)
            return run(arrays, watched, patience)

    def train_on_batch(self, x: Any, y: Any, *, learning_rate: float | None = None) -> float:
        """Train one step on at most as many samples as the file's batch, and return the loss before the step.

        Raises:
            ValueError: If data does not fit the file, or the loss is NaN or infinite: the weights are then as before.
        """
        arrays = self._samples(x, y)
        count = len(arrays[LABELS])
        if count > self.task.batch:
            raise ArgumentError("x", f"at most {self.task.batch} samples in `x`, the file's batch", found=f"{count}")
        with self._lock:
            before = self.state()
            try:
                return self._step(arrays, np.arange(count), learning_rate)
            except ValueError:
                self._restore(before)
                raise

    def evaluate(self, x: Any, y: Any) -> dict[str, float]:
        """Return the mean loss and, where labels are classes, the accuracy."""
        arrays = self._samples(x, y)
        labels, total, outputs = arrays[LABELS], 0.0, []
        for order in _in_turn(np.arange(len(labels)), self.task.batch):
            with self._lock:
                results = self._run("evaluate", **self._batch(arrays, order))
            total += float(results["loss"][0]) * (1 if self.task.is_sum else len(order))
            outputs.append(results["outputs"][: len(order)])
        loss = total / len(labels)
        correct = _correct(np.concatenate(outputs), labels, self.task)
        return {"loss": loss} if correct is None else {"loss": loss, "accuracy": correct}

    def predict(self, x: Any) -> np.ndarray:
        """Return the outputs for any number of samples."""
        arrays = self._inputs(x)
        rows = range(0, len(next(iter(arrays.values()))), self.task.batch)
        parts = [{name: array[row : row + self.task.batch] for name, array in arrays.items()} for row in rows]
        with self._lock:
            return np.concatenate([self._run("infer", **part)["outputs"] for part in parts])

    def gradients(self, x: Any, y: Any, *, seed: int | None = None) -> dict[str, np.ndarray]:
        """Return the gradients of the loss of all samples at all entries that are trained or masked, by path.

        Layers are in training mode.

        Args:
            x: Inputs, as for `fit`.
            y: Their labels.
            seed: Chooses what dropout drops, the same in each batch. None (the default) drops what the next step of
                training drops.

        Raises:
            ValueError: If data does not fit the file, or it has no pruned kernels.
        """
        self._check_pruned()
        arrays = self._samples(x, y)
        drops = np.array([self.step if seed is None else seed], np.int32)
        rows, total = len(arrays[LABELS]), [np.zeros(weight.shape) for weight in self._weights]
        for order in _in_turn(np.arange(rows), self.task.batch):
            with self._lock:
                outputs = self._run("gradients", **self._batch(arrays, order), **{SEED: drops})
            for n, each in enumerate(total):
                each += outputs[f"gradient_{n}"] * (1 if self.task.is_sum else len(order) / rows)
        return {weight.path: each.astype(np.float32) for weight, each in zip(self._weights, total, strict=True)}

    # State.

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights that are trained and the statistics, dense, by path; copies."""
        state = self.state()
        weights = {weight.path: weight.dense(state[f"state_{n}"]) for n, weight in enumerate(self._weights)}
        start = len(self._weights)
        return weights | {path: state[f"state_{start + n}"] for n, path in enumerate(self.task.statistics)}

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The masks of pruned kernels by path: True where an entry is trained."""
        return {weight.path: weight.mask() for weight in self._weights if weight.positions is not None}

    @property
    def room(self) -> dict[str, int]:
        """How many entries the file can hold of each pruned kernel, by path."""
        return {weight.path: len(weight.positions) for weight in self._weights if weight.positions is not None}

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Set some weights or statistics by path; entries under a mask become zero.

        Raises:
            ValueError: If a path is none of the file's, or an array has another shape or is not finite.
        """
        state, places = self.state(), self._places()
        for path, value in weights.items():
            if path not in places:
                raise ArgumentError("weights", f"paths among {', '.join(map(repr, places))}", found=repr(path))
            name, weight = places[path]
            array = np.asarray(value, np.float32)
            shape = weight.shape if weight else state[name].shape
            if array.shape != tuple(shape):
                raise ArgumentError("weights", f"{path!r} of shape {shape_text(shape)}", shape_text(array.shape))
            _check_finite(array, path)
            state[name] = weight.values(array) if weight else array
        self._restore(state)

    def set_masks(self, masks: Mapping[str, Any]) -> None:
        """Change the masks of pruned kernels: entries that return begin at zero, and the optimizer forgets theirs.

        Args:
            masks: Arrays of True and False by path; a kernel may have at most as many entries as in the file.

        Raises:
            ValueError: If a path is none of a pruned kernel, a shape differs, or a mask keeps more entries.
        """
        with self._lock:
            state = self.state()
            for path, value in masks.items():
                self._move(state, path, np.asarray(value, bool))
            self._restore(state)

    def prune(self, sparsity: float) -> int:
        """Mask the smallest entries of pruned kernels; each kernel keeps the same part of the entries that it has.

        The zeros are single entries, also in kernels with another pattern. `fit` can call it: pass a `callback`.

        Args:
            sparsity: The fraction of zeros over all pruned kernels, in [0, 1), at least that of now.

        Returns:
            The number of entries that were masked.

        Raises:
            TypeError: If `sparsity` is not a number.
            ValueError: If `sparsity` is out of range or below that of now, or the file has no pruned kernels.
        """
        sparsity = check_sparsity(sparsity, "sparsity")
        self._check_pruned()
        with self._lock:
            weights, masks = self.weights, self.masks
            entries, kept = (sum(map(count, masks.values())) for count in (np.size, np.count_nonzero))
            if sparsity < 1 - kept / entries:
                now = f"`sparsity` of at least {1 - kept / entries:.4g}, that of the pruned kernels now"
                raise ArgumentError("sparsity", now, f"{sparsity:g}", advice="Add entries with set_masks.")
            part, smaller = (1 - sparsity) * entries / kept, {}
            for path, mask in masks.items():
                if mask.any():
                    count = kept_count(mask.size, 1 - part * np.count_nonzero(mask) / mask.size)
                    smaller[path] = keep_largest(np.where(mask, np.abs(weights[path]), -1), count)
            self.set_masks(smaller)
            return int(kept - sum(np.count_nonzero(mask) for mask in smaller.values()))

    def grow(self, x: Any, y: Any, *, fraction: float = 0.3) -> int:
        """Replace the smallest entries of each pruned kernel by those under its mask with the largest gradients.

        The number of entries stays the same, and new ones begin at zero (RigL). Call it every few steps while `fit`
        trains, from a `callback`, with a `fraction` that falls to 0: as `tfprune.Grow` does on the desk.

        Args:
            x: Samples for the gradients, as for `fit`. A part of the training data is enough.
            y: Their labels.
            fraction: The fraction of the kept entries to replace, in [0, 1]. Default 0.3.

        Returns:
            The number of entries that were replaced.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If data does not fit the file, `fraction` is out of range, or the file has no pruned kernels.

        Reference:
            Evci et al., 2020, "Rigging the Lottery", arXiv:1911.11134, section 3.
        """
        fraction = check_number(fraction, "fraction", least=0, most=1)
        with self._lock:
            gradients, weights, masks = self.gradients(x, y), self.weights, self.masks
            grown = {
                path: _drop_and_grow(mask, np.abs(weights[path]), np.abs(gradients[path]), fraction)
                for path, mask in masks.items()
                if mask.any()
            }
            self.set_masks(grown)
            return int(sum(np.count_nonzero(mask & ~masks[path]) for path, mask in grown.items()))

    def state(self) -> dict[str, np.ndarray]:
        """Return the state of the file, as `save` of its signatures gives it, and the number of the step."""
        with self._lock:
            arrays = {name: np.array(value) for name, value in self._run("save").items()}
        return {**arrays, "step": np.array([self.step])}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state, whole or not at all: what a device needs to go on after a restart.

        Raises:
            ValueError: If the file cannot be written; what was there before is untouched.
        """
        destination, state, stream = check_destination(path), self.state(), io.BytesIO()
        for name, array in state.items():
            _check_finite(array, name)
        entries: dict[str, Any] = {**state, _FILE: self._file}
        np.savez(stream, **entries)
        write_atomically(destination, stream.getvalue())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a state that `save` wrote.

        Raises:
            ValueError: If the file cannot be read, is damaged, or is the state of another file.
        """
        with reading(path, expected="a state of tfprune.export.Trainer", advice=_ADVICE):
            state = read_arrays(path)
        expected = {**self.state(), _FILE: self._file}
        shapes = {name: (array.shape, array.dtype) for name, array in expected.items()}
        same = {name: (array.shape, array.dtype) for name, array in state.items()} == shapes
        if not same or not np.array_equal(state.pop(_FILE), self._file):
            raise ArgumentError(
                "path", "the state of this file", found=f"{os.fspath(path)!r}, of another one", advice=f"{_ADVICE}."
            )
        for weight in self._read_weights(state):
            positions = weight.positions if weight.positions is not None else np.zeros(1, np.int32)
            if positions.min() < 0 or positions.max() > weight.size:  # the interpreter would write there
                raise ArgumentError(
                    "path", f"positions within {weight.path!r}", found=os.fspath(path), advice=f"{_ADVICE}."
                )
        self._restore(state)

    def to_tflite(
        self,
        path: str | os.PathLike[str],
        *,
        check_on: Any = None,
        optimize: str = "size",
        compress: str | None = None,
        batch: int | None = None,
        verbose: int | str = "auto",
    ) -> ExportReport:
        """Write the model as it is now as a .tflite file for inference, which `Runner` runs.

        It has fewer operators than `predict` uses and is faster: weights are constants, batch normalization is a part
        of the layers in front of it. Its outputs are compared with those of `predict`, and then it is rewritten as
        `tfprune.export.rewrite` does.

        Args:
            path: Where the file is written, exactly as given, such as `"mine.tfz"`.
            check_on: Inputs on which outputs are compared, in the forms that `predict` takes. None (the default)
                draws them.
            optimize: `"size"` (the default), `"latency"`, `"dense"` or `"sparse"`, as for `rewrite`.
            compress: None (the default), `"gzip"`, `"xz"` or `"packed"`.
            batch: How many samples the new file takes at once. None (the default) takes any number.
            verbose: As for `fit`.

        Returns:
            A report of the file that was written, and of its check.

        Raises:
            TypeError: If an argument has another type.
            ValueError: If an argument does not fit, outputs differ, or the file cannot be written. A file that was at
                `path` before is then untouched.

        Example:
            >>> report = trainer.to_tflite("mine.tfz", compress="packed")
            >>> Runner("mine.tfz").predict(x).shape
            (100, 10)
        """
        names = {f"values_{n}": weight.path for n, weight in enumerate(self.task.weights)}
        with self._lock:
            state = {name: array for name, array in self.state().items() if name != "step"}
            prepare = partial(_restored, state=state)
            file = frozen(ModelFile(self._content), "infer", prepare=prepare, names=names)
            file = ModelFile(keep_order(file.content, self.task.inputs))
            runner = Runner(file.content)
            drawn = random_inputs(runner.inputs, runner.outputs, rows=_SAMPLES)
            arrays = self._inputs(drawn if check_on is None else check_on)
            expected, outputs = self.predict(arrays), runner.predict(arrays)
        error, limit = (float(np.abs(each).max(initial=0)) for each in (outputs - expected, _CLOSE * expected))
        if not error <= limit:
            raise ValueError(
                f"Expected outputs within {limit:.3g} of those of `predict`. Received: a difference of {error:.3g}. "
                "Nothing was written. Set the weights in the Keras model with load_trained, and export that."
            )
        return rewrite(
            file.content,
            path,
            check_on=arrays,
            optimize=optimize,
            compress=compress,
            batch=batch,
            verbose=verbose,
        )

    # How arrays become calls.

    def _run(self, signature: str, **values: np.ndarray) -> dict[str, np.ndarray]:
        """Call a signature. It fails at indices beyond a table, which only the file knows, or if memory runs out."""
        try:
            return self._call[signature](**values)
        except (MemoryError, RuntimeError) as error:
            reason = reason_of(error)[-200:] or "no memory"  # reasons of earlier calls come first
            raise ValueError(
                f"Expected samples that the file can compute, and memory for {self.task.batch} of them. Received: "
                f"{signature!r} on {self.runtime}: {reason}. Check the samples, free memory, or export with a "
                "smaller batch_size."
            ) from error

    def _check_pruned(self) -> None:
        if "gradients" not in self._call:
            raise ValueError("Expected a file with pruned kernels. Received: one in which every entry is trained.")

    def _step(self, arrays: Mapping[str, np.ndarray], order: np.ndarray, rate: float | None) -> float:
        rate = self.task.learning_rate if rate is None else check_number(rate, "learning_rate", above=0)
        values = self._batch(arrays, order)
        values |= {RATE: np.array([rate], np.float32), SEED: np.array([self.step], np.int32)}
        results = self._run("train", **values)
        loss, total = float(results["loss"][0]), float(results["total"][0])
        self.step += 1
        if not math.isfinite(loss) or not math.isfinite(total):
            what = f"the loss {loss:g}" if not math.isfinite(loss) else "weights that are NaN or infinite"
            raise ValueError(
                f"Expected a finite loss and finite weights. Received: {what} in step {self.step}. Use a smaller "
                "learning_rate, or look for samples that are far from the others."
            )
        return loss

    def _batch(self, arrays: Mapping[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
        """Return some samples as a batch: missing ones are repeated, and weigh nothing."""
        batch, count = self.task.batch, len(order)
        if count > batch:
            raise ArgumentError("x", f"at most {batch} samples in `x`, the file's batch", found=f"{count}")
        weight = np.zeros(batch, np.float32)
        weight[:count] = 1 if self.task.is_sum else batch / count
        places = np.resize(order, batch)
        return {**{name: array[places] for name, array in arrays.items()}, WEIGHT: weight}

    def _samples(self, x: Any, y: Any) -> dict[str, np.ndarray]:
        arrays = self._inputs(x)
        details = self._call["evaluate"].get_input_details()[LABELS]
        labels, rows = np.asarray(y), len(next(iter(arrays.values())))
        shape = tuple(details["shape"][1:])
        if labels.shape == (rows, *shape, 1):  # classes in a column, as Keras takes them
            labels = labels[..., 0]
        if labels.shape != (rows, *shape):
            raise ArgumentError("y", f"`y` of shape {shape_text((rows, *shape))}", found=shape_text(labels.shape))
        if labels.dtype.kind not in "biuf" or (self.task.classes and not np.array_equal(labels, np.rint(labels))):
            expected = f"`y` to hold {'numbers of classes' if self.task.classes else 'numbers'}"
            raise ArgumentError("y", expected, found=f"an array of {labels.dtype}")
        if self.task.classes and not (labels.min() >= 0 and labels.max() < self.task.classes):
            expected = f"`y` to hold classes from 0 to {self.task.classes - 1}"
            raise ArgumentError("y", expected, found=f"{labels.min():g} to {labels.max():g}")
        return {**arrays, LABELS: _cast(labels, details["dtype"], "y")}

    def _inputs(self, x: Any) -> dict[str, np.ndarray]:
        details = self._call["infer"].get_input_details()
        arrays = {}
        for key, value in zip(self.task.inputs, arrays_of(x, names=self.task.inputs), strict=True):
            array, shape = np.asarray(value), tuple(details[key]["shape"][1:])
            if array.ndim != len(shape) + 1 or array.shape[1:] != shape or not len(array):
                expected = f"`x` of shape {shape_text((None, *shape))} for {key!r}, with a sample at least"
                raise ArgumentError("x", expected, found=shape_text(array.shape))
            arrays[key] = _cast(array, details[key]["dtype"], "x")
        rows = {key: len(array) for key, array in arrays.items()}
        if len(set(rows.values())) > 1:
            raise ArgumentError("x", "as many samples for each input in `x`", found=f"{rows}")
        return arrays

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        with self._lock:
            self._run("restore", **{name: array for name, array in state.items() if name != "step"})
            self.step = int(state["step"][0])
            self._weights = self._read_weights(state)

    def _read_weights(self, state: Mapping[str, np.ndarray]) -> tuple[Weight, ...]:
        """Return the weights with the positions of a state, which are its last arrays."""
        number, weights = len(self.task.weights) + len(self.task.statistics) + len(self.task.slots), []
        for weight in self.task.weights:
            positions = None
            if weight.positions is not None:
                positions, number = np.array(state[f"state_{number}"]).reshape(-1), number + 1
            weights.append(Weight(weight.path, weight.shape, positions))
        return tuple(weights)

    def _places(self) -> dict[str, tuple[str, Weight | None]]:
        """Return the name in the state of each weight and statistic, by path."""
        places: dict[str, tuple[str, Weight | None]] = {
            weight.path: (f"state_{n}", weight) for n, weight in enumerate(self._weights)
        }
        start = len(places)
        return places | {path: (f"state_{start + n}", None) for n, path in enumerate(self.task.statistics)}

    def _move(self, state: dict[str, np.ndarray], path: str, mask: np.ndarray) -> None:
        """Change the positions of one weight in a state, and what follows them: its values and its slots."""
        number = next((n for n, each in enumerate(self._weights) if each.path == path), 0)
        weight = self._weights[number]
        if weight.path != path or weight.positions is None:
            raise ArgumentError("masks", f"paths among {', '.join(map(repr, self.masks))}", found=repr(path))
        if mask.shape != weight.shape:
            raise ArgumentError(
                "masks", f"{path!r} of shape {shape_text(weight.shape)}", found=shape_text(mask.shape)
            )
        positions = np.flatnonzero(mask).astype(np.int32)
        if len(positions) > len(weight.positions):
            raise ArgumentError(
                "masks",
                f"at most {len(weight.positions):,} entries in {path!r}, as in the file",
                found=f"{len(positions):,}",
            )
        new = np.full(len(weight.positions), weight.size, np.int32)
        new[: len(positions)] = positions
        changed = Weight(path, weight.shape, new)
        start = len(self._weights) + len(self.task.statistics)
        slots = [f"state_{start + n}" for n, owner in enumerate(self.task.slots) if owner == number]
        for name in [f"state_{number}", *slots]:
            state[name] = changed.values(weight.dense(state[name]))
        place = start + len(self.task.slots)
        place += sum(each.positions is not None for each in self._weights[:number])
        state[f"state_{place}"] = new[:, None]


@dataclass
class _Run:
    """One call of `fit`.

    Attributes:
        trainer: The trainer.
        epochs: How many epochs at most.
        rate: The learning rate; None for the file's.
        limit: Seconds at most.
        random: Draws the order.
        callback: As of `fit`.
        each_step: Moves the bar.
    """

    trainer: Trainer
    epochs: int
    rate: float | None
    limit: float
    random: np.random.Generator
    callback: Callable[[Trainer, int, float], bool | None] | None
    each_step: Callable[[], None]
    steps: int = 0
    stopped: str | None = None
    start: float = field(default_factory=monotonic)
    processor_start: float = field(default_factory=process_time)

    def __call__(
        self, arrays: Mapping[str, np.ndarray], watched: tuple[Any, Any] | None, patience: int | None
    ) -> FitReport:
        losses, validation, best = [], [], (math.inf, 0, self.trainer.state())
        for epoch in range(self.epochs):
            losses.append(self._epoch(arrays, epoch))
            if watched is not None:
                validation.append(self.trainer.evaluate(*watched))
                loss = validation[-1]["loss"]
                best = (loss, epoch, self.trainer.state()) if loss < best[0] else best
                if patience is not None and epoch - best[1] >= patience:
                    self.stopped = f"no smaller validation loss in {patience} epochs"
            if self.stopped:
                break
        if patience is not None and watched is not None:
            self.trainer._restore(best[2])
        times = monotonic() - self.start, process_time() - self.processor_start
        return FitReport(tuple(losses), tuple(validation), self.steps, *times, self.stopped)

    def _epoch(self, arrays: Mapping[str, np.ndarray], epoch: int) -> float:
        trainer = self.trainer
        before, total, rows = trainer.state(), 0.0, 0
        for order in _in_turn(self.random.permutation(len(arrays[LABELS])), trainer.task.batch):
            try:
                loss = trainer._step(arrays, order, self.rate)
            except ValueError as error:
                trainer._restore(before)
                raise ValueError(f"{error} The weights are those from before epoch {epoch + 1}.") from error
            self.steps += 1
            self.each_step()
            total, rows = total + loss * (1 if trainer.task.is_sum else len(order)), rows + len(order)
            if self.callback and self.callback(trainer, self.steps, loss):
                self.stopped = "the callback stopped it"
            elif monotonic() - self.start >= self.limit:
                self.stopped = f"the time limit of {self.limit:g} s"
            if self.stopped:
                break
        return total / rows


def _drop_and_grow(mask: np.ndarray, scores: np.ndarray, candidates: np.ndarray, fraction: float) -> np.ndarray:
    """Return a mask in which the entries of the lowest scores gave way to those of the largest candidates."""
    kept = int(np.count_nonzero(mask))
    stays = (
        np.zeros_like(mask)
        if fraction == 1
        else keep_largest(np.where(mask, scores, -1), kept_count(mask.size, 1 - (1 - fraction) * kept / mask.size))
    )
    return keep_largest(np.where(stays & mask, np.inf, candidates), kept)


def _in_turn(order: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    yield from (order[row : row + batch] for row in range(0, len(order), batch))


def _correct(outputs: np.ndarray, labels: np.ndarray, task: Task) -> float | None:
    """Return the accuracy; None if labels are no classes."""
    if task.classes:
        return float(np.mean(outputs.argmax(axis=-1) == labels))
    if "categorical" in task.loss.lower():
        return float(np.mean(outputs.argmax(axis=-1) == labels.argmax(axis=-1)))
    return None


def _pair(data: Any, argument: str) -> tuple[Any, Any]:
    if not isinstance(data, tuple) or len(data) != 2:
        raise ArgumentTypeError(argument, f"`{argument}` to be a tuple (x, y)", type(data).__name__)
    return data


def _cast(array: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """Return an array in a type of the file; refuse texts, infinity, and what integers cannot hold."""
    kind, dtype = array.dtype.kind, np.dtype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype) if kind in "biuf" else array
    if kind not in "biuf" or (dtype.kind in "biu" and not np.array_equal(cast, array)):
        raise ArgumentError(name, f"numbers in `{name}` that {dtype} can hold", found=f"an array of {array.dtype}")
    _check_finite(cast, name)
    return cast


def _check_finite(array: np.ndarray, name: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        advice = f"Leave {'it' if len(rows) == 1 else f'these {len(rows)} rows'} out."
        raise ArgumentError(
            name, f"finite numbers in `{name}`", found=f"NaN or infinity in row {rows[0]}", advice=advice
        )


def _restored(interpreter: Any, *, state: Mapping[str, np.ndarray]) -> None:
    interpreter.get_signature_runner("restore")(**state)


def run_steps(folder: Path) -> None:
    """Train the batches of a job, in order, for the comparison with Keras; write the losses and the first outputs."""
    _, arrays = read_job(folder, CHECK)
    trainer = Trainer(folder / f"{CHECK}.tflite")
    inputs = {name: array for name, array in arrays.items() if name != LABELS}
    first = {name: array[: trainer.task.batch] for name, array in inputs.items()}
    outputs = trainer.predict(first)
    rows = np.arange(len(arrays[LABELS]))
    losses = [trainer._step(arrays, order, None) for order in _in_turn(rows, trainer.task.batch)]
    write_job(
        folder, RESULT, settings={"runtime": trainer.runtime}, arrays={"losses": np.array(losses), "outputs": outputs}
    )
