"""Compensation: the weights that are left are solved for again, so that each layer's output is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.batches import Batches
from tfprune.flat import Call, Graph, flatten, is_plain, trace
from tfprune.least_squares import RIDGE, Moments, solve, sweep
from tfprune.linear import LinearMap, NotLinear, linear_map
from tfprune.model import copy_with, strip
from tfprune.prunable import kernels, rename, walk
from tfprune.reconstruction_report import ReconstructionReport, ReconstructionRow
from tfprune.report import Skipped
from tfprune.spec import check_count
from tfprune.wrapper import Pruned

MODES = ("sequential", "parallel")
METHODS = ("exact", "sweep")
_ROWS = 8192  # taken to double precision at a time


def reconstruct(
    pruned: keras.Model,
    reference: keras.Model,
    data: Any,
    *,
    mode: str = "sequential",
    method: str = "exact",
    ridge: float = RIDGE,
    batch_size: int = 32,
) -> tuple[keras.Model, ReconstructionReport]:
    """Solve for the weights that pruning has left, so that each layer gives what it gives in the unpruned model.

    Layer by layer, the non-zero entries of the kernel and the bias become those of least squared error on the
    calibration data, before the activation. Zeros stay zeros: those of `zero_channels`, whose model `shrink` then makes
    small, as those of masks. A bias takes over the mean of what was removed. An output keeps its weights where new
    ones are no better, and an output without any is left alone.

    Memory does not depend on the number of samples, but on the square of the inputs of the widest layer. What a
    network computes between its layers is not kept: in sequential mode it is computed anew for each layer.

    Args:
        pruned: A built Sequential or Functional model, wrapped or not, with zeros where something was removed.
        reference: The model before that: layers of the same names, weights of the same shapes.
        data: Some hundred samples like those the model is meant for, without labels: an array, a list or dict of them
            for several inputs, or a data set that can be read again and again. Labels in it are not looked at.
        mode: `"sequential"` gives each layer what the layers before it return once they are solved for, so that it
            makes up for what is left of their errors, too. `"parallel"` gives it what it is given in `reference`: all
            layers at once, in one pass over the data.
        method: `"exact"`, or `"sweep"` for masks without structure in wide layers: SparseGPT's sweep, of which one
            factorisation serves all outputs of a layer.
        ridge: Pulls towards the weights there were, as a part of the mean square of the inputs. More of it for few
            samples: 0.01, say.
        batch_size: Samples in a batch.

    Returns:
        An uncompiled model like `pruned`, with the new weights, and a report of the errors, which prints as a table.

    Raises:
        TypeError: For what is no model or no data.
        ValueError: For a model that is no graph, or another one than the reference; data that are empty, of another
            shape, or not finite; weights that are not finite; or if there is no layer to solve for.

    Example:
        >>> from tfprune import plan_shrink, shrink, zero_channels
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> model = keras.Sequential(layers)
        >>> plan = plan_shrink(model, 0.5)
        >>> x = keras.random.normal((64, 8), seed=0)
        >>> better, report = reconstruct(zero_channels(model, plan), model, x)
        >>> [(row.layer, row.after <= row.before) for row in report.rows]
        [('hidden', True), ('out', True)]
        >>> shrink(better, plan).count_params() < model.count_params()
        True

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331 (the update); Frantar &
        Alistarh, 2023, "SparseGPT", arXiv:2301.00774 (the sweep).
    """
    _check_choice("mode", mode, MODES)
    _check_choice("method", method, METHODS)
    batch_size = check_count(batch_size, "batch_size", least=1)
    for model in (pruned, reference):
        check_graph(model)
    batches = Batches(data, reference, batch_size=batch_size)
    copy = _copy(pruned)
    names = [layer.name for _, layer in walk(copy)]
    ours, theirs = trace(flatten(copy)), trace(flatten(strip(reference)))
    pairs, skipped = _pairs(ours, theirs)
    if mode == "parallel":
        found = [(pair, moments) for pair, moments in zip(pairs, _moments(pairs, batches, theirs), strict=True)]
        rows = [_improve(pair, moments, method, ridge) for pair, moments in found]
    else:
        rows = [_improve(pair, _moments([pair], batches, theirs, ours)[0], method, ridge) for pair in pairs]
    rename(copy, names)  # some may have got others in the flat form
    return _copy(copy), ReconstructionReport(tuple(rows), tuple(skipped))


def _check_choice(argument: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(
            f"Expected `{argument}` to be {' or '.join(map(repr, choices))}. Received: {argument}={value!r}"
        )


def check_graph(model: Any) -> None:
    """Refuse what is no built model of which every layer is known.

    Raises:
        TypeError: If it is no model.
        ValueError: If it is no graph, or not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: an object of type {type(model).__name__}")
    if not is_plain(model):
        raise ValueError(
            f"Expected a built Sequential or Functional model. Received: {model.name!r} of class "
            f"{type(model).__name__}, whose layers cannot be called one by one. Build it as keras.Model(inputs, outputs)"
        )


def _copy(model: keras.Model) -> keras.Model:
    return copy_with(model, lambda path, layer: None)


@dataclass(frozen=True, eq=False)
class _Pair:
    """A layer of the pruned model and its counterpart in the reference, with the calls of either."""

    name: str
    ours: LinearMap
    theirs: LinearMap
    our_calls: list[Call]
    their_calls: list[Call]


def _pairs(ours: Graph, theirs: Graph) -> tuple[list[_Pair], list[Skipped]]:
    """Return the layers to solve for, in the order of their calls, and those with kernels that are left alone."""
    calls, others = _by_name(ours), _by_name(theirs)
    _check_same(calls, others)
    pairs, skipped = [], []
    for name, made in calls.items():
        layer = _plain(made[0])
        if not kernels(layer):
            continue
        try:
            if not layer.trainable:
                raise NotLinear("frozen (trainable=False)")
            maps = linear_map(layer), linear_map(others[name][0].layer)
        except NotLinear as reason:
            skipped.append(Skipped(name, str(reason)))
            continue
        for one in maps:
            if not np.isfinite(one.weights()).all():
                raise ValueError(f"Expected finite weights. Received: NaN or infinity in {name}/{one.kernel.path}")
        pairs.append(_Pair(name, *maps, made, others[name]))
    if not pairs:
        listed = "; ".join(f"{one.layer}: {one.reason}" for one in skipped)
        raise ValueError(f"Expected layers to solve for. Received: {ours.model.name!r}, with {listed or 'no kernels'}")
    return pairs, skipped


def _by_name(graph: Graph) -> dict[str, list[Call]]:
    """Return the calls of each layer that has weights."""
    found: dict[str, list[Call]] = {}
    for call in graph.calls:
        if isinstance(call.layer, keras.layers.Layer) and call.layer.weights:
            found.setdefault(call.layer.name, []).append(call)
    return found


def _plain(call: Call) -> keras.layers.Layer:
    return call.layer.layer if isinstance(call.layer, Pruned) else call.layer


def _check_same(ours: dict[str, list[Call]], theirs: dict[str, list[Call]]) -> None:
    def shapes(calls: dict[str, list[Call]]) -> dict[str, Any]:
        return {
            name: (len(made), type(_plain(made[0])), [tuple(one.shape) for one in _plain(made[0]).weights])
            for name, made in calls.items()
        }

    one, other = shapes(ours), shapes(theirs)
    differing = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    if differing:
        raise ValueError(
            f"Expected the reference to be the model that was pruned, with layers of the same names and weights of the "
            f"same shapes. Received models where these differ: {', '.join(differing[:5])}. Shrink after "
            f"reconstruct: tfprune.shrink(reconstructed, plan)"
        )


def _reader(graph: Graph, calls: list[Call]) -> Callable[[list[np.ndarray]], list[tuple[Any, Any]]]:
    """Return a function from inputs of the model to what some calls are made with, arguments and those by name."""
    function = keras.Function(graph.model.inputs, [tensor for call in calls for tensor in call.inputs])

    def read(inputs: list[np.ndarray]) -> list[tuple[Any, Any]]:
        values = iter(function([keras.ops.convert_to_tensor(array) for array in inputs]))

        def value(leaf: Any) -> Any:
            return next(values) if isinstance(leaf, keras.KerasTensor) else leaf

        return [keras.tree.map_structure(value, (call.args, call.kwargs)) for call in calls]

    return read


def _moments(pairs: list[_Pair], batches: Batches, theirs: Graph, ours: Graph | None = None) -> list[list[Moments]]:
    """Return the moments of each group of each layer, of what it is given in the pruned model, if there is one."""
    wanted = [pair.theirs.weights().astype(np.float64) for pair in pairs]
    found = [[Moments(group.shape[1], group.shape[0]) for group in weights] for weights in wanted]
    read_theirs = _reader(theirs, [call for pair in pairs for call in pair.their_calls])
    read_ours = None if ours is None else _reader(ours, [call for pair in pairs for call in pair.our_calls])
    places = [place for place, pair in enumerate(pairs) for _ in pair.their_calls]
    for inputs, _ in batches:
        given = read_theirs(inputs)
        actual = [None] * len(given) if read_ours is None else read_ours(inputs)
        for place, target, source in zip(places, given, actual, strict=True):
            meant = pairs[place].theirs.inputs(*target[0], **target[1])
            x = meant if source is None else pairs[place].ours.inputs(*source[0], **source[1])
            for moments, weights, rows, meant_rows in zip(found[place], wanted[place], x, meant, strict=True):
                for start in range(0, len(rows), _ROWS):
                    part = slice(start, start + _ROWS)
                    moments.add(rows[part], meant_rows[part] @ weights.T)
    return found


def _improve(pair: _Pair, moments: list[Moments], method: str, ridge: float) -> ReconstructionRow:
    """Solve for the weights of one layer, and set them."""
    weights, free, dense = pair.ours.weights(), pair.ours.free(), pair.theirs.weights()
    before = after = energy = 0.0
    for group, all_outputs in enumerate(moments):
        live = free[group].any(axis=1)
        some, old, places = all_outputs.of(live), weights[group][live], free[group][live]
        if method == "sweep":
            found = sweep(some, dense[group][live], free=places, ridge=ridge)
        else:
            found = solve(some, old, free=places, ridge=ridge)
        new = some.better(old, found.astype(old.dtype))  # judged as the model holds them
        weights[group][live] = new
        before, after = before + some.errors(old).sum(), after + some.errors(new).sum()
        energy += some.energy.sum() / some.count
    pair.ours.assign(weights)
    scale = energy or 1.0
    return ReconstructionRow(pair.name, pair.ours.kernel.path, float(before / scale), float(after / scale))
