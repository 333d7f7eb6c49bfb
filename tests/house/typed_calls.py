"""Calls as users write them, for mypy alone: `test_types.py` compares its answers with the marks.

A line without a mark is right. A comment `error:` marks a wrong call with the code of the one error that mypy gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

import keras
import numpy as np

import tfprune
import tfprune.export
from tfprune import criteria, federated, patterns, schedules, tfmot
from tfprune.compact.plan import Budget
from tfprune.compact.prune_to import PruneReport
from tfprune.compact.rank import RankingReport
from tfprune.compact.reconstruct import ReconstructionReport
from tfprune.export import Runner, to_tflite
from tfprune.masking.permute_channels import PermutationReport
from tfprune.masking.sensitivity import SensitivityReport
from tfprune.masking.strip import SparsityReport
from tfprune.methods.one_shot.removal import PutriReport

# Keras ships no types, so to mypy each of its models and layers is `Any`.


def wrapping(model: keras.Model, layer: keras.layers.Layer) -> None:
    tfprune.wrap(model)
    tfprune.wrap(model, criterion="l2", pattern=patterns.NM(2, 4), filters=["conv", "dense/kernel"])
    tfprune.wrap(model, filters=lambda each: each.name == "hidden", in_place=True)
    tfprune.Pruned(layer, criterion=criteria.Magnitude(), pattern="unstructured", weights=["kernel"])
    tfprune.strip(model)
    assert_type(tfprune.sparsity_report(model).sparsity, float)
    tfprune.wrap()  # error: call-arg
    tfprune.wrap(model, "l2")  # error: call-arg
    tfprune.wrap(model, criteria="l2")  # error: call-arg
    tfprune.wrap(model, criterion=0.5)  # error: arg-type
    tfprune.wrap(model, pattern=schedules.Constant(0.5))  # error: arg-type
    tfprune.wrap(model, filters=3)  # error: arg-type
    tfprune.sparsity_report(model).density  # error: attr-defined  # noqa: B018
    tfprune.strip(model, True)  # error: call-arg


def half_each(weights: Sequence[tfprune.allocation.Weight], sparsity: float) -> list[float]:
    return [sparsity / 2 for _ in weights]


def by_name(weights: Sequence[str], sparsity: float) -> list[float]:
    return [sparsity for _ in weights]


def training(model: keras.Model, x: np.ndarray) -> None:
    schedule = schedules.Polynomial(0.9, begin=0.1, end=0.7)
    tfprune.PruningCallback(schedule, every=20, allocation={"conv/": 0.5, "head": schedules.Constant(0.8)})
    tfprune.PruningCallback(schedule, budget=tfprune.budget(flops=0.5), data=(x, x), loss="mse")
    tfprune.PruningCallback(schedule, allocation=half_each)
    assert_type(tfprune.update_masks(model, 0.5), SparsityReport)
    tfprune.PruningSummaries(Path("logs"), update_freq=10)
    scan = tfprune.sensitivity(model, (x, x), (0.5, 0.9), metric="accuracy", verbose=0)
    assert_type(scan, SensitivityReport)
    tfprune.update_masks(model, 0.5, allocation=scan.suggest(max_drop=0.01))
    tfprune.PruningCallback(0.9)  # error: arg-type
    tfprune.PruningCallback(schedule, 20)  # error: call-arg
    tfprune.PruningCallback(schedule, every="epoch")  # error: arg-type
    tfprune.PruningCallback(schedule, allocation=0.5)  # error: arg-type
    tfprune.PruningCallback(schedule, allocation=by_name)  # error: arg-type
    tfprune.update_masks(model, "half")  # error: arg-type
    tfprune.PruningSummaries(3)  # error: arg-type
    tfprune.sensitivity(model, (x, x), 0.5)  # error: arg-type
    tfprune.sensitivity(model, (x, x), verbose=None)  # error: arg-type
    scan.suggest(drop=0.01)  # error: call-arg
    schedules.Polynomial(0.9, every=10)  # error: call-arg
    patterns.NM("2", 4)  # error: arg-type


def shrinking(model: keras.Model, x: np.ndarray) -> None:
    half = tfprune.budget(flops=0.5)
    assert_type(half, Budget)
    plan = tfprune.plan_shrink(model, 0.5, criterion="wanda", data=x, round_to=8)
    assert_type(plan, tfprune.ShrinkPlan)
    tfprune.shrink(model, plan)
    tfprune.zero_channels(model, plan)
    small, report = tfprune.prune_to(model, half, (x, x), epochs=2)
    how = tfprune.Distillation(temperature=4, features=["last"])
    tuning = tfprune.FineTuning(rounds=2, distillation=how, callbacks=[keras.callbacks.History()])
    tfprune.prune_to(model, half, (x, x), validation_data=(x, x), max_drop=0.01, fine_tuning=tuning)
    tfprune.prune_to(model, half, (x, x), max_drop=tfprune.Limit(0.01, metric="accuracy"), folder=Path("state"))
    tfprune.distilled(model, model, tfprune.Distillation(temperature=None, features={"last": "last"}))
    tfprune.distilled(model, model, 4.0)  # error: arg-type
    tfprune.prune_to(model, half, (x, x), rounds=2)  # error: call-arg
    tfprune.FineTuning(distillation=4.0)  # error: arg-type
    assert_type(report, PruneReport)
    solved, errors = tfprune.reconstruct(model, small, x)
    assert_type(errors, ReconstructionReport)
    assert_type(tfprune.rank_channels(model, x), RankingReport)
    assert_type(tfprune.rank_channels(model, x).scores["block/units"], np.ndarray)
    tfprune.plan_shrink(model, criterion=tfprune.transformers.rank_heads(model, (x, x)))
    split = tfprune.transformers.transformer_budget(0.5, block_count=4, attention=9, feed_forward=18, width=48)
    assert_type(split, tuple[int, int])
    grown, growth = tfprune.growth.grow_depth(model, 2, order="stack", zero_output=True, samples=x)
    assert_type(growth, tfprune.growth.GrowthReport)
    assert_type(growth.copies, tuple[int, ...])
    assert_type(tfprune.transformers.rank_blocks(model, x, criterion="similarity"), tfprune.transformers.BlockRanking)
    tfprune.transformers.drop_blocks(model, growth.copies)[1].as_dict()
    tfprune.transformers.drop_blocks(model, 3)  # error: arg-type
    assert_type(tfprune.experts.grow(model, 2, noise=0.0)[1], tfprune.experts.ExpertsReport)
    tfprune.experts.merge(model, [[0, 1], [2, 3]], top_k=1)[1].as_dict()
    tfprune.experts.drop(model, 3)  # error: arg-type
    tfprune.experts.register(keras.layers.Dense, {"kernel": "last"})  # error: dict-item
    tfprune.growth.grow_depth(model, "twice")  # error: arg-type
    tfprune.budget(0.5)  # error: call-arg
    tfprune.budget(flops="half")  # error: arg-type
    tfprune.plan_shrink(model, half)
    tfprune.plan_shrink(model, tfprune.allocation.LayerThreshold(), criterion="dacis", data=(x, x))
    tfprune.update_masks(model, half)
    tfprune.plan_shrink(model, allocation=half)  # error: arg-type
    tfprune.plan_shrink(model, "half")  # error: arg-type
    tfprune.plan_shrink(model, 0.5, round_to=0.5)  # error: arg-type
    tfprune.shrink(model, 0.5)  # error: arg-type
    tfprune.prune_to(model, 0.5, (x, x))  # error: arg-type
    tfprune.prune_to(model, (4, 96), (x, x))  # error: arg-type
    tfprune.reconstruct(model, small, x, reconstruction="parallel", ridge=0.001)
    tfprune.reconstruct(model, small, x, ridge="small")  # error: arg-type
    plan.draw("plan.png")  # error: attr-defined


def pruning_on_text(model: keras.Model, x: np.ndarray) -> None:
    masked, report = tfprune.prune_units(model, x, {"units": 0.5}, criterion="wanda", folder=Path("run"))
    assert_type(report.plan, tfprune.ShrinkPlan)
    assert_type(report, PutriReport)
    assert_type(
        tfprune.prune_units(model, x, reconstruction={"units": "parallel", "heads": None})[1],
        PutriReport,
    )
    assert_type(
        tfprune.prune_weights(model, x, pattern=patterns.NM(2, 4))[1],
        ReconstructionReport,
    )
    assert_type(
        tfprune.permute_channels(model, patterns.NM(2, 4))[1],
        PermutationReport,
    )
    tfprune.permute_channels(model)  # error: call-arg
    tfprune.prune_weights(model, x, criterion="sparsegpt", rounding=tfprune.Rounding(4, block=32))
    tfprune.prune_weights(model, x, rounding=4)  # error: arg-type
    tfprune.prune_units(model)  # error: call-arg
    tfprune.prune_units(model, x, "half")  # error: arg-type


def federated_masks(model: keras.Model) -> None:
    assert_type(federated.HeteroFL(0.5).masks(model), list[np.ndarray | None])
    federated.leading_channels(model, 0.5)
    federated.HeteroFL("half")  # error: arg-type
    federated.leading_channels(model)  # error: call-arg


def concepts(model: keras.Model, x: np.ndarray) -> None:
    rules = tfprune.concepts.concept_rules(model, x, {"dark": x[:, 0] < 0.5}, layers=["hidden"], validation_split=0.5)
    assert_type(rules.best("dark").precision, float)
    plan, trace = tfprune.concepts.plan_concepts(model, rules, require={"R1": ["dark"]}, min_recall=0.8)
    assert_type(plan, tfprune.ShrinkPlan)
    assert_type(trace, tfprune.concepts.ConceptTrace)
    assert_type(trace.why("hidden", 3), str)
    assert_type(trace.evaluate(model, x, {"dark": x[:, 0] < 0.5}), tfprune.concepts.ConceptTrace)
    trace.html(Path("trace.html"))
    tfprune.wrap(model, criterion=trace.criterion(), pattern="channel")
    tfprune.prune_to(model, plan, (x, x), epochs=2)
    tfprune.concepts.concept_rules(model, x, [x[:, 0] < 0.5])  # error: arg-type
    tfprune.concepts.plan_concepts(model, rules)  # error: call-arg
    tfprune.concepts.plan_concepts(model, {}, require=["dark"])  # error: arg-type
    trace.save("trace.html")  # error: attr-defined


def exporting(model: keras.Model, x: np.ndarray) -> None:
    report = to_tflite(model, "model.tfz", quantize="int8", calibration=[x], compress="packed", check_on=x)
    form = tfprune.export.Quantization("int8", levels=16, io_dtype="int8")
    limit = tfprune.Limit(0.01, metric="accuracy", data=(x, x))
    to_tflite(model, "model.tfz", quantize=form, target=tfprune.export.Micro(arena=60_000), max_drop=limit)
    to_tflite(model, "model.tfz", max_drop=0.01)  # error: arg-type
    search = tfprune.export.Search(trials=3, jobs=2, batch_size=8, seed=1)
    compress_report = tfprune.export.compress(
        model, (x, x), (x, x), folder="found", max_drop=0.01, target="micro", search=search
    )
    assert_type(compress_report, tfprune.export.CompressReport)
    tfprune.export.compress(model, (x, x), (x, x), folder="found", search=3)  # error: arg-type
    assert_type(report, tfprune.export.ExportReport)
    assert_type(report.bytes, int)
    assert_type(report.sparse_inference, tfprune.export.SparseInferenceReport)
    assert_type(tfprune.export.verify(Path("model.tfz"), samples=x, expected=x), tfprune.export.VerifyReport)
    assert_type(tfprune.export.damage("a.tflite", model, (x, x), groups={"room": x}).passed, bool)
    assert_type(tfprune.export.benchmark("model.tfz", runs=20).median_ms, float)
    board = tfprune.export.Remote("pi@board", python="env/bin/python", options=["-p", "2222"])
    assert_type(tfprune.export.benchmark("model.tfz", on=board, processes=5, cool_down=0.5).spread, float)
    tfprune.export.verify("model.tfz", on=board)
    tfprune.budget(latency=0.5, measure=board)
    tfprune.export.latency(model, on=board)
    tfprune.export.benchmark("model.tfz", on="pi@board")  # error: arg-type
    assert_type(tfprune.export.inspect(b"TFL3"), tfprune.export.ModelReport)
    assert_type(tfprune.export.rewrite("a.tflite", "b.tflite", optimize="size"), tfprune.export.ExportReport)
    assert_type(tfprune.export.unpack(tfprune.export.pack(b"")), bytes)
    Runner("model.tfz", threads=4).predict(x)
    tfprune.export.latency(model) + tfprune.export.sparse_inference(model).sparsity
    to_tflite(model)  # error: call-arg
    to_tflite(model, path=3)  # error: arg-type
    to_tflite(model, "model.tflite", quantise="int8")  # error: call-arg
    tfprune.export.Quantization("int8", levels="few")  # error: arg-type
    report.size_in_bytes  # error: attr-defined  # noqa: B018
    Runner(3)  # error: arg-type
    Runner("model.tfz", threads="all")  # error: arg-type
    Runner("model.tfz").run(x)  # error: attr-defined
    tfprune.export.pack("model.tflite")
    tfprune.export.pack(3)  # error: arg-type
    tfprune.export.benchmark("model.tfz", x, 20)  # error: call-arg


def under_the_names_of_tfmot(model: keras.Model) -> None:
    tfmot.prune_low_magnitude(model, tfmot.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000))
    tfmot.prune_low_magnitude(model, block_size=(1, 4), pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    tfmot.strip_pruning(model)
    with tfmot.prune_scope():
        tfmot.UpdatePruningStep()
    tfmot.cluster_weights(model, 8, tfmot.CentroidInitialization.LINEAR, preserve_sparsity=True)
    tfmot.quantization.keras.quantize_apply(
        model, tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme()
    )
    tfmot.quantize_apply(model, "int8")  # error: arg-type
    tfmot.prune_low_magnitude(model, 0.5)  # error: arg-type
    tfmot.PolynomialDecay(0.0, 0.8)  # error: call-arg
    tfmot.ConstantSparsity("half", 0)  # error: arg-type


def names_that_do_not_exist() -> None:
    tfprune.nonexistent  # error: attr-defined  # noqa: B018
    tfprune.export.nonexistent  # error: attr-defined  # noqa: B018
    tfmot.nonexistent  # error: attr-defined  # noqa: B018
    from tfprune import Prune  # error: attr-defined  # noqa: F401
    from tfprune.export import from_tflite  # error: attr-defined  # noqa: F401
