"""Prove that a file runs and gives the right outputs, in a process of its own: files have crashed interpreters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_number
from tfprune.base.untrusted import read_fields
from tfprune.export.device.interpreter import interpreter_module
from tfprune.export.device.processes.device import Device, runner_on
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.format_tolerance import TOLERANCES, format_tolerance
from tfprune.export.device.running.inputs import (
    by_output,
    inputs_from_job,
    inputs_to_job,
    is_by_signature,
    random_inputs,
)
from tfprune.export.device.running.metrics import check_labels, classification_accuracy
from tfprune.export.device.running.runner import Runner
from tfprune.export.device.running.verify_report import VerifyReport
from tfprune.export.file.files.source import Source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import open_batch
from tfprune.export.file.tflite.schema import MissingPackage

MODEL = "model.tflite"
SMALLEST_SCALE = 1e-6  # outputs that are all zero, or nearly so, are compared as if the largest were this


def verify(
    source: Source,
    samples: Any = None,
    expected: Any = None,
    *,
    labels: np.ndarray | Sequence[int] | None = None,
    tolerance: float | None = None,
    on: Device | None = None,
    timeout: float = 120,
    verbose: int | str = "auto",
) -> VerifyReport:
    """Run a file in a separate process, and compare its outputs with the expected ones.

    Use it on each device that will run the file. A file passes if, for every output,
    max |output - expected| <= tolerance * max(1e-6, max |expected|). The maxima are over all finite expected values,
    of which at least one is needed; where an expected value is not finite, the output has to be the same. Without
    expected outputs, a file passes if it runs and all its outputs are finite. All signatures of a file run, except
    where you give samples that are not ordered by signature: they are for the first graph, as in `Runner`.

    Args:
        source: A path, or the bytes of a .tflite file: plain, gzip, xz or packed.
        samples: The samples to run, in the forms that `Runner.predict` takes; for a file with several signatures
            also a dict by signature of dicts by name, such as `{"decode": {"tokens": tokens}}`, where signatures
            that are left out get random numbers. None (the default) draws random numbers for all, which only shows
            that the file runs.
        expected: The expected outputs: an array; for several outputs a list in the file's order or a dict by name;
            by signature as `samples` are. None (the default) compares nothing.
        labels: The number of the class of each sample, (samples,), for a file that classifies: the report then has
            the accuracy, which does not decide whether the file passes. Default None.
        tolerance: The largest difference allowed, as a fraction of the largest expected magnitude of the output, at
            least 0. None (the default) chooses it by the number format of the file, as `to_tflite` does: 1e-4 for
            float32, 1e-2 for float16, 0.1 for dynamic and int16x8, 0.35 for int8, 0.5 for int4.
        on: The device that runs the file, such as `Remote("pi@raspberrypi")`; None (the default) is this machine.
        timeout: Seconds after which the process is stopped and the file fails. Default 120.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts the seconds up to `timeout`.

    Returns:
        A report that says whether the file passed, and if not, the reason: a crash, a refusal, or a wrong output.

    Raises:
        TypeError: If `source` is neither a path nor bytes, a number is not one, or an array holds Python objects.
        ValueError: If the file does not exist or is not a whole TFLite file, or an argument is out of range.
        ValueError: If `labels` are not classes of the file, one for each sample.

    Example:
        >>> print(verify("digits.tflite", images, expected=model(images)))
        verified        yes
        --------------  ---...
        difference      ...
        largest output  ...
        tolerance       0.0001
        runtime         ai-edge-litert ...
    """
    check_number(timeout, "timeout", above=0)
    for name, value in (("expected", expected), ("labels", labels)):
        if samples is None and value is not None:
            raise ValueError(f"Expected the samples of `{name}`. Received: samples=None.")
    classes = None if labels is None else check_labels(labels)
    if tolerance is not None:
        check_number(tolerance, "tolerance", least=0)
    check_verbose(verbose)
    runner_on(on)  # refuses what is not a device
    file = ModelFile.open(source)
    with Progress(int(timeout), verbose=verbose, unit="second") as progress:
        run = run_in_child(file, samples, timeout=timeout, on=on, each_second=progress.add)
    if tolerance is None:
        is_compared = expected is not None and not run.reason
        tolerance = format_tolerance(file.graph) if is_compared else TOLERANCES[None]
    report = compare_run(run, expected, tolerance=tolerance)
    if run.reason:
        return report
    accuracy = None if classes is None else classification_accuracy(run.outputs, classes)
    return replace(report, accuracy=accuracy, open_batch=_open_batch(file))


def _open_batch(file: ModelFile) -> tuple[str, ...]:
    try:
        return open_batch(file.graph.inputs)
    except MissingPackage:  # tflite-runtime comes without the schema, and does not care
        return ()


class Comparison(NamedTuple):
    """The outcome for one output, or for the worst of several."""

    reason: str = ""
    difference: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class _Loaded:
    """What a process has loaded the file with."""

    runtime: str


class Run(NamedTuple):
    """What a process of its own gave: outputs by name, the interpreter, and why there are none."""

    outputs: dict[str, np.ndarray]
    runtime: str
    reason: str = ""


def run_in_child(
    source: Source | ModelFile,
    inputs: Any,
    *,
    timeout: float,
    on: Device | None = None,
    each_second: Callable[[], None] | None = None,
) -> Run:
    """Run a file in a process of its own; a crash there is a reason here.

    Args:
        source: A path, or the content of such a file; or a file that is open.
        inputs: What `Runner.predict` takes, for the first graph; a dict of dicts by signature and name, or None, for
            all signatures. Random numbers, the same each time, take the place of those left out. The outputs of
            several signatures are named `signature/name`.
        timeout: Seconds after which the process is stopped.
        on: The device that runs it; None is this machine.
        each_second: Called once in each second that it runs on this machine, to move a bar.
    """
    run_there = runner_on(on, package=interpreter_module(), each_second=each_second)
    file = ModelFile.open(source)
    form, arrays = inputs_to_job(inputs)
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        write_job(folder, "job", settings={"form": form}, arrays=arrays)
        Path(folder, MODEL).write_bytes(file.content)
        completed = run_there(_run_job, folder, timeout=timeout)
        runtime = ""
        if Path(folder, "loaded.json").exists():
            runtime = read_fields(_Loaded, read_job(folder, "loaded")[0]).runtime
        if not completed.ok:
            reason = completed.reason.replace(source_name(file.content), file.name or source_name(file.content))
            return Run({}, runtime, reason)
        return Run(_read_outputs(folder), runtime)


def _read_outputs(folder: str) -> dict[str, np.ndarray]:
    outputs = read_job(folder, "result")[1]
    if not outputs:
        raise ValueError("Expected the outputs of the file. Received: none.")
    for name, output in outputs.items():
        if output.dtype.kind not in "biufc":
            raise ValueError(f"Expected outputs that are numbers. Received: {name!r} of type {output.dtype}.")
    return outputs


def compare_run(run: Run, expected: Any, *, tolerance: float) -> VerifyReport:
    """Say whether a file gave what it should give, as `verify` does.

    Args:
        run: What it gave.
        expected: The right outputs, as `verify` takes them; None asks for finite ones only.
        tolerance: The difference allowed, relative to the largest expected magnitude of an output.
    """
    comparison = Comparison(run.reason) if run.reason else _compare(run.outputs, expected, tolerance)
    return VerifyReport(
        passed=not comparison.reason,
        reason=comparison.reason,
        max_abs_diff=comparison.difference,
        scale=comparison.scale,
        tolerance=float(tolerance),
        runtime=run.runtime,
    )


def _run_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    form, content = settings["form"], (folder / MODEL).read_bytes()
    runner = Runner(content)
    write_job(folder, "loaded", settings={"runtime": runner.runtime})
    if not isinstance(form, dict) and (form != "random" or len(runner.signatures) < 2):
        draw = partial(random_inputs, runner.inputs, runner.outputs, rows=1)
        write_job(folder, "result", arrays=_outputs(runner, inputs_from_job(form, arrays, draw=draw)))
        return
    samples = inputs_from_job(form, arrays, draw=dict)
    outputs = {}
    for signature in dict.fromkeys((*samples, *runner.signatures)):
        runner = Runner(content, signature=signature)
        random_samples = random_inputs(runner.inputs, runner.outputs, rows=1)
        outputs[signature] = _outputs(runner, samples.get(signature, random_samples))
    write_job(folder, "result", arrays=by_output(outputs))


def _outputs(runner: Runner, inputs: Any) -> dict[str, np.ndarray]:
    outputs = runner.predict(inputs)
    if isinstance(outputs, dict):
        return outputs
    names = [info.name for info in runner.outputs]
    return dict(zip(names, outputs if isinstance(outputs, list) else [outputs], strict=True))


def _compare(outputs: dict[str, np.ndarray], expected: Any, tolerance: float) -> Comparison:
    compared = {} if expected is None else outputs
    if is_by_signature(expected):
        beginnings = tuple(f"{signature}/" for signature in expected)
        compared = {name: output for name, output in outputs.items() if name.startswith(beginnings)}
        expected = by_output(expected)
    bad = [name for name, output in outputs.items() if name not in compared and not np.isfinite(output).all()]
    if bad or expected is None:
        return Comparison(f"output(s) {bad} hold values that are not finite" if bad else "")
    outputs = compared
    wanted = _by_name(expected, list(outputs))
    results = [_compare_one(name, output, wanted[name], tolerance) for name, output in outputs.items()]
    for result in results:
        if result.reason and result.difference is None:
            return result
    return max(results, key=lambda result: (result.difference or 0.0) / (result.scale or 1.0))


def _by_name(expected: Any, names: list[str]) -> dict[str, np.ndarray]:
    if isinstance(expected, Mapping):
        by_output = dict(expected)
    else:
        values = list(expected) if isinstance(expected, (list, tuple)) else [expected]
        by_output = dict(zip(names, values, strict=False)) if len(values) == len(names) else {}
    if set(by_output) != set(names):
        received = list(expected) if isinstance(expected, Mapping) else f"{len(values)} value(s)"
        raise ValueError(
            f"Expected `expected` to hold one array for each of the outputs {names}, "
            f"in this order or by name. Received: {received}."
        )
    return {name: np.asarray(by_output[name]) for name in names}


def _compare_one(name: str, output: np.ndarray, expected: np.ndarray, tolerance: float) -> Comparison:
    if output.shape != expected.shape:
        return Comparison(f"output {name!r} has the shape {output.shape}, expected: {expected.shape}")
    finite = np.isfinite(expected)
    if expected.size and not finite.any():
        return Comparison(f"no finite value is expected of output {name!r}, so there is nothing to compare it with")
    broken = int(np.count_nonzero(~np.isfinite(output[finite])))
    if broken:
        return Comparison(
            f"output {name!r} holds {broken:,} values that are not finite where finite ones are expected"
        )
    if not np.array_equal(output[~finite], expected[~finite], equal_nan=True):
        return Comparison(f"output {name!r} differs where the expected values are not finite")
    wanted = expected[finite].astype(np.float64)
    scale = max(SMALLEST_SCALE, float(np.abs(wanted).max(initial=0)))
    difference = float(np.abs(output[finite].astype(np.float64) - wanted).max(initial=0))
    if difference <= tolerance * scale:
        return Comparison("", difference, scale)
    reason = (
        f"output {name!r} differs by up to {difference:.3g}; allowed: {tolerance:g} of {scale:.3g}, "
        "its largest expected magnitude"
    )
    return Comparison(reason, difference, scale)
