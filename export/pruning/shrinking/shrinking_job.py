"""The part of `shrink_tflite` that runs in a process of its own."""

from __future__ import annotations

from pathlib import Path

from tfprune.export.device.processes.child_process import run_as_child
from tfprune.export.pruning.apart import FileJob
from tfprune.export.pruning.shrinking.shrink_in_order import ShrinkingInOrder


def _run_job(folder: Path) -> None:
    samples = FileJob(folder)
    job = ShrinkingInOrder(samples.content, samples.runs[0], folder=folder)
    small = job.shrunk(samples.settings["flops"], round_to=samples.settings["round_to"])
    settings = {
        "groups": [vars(row) for row in small.groups],
        "errors": [vars(row) for row in samples.errors(small.content)],
        "skipped": small.skipped,
        "flops": small.flops,
        "flops_kept": small.flops_kept,
    }
    samples.hand_over(small.content, settings, expected=small.zeroed)


if __name__ == "__main__":
    run_as_child(_run_job)
