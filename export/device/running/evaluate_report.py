"""Report of an evaluation: how good the outputs of a file are."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table


@dataclass(frozen=True)
class EvaluateReport(Report):
    """The metrics of a file.

    Attributes:
        metrics: Their values, by the names that Keras gives them.
        samples: The number of samples.
        runtime: The interpreter that ran the file, and its version.

    Example:
        >>> labels = model.predict(images, verbose=0).argmax(axis=1)
        >>> print(tfprune.export.evaluate("digits.tflite", (images, labels)))
        accuracy  1.0000
        --------  ---...
        samples   100
        runtime   ai-edge-litert ...
    """

    metrics: dict[str, float]
    samples: int
    runtime: str

    def __str__(self) -> str:
        first, *others = [[name, f"{value:.4f}"] for name, value in self.metrics.items()]
        return table(first, [*others, ["samples", f"{self.samples:,}"], ["runtime", self.runtime]], left=2)
