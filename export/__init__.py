"""Compressed TFLite files from pruned Keras models, proven to run.

Importing this package loads neither Keras nor TensorFlow; names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.export.comparing.damage import damage as damage
    from tfprune.export.comparing.damage_report import CheckReport as CheckReport
    from tfprune.export.comparing.damage_report import DamageReport as DamageReport
    from tfprune.export.comparing.gate import check as check
    from tfprune.export.compressing.compress import Search as Search
    from tfprune.export.compressing.compress import compress as compress
    from tfprune.export.compressing.report import CompressReport as CompressReport
    from tfprune.export.device.benchmark import BenchmarkReport as BenchmarkReport
    from tfprune.export.device.benchmark import benchmark as benchmark
    from tfprune.export.device.generator import Embedder as Embedder
    from tfprune.export.device.generator import Generator as Generator
    from tfprune.export.device.quantization_error import QuantizationErrorReport as QuantizationErrorReport
    from tfprune.export.device.quantization_error import correct_biases as correct_biases
    from tfprune.export.device.remote import Remote as Remote
    from tfprune.export.device.runner import Runner as Runner
    from tfprune.export.device.verify import EvaluateReport as EvaluateReport
    from tfprune.export.device.verify import VerifyReport as VerifyReport
    from tfprune.export.device.verify import evaluate as evaluate
    from tfprune.export.device.verify import verify as verify
    from tfprune.export.device.web import WebReport as WebReport
    from tfprune.export.device.web import web as web
    from tfprune.export.file.container import pack as pack
    from tfprune.export.file.container import unpack as unpack
    from tfprune.export.file.inspect import ModelReport as ModelReport
    from tfprune.export.file.inspect import inspect as inspect
    from tfprune.export.file.xnnpack import SparseInferenceReport as SparseInferenceReport
    from tfprune.export.keras_side.ask import Vela as Vela
    from tfprune.export.keras_side.ask import latency as latency
    from tfprune.export.keras_side.ask import micro_support as micro_support
    from tfprune.export.keras_side.ask import quantization_error as quantization_error
    from tfprune.export.keras_side.ask import sparse_inference as sparse_inference
    from tfprune.export.keras_side.ask import vela as vela
    from tfprune.export.keras_side.convert import Quantization as Quantization
    from tfprune.export.keras_side.sparse_ready import make_sparse_ready as make_sparse_ready
    from tfprune.export.keras_side.to_generator import GeneratorReport as GeneratorReport
    from tfprune.export.keras_side.to_generator import to_embedder as to_embedder
    from tfprune.export.keras_side.to_generator import to_generator as to_generator
    from tfprune.export.keras_side.to_tflite import to_tflite as to_tflite
    from tfprune.export.keras_side.to_trainer import TrainerReport as TrainerReport
    from tfprune.export.keras_side.to_trainer import load_trained as load_trained
    from tfprune.export.keras_side.to_trainer import to_trainer as to_trainer
    from tfprune.export.micro.micro import Micro as Micro
    from tfprune.export.micro.micro import component as component
    from tfprune.export.micro.reports import ArrayReport as ArrayReport
    from tfprune.export.micro.reports import ComponentReport as ComponentReport
    from tfprune.export.micro.reports import MicroReport as MicroReport
    from tfprune.export.micro.reports import MicroSupportReport as MicroSupportReport
    from tfprune.export.micro.reports import VelaReport as VelaReport
    from tfprune.export.micro.reports import c_array as c_array
    from tfprune.export.pruning.prune import PruneTfliteReport as PruneTfliteReport
    from tfprune.export.pruning.prune import prune_tflite as prune_tflite
    from tfprune.export.pruning.shrink import ShrinkTfliteReport as ShrinkTfliteReport
    from tfprune.export.pruning.shrink import shrink_tflite as shrink_tflite
    from tfprune.export.rewriting.rewrite import ExportReport as ExportReport
    from tfprune.export.rewriting.rewrite import rewrite as rewrite
    from tfprune.export.rewriting.share_weights import add_metadata as add_metadata
    from tfprune.export.rewriting.share_weights import share_weights as share_weights
    from tfprune.export.rewriting.sparsify import sparsify as sparsify
    from tfprune.export.rewriting.trainer import FitReport as FitReport
    from tfprune.export.rewriting.trainer import Trainer as Trainer
    from tfprune.export.rewriting.weights import EdgeQuantizer as EdgeQuantizer

_HOMES = {
    "comparing.damage": ["damage"],
    "comparing.damage_report": ["CheckReport", "DamageReport"],
    "comparing.gate": ["check"],
    "compressing.compress": ["Search", "compress"],
    "compressing.report": ["CompressReport"],
    "device.benchmark": ["BenchmarkReport", "benchmark"],
    "device.generator": ["Embedder", "Generator"],
    "device.quantization_error": ["QuantizationErrorReport", "correct_biases"],
    "device.remote": ["Remote"],
    "device.runner": ["Runner"],
    "device.verify": ["EvaluateReport", "VerifyReport", "evaluate", "verify"],
    "device.web": ["WebReport", "web"],
    "file.container": ["pack", "unpack"],
    "file.inspect": ["ModelReport", "inspect"],
    "file.xnnpack": ["SparseInferenceReport"],
    "keras_side.ask": ["Vela", "latency", "micro_support", "quantization_error", "sparse_inference", "vela"],
    "keras_side.convert": ["Quantization"],
    "keras_side.sparse_ready": ["make_sparse_ready"],
    "keras_side.to_generator": ["GeneratorReport", "to_embedder", "to_generator"],
    "keras_side.to_tflite": ["to_tflite"],
    "keras_side.to_trainer": ["TrainerReport", "load_trained", "to_trainer"],
    "micro.micro": ["Micro", "component"],
    "micro.reports": ["ArrayReport", "ComponentReport", "MicroReport", "MicroSupportReport", "VelaReport", "c_array"],
    "pruning.prune": ["PruneTfliteReport", "prune_tflite"],
    "pruning.shrink": ["ShrinkTfliteReport", "shrink_tflite"],
    "rewriting.rewrite": ["ExportReport", "rewrite"],
    "rewriting.share_weights": ["add_metadata", "share_weights"],
    "rewriting.sparsify": ["sparsify"],
    "rewriting.trainer": ["FitReport", "Trainer"],
    "rewriting.weights": ["EdgeQuantizer"],
}

__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
