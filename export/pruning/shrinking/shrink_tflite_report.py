"""Report of a file with fewer channels: its groups, how far its outputs moved, and what was written."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.pruning.prune_tflite_report import OutputError
from tfprune.export.rewriting.export_report import ExportReport
from tfprune.report import Report, Skipped, skipped_table, table


@dataclass(frozen=True)
class ShrunkGroup(Report):
    """Channels that are ranked together, and how many are left.

    Attributes:
        group: The name of the first weight that makes them.
        channels: Their number; tied channels, which can only go together, count as one.
        kept: The number of remaining channels.
        flops: Floating-point operations of the operators that make, take or pass them, before.
    """

    group: str
    channels: int
    kept: int
    flops: int


@dataclass(frozen=True)
class ShrinkTfliteReport(Report):
    """What `shrink_tflite` removed, and how far the file's outputs moved.

    Attributes:
        groups: One row for each group of channels.
        flops: Floating-point operations of one sample, two for each multiplication of a kernel, before.
        flops_kept: The same of the new file.
        bytes_before: The size of the plain file, in bytes, before.
        errors: One row for each output of the file.
        skipped: The groups that keep all or some of their channels, with the reason.
        samples: The number of samples that channels were ranked on and weights solved for.
        held_out: The number of samples that the outputs were compared on.
        warnings: What makes these numbers less reliable.
        file: The file that was written. Its difference is the one from the file of the old size with the same
            weights and zeros in place of the removed ones.

    Example:
        >>> report = tfprune.export.shrink_tflite("digits.tflite", "small.tflite", images, flops=0.5)
        >>> report.flops_kept <= report.flops / 2
        True
    """

    groups: tuple[ShrunkGroup, ...]
    flops: int
    flops_kept: int
    bytes_before: int
    errors: tuple[OutputError, ...]
    skipped: tuple[Skipped, ...]
    samples: int
    held_out: int
    warnings: tuple[str, ...]
    file: ExportReport

    def __str__(self) -> str:
        groups = [[row.group, f"{row.channels:,}", f"{row.kept:,}", f"{row.flops:,}"] for row in self.groups]
        sums = [
            ["FLOPs", f"{self.flops:,}", f"{self.flops_kept:,}", f"{self.flops_kept / max(self.flops, 1):.1%}"],
            [
                "bytes",
                f"{self.bytes_before:,}",
                f"{self.file.tflite_bytes:,}",
                f"{self.file.tflite_bytes / self.bytes_before:.1%}",
            ],
        ]
        outputs = [row.row for row in self.errors]
        parts = [
            table(["channels of", "before", "after", "FLOPs"], groups) + skipped_table(self.skipped),
            table(["the file", "before", "after", "ratio"], sums),
            table([f"output, on {self.held_out} held-out samples", "error", "agreement"], outputs),
            *(f"Warning: {warning}" for warning in self.warnings),
            str(self.file),
        ]
        return "\n\n".join(parts)
