"""Work on a file and samples in a process of its own: nobody has tested the pieces of a foreign file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfprune.export.device.processes.child_process import Work, run_job
from tfprune.export.device.processes.child_progress import ChildBar
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.runner import Runner
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite.canonical_order import graphs_of_signatures, starting_at
from tfprune.export.file.tflite.editor import load_objects
from tfprune.export.file.tflite.reader import read
from tfprune.export.pruning.compare_outputs import compare_outputs, constant_outputs
from tfprune.export.pruning.layers.variables import has_variables, with_variables
from tfprune.export.pruning.prune_tflite_report import OutputError
from tfprune.export.pruning.sampling.input_range import check_range, drawn_text, input_range, spread_over
from tfprune.export.pruning.sampling.samples import GraphSamples
from tfprune.export.rewriting.rewrite import default_tolerance

TIMEOUT = 3600.0  # seconds for all of the work on one file
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # small matrices are fastest so
RUN_ROWS = 16  # samples in one run of a file that leaves the batch open
DENSE, CHANGED = "dense.tflite", "changed.tflite"
JOB, RESULT = "job", "result"
SAMPLES, HELD, OUTPUTS = "samples", "held", "outputs"  # each with the number of a graph with samples
Jobs = dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]  # settings and arrays of each, by name


class Changed(NamedTuple):
    """What a process made of a file.

    Attributes:
        file: The new file.
        settings: What is to be known of it, and the `"warnings"` about the samples.
        inputs: The samples that were held out, by name; where samples are by signature, such dicts by signature.
        outputs: The expected outputs for them, likewise.
    """

    file: ModelFile
    settings: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def jobs_of(settings: dict[str, Any], samples: Sequence[GraphSamples]) -> Jobs:
    """Return the jobs of a process that changes a file, which takes settings and samples."""
    jobs: Jobs = {JOB: ({**settings, "graphs": len(samples)}, {})}
    for number, each in enumerate(samples):
        own = {"signature": each.signature, "held": each.held, "random": each.is_random}
        jobs[f"{SAMPLES}{number}"] = own, numbered(each.arrays)
    return jobs


def run_apart(work: Work, folder: str, *, content: bytes, jobs: Jobs, name: str, verbose: int | str = 0) -> Changed:
    """Run a function that changes a file in a process of its own.

    Args:
        work: The function, which hands over the new file by `FileJob`.
        folder: An empty folder.
        content: The plain file.
        jobs: What `jobs_of` returns, and others.
        name: The name of the file, for errors.
        verbose: How to show the progress that the module counts, in layers.

    Raises:
        ValueError: If it fails.
    """
    Path(folder, DENSE).write_bytes(content)
    for job, (settings, arrays) in jobs.items():
        write_job(folder, job, settings=settings, arrays=arrays)
    with ChildBar(folder, verbose=verbose, unit="layer") as bar:
        completed = run_job(work, folder, timeout=TIMEOUT, environment=ONE_THREAD, each_second=bar.look)
        if not completed.ok:
            raise ValueError(_refusal(completed.reason, name))
    names = [jobs[f"{SAMPLES}{number}"][0]["signature"] for number in range(jobs[JOB][0]["graphs"])]
    inputs, outputs = (
        {name: read_job(folder, f"{kind}{number}")[1] for number, name in enumerate(names)}
        for kind in (HELD, OUTPUTS)
    )
    file = ModelFile(Path(folder, CHANGED).read_bytes())
    return Changed(file, read_job(folder, RESULT)[0], inputs.get("", inputs), outputs.get("", outputs))


def _refusal(reason: str, name: str) -> str:
    if reason.startswith("Expected"):
        return f"{reason}. Nothing was written."
    return (
        f"Expected a file whose operators can be run piece by piece. Received: {name}: {reason}. "
        "Nothing was written. Check with `tfprune verify` that the whole file runs."
    )


def numbered(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays by their numbers, as a job takes them."""
    return {str(index): array for index, array in enumerate(arrays)}


class SampleRunner(Runner):
    """A runner that tells what the interpreter gets in each of its runs."""

    def in_range(
        self, samples: list[np.ndarray], *, content: bytes, is_random: bool
    ) -> tuple[list[np.ndarray], list[str]]:
        """Return samples in the range of the inputs, and what is strange about them."""
        model, arrays, warnings = load_objects(content), [], []
        for tensor, array in zip(self._inputs, samples, strict=True):
            expected, name = input_range(model, tensor), tensor.info.name
            if is_random and array.dtype.kind == "f":
                array = spread_over(array, expected)
                warnings.append(drawn_text(name, expected))
            elif expected is not None:
                warnings += check_range(array, expected, name=name)
            arrays.append(array)
        return arrays, warnings

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
        outputs = self.predict(samples)
        values = outputs if isinstance(outputs, list) else [outputs]
        return {info.name: np.asarray(value) for info, value in zip(self.outputs, values, strict=True)}


class GraphJob:
    """The samples of one graph in the process of a job: those to work on, and those held out.

    Args:
        folder: The folder of the job.
        number: Which of its samples.
        content: The dense file.

    Attributes:
        signature: The signature that starts at the graph; empty for the first graph.
        warnings: What is strange about the samples.
    """

    def __init__(self, folder: Path, number: int, content: bytes) -> None:
        self._folder, self._number = folder, number
        settings, arrays = read_job(folder, f"{SAMPLES}{number}")
        self.signature, self._held = settings["signature"], int(settings["held"])
        content = starting_at(content, self.signature)
        runner = SampleRunner(content)
        is_random = settings["random"]
        samples, self.warnings = runner.in_range([*arrays.values()], content=content, is_random=is_random)
        self._dense = runner.outputs_of(samples)
        rows = max(len(array) for array in samples if array.ndim)
        self.warnings += constant_outputs(self._dense, samples=rows)
        self._first = [array[: len(array) - self._held] if array.ndim else array for array in samples]
        self._last = [array[len(array) - self._held :] if array.ndim else array for array in samples]
        self._compared = samples if has_variables(content) else self._last

    def runs_of(self, content: bytes) -> list[Mapping[int, np.ndarray]]:
        """Return the inputs of each run of a file, dense or changed, on the samples to work on."""
        content = starting_at(content, self.signature)
        return with_variables(content, SampleRunner(content).runs(self._first))

    def outputs(self, content: bytes) -> dict[str, np.ndarray]:
        """Return the outputs of a file by name, on the samples held out, or all where runs follow each other."""
        return SampleRunner(starting_at(content, self.signature)).outputs_of(self._compared)

    def errors(self, content: bytes) -> list[OutputError]:
        """Compare the outputs of another file with those of the dense one, on the samples held out."""
        outputs = self.outputs(content)
        last = {name: np.atleast_1d(array)[-self._held :] for name, array in outputs.items()}
        return [replace(row, signature=self.signature) for row in compare_outputs(self._dense, last, held=self._held)]

    def hand_over(self, expected: bytes) -> None:
        """Write the samples held out, and the outputs of a file on them."""
        runner = SampleRunner(starting_at(expected, self.signature))
        named = {info.name: array for info, array in zip(runner.inputs, self._last, strict=True)}
        write_job(self._folder, f"{HELD}{self._number}", arrays=named)
        write_job(self._folder, f"{OUTPUTS}{self._number}", arrays=runner.outputs_of(self._last))


class FileJob:
    """A file and samples in the process of a job.

    Args:
        folder: The folder of the job.

    Attributes:
        folder: The folder.
        settings: The settings of the job.
        content: The dense file.
        runs: The inputs of each run of the interpreter on the samples to work on, by the number of the graph.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_job(folder, JOB)[0]
        self.content = (folder / DENSE).read_bytes()
        self._graphs = [GraphJob(folder, number, self.content) for number in range(self.settings["graphs"])]
        self.runs = self.runs_of(self.content)

    def runs_of(self, content: bytes) -> dict[int, list[Mapping[int, np.ndarray]]]:
        """Return the inputs of each run of a file, dense or changed, by the number of the graph."""
        numbers = {"": 0, **graphs_of_signatures(load_objects(content))}
        return {numbers[graph.signature]: graph.runs_of(content) for graph in self._graphs}

    def errors(self, content: bytes) -> list[OutputError]:
        """Compare the outputs of another file with those of the dense one, on the samples held out."""
        return [row for graph in self._graphs for row in graph.errors(content)]

    def error(self, content: bytes) -> float:
        """Return the largest of these errors."""
        return max((row.error for row in self.errors(content) if row.error is not None), default=0.0)

    def check_same(self, content: bytes, expected: bytes) -> None:
        """Refuse a file whose outputs are not those of another one, but for rounding."""
        allowed = default_tolerance(read(content))
        for graph in self._graphs:
            outputs = graph.outputs(content)
            for name, wanted in graph.outputs(expected).items():
                difference = np.abs(outputs[name] - wanted.astype(np.float64)).max()
                _check_difference(difference, allowed * np.abs(wanted.astype(np.float64)).max(), name)

    def hand_over(self, content: bytes, settings: dict[str, Any], *, expected: bytes | None = None) -> None:
        """Write a new file, what is to be known of it, and the outputs that it should have.

        Args:
            content: The new file.
            settings: What is to be known of it.
            expected: A file that has these outputs; None for the new one itself.
        """
        (self.folder / CHANGED).write_bytes(content)
        for graph in self._graphs:
            graph.hand_over(expected or content)
        warnings = [text for graph in self._graphs for text in graph.warnings]
        write_job(self.folder, RESULT, settings={**settings, "warnings": warnings}, arrays={})


def _check_difference(difference: float, allowed: float, name: str) -> None:
    if not difference <= allowed:
        raise ValueError(
            f"Expected a file that does without channels what it does with zeros in their place. Received: output "
            f"{name!r} differs by {difference:.3g} (allowed: {allowed:.3g})"
        )
