"""The part of `shrink_tflite` that runs in a process of its own."""

from __future__ import annotations

from pathlib import Path

from tfprune.export.device.processes.child_progress import ChildProgress
from tfprune.export.file.files.codec import encode
from tfprune.export.pruning.apart import FileJob
from tfprune.export.pruning.pruning_goal import TRIES, search
from tfprune.export.pruning.shrinking.shrink_in_order import ShrinkingInOrder, ShrunkFile


def _run_job(folder: Path) -> None:
    samples = FileJob(folder)
    tries = 3 if samples.settings["flops"] is not None else TRIES  # solve, rank again, and solve again
    progress = ChildProgress(folder, rounds=1 + tries)
    job = ShrinkingInOrder(samples.content, samples.runs[0], folder=folder, progress=progress)
    small = _wanted(job, samples) if samples.settings["flops"] is None else _in_two_rounds(job, samples, progress)
    settings = {
        "groups": [vars(row) for row in small.groups],
        "errors": [vars(row) for row in samples.errors(small.content)],
        "skipped": small.skipped,
        "flops": small.flops,
        "flops_kept": small.flops_kept,
    }
    samples.hand_over(small.content, settings, expected=small.zeroed)


def _in_two_rounds(job: ShrinkingInOrder, samples: FileJob, progress: ChildProgress) -> ShrunkFile:
    """Go half of the way, and rank the channels of that file anew: their worth depends on which others are there."""
    flops, round_to = samples.settings["flops"], samples.settings["round_to"]
    target = int(job.flops * flops) if isinstance(flops, float) else flops
    job.check(target, round_to=round_to)
    half = job.shrunk((job.flops + target) // 2, round_to=1)
    samples.check_same(half.content, half.zeroed)  # those of the last file are compared by the parent
    again = ShrinkingInOrder(half.content, samples.runs_of(half.content)[0], folder=samples.folder, progress=progress)
    return again.shrunk(target, round_to=round_to).after(half)


def _wanted(job: ShrinkingInOrder, samples: FileJob) -> ShrunkFile:
    """Search for the file that keeps to a limit of bytes or of the error, each try in one round."""
    names = ("max_bytes", "max_error", "round_to", "compress")
    max_bytes, max_error, round_to, compress = (samples.settings[name] for name in names)

    def without(percent: int) -> ShrunkFile:
        return job.shrunk(job.flops - percent * (job.flops - job.least) // 100, round_to=round_to)

    if max_bytes is not None:
        limit = f"{max_bytes:,} bytes"
        return search(without, lambda file: len(encode(file.content, compress)) <= max_bytes, limit=limit, toward=-1)
    limit = f"an error of {max_error:g}"
    return search(without, lambda file: samples.error(file.content) <= max_error, limit=limit, toward=1)
