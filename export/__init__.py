"""Compressed TFLite files from pruned Keras models, proven to run.

Importing this package loads neither Keras nor TensorFlow; names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from tfprune.export.comparing.damage import damage as damage
    from tfprune.export.comparing.damage_report import DamageReport as DamageReport
    from tfprune.export.compressing.compress import compress as compress
    from tfprune.export.compressing.results.compress_report import CompressReport as CompressReport
    from tfprune.export.compressing.search import Search as Search
    from tfprune.export.device.embedder import Embedder as Embedder
    from tfprune.export.device.generating.generator import Generator as Generator
    from tfprune.export.device.remote.remote import Remote as Remote
    from tfprune.export.device.running.benchmark import benchmark as benchmark
    from tfprune.export.device.running.benchmark_report import BenchmarkReport as BenchmarkReport
    from tfprune.export.device.running.correct_biases import correct_biases as correct_biases
    from tfprune.export.device.running.evaluate import evaluate as evaluate
    from tfprune.export.device.running.evaluate_report import EvaluateReport as EvaluateReport
    from tfprune.export.device.running.quantization_error import quantization_error as quantization_error
    from tfprune.export.device.running.quantization_error_report import (
        QuantizationErrorReport as QuantizationErrorReport,
    )
    from tfprune.export.device.running.runner import Runner as Runner
    from tfprune.export.device.running.verify import verify as verify
    from tfprune.export.device.running.verify_report import VerifyReport as VerifyReport
    from tfprune.export.device.web.web import web as web
    from tfprune.export.device.web.web_report import WebReport as WebReport
    from tfprune.export.file.files.pack import pack as pack
    from tfprune.export.file.files.unpack import unpack as unpack
    from tfprune.export.file.inspecting.inspect import inspect as inspect
    from tfprune.export.file.inspecting.model_report import ModelReport as ModelReport
    from tfprune.export.file.xnnpack.sparse_inference_report import SparseInferenceReport as SparseInferenceReport
    from tfprune.export.keras_side.converting.latency import latency as latency
    from tfprune.export.keras_side.converting.micro_support import micro_support as micro_support
    from tfprune.export.keras_side.converting.quantization import Quantization as Quantization
    from tfprune.export.keras_side.converting.sparse_inference import sparse_inference as sparse_inference
    from tfprune.export.keras_side.converting.to_tflite import to_tflite as to_tflite
    from tfprune.export.keras_side.converting.vela import Vela as Vela
    from tfprune.export.keras_side.converting.vela import vela as vela
    from tfprune.export.keras_side.generating.generator_report import GeneratorReport as GeneratorReport
    from tfprune.export.keras_side.generating.to_embedder import to_embedder as to_embedder
    from tfprune.export.keras_side.generating.to_generator import to_generator as to_generator
    from tfprune.export.keras_side.sparse_ready.make_sparse_ready import make_sparse_ready as make_sparse_ready
    from tfprune.export.micro.array_report import ArrayReport as ArrayReport
    from tfprune.export.micro.c_array import c_array as c_array
    from tfprune.export.micro.micro import Micro as Micro
    from tfprune.export.micro.micro_report import MicroReport as MicroReport
    from tfprune.export.micro.micro_support_report import MicroSupportReport as MicroSupportReport
    from tfprune.export.micro.vela_report import VelaReport as VelaReport
    from tfprune.export.pruning.prune_tflite import prune_tflite as prune_tflite
    from tfprune.export.pruning.prune_tflite_report import PruneTfliteReport as PruneTfliteReport
    from tfprune.export.pruning.shrinking.shrink_tflite import shrink_tflite as shrink_tflite
    from tfprune.export.pruning.shrinking.shrink_tflite_report import ShrinkTfliteReport as ShrinkTfliteReport
    from tfprune.export.rewriting.add_metadata import add_metadata as add_metadata
    from tfprune.export.rewriting.export_report import ExportReport as ExportReport
    from tfprune.export.rewriting.rewrite import rewrite as rewrite
    from tfprune.export.rewriting.share_weights import share_weights as share_weights
    from tfprune.export.rewriting.sparsify import sparsify as sparsify
    from tfprune.export.rewriting.weights.edge_quantizer import EdgeQuantizer as EdgeQuantizer

# Each name lives in the module of its own name: `pack` in file/files/pack.py, `Runner` in device/running/runner.py.
_ROOMS = {
    "file.files": ["pack", "unpack"],
    "device.running": [
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
    "comparing": ["DamageReport", "damage"],
    "file.xnnpack": ["SparseInferenceReport"],
    "file.inspecting": ["ModelReport", "inspect"],
    "micro": ["ArrayReport", "Micro", "MicroReport", "MicroSupportReport", "VelaReport", "c_array"],
    "device": ["Embedder"],
    "device.generating": ["Generator"],
    "device.remote": ["Remote"],
    "device.web": ["WebReport", "web"],
    "rewriting": ["ExportReport", "add_metadata", "rewrite", "share_weights", "sparsify"],
    "rewriting.weights": ["EdgeQuantizer"],
    "pruning": ["PruneTfliteReport", "prune_tflite"],
    "pruning.shrinking": ["ShrinkTfliteReport", "shrink_tflite"],
    "keras_side.generating": ["GeneratorReport", "to_embedder", "to_generator"],
    "keras_side.sparse_ready": ["make_sparse_ready"],
    "compressing": ["Search", "compress"],
    "compressing.results": ["CompressReport"],
    "keras_side.converting": [
        "Quantization",
        "Vela",
        "latency",
        "micro_support",
        "sparse_inference",
        "to_tflite",
        "vela",
    ],
}

__all__ = [name for names in _ROOMS.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _ROOMS)
