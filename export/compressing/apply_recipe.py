"""Do what a recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

import tfprune
from tfprune.export.compressing.recipe import END, Recipe
from tfprune.keras_models.models.compiled import compile_like

ADVICE = "Compile it with what Keras can save, and search again"


def apply_recipe(
    recipe: Recipe,
    model: keras.Model,
    *,
    train_data: tuple[Any, Any],
    batch_size: int,
    callbacks: Sequence[Any] = (),
    start: keras.Model | None = None,
) -> keras.Model:
    """Return a smaller model, with its wrappers; the given ones stay as they are.

    Args:
        recipe: What to do.
        model: A trained, compiled model.
        train_data: Samples and labels.
        batch_size: Samples in a batch.
        callbacks: Callbacks of Keras for all training.
        start: What the recipe before it made of the model, without wrappers; None begins with the model.

    Raises:
        ValueError: If nothing can be removed, or too little is there to be removed.
    """
    smaller = model if start is None else start
    keras.utils.set_random_seed(recipe.seed)
    train_data = keras.tree.map_structure(lambda array: array[: recipe.samples], train_data)
    if recipe.cut < 1:
        plan = tfprune.plan_shrink(smaller, allocation=tfprune.budget(flops=recipe.cut), verbose=0)
        smaller = tfprune.shrink(smaller, plan)
    pattern: Any = tfprune.patterns.NM(2, 4) if recipe.pattern == "2:4" else recipe.pattern
    smaller = tfprune.wrap(smaller, pattern=pattern)
    fit = {"batch_size": batch_size, "steps_per_epoch": recipe.steps, "verbose": 0}

    def train(rounds: int, rate: float, *pruning: keras.callbacks.Callback) -> None:
        compile_like(smaller, model, advice=ADVICE, optimizer=_optimizer(model, rate, rounds * recipe.steps))
        smaller.fit(*train_data, epochs=rounds, callbacks=[*callbacks, *pruning], **fit)

    train(recipe.rounds, recipe.learning_rate, *_pruning(recipe))
    if recipe.quantize_aware:
        smaller = tfprune.quantize_aware(smaller)
        train(recipe.extra_rounds, recipe.learning_rate / 10)
    return smaller


def _optimizer(model: keras.Model, rate: float, steps: int) -> keras.optimizers.Optimizer:
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    return type(model.optimizer).from_config({**model.optimizer.get_config(), "learning_rate": decay})


def _pruning(recipe: Recipe) -> list[keras.callbacks.Callback]:
    if not recipe.sparsity:
        return []
    schedule = tfprune.schedules.Polynomial(recipe.sparsity, initial=recipe.initial, end=END)
    return [tfprune.PruningCallback(schedule, every=recipe.every, allocation=recipe.allocation)]
