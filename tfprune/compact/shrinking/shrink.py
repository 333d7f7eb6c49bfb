"""Carry out a plan: build the smaller model."""

from __future__ import annotations

import re
from dataclasses import replace

import keras
import numpy as np

from tfprune.base.spec import check_choice
from tfprune.base.top_k import keep_largest
from tfprune.compact.same_class.removed_branches import NoClass
from tfprune.compact.same_class.resized_by_arguments import resized_by_arguments
from tfprune.compact.same_class.smaller_class import smaller_class
from tfprune.compact.same_class.smaller_graph import SmallerGraph
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan, flat_copy_for
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.solving.dependency_graph import Group


def shrink(model: keras.Model, plan: ShrinkPlan, *, into: str | None = None, uniform: bool = False) -> keras.Model:
    """Build the smaller model, without the channels that a plan removes.

    Use it to carry out a plan. Up to rounding, its outputs are those of `zero_channels(model, plan)`, the model of
    the same size with zeros in place of these channels. It saves, loads and exports without tfprune, with one
    exception: if the arguments of the model's class cannot describe the smaller model, for example because its blocks
    keep different numbers of heads, it has no preset, and you load its `.keras` file after `import keras, tfprune`.

    Args:
        model: The model that the plan was made for, wrapped or not. It is left unchanged.
        plan: The plan of `plan_shrink` for this model.
        into: `"class"` for a model of the same class, such as a backbone or task of KerasHub with `generate`, presets
            and LoRA; `"graph"` for a Functional model of plain layers and operations. None (the default) builds the
            same class if it can, and otherwise a graph.
        uniform: Whether all blocks keep the same number of heads and of units, so that the arguments of the class
            describe the model, and presets and `export_to_transformers` are right. Of the channels of one kind and
            number, each block keeps as many as the block that keeps most; those with the largest weights come back.
            Default False, which keeps what the plan says.

    Returns:
        An uncompiled model of the same class, or a Functional model without nested models and without layers that
        call others, with the paths of the layers as their names.

    Raises:
        TypeError: If `model` is not a Keras model, or `plan` is not a plan.
        ValueError: If the plan was made for another model, or a model of the same class cannot be built with
            `into="class"`.
        ValueError: If no argument of the model's class counts what is removed, with `uniform=True`.
        ValueError: If a graph cannot be built because the code of the model reads sizes that are not known.

    Example:
        >>> from tfprune import plan_shrink
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> [weight.shape for weight in shrink(model, plan_shrink(model, 0.5)).get_layer("hidden").weights]
        [TensorShape([8, 3]), TensorShape([3])]
    """
    check_choice(into, "into", choices=(None, "class", "graph"))
    copy = flat_copy_for(plan, model)
    if uniform:
        plan = replace(plan, keep=_equal_counts(copy, plan))
    return build_smaller(copy, plan, into=into, by_arguments=uniform)


def _equal_counts(copy: FlatCopy, plan: ShrinkPlan) -> np.ndarray:
    """Return what is kept where groups that differ by a number in their names keep as many as the one with most."""
    network, rows = plan.network, {row.group: row for row in plan.rows}
    alike: dict[tuple[str, int, str], list[Group]] = {}
    for group in network.groups:
        if group.free.any():
            role = re.sub(r"\d+", "*", group.name)
            alike.setdefault((group.kind, group.bundles.size, role), []).append(group)
    sizes = ((weight, np.abs(as_numpy(variable))) for weight, variable in network.variables(copy.model))
    scores = np.nan_to_num(network.scores(sizes))
    keep = plan.keep.copy()
    for groups in alike.values():
        most = max(rows[group.name].kept for group in groups)
        for group in groups:
            if more := most - rows[group.name].kept:
                removed = group.bundles[~keep[group.bundles]]
                keep[removed[keep_largest(scores[removed], more)]] = True
    return keep


def build_smaller(
    copy: FlatCopy, plan: ShrinkPlan, *, into: str | None = None, by_arguments: bool = False
) -> keras.Model:
    """Build the smaller model from a flat copy, which may be used up by this.

    Args:
        copy: A flat copy of the model that the plan was made for.
        plan: The plan.
        into: As in `shrink`.
        by_arguments: Whether a model of its class has to be one that the arguments of the class describe.

    Raises:
        ValueError: As `shrink` does.
    """
    name, reason = copy.plain.name, f"{type(copy.plain).__name__} is not a Functional subclass with blocks"
    if into != "graph" and copy.anatomy.kind.is_functional_subclass:
        try:
            return resized_by_arguments(copy, plan.network, keep=plan.keep)
        except NoClass as why:
            if by_arguments:
                raise ValueError(
                    f"Expected a plan that the arguments of {type(copy.plain).__name__} can describe, with "
                    f"uniform=True. Received: one for {name!r}; {why}. Remove only what they count, such as units "
                    f"(`filters`), or leave `uniform` out."
                ) from None
        try:
            return smaller_class(copy, plan.network, keep=plan.keep)
        except NoClass as why:
            reason = str(why)
    if into == "class":
        raise ValueError(
            f"Expected a model whose class can have fewer heads and hidden units. Received: into='class' with "
            f"{name!r}; {reason}. Or leave `into` out, for a Functional model."
        )
    if not copy.is_open_shaped:
        raise ValueError(
            f"Expected a model whose code can be traced with the sizes of its inputs open, or whose class can have "
            f"fewer heads and hidden units. Received: {name!r}, whose code looks at open sizes; "
            f"{'into=' + repr(into) if into else reason}. For a graph fix the sizes, as in "
            f"x = {_fixed_input(copy.plain)} for each input, and shrink keras.Model(x, model(x))."
        )
    smaller = SmallerGraph(copy, plan.network, keep=plan.keep).model
    return keras.Model(smaller.input, smaller.output, name=name)


def _fixed_input(model: keras.Model) -> str:
    """Return code that makes the first input of a model of fixed sizes, 128 where the model leaves them open."""
    tensor = keras.tree.flatten(model.input)[0]
    shape = tuple(size or 128 for size in tensor.shape[1:])
    return f"keras.Input({shape}, batch_size=1, dtype={str(tensor.dtype)!r})"
