"""A recipe as a program, which makes the same file once more."""

from __future__ import annotations

from tfprune.export.compressing.recipe import END, Recipe

BEGIN = """import keras

import tfprune
from tfprune.export import to_tflite

dense = keras.saving.load_model("model.keras")  # the model that was compressed
x, y = ...  # its training data
x, y = x[:{samples}], y[:{samples}]
keras.utils.set_random_seed({seed})


def train(model, rounds, learning_rate, *callbacks):
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, rounds * {steps})
    optimizer = type(dense.optimizer).from_config({{**dense.optimizer.get_config(), "learning_rate": decay}})
    compiled = keras.saving.deserialize_keras_object(dense.get_compile_config())
    model.compile(**{{**compiled, "optimizer": optimizer}})
    sizes = {{"batch_size": {batch_size}, "steps_per_epoch": {steps}}}
    model.fit(x, y, epochs=rounds, callbacks=[*callbacks], verbose=0, **sizes)


"""


def recipe_code(recipe: Recipe | None, settings: str, *, batch_size: int) -> str:
    """Return a program that makes a file as the search made it.

    Args:
        recipe: What was done to the model; None for the model as it was.
        settings: More arguments of `to_tflite`, as Python.
        batch_size: Samples in a batch.
    """
    if recipe is None:
        return BEGIN.partition("x, y = x")[0] + f'to_tflite(dense, "model.tflite"{settings})\n'
    lines, model = [], "dense"
    if recipe.flops < 1:
        lines.append(
            f"model, _ = tfprune.prune_to(dense, tfprune.budget(flops={recipe.flops}), (x, y), rounds=1, epochs=0)"
        )
        model = "model"
    pattern = "tfprune.patterns.NM(2, 4)" if recipe.pattern == "2:4" else repr(recipe.pattern)
    lines.append(f"model = tfprune.wrap({model}, pattern={pattern})")
    callbacks = ""
    if recipe.sparsity:
        lines.append(f"schedule = tfprune.schedules.Polynomial({recipe.sparsity}, end={END})")
        lines.append(
            f"pruning = tfprune.PruningCallback(schedule, every={recipe.every}, allocation={recipe.allocation!r})"
        )
        callbacks = ", pruning"
    lines.append(f"train(model, {recipe.rounds}, {recipe.learning_rate!r}{callbacks})")
    if recipe.quantize_aware:
        lines.append("model = tfprune.quantize_aware(model)")
        lines.append(f"train(model, {recipe.extra_rounds}, {recipe.learning_rate / 10!r})")
    lines.append(f'to_tflite(model, "model.tflite"{settings})')
    begin = BEGIN.format(seed=recipe.seed, samples=recipe.samples, steps=recipe.steps, batch_size=batch_size)
    return begin + "\n".join(lines) + "\n"
