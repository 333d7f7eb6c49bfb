"""The part of `prune_tflite` that runs in a process of its own: nobody has tested the pieces of a foreign file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tfprune.base.limit import Limit, largest_drop
from tfprune.export.device.processes.child_progress import ChildProgress
from tfprune.export.device.processes.job_files import read_job
from tfprune.export.device.running.inputs import inputs_from_job
from tfprune.export.device.running.metrics import measure
from tfprune.export.file.files.codec import encode
from tfprune.export.file.model_file import ModelFile
from tfprune.export.pruning.apart import FileJob, SampleRunner
from tfprune.export.pruning.prune_in_order import PruningInOrder
from tfprune.export.pruning.prune_tflite_report import PrunedLayer
from tfprune.export.pruning.pruning_goal import TRIES, search
from tfprune.export.rewriting.export_report import AccuracyDrop, accuracy_drops
from tfprune.export.rewriting.forms import candidate_files
from tfprune.patterns import NM, Block, Unstructured

X, Y = "x", "y"  # the labeled data of a limit
_PATTERNS = {"Unstructured": Unstructured, "NM": NM, "Block": Block}


class _Labeled:
    """Labeled data, and a metric of the dense file on them."""

    def __init__(self, folder: Path, dense: bytes, metric: str | dict[str, str]) -> None:
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
        self._folder, self._samples = folder, FileJob(folder)
        self._settings, content = self._samples.settings, self._samples.content
        metric = self._settings["metric"]
        self._labeled = _Labeled(folder, content, metric) if metric else None
        pattern = _PATTERNS[self._settings["pattern"]](**self._settings["pattern_arguments"])
        pruned = 1 if self._settings["sparsity"] is not None else TRIES
        progress = ChildProgress(folder, rounds=1 + pruned)
        self._files = PruningInOrder(content, self._samples.runs, pattern=pattern, folder=folder, progress=progress)

    def run(self) -> None:
        """Write the pruned file, and what is to be known of it."""
        content, layers = self._wanted()
        settings = {
            "layers": [vars(layer) for layer in layers],
            "errors": [vars(row) for row in self._samples.errors(content)],
            "skipped": self._files.skipped,
            "lost": [vars(row) for row in self._lost(content)],
        }
        self._samples.hand_over(content, settings)

    def _wanted(self) -> tuple[bytes, list[PrunedLayer]]:
        sparsity, max_bytes, max_error = (self._settings[name] for name in ("sparsity", "max_bytes", "max_error"))
        if sparsity is not None:
            return self._files.pruned(sparsity)
        if max_bytes is not None:
            return self._search(lambda content: self._bytes(content) <= max_bytes, f"{max_bytes:,} bytes", toward=-1)
        if max_error is not None:
            limit = f"an error of {max_error:g}"
            return self._search(lambda content: self._samples.error(content) <= max_error, limit, toward=1)
        allowed = Limit(self._settings["max_drop"], max_relative_drop=self._settings["max_relative_drop"])
        drops = ", ".join(f"{name}={drop:g}" for name, drop in allowed.drops.items())
        return self._search(lambda content: self._allows(allowed, content), drops, toward=1)

    def _search(self, fits: Callable[[bytes], bool], limit: str, *, toward: int) -> tuple[bytes, list[PrunedLayer]]:
        make = self._files.pruned
        return search(lambda percent: make(percent / 100), lambda pair: fits(pair[0]), limit=limit, toward=toward)

    def _bytes(self, content: bytes) -> int:
        forms = candidate_files(ModelFile(content), name="pruned", optimize=self._settings["optimize"])
        return min(len(encode(form.file.content, self._settings["compress"])) for form in forms)

    def _allows(self, limit: Limit, content: bytes) -> bool:
        return all(row.drop <= (largest_drop(limit, row.before) or 0.0) for row in self._lost(content))

    def _lost(self, content: bytes) -> tuple[AccuracyDrop, ...]:
        if self._labeled is None:
            return ()
        return accuracy_drops(self._labeled.before, self._labeled.metrics(content), mode=self._settings["mode"])


def _run_job(folder: Path) -> None:
    _Job(folder).run()
