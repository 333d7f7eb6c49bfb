"""Compressed TFLite files from pruned Keras models, proven to run.

Importing this package loads neither Keras nor TensorFlow; names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.lazy import lazy_names

if TYPE_CHECKING:
    from tfprune.export.compressing.compress import compress as compress
    from tfprune.export.compressing.compress_report import CompressReport as CompressReport
    from tfprune.export.converting.latency import latency as latency
    from tfprune.export.converting.micro_support import micro_support as micro_support
    from tfprune.export.converting.sparse_inference import sparse_inference as sparse_inference
    from tfprune.export.converting.to_tflite import to_tflite as to_tflite
    from tfprune.export.converting.vela import Vela as Vela
    from tfprune.export.converting.vela import vela as vela
    from tfprune.export.files.pack import pack as pack
    from tfprune.export.files.unpack import unpack as unpack
    from tfprune.export.inspecting.inspect import inspect as inspect
    from tfprune.export.inspecting.model_report import ModelReport as ModelReport
    from tfprune.export.micro.array_report import ArrayReport as ArrayReport
    from tfprune.export.micro.c_array import c_array as c_array
    from tfprune.export.micro.micro_report import MicroReport as MicroReport
    from tfprune.export.micro.micro_support_report import MicroSupportReport as MicroSupportReport
    from tfprune.export.micro.vela_report import VelaReport as VelaReport
    from tfprune.export.remote.remote import Remote as Remote
    from tfprune.export.rewriting.export_report import ExportReport as ExportReport
    from tfprune.export.rewriting.rewrite import rewrite as rewrite
    from tfprune.export.rewriting.share_weights import share_weights as share_weights
    from tfprune.export.rewriting.sparsify import sparsify as sparsify
    from tfprune.export.running.benchmark import benchmark as benchmark
    from tfprune.export.running.benchmark_report import BenchmarkReport as BenchmarkReport
    from tfprune.export.running.correct_biases import correct_biases as correct_biases
    from tfprune.export.running.evaluate import evaluate as evaluate
    from tfprune.export.running.evaluate_report import EvaluateReport as EvaluateReport
    from tfprune.export.running.quantization_error import quantization_error as quantization_error
    from tfprune.export.running.quantization_error_report import QuantizationErrorReport as QuantizationErrorReport
    from tfprune.export.running.runner import Runner as Runner
    from tfprune.export.running.verify import verify as verify
    from tfprune.export.running.verify_report import VerifyReport as VerifyReport
    from tfprune.export.sparse_ready.make_sparse_ready import make_sparse_ready as make_sparse_ready
    from tfprune.export.xnnpack.sparse_inference_report import SparseInferenceReport as SparseInferenceReport

# Each name lives in the module of its own name: `pack` in files/pack.py, `Runner` in running/runner.py.
_ROOMS = {
    "files": ["pack", "unpack"],
    "running": [
        "BenchmarkReport",
        "EvaluateReport",
        "QuantizationErrorReport",
        "Runner",
        "VerifyReport",
        "benchmark",
        "correct_biases",
        "evaluate",
        "quantization_error",
        "verify",
    ],
    "xnnpack": ["SparseInferenceReport"],
    "inspecting": ["ModelReport", "inspect"],
    "micro": ["ArrayReport", "MicroReport", "MicroSupportReport", "VelaReport", "c_array"],
    "remote": ["Remote"],
    "rewriting": ["ExportReport", "rewrite", "share_weights", "sparsify"],
    "sparse_ready": ["make_sparse_ready"],
    "compressing": ["CompressReport", "compress"],
    "converting": ["Vela", "latency", "micro_support", "sparse_inference", "to_tflite", "vela"],
}

__all__ = [name for names in _ROOMS.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _ROOMS)
