"""The part of `prune_tflite` that runs in a process of its own: nobody has tested the pieces of a foreign file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tfprune.export.device.processes.child_process import run_as_child
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.inputs import inputs_from_job
from tfprune.export.device.running.metrics import measure
from tfprune.export.device.running.runner import Runner
from tfprune.export.file.files.codec import encode
from tfprune.export.pruning.prune_in_order import PruningInOrder
from tfprune.export.pruning.prune_tflite_report import OutputError, PrunedLayer
from tfprune.export.pruning.samples import in_range
from tfprune.export.rewriting.export_report import AccuracyDrop, accuracy_drops
from tfprune.export.rewriting.forms import candidate_files
from tfprune.patterns import NM, Block, Unstructured

DENSE, PRUNED = "dense.tflite", "pruned.tflite"
JOB, X, Y = "job", "x", "y"  # the last two are the labeled data of a limit
RUN_ROWS = 16  # samples in one run of a file that leaves the batch open
MAX_PERCENT = 95
_PATTERNS = {"Unstructured": Unstructured, "NM": NM, "Block": Block}


class SampleRunner(Runner):
    """A runner that tells what the interpreter gets in each of its runs."""

    def checked(self, samples: list[np.ndarray], *, is_random: bool) -> list[np.ndarray]:
        """Return samples in the range of the inputs."""
        pairs = zip(self._inputs, samples, strict=True)
        return [in_range(tensor, array, is_random=is_random) for tensor, array in pairs]

    def runs(self, samples: list[np.ndarray]) -> list[Mapping[int, np.ndarray]]:
        """Return the inputs of each run by tensor; samples that do not fill a fixed batch are left out."""
        arrays = [tensor.encode(value) for tensor, value in zip(self._inputs, self._values(samples), strict=True)]
        indices = [tensor.index for tensor in self._inputs]
        step = self._rows_per_run(arrays)
        if step is None:
            return [dict(zip(indices, arrays, strict=True))]
        has_fixed_batch = any(tensor.batch for tensor in self._inputs)
        step = step if has_fixed_batch else min(step, RUN_ROWS)
        rows = min(len(array) for array in arrays if array.ndim)
        ends = range(step, rows + 1, step) if has_fixed_batch else [*range(step, rows, step), rows]
        return [
            {
                index: array[end - step : end] if array.ndim else array
                for index, array in zip(indices, arrays, strict=True)
            }
            for end in ends
        ]

    def outputs_of(self, samples: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        found = self.predict(samples)
        values = found if isinstance(found, list) else [found]
        return {info.name: np.asarray(value) for info, value in zip(self.outputs, values, strict=True)}


def compare_outputs(
    dense: Mapping[str, np.ndarray], pruned: Mapping[str, np.ndarray], *, held: int
) -> list[OutputError]:
    """Compare the outputs of two files on the last samples.

    Args:
        dense: The outputs of the dense file for all samples, by which their variation is measured.
        pruned: Those of the pruned file for the last ones.
        held: How many these are.
    """
    rows = []
    for name, values in dense.items():
        real, found = values.astype(np.float64), pruned[name].astype(np.float64)
        right = real[len(real) - len(found) :]
        spread = float(np.sqrt(real.var(axis=0).mean())) if real.ndim else 0.0
        error = float(np.sqrt(np.square(found - right).mean()))
        has_classes = right.ndim == 2 and right.shape[1] > 1 and len(right) == held
        agreement = float((found.argmax(axis=1) == right.argmax(axis=1)).mean()) if has_classes else None
        rows.append(OutputError(name, error / spread if spread > 0 else None, agreement))
    return rows


class _Labeled:
    """Labeled data, and a metric of the dense file on them."""

    def __init__(self, folder: Path, dense: bytes, metric: str) -> None:
        self.metric = metric
        self._x = [*read_job(folder, X)[1].values()]
        settings, answers = read_job(folder, Y)
        self._y = inputs_from_job(settings["form"], answers, draw=list)
        self.before = self.metrics(dense)

    def metrics(self, content: bytes) -> dict[str, float]:
        """Return the metric of a file, for each output."""
        return measure(SampleRunner(content).outputs_of(self._x), self._y, metrics=self.metric)


class _Job:
    """What the parent asks for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings, arrays = read_job(folder, JOB)
        self._held = int(self._settings["held"])
        content = (folder / DENSE).read_bytes()
        runner = SampleRunner(content)
        metric = self._settings["metric"]
        self._labeled = _Labeled(folder, content, metric) if metric else None
        samples = runner.checked([*arrays.values()], is_random=self._settings["random"])
        self._dense = runner.outputs_of(samples)
        fit = [array[: len(array) - self._held] if array.ndim else array for array in samples]
        self._last = [array[len(array) - self._held :] if array.ndim else array for array in samples]
        pattern = _PATTERNS[self._settings["pattern"]](**self._settings["pattern_arguments"])
        self._files = PruningInOrder(content, runner.runs(fit), pattern=pattern, folder=folder)

    def run(self) -> None:
        """Write the pruned file, and what is to be known of it."""
        content, layers = self._wanted()
        (self._folder / PRUNED).write_bytes(content)
        write_job(self._folder, "held", arrays={str(index): array for index, array in enumerate(self._last)})
        settings = {
            "layers": [vars(layer) for layer in layers],
            "errors": [vars(row) for row in self._compared(content)],
            "skipped": self._files.skipped,
            "lost": [vars(row) for row in self._lost(content)],
        }
        write_job(self._folder, "result", settings=settings, arrays=SampleRunner(content).outputs_of(self._last))

    def _wanted(self) -> tuple[bytes, list[PrunedLayer]]:
        sparsity, max_bytes, max_error = (self._settings[name] for name in ("sparsity", "max_bytes", "max_error"))
        if sparsity is not None:
            return self._files.pruned(sparsity)
        if max_bytes is not None:
            return self._search(lambda content: self._bytes(content) <= max_bytes, f"{max_bytes:,} bytes", toward=-1)
        if max_error is not None:
            limit = f"an error of {max_error:g}"
            return self._search(lambda content: self._error(content) <= max_error, limit, toward=1)
        max_drop = self._settings["max_drop"]
        limit = f"a drop of {max_drop:g}"
        return self._search(lambda content: self._drop(content) <= max_drop, limit, toward=1)

    def _search(self, fits: Callable[[bytes], bool], limit: str, *, toward: int) -> tuple[bytes, list[PrunedLayer]]:
        """Bisect for the largest sparsity that fits (`toward` is 1), or for the smallest (-1), in steps of 1 %."""
        low, high, best = 0, MAX_PERCENT + 1, None
        while high - low > 1:
            middle = (low + high) // 2
            found = self._files.pruned(middle / 100)
            is_fit = fits(found[0])
            best = found if is_fit else best
            low, high = (middle, high) if is_fit == (toward == 1) else (low, middle)
        if best is None:
            raise ValueError(
                f"Expected a limit that a file with 1 to {MAX_PERCENT} % zeros keeps to. Received: {limit}, which "
                "none does. Allow more"
            )
        return best

    def _bytes(self, content: bytes) -> int:
        forms = candidate_files(content, name="pruned", sparse=self._settings["sparse"], optimize="size")
        return min(len(encode(form.content, self._settings["compress"])) for form in forms)

    def _error(self, content: bytes) -> float:
        return max((row.error for row in self._compared(content) if row.error is not None), default=0.0)

    def _drop(self, content: bytes) -> float:
        return max(row.drop for row in self._lost(content))

    def _lost(self, content: bytes) -> tuple[AccuracyDrop, ...]:
        if self._labeled is None:
            return ()
        return accuracy_drops(self._labeled.before, self._labeled.metrics(content), metric=self._labeled.metric)

    def _compared(self, content: bytes) -> list[OutputError]:
        return compare_outputs(self._dense, SampleRunner(content).outputs_of(self._last), held=self._held)


def _run_job(folder: Path) -> None:
    _Job(folder).run()


if __name__ == "__main__":
    run_as_child(_run_job)
