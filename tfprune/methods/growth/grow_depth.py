"""Grow a model in depth."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.base.spec import check_choice, check_count
from tfprune.methods.growth.find_blocks import find_blocks
from tfprune.methods.growth.growth_report import GrowthReport, comparison_data, report_growth, sample_inputs
from tfprune.methods.growth.reorder import reorder
from tfprune.methods.growth.zero_outputs import zero_outputs


def grow_depth(
    model: keras.Model,
    repeats: int = 2,
    *,
    samples: Any = None,
    keep_first: int = 0,
    keep_last: int = 0,
    blocks: str | None = None,
    order: str = "interpose",
    zero_output: bool = False,
) -> tuple[keras.Model, GrowthReport]:
    """Repeat the blocks of a model to make it deeper.

    Use it to start from a trained model instead of training a larger one from scratch. Each copy gets the masks and
    latent values of its block, so a pruned model stays as sparse as it was. `drop_blocks(grown, report.copies)`
    undoes it.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        repeats: How often each block occurs in the deeper model, at least 2. Default 2.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. None (the default)
            takes random numbers.
        keep_first: The number of first blocks that are not repeated, at least 0. Default 0.
        keep_last: The number of last blocks that are not repeated, at least 0. Default 0.
        blocks: A regular expression for the names of the layers in blocks, with the number of the block as its group,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.
        order: `"interpose"` (the default) puts each copy after its block: 0, 0, 1, 1, 2, 2. The other two are for
            comparison with the paper, which found them worse for well-trained models. `"stack"` repeats the whole
            sequence: 0, 1, 2, 0, 1, 2. `"stack_tail"` is the order of the paper's code, which also repeats the last
            blocks: 0, 1, 0, 1, 2, 0, 1, 2 with `repeats=3` and `keep_last=1`. With two repeats it is `"stack"`.
        zero_output: Whether to set the last weights of each copy to zero: its last kernels and biases, or the scales
            of normalizations after them. A copy then adds nothing to its input, so that the deeper model returns the
            same outputs before it is trained. Default False.

    Returns:
        An uncompiled model and a `GrowthReport`. The model is of the same class if the number of blocks is an
        argument of the class, and otherwise Functional. The report shows which of the two it is, and whether the
        outputs are the same.

    Raises:
        TypeError: If `model` is not a Keras model, or another argument has a wrong type.
        ValueError: If the model has no repeated blocks, or not enough to keep `keep_first` and `keep_last`.
        ValueError: If `zero_output` is set and a block does not add something to its input.

    Example:
        >>> import keras, tfprune
        >>> x = inputs = keras.Input((4,))
        >>> for index in range(3):
        ...     hidden = keras.layers.Dense(8, "relu", name=f"block_{index}_hidden")(x)
        ...     x = keras.layers.Add()([x, keras.layers.Dense(4, name=f"block_{index}_out")(hidden)])
        >>> grown, report = grow_depth(keras.Model(inputs, x), blocks=r"block_(\\d+)_", keep_last=1, zero_output=True)
        >>> report.order, report.is_function_preserving
        ((0, 0, 1, 1, 2), True)
        >>> report.rows[1].zeroed
        ('block_1_out/kernel',)

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (interposition against stacking).
    """
    check_count(repeats, "repeats", least=2)
    check_choice(order, "order", choices=("interpose", "stack", "stack_tail"))
    check_count(keep_first, "keep_first", least=0)
    check_count(keep_last, "keep_last", least=0)
    check_choice(zero_output, "zero_output", choices=(True, False))
    source = find_blocks(model, blocks)
    count = len(source.blocks)
    if keep_first + keep_last >= count:
        raise ValueError(
            f"Expected `keep_first` and `keep_last` to leave a block to repeat. Received: keep_first={keep_first}, "
            f"keep_last={keep_last} for the {count} blocks of {model.name!r}. Lower one of them."
        )
    batches = comparison_data(samples, source)
    numbers = growth_order(count, repeats, order=order, keep_first=keep_first, keep_last=keep_last)
    grown = reorder(source, numbers)
    zeroed: dict[int, tuple[str, ...]] = {}
    if zero_output:
        copies = [index for index, number in enumerate(numbers) if number in numbers[:index]]
        inputs = sample_inputs(batches, source)
        if inputs is None:
            raise ValueError(
                f"Expected `samples` to try zero_output=True on. Received: None for {model.name!r}, which does not "
                f"run on random numbers. Pass a few of its inputs."
            )
        zeroed = zero_outputs(grown, copies, inputs=inputs)
    return grown.model, report_growth(grown, batches, zeroed=zeroed)


def growth_order(count: int, repeats: int, *, order: str, keep_first: int = 0, keep_last: int = 0) -> list[int]:
    """Return the blocks of the deeper model by their numbers, one after the other.

    Example:
        >>> growth_order(3, 2, order="interpose", keep_last=1)
        [0, 0, 1, 1, 2]
    """
    last = count - keep_last
    middle = range(keep_first, last)
    if order == "stack_tail":
        return [*range(last), *[*range(keep_first, count)] * (repeats - 1)]
    repeated = [*middle] * repeats if order == "stack" else [block for block in middle for _ in range(repeats)]
    return [*range(keep_first), *repeated, *range(last, count)]
