"""Recipes of a search, and trials: what a recipe made of a model, and how it is stored."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.base.folders import NamedArrays, parse_json, read_fields
from tfprune.base.limit import GroupDrop
from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.compact.trainer import Distillation
from tfprune.export.rewriting.weights import RECIPE_NAME
from tfprune.models.anatomy import Kind, kind_of, walk
from tfprune.patterns import NM, Pattern, as_pattern
from tfprune.report import Report

# A recipe: which parts of a model are removed, how exact its numbers are, how long it trains; and as a program.

PATTERNS: dict[str, Pattern] = {name: as_pattern(name) for name in ("unstructured", "2:4", "1x4", "4x1")}
PRUNING_END = 0.6  # the fraction of the training after which the sparsity stays
_MOST_MASK_UPDATES = 25
LEAST_FLOPS, LEAST_WEIGHTS = 0.08, 0.02  # the smallest fractions that a search leaves
_LONGEST_CHAIN = 200  # recipes: more than a search makes until nothing is left to remove
_PROGRAM_HEAD = """import keras

import tfprune
from tfprune.export import {exports}

dense = keras.saving.load_model("model.keras")  # the model that was compressed
x, y = ...  # its training data
x, y = x[:{samples}], y[:{samples}]


def train(model, rounds, learning_rate, *callbacks):
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, rounds * {steps})
    optimizer = type(dense.optimizer).from_config({{**dense.optimizer.get_config(), "learning_rate": decay}})
    compiled = keras.saving.deserialize_keras_object(dense.get_compile_config())
{teacher}    model.compile(**{{**compiled, "optimizer": optimizer}})
    sizes = {{"batch_size": {batch_size}, "steps_per_epoch": {steps}}}
    model.fit(x, y, epochs=rounds, callbacks=[*callbacks], verbose=0, **sizes)


"""
_ANY_DIFFERENCE = "# The file was chosen by its score, so its outputs may differ from the model's by any amount.\n"
_TEACHER = "    model = tfprune.distilled(model, dense, tfprune.{!r})  # `dense` teaches; the layers are the same\n"


@dataclass(frozen=True)
class Recipe(Report):
    """How a smaller model is made from a trained one, or from what another recipe has made of it.

    Attributes:
        flops: The fraction of the multiply-adds that remains when channels are removed; 1 removes none. Of a
            transformer these are attention heads and hidden units.
        sparsity: The fraction of zeros among the remaining weights; 0 makes none.
        pattern: The shape of the zeros, of `PATTERNS`.
        quantize_aware: Whether it continues with quantization-aware training.
        samples: The number of training samples, so that a whole number of rounds uses all of them.
        steps: Training steps in a round.
        rounds: The number of rounds; with `quantize_aware`, half as many more.
        learning_rate: The learning rate of the first step; it falls to 0 along a cosine.
        seed: Seeds the order of samples and all other random numbers of its training.
        teacher_weight: The weight of the original model's outputs in the loss; 0 trains on the labels alone.
        temperature: By which these outputs are softened, as in `tfprune.Distillation`.
        dropped: The blocks of the original model that are dropped, by their number from 0, in this order.
        depth: The fraction of the multiply-adds that remains when these blocks are dropped, about.
        after: The recipe that is applied before, which removes no more than this one; None starts from the original
            model. `flops` and `sparsity` are fractions of that model in either case.
    """

    flops: float
    sparsity: float
    pattern: str
    quantize_aware: bool
    samples: int
    steps: int
    rounds: int
    learning_rate: float
    seed: int
    teacher_weight: float = 0.0
    temperature: float = 1.0
    dropped: tuple[int, ...] = ()
    depth: float = 1.0
    after: Recipe | None = None

    @classmethod
    def read(cls, fields: Any) -> Recipe:
        """Read a recipe from what `as_dict` returned.

        Raises:
            ValueError: If it is something else.
        """
        recipe = read_fields(cls, fields, after=None, dropped=())
        recipe = replace(recipe, dropped=_read_blocks(fields.get("dropped", [])))
        if fields.get("after") is not None:
            recipe = replace(recipe, after=cls.read(fields["after"]))
        check_number(recipe.flops, "flops", above=0, most=1)
        check_number(recipe.depth, "depth", above=0, most=1)
        check_number(recipe.sparsity, "sparsity", least=0, below=1)
        check_choice(recipe.pattern, "pattern", choices=PATTERNS)
        check_number(recipe.learning_rate, "learning_rate", least=0)
        check_number(recipe.teacher_weight, "teacher_weight", least=0, most=1)
        check_number(recipe.temperature, "temperature", above=0)
        check_count(recipe.seed, "seed", least=0, most=2**32 - 1)
        for name in ("samples", "steps", "rounds"):
            check_count(getattr(recipe, name), name, least=1)
        check_count(len(recipe.chain), "after", least=1, most=_LONGEST_CHAIN)
        return recipe

    @property
    def chain(self) -> tuple[Recipe, ...]:
        """All recipes to apply, this one last."""
        return (*(self.after.chain if self.after else ()), self)

    @property
    def remaining(self) -> tuple[float, float]:
        """The fractions of the original model's multiply-adds and weights that it leaves."""
        return self.depth * self.flops, 1 - self.sparsity

    @property
    def drop(self) -> list[int]:
        """The blocks that it drops, by their number among those that the recipe before has left."""
        before = self.after.dropped if self.after else ()
        return [block - sum(other < block for other in before) for block in self.dropped if block not in before]

    @property
    def cut(self) -> float:
        """The fraction of the multiply-adds of the recipe before that remains when channels are removed."""
        return self.flops / (self.after.flops if self.after else 1.0)

    @property
    def initial(self) -> float:
        """The fraction of zeros at the start."""
        return self.after.sparsity if self.after else 0.0

    @property
    def distillation(self) -> Distillation | None:
        """How the original model teaches; None if it does not."""
        return Distillation(self.temperature, self.teacher_weight) if self.teacher_weight else None

    @property
    def name(self) -> str:
        """The changes in a few letters, for names of files."""
        flops, _ = self.remaining
        parts = [f"flops{100 * flops:.0f}"] if flops < 1 else []
        parts += [f"without{len(self.dropped)}blocks"] if self.dropped else []
        if self.sparsity:
            shape = {"unstructured": "", "2:4": "in2of4"}.get(self.pattern, f"in{self.pattern}")
            parts.append(f"zeros{100 * self.sparsity:.4g}{shape}")
        parts += ["taught"] if self.teacher_weight else []
        parts += ["qat"] if self.quantize_aware else []
        return "_".join([*parts, f"{self.steps_of_chain}steps"])

    @property
    def extra_rounds(self) -> int:
        """Rounds of quantization-aware training."""
        return max(1, self.rounds // 2) if self.quantize_aware else 0

    @property
    def all_steps(self) -> int:
        """Training steps in total."""
        return self.steps * (self.rounds + self.extra_rounds)

    @property
    def steps_of_chain(self) -> int:
        """Training steps of all recipes in the chain."""
        return sum(recipe.all_steps for recipe in self.chain)

    @property
    def every(self) -> int:
        """Steps between updates of the masks."""
        return math.ceil(self.steps * self.rounds * PRUNING_END / _MOST_MASK_UPDATES)

    @property
    def allocation(self) -> str:
        """How zeros are split over the layers."""
        return "uniform" if isinstance(PATTERNS[self.pattern], NM) else "lamp"


def _read_blocks(numbers: Any) -> tuple[int, ...]:
    is_list = type(numbers) is list and all(type(number) is int and number >= 0 for number in numbers)
    if not is_list or len({*numbers}) < len(numbers):
        raise ValueError(f"Expected the numbers of blocks, each once. Received: dropped={numbers!r:.100}.")
    return tuple(numbers)


def training_recipe(
    steps: int,
    *,
    samples: int,
    batch_size: int,
    learning_rate: float = 0.0,
    seed: int = 0,
    pattern: str = "unstructured",
    distillation: Distillation | None = None,
) -> Recipe:
    """Return a recipe that only trains, for a whole number of epochs, or of rounds that make up one epoch.

    Args:
        steps: The most training steps.
        samples: The number of training samples.
        batch_size: Samples in a batch.
        learning_rate: The learning rate of the first step.
        seed: Seeds training and the choice of recipes.
        pattern: The shape of the zeros, of `PATTERNS`.
        distillation: How the original model teaches; None if it does not.
    """
    batches = -(-samples // batch_size)
    parts = -(-batches // steps)
    used = min(samples, batches // parts * parts * batch_size)
    rounds = max(1, steps // batches)
    recipe = Recipe(1.0, 0.0, pattern, False, used, batches // parts, rounds, learning_rate, seed)
    if distillation is None or distillation.temperature is None:
        return recipe
    return replace(recipe, teacher_weight=distillation.weight, temperature=distillation.temperature)


def recipe_code(recipe: Recipe | None, settings: str, *, batch_size: int) -> str:
    """Write a program that makes a file as the search made it.

    Args:
        recipe: How its model was made; None for the original model.
        settings: More arguments of `to_tflite`, as Python.
        batch_size: Samples in a batch.
    """
    exports = ", ".join(
        [*(name for name in ("EdgeQuantizer", "Micro", "Quantization") if f"{name}(" in settings), "to_tflite"]
    )
    note = _ANY_DIFFERENCE if "tolerance=" in settings else ""
    if recipe is None:
        head = _PROGRAM_HEAD.partition("x, y = x")[0].format(exports=exports)
        return head + f'{note}to_tflite(dense, "model.tflite"{settings})\n'
    lines = [line for step in recipe.chain for line in _lines(step)]
    teacher = _TEACHER.format(recipe.distillation) if recipe.distillation else ""
    sizes = {"samples": recipe.samples, "steps": recipe.steps, "batch_size": batch_size}
    begin = _PROGRAM_HEAD.format(exports=exports, teacher=teacher, **sizes)
    return begin + "\n".join([*lines, f'{note}to_tflite(model, "model.tflite"{settings})']) + "\n"


def _lines(recipe: Recipe) -> list[str]:
    """Return the part of the program that applies one recipe, after those before it."""
    lines, model = [f"keras.utils.set_random_seed({recipe.seed})"], "dense"
    if recipe.after:
        model = "model"
        lines = ["", "model = tfprune.strip(model)", *lines]
    if recipe.drop:
        lines.append(f"model, _ = tfprune.transformers.drop_blocks({model}, {recipe.drop})")
        model = "model"
    if recipe.cut < 1:
        lines.append(f"plan = tfprune.plan_shrink({model}, tfprune.budget(flops={recipe.cut!r}))")
        lines.append(f"model = tfprune.shrink({model}, plan)")
        model = "model"
    callbacks = ""
    if not recipe.sparsity:
        lines.append(f"model = tfprune.strip({model})")
    else:
        lines.append(f"model = tfprune.wrap({model}, pattern={recipe.pattern!r})")
        initial = f", initial={recipe.initial}" if recipe.initial else ""
        lines.append(f"schedule = tfprune.schedules.Polynomial({recipe.sparsity}{initial}, end={PRUNING_END})")
        settings = f"every={recipe.every}, allocation={recipe.allocation!r}"
        lines.append(f"pruning = tfprune.PruningCallback(schedule, {settings})")
        callbacks = ", pruning"
    lines.append(f"train(model, {recipe.rounds}, {recipe.learning_rate!r}{callbacks})")
    if recipe.quantize_aware:
        lines.append("model = tfprune.quantize_aware(model)")
        lines.append(f"train(model, {recipe.extra_rounds}, {recipe.learning_rate / 10!r})")
    return lines


# A trial of a search and the files that it made, and how both are stored.

FORMATS = ("float32", "float16", "dynamic", "int8", "int16x8", "int4", "mixed")  # in which files are made


@dataclass(frozen=True)
class MeasuredFile(Report):
    """A file that was made and measured.

    Attributes:
        recipe: How its model was made; None for the original model.
        quantize: The number format, of `FORMATS`, or the name of a recipe; None for float32.
        bytes: The size of the .tflite file, which any interpreter loads.
        packed_bytes: Its size when packed, as `Runner` reads it.
        score: The metric on the validation data, of the file.
        drop: How much worse that is than the model's own; negative if it is better.
        latency_ms: Milliseconds of one inference; None if it was not measured.
        arena_bytes: The RAM that it takes on a microcontroller; None for other targets.
        cycles: The cycles of one inference on an NPU, as its compiler estimates them; None for other targets.
        code: A program that makes the file.
        file: Its name in the folder, if it is one of the best; else empty.
        test_score: The metric on the test data, of the file; None without them.
        worst_group: The class or group that exceeds its limit most, or is nearest to it, on the validation data; None
            without such limits.
    """

    recipe: Recipe | None
    quantize: str | None
    bytes: int
    packed_bytes: int
    score: float
    drop: float
    latency_ms: float | None = None
    arena_bytes: int | None = None
    cycles: int | None = None
    code: str = ""
    file: str = ""
    test_score: float | None = None
    worst_group: GroupDrop | None = None

    @property
    def name(self) -> str:
        """The recipe and the number format in a few letters."""
        return f"{self.recipe.name if self.recipe else 'dense'}_{self.quantize or 'float32'}"


@dataclass(frozen=True)
class Trial:
    """The result of a recipe.

    Attributes:
        recipe: The recipe; None for the original model.
        tried: The files that it made.
        seconds: How long it took.
        training: How long it trained, in seconds.
        reason: Why it made no file.
        ended: How long the search had lasted then, in all calls, in seconds.
        is_kept: Whether its model is stored, so that another recipe can start from it.
    """

    recipe: Recipe | None
    tried: tuple[MeasuredFile, ...]
    seconds: float
    training: float
    reason: str = ""
    ended: float = 0.0
    is_kept: bool = False

    @property
    def name(self) -> str:
        """The recipe in a few letters."""
        return self.recipe.name if self.recipe else "dense"

    @property
    def stored_as(self) -> Recipe | None:
        """The recipe whose stored model another recipe starts from; None for the original model."""
        return self.recipe if self.is_kept or self.recipe is None else self.recipe.after

    def stored(self, contents: Sequence[np.ndarray]) -> NamedArrays:
        """Return the trial, and the bytes of its files, as arrays."""
        recipe = None if self.recipe is None else self.recipe.as_dict()
        fields = {**vars(self), "tried": [file.as_dict() for file in self.tried], "recipe": recipe}
        files = {f"file_{index}": content for index, content in enumerate(contents)}
        return {"trial": np.array(json.dumps(fields)), **files}


def read_trial(arrays: NamedArrays) -> Trial:
    """Read a trial from what `Trial.stored` returned.

    Raises:
        ValueError: If it is something else.
    """
    fields, ended = parse_json(str(arrays["trial"]).encode()), check_number(float(arrays.get("ended", 0.0)), "ended")
    trial = read_fields(Trial, fields, recipe=None, tried=(), ended=ended, is_kept="model" in arrays)
    recipe = _recipe(fields.get("recipe"))
    tried = tuple(_read_file(file, recipe) for file in fields.get("tried", ()))
    for name in [f"file_{index}" for index in range(len(tried))] + ["model"] * trial.is_kept:
        if arrays[name].dtype != np.uint8 or arrays[name].ndim != 1:
            raise ValueError(f"Expected {name!r} to be bytes. Received: {arrays[name].dtype} {arrays[name].shape}.")
    return replace(trial, recipe=recipe, tried=tried)


def _recipe(fields: Any) -> Recipe | None:
    return None if fields is None else Recipe.read(fields)


def _read_file(fields: Any, recipe: Recipe | None) -> MeasuredFile:
    group = fields.get("worst_group") if isinstance(fields, dict) else None
    worst_group = None if group is None else read_fields(GroupDrop, group)
    file = read_fields(MeasuredFile, fields, recipe=recipe, worst_group=worst_group)
    if _recipe(fields.get("recipe")) != recipe:
        raise ValueError("Expected files of the trial's recipe. Received: one of another.")
    if file.quantize is not None and not RECIPE_NAME.fullmatch(file.quantize):  # it becomes a part of the file's name
        raise ValueError(f"Expected the name of a number format. Received: quantize={file.quantize!r}.")
    for name in ("bytes", "packed_bytes"):
        check_count(getattr(file, name), name, least=1)
    for name in ("latency_ms", "arena_bytes", "cycles"):
        if getattr(file, name) is not None:
            check_number(getattr(file, name), name, above=0)
    return file


# The blocks of a transformer in the order in which recipes drop them, and the next recipe that drops some.

_RANKED_SAMPLES = 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockOrder:
    """The repeated blocks of a model.

    Attributes:
        order: Their numbers from 0, the least important first; the last one stays.
        share: The fraction of the multiply-adds of the original model in each.
        stay_alike: Whether blocks can still be dropped after channels were removed from them.
    """

    order: tuple[int, ...]
    share: float
    stay_alike: bool = True

    def shallower(self, recipe: Recipe, step: float) -> Recipe | None:
        """Return a recipe that drops more blocks: as many as a step allows, or one; None if it can drop none.

        Args:
            recipe: What is to be dropped from.
            step: How much to remove of the multiply-adds, as a logarithm.
        """
        count = len(recipe.dropped)
        others = len(self.order) - count
        if others < 2 or (recipe.flops < 1 and not self.stay_alike):
            return None
        each = self.share / (1 - count * self.share)  # of the model that is left
        more = min(others - 1, max(1, int((1 - math.exp(-step)) / each + 1e-6)))
        depth = 1 - (count + more) * self.share
        return replace(recipe, dropped=self.order[: count + more], depth=round(depth, 2)) if depth > 0 else None


def block_order_of(model: keras.Model, data: tuple[Any, Any]) -> BlockOrder | None:
    """Rank the blocks of a model with attention, by how little they change their inputs; None if there are none.

    Args:
        model: The original model.
        data: Training data, of which the first samples are run.
    """
    if not any("attention" in type(layer).__name__.lower() for _, layer in walk(model)):
        return None
    first = keras.tree.map_structure(lambda array: array[:_RANKED_SAMPLES], data)
    try:
        order = tfprune.transformers.rank_blocks(model, first, criterion="similarity", verbose=0).order
        shallower, _ = tfprune.transformers.drop_blocks(model, order[:1], verbose=0)
        share = 1 - _flops(shallower) / _flops(model)
    except ValueError as error:
        _log.info("no blocks are dropped: %s", error)
        return None
    return BlockOrder(tuple(order), share, stay_alike=kind_of(model) is Kind.GRAPH)


def _flops(model: keras.Model) -> int:
    return tfprune.plan_shrink(model, 0.0, verbose=0).flops
