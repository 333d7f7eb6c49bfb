"""A recipe: which parts of a model are removed, how exact its numbers are, how long it trains; and as a program."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from tfprune.base.spec import check_choice, check_count, check_number
from tfprune.base.untrusted import read_fields
from tfprune.compact.fine_tuning.distillation import Distillation
from tfprune.patterns import NM, Block, Pattern, Unstructured
from tfprune.report import Report

PATTERNS: dict[str, Pattern] = {
    "unstructured": Unstructured(),
    "2:4": NM(2, 4),
    "1x4": Block(1, 4),
    "4x1": Block(4, 1),
}
PRUNING_END = 0.6  # the fraction of the training after which the sparsity stays
MOST_MASK_UPDATES = 25
LEAST_FLOPS, LEAST_WEIGHTS = 0.08, 0.02  # the smallest fractions that a search leaves
LONGEST_CHAIN = 200  # recipes: more than a search makes until nothing is left to remove
PROGRAM_HEAD = """import keras

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
TEACHER = "    model = tfprune.distilled(model, dense, tfprune.{!r})  # `dense` teaches; the layers are the same\n"


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
        check_count(len(recipe.chain), "after", least=1, most=LONGEST_CHAIN)
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
        """Training steps in all."""
        return self.steps * (self.rounds + self.extra_rounds)

    @property
    def steps_of_chain(self) -> int:
        """Training steps of all recipes in the chain."""
        return sum(recipe.all_steps for recipe in self.chain)

    @property
    def every(self) -> int:
        """Steps between updates of the masks."""
        return math.ceil(self.steps * self.rounds * PRUNING_END / MOST_MASK_UPDATES)

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
    if recipe is None:
        head = PROGRAM_HEAD.partition("x, y = x")[0].format(exports=exports)
        return head + f'to_tflite(dense, "model.tflite"{settings})\n'
    lines = [line for step in recipe.chain for line in _lines(step)]
    teacher = TEACHER.format(recipe.distillation) if recipe.distillation else ""
    sizes = {"samples": recipe.samples, "steps": recipe.steps, "batch_size": batch_size}
    begin = PROGRAM_HEAD.format(exports=exports, teacher=teacher, **sizes)
    return begin + "\n".join([*lines, f'to_tflite(model, "model.tflite"{settings})']) + "\n"


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
        is_named = recipe.pattern == "unstructured"
        pattern = repr(recipe.pattern) if is_named else f"tfprune.patterns.{PATTERNS[recipe.pattern]!r}"
        lines.append(f"model = tfprune.wrap({model}, pattern={pattern})")
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
