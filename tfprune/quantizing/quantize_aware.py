"""A model that rounds as its 8-bit file will, while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras

from tfprune.base.spec import check_count, check_regex
from tfprune.keras_models.models.anatomy import Anatomy, Kind, check_model, kind_of
from tfprune.keras_models.models.filters import Filters, selector
from tfprune.keras_models.models.graph import flatten, is_plain, trace
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layers import quantized_already, walk
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.patterns import Unstructured
from tfprune.quantizing.clustered import place_centroids
from tfprune.quantizing.plan import QuantizationPlan, plan_quantization
from tfprune.quantizing.quantized import Quantized


def quantize_aware(
    model: keras.Model,
    *,
    filters: Filters = None,
    skip: str | Sequence[str] | None = None,
    levels: int | None = None,
) -> keras.Model:
    """Return an uncompiled copy that computes like its 8-bit file, for quantization-aware training (QAT).

    Use it if an int8 file must have the accuracy that `evaluate` reports. Train the copy with `fit`, often for a few
    epochs with a low learning rate, and write it with `tfprune.export.to_tflite(model, path, quantize="int8")`, which
    then needs no calibration. `tfprune.strip` returns the plain float model.

    Weights are rounded to the integers -127 to 127 times a scale for each output channel, and the activations of each
    operator of the file to 256 values in a range. A convolution or Dense layer, the batch normalization after it, and
    a ReLU after that are one operator. The range of an activation is that of the first batch, and then a moving
    average; inference does not change it. Layers that cannot be computed in 8 bits stay in float;
    `quantization_report` lists them with the reason.

    You can prune before or after: `wrap` accepts the copy, and the copy of a wrapped model has its masks. Zeros stay
    zeros.

    Args:
        model: A built Sequential or Functional model, wrapped for pruning or plain. It is left unchanged.
        filters: The layers with weights to quantize, by their weights, as in `wrap`. None (the default) takes all.
        skip: Layers that stay in float: a regular expression, or several, searched in the path of a layer. None (the
            default) skips none.
        levels: The number of distinct values of each of these weights, 0 counted, 2 to 256: packed files become
            smaller. The values start evenly between the smallest and the largest entry, and are trained (Han et al.
            2016, arXiv 1510.00149). None (the default) shares no values. Weights that already share values keep them.

    Returns:
        The copy. Layers keep their names.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not a graph of layers, is already quantized, or has no layer that can be
            quantized; if `filters` or `skip` match nothing, or `levels` is out of range.

    References:
        Jacob et al. 2018, arXiv 1712.05877; Krishnamoorthi 2018, arXiv 1806.08342.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> quantize_aware(model).get_layer("hidden").range_names
        ('input_0', 'output')
    """
    if levels is not None:
        check_count(levels, "levels", least=2, most=256)
    anatomy = Anatomy.of(model)
    plan = quantization_plan(anatomy, filters=filters, skip=skip)
    if not plan.ranges:
        reasons = "; ".join(f"{entry.layer}: {entry.reason}" for entry in plan.skipped)
        raise ValueError(f"Expected layers that can be quantized in {model.name!r}. Received none. {reasons}.")

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if path not in plan.ranges:
            return None
        return Quantized.of(layer, ranges=plan.ranges[path], levels=levels, start="linear")

    copy = copy_with(anatomy, replace)
    place_centroids(copy, like=model)
    return copy


def quantization_plan(
    anatomy: Anatomy, *, filters: Filters = None, skip: str | Sequence[str] | None = None
) -> QuantizationPlan:
    """Return which layers `quantize_aware` quantizes.

    Raises:
        ValueError: As `quantize_aware` does.
    """
    _check(anatomy)
    return plan_of_plain(plain_copy(anatomy), filters=filters, skip=skip)


def plan_of_plain(
    plain: keras.Model, *, filters: Filters = None, skip: str | Sequence[str] | None = None
) -> QuantizationPlan:
    """Return the plan for a model without wrappers, whose layers may get other names."""
    anatomy = Anatomy.of(plain)
    paths = {id(layer): path for path, layer in anatomy.leaves}
    is_left = _left(anatomy, filters, skip)
    return plan_quantization(trace(flatten(plain)), paths, is_left=is_left)


def _check(anatomy: Anatomy) -> None:
    model = anatomy.model
    for path, layer in walk(model, stop=Quantized):
        if isinstance(layer, Quantized):
            raise ValueError(
                f"Expected a model that is not quantized yet. Received: {model.name!r}, where {path} is. Go on with "
                f"it, or start anew from tfprune.strip(model)."
            )
    quantized = quantized_already(model)
    if quantized:
        raise ValueError(f"Expected a model with weights of floats. Received: {model.name!r}. {quantized}")
    own = [part for _, part in walk(model) if isinstance(part, keras.Model) and not is_plain(part)]
    if own and (kind_of(own[0]) is not Kind.GRAPH or own[0].built):
        raise ValueError(
            f"Expected a Sequential or Functional model, whose calls show where operators round. Received: "
            f"{own[0].name!r} of class {type(own[0]).__name__}, which has code of its own. Build it as "
            f"keras.Model(inputs, outputs), or export it with quantize='int8' and calibration."
        )
    check_model(anatomy)


def _left(anatomy: Anatomy, filters: Filters, skip: str | Sequence[str] | None) -> Callable[[str], bool]:
    """Return a function that tells by the path of a layer whether it is to stay in float."""
    layers = dict(anatomy.leaves)
    offered = [(path, kernel) for path, layer in layers.items() for kernel in kernels(layer)]
    in_float: set[str] = set()
    if filters is not None:
        is_chosen = selector(
            filters, Unstructured(), [f"{path}/{kernel.path}" for path, kernel in offered], others=()
        )
        wanted = {path for path, kernel in offered if is_chosen(f"{path}/{kernel.path}", layers[path], kernel)}
        in_float |= {path for path, _ in offered} - wanted
    for each in [] if skip is None else [skip] if isinstance(skip, str) else skip:
        regex = check_regex(each, "`skip`")
        matching = {path for path in layers if regex.search(path)}
        if not matching:
            raise ValueError(
                f"Expected `skip` to match a layer. Received: {each!r}, which is found in none of "
                f"{', '.join(layers)}."
            )
        in_float |= matching
    return in_float.__contains__
