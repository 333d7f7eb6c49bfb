"""Compressed TFLite files from pruned Keras models, proven to run.

Importing this package loads neither Keras nor TensorFlow; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Runner": "tfprune.export.runtime",
    "benchmark": "tfprune.export.benchmarking",
    "inspect": "tfprune.export.inspection",
    "latency": "tfprune.export.timing",
    "make_sparse_ready": "tfprune.export.mirror",
    "pack": "tfprune.export.packing",
    "rewrite": "tfprune.export.existing",
    "share_weights": "tfprune.export.sharing",
    "sparse_inference": "tfprune.export.eligibility",
    "sparsify": "tfprune.export.sparse",
    "to_tflite": "tfprune.export.pipeline",
    "unpack": "tfprune.export.packed",
    "verify": "tfprune.export.verification",
}

__all__ = [
    "Runner",
    "benchmark",
    "inspect",
    "latency",
    "make_sparse_ready",
    "pack",
    "rewrite",
    "share_weights",
    "sparse_inference",
    "sparsify",
    "to_tflite",
    "unpack",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
