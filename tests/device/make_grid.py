"""Export every network in every format, dense and sparse, as a user would: python make_grid.py FOLDER [MODEL]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from make_files import make_all, write_arrays
from models import MODELS, Network, network

from tfprune.export import to_tflite
from tfprune.export.device.verify import TOLERANCES

# What the dense column and the sparse one ask for; "auto" may still find that dense is better.
CHOICES: dict[str, dict[str, Any]] = {"no": {"optimize": "dense"}, "yes": {"optimize": "latency"}}


def make(name: str, folder: Path) -> list[dict]:
    """Export a model in all forms; return a row for each, with what the report says, or why there is no file."""
    net = network(name)
    write_arrays(folder / f"{name}.npz", net)
    rows = []
    for quantize, tolerance in TOLERANCES.items():
        for sparse, options in CHOICES.items():
            path = folder / f"{name}_{quantize or 'float32'}_{'sparse' if sparse == 'yes' else 'dense'}.tflite"
            path.unlink(missing_ok=True)
            row = {"file": path.name, "samples": f"{name}.npz", "tolerance": tolerance, "apart": False}
            row |= {"model": name, "format": quantize or "float32", "sparse": sparse}
            rows.append(row | _export(net, path, quantize, options))
    return rows


def _export(net: Network, path: Path, quantize: str | None, options: dict[str, Any]) -> dict[str, Any]:
    calibration = [net.samples] if quantize == "int8" else None
    try:
        report = to_tflite(
            net.model, path, quantize=quantize, calibration=calibration, check_on=net.samples, **options
        )
    except ValueError as error:
        return {"form": "", "refusal": str(error), "kernels": "", "bytes": 0}
    return {
        "form": next(row.name for row in report.candidates if not row.reason),
        "failed": [f"{row.name}: {row.reason}" for row in report.candidates if not row.verified],
        "kernels": "sparse" if report.sparse_inference and report.sparse_inference.active else "dense",
        "bytes": report.bytes,
    }


if __name__ == "__main__":
    make_all(make, sys.argv[2:] or MODELS, Path(sys.argv[1]))
