"""Experts of a model: the layers that have them, their axes, and the same model with other numbers of experts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count
from tfprune.compact.smaller import dicts_in
from tfprune.masking.pruned import Pruned
from tfprune.models.anatomy import (
    Anatomy,
    Kind,
    as_numpy,
    check_model,
    join_path,
    paired,
    to_matrix,
    train_alike,
    walk,
)
from tfprune.models.by_attributes import Groups, MadeOf, Origins, Shares, mean_of_groups, read_origins
from tfprune.models.in_place import copy_layers, wrap_alike
from tfprune.models.tracing import LargestDifference, difference_in_words, numbers_for, usable_length
from tfprune.models.training import batches, check_batch, check_source
from tfprune.models.twin import (
    TransparentWrapper,
    class_config,
    config_of,
    fresh_copy,
    layer_pairs,
    plain_parts,
    revive,
)
from tfprune.report import Report, table

# The layers of a model with experts and a router, and the axes of their weights along which the experts lie.


@dataclass(frozen=True)
class _ExpertRule:
    """The weights of a layer class that belong to its experts.

    Attributes:
        axes: The axis along which the experts lie, by the path of the weight below the layer.
        router: The paths of those that belong to the router.
        count_argument: The argument, and attribute, with the number of experts.
        top_k_argument: The argument, and attribute, with the number of experts that are used for each input.
    """

    axes: Mapping[str, int]
    router: tuple[str, ...]
    count_argument: str = "num_experts"
    top_k_argument: str = "top_k"


@dataclass(frozen=True, eq=False)
class MoeLayer:
    """A layer with experts.

    Attributes:
        path: Its path in the model.
        layer: The layer.
        rule: The weights of its class that belong to experts.
        experts: The number of experts.
        top_k: The number of experts that are used for each input.
        axes: The axis along which the experts lie, by the id of the variable.
        router: The ids of the variables of the router.
    """

    path: str
    layer: keras.layers.Layer
    rule: _ExpertRule
    experts: int
    top_k: int
    axes: dict[int, int]
    router: frozenset[int]


_REGISTERED: dict[type, _ExpertRule] = {}

# In KerasHub's layers with experts the router is a Dense layer, and those of the experts lie along the first axis.
_ROUTER = re.compile(r"(^|/)(sparse_feedforward_gate_dense|router_gate|router_dense)/(kernel|bias)$")
_EXPERTS = re.compile(r"(^|/)experts/[^/]+$")


def _moe_layers(root: keras.layers.Layer) -> list[MoeLayer]:
    """Return the layers with experts in a model or layer.

    Raises:
        ValueError: If there are none, or a router or a registered weight cannot be found in one.
    """
    layers = find_moe_layers(root)
    if not layers:
        raise ArgumentError(
            "model_or_layer",
            "a model or layer with a mixture of experts",
            found=f"{root.name!r}, in which none is known",
            advice="Register a layer of your own: tfprune.experts.register(MyMixture, {'router/kernel': 1, ...}).",
        )
    return layers


def find_moe_layers(root: keras.layers.Layer) -> list[MoeLayer]:
    """Return the layers with experts in a model or layer, perhaps none.

    Raises:
        ValueError: If a router or a registered weight cannot be found in one.
    """
    return [moe for path, layer in walk(root) if (moe := _moe_layer(path, layer)) is not None]


def _moe_layer(path: str, layer: keras.layers.Layer) -> MoeLayer | None:
    weights = {join_path(inner, weight.name): weight for inner, weight in _weights(layer)}
    rule = next((_REGISTERED[cls] for cls in type(layer).__mro__ if cls in _REGISTERED), None)
    if rule is None:
        rule = _rule_of_keras_hub(path or layer.name, layer, weights)
    if rule is None:
        return None
    numbers: dict[str, Any] = {
        name: getattr(layer, name, None) for name in (rule.count_argument, rule.top_k_argument)
    }
    missing = [name for name, value in numbers.items() if type(value) is not int]
    missing += [name for name in rule.axes if name not in weights]
    if missing:
        raise ValueError(
            f"Expected {path or layer.name!r} ({type(layer).__name__}) to have all names registered for it. "
            f"Received: a layer without {missing[0]!r}; its weights are {', '.join(weights) or '(none)'}. Build it, "
            f"keep its arguments in attributes of their names, and register the weights that it has."
        )
    count = numbers[rule.count_argument]
    for name, axis in rule.axes.items():
        shape = tuple(weights[name].shape)
        if not -len(shape) <= axis < len(shape) or shape[axis] != count:
            raise ValueError(
                f"Expected {count} experts along axis {axis} of {name!r} in {path or layer.name!r}. Received: shape "
                f"{shape}. Register the axis of the experts."
            )
    axes = {id(weights[name]): axis for name, axis in rule.axes.items()}
    router = frozenset(id(weights[name]) for name in rule.router)
    return MoeLayer(path or layer.name, layer, rule, count, numbers[rule.top_k_argument], axes, router)


def _weights(layer: keras.layers.Layer) -> list[tuple[str, keras.Variable]]:
    """Return the weights in a layer with the paths of the innermost layers that hold them."""
    innermost: dict[int, tuple[str, keras.Variable]] = {}
    for path, part in walk(layer):
        innermost.update({id(weight): (path, weight) for weight in part.weights})
    return list(innermost.values())


def _rule_of_keras_hub(
    path: str, layer: keras.layers.Layer, weights: Mapping[str, keras.Variable]
) -> _ExpertRule | None:
    """Return the rule of a layer of KerasHub that holds experts itself, and not only a layer that does."""
    if not type(layer).__module__.startswith("keras_hub.") or not type(layer).__name__.endswith("MoeBlock"):
        return None
    routers = [name for name in weights if _ROUTER.search(name)]
    experts = [name for name in weights if _EXPERTS.search(name)]
    if not routers or not experts:
        raise ValueError(
            f"Expected a router and experts in {path!r} ({type(layer).__name__}). Received: "
            f"{'no router' if not routers else 'no experts'} among its weights {', '.join(weights) or '(none)'}. "
            f"Build the model, or register the layer with tfprune.experts.register."
        )
    return _ExpertRule({**dict.fromkeys(routers, -1), **dict.fromkeys(experts, 0)}, tuple(routers))


# Register a layer of your own that holds a mixture of experts.


def register_experts(
    layer_class: type[keras.layers.Layer],
    axes: Mapping[str, int],
    *,
    router: str = "router",
    count_argument: str = "num_experts",
    top_k_argument: str = "top_k",
) -> None:
    """Register the weights of a layer class that belong to its experts.

    Use it for your own mixture of experts, so that `experts.grow`, `experts.merge` and `experts.drop` can change it.
    The layers of KerasHub need no registration.

    Args:
        layer_class: A subclass of `keras.layers.Layer`. The rule also serves its subclasses.
        axes: For each weight of the experts and of the router, by its path below the layer, the axis along which the
            experts lie, such as `{"router/kernel": 1, "hidden": 0}`.
        router: The prefix of the paths of the router's weights. Default `"router"`. `experts.rank`, `experts.merge`
            with a ranking, and `experts.grow(random=...)` use it.
        count_argument: The argument with the number of experts. The layer also keeps it in an attribute of that name.
            Default `"num_experts"`.
        top_k_argument: The argument with the number of experts that are used for each input. The layer also keeps it
            in an attribute of that name. Default `"top_k"`.

    Raises:
        TypeError: If `layer_class` is not a layer class, `axes` does not map paths to axes, or `router` is not a
            string.
        ValueError: If `axes` is empty.

    Example:
        >>> import keras, tfprune
        >>> class Mixture(keras.layers.Layer):
        ...     def __init__(self, num_experts, top_k, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.num_experts, self.top_k = num_experts, top_k
        ...         self.router = keras.layers.Dense(num_experts, name="router")
        ...     def build(self, shape):
        ...         self.router.build(shape)
        ...         self.experts = self.add_weight(name="experts", shape=(self.num_experts, shape[-1], shape[-1]))
        ...     def call(self, x):
        ...         gates, chosen = keras.ops.top_k(keras.ops.softmax(self.router(x)), self.top_k)
        ...         chosen = keras.ops.one_hot(chosen, self.num_experts)
        ...         share = keras.ops.sum(gates[..., None] * chosen, axis=-2)
        ...         return keras.ops.einsum("...i,eio,...e->...o", x, self.experts, share)
        ...     def get_config(self):
        ...         return {**super().get_config(), "num_experts": self.num_experts, "top_k": self.top_k}
        >>> register_experts(Mixture, {"router/kernel": 1, "router/bias": 0, "experts": 0})
        >>> model = keras.Sequential([keras.Input((4,)), Mixture(4, 2)])
        >>> grown, report = tfprune.experts.grow(model, 2, noise=0)
        >>> report.rows[0].experts, report.rows[0].top_k, report.is_function_preserving
        ((4, 8), (2, 4), True)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise ArgumentTypeError("layer_class", "a subclass of keras.layers.Layer", repr(layer_class))
    if not isinstance(axes, Mapping) or not all(
        isinstance(name, str) and isinstance(axis, int) for name, axis in axes.items()
    ):
        raise ArgumentTypeError(
            "axes",
            "`axes` to map paths of weights to the axes of the experts, such as {'router/kernel': 1}",
            repr(axes),
        )
    if not axes:
        raise ArgumentError("axes", "`axes` with the weights of the experts and of the router", found="none")
    if not isinstance(router, str):
        raise ArgumentTypeError("router", "`router` to be a string", f"{router!r} of type {type(router).__name__}")
    of_router = tuple(name for name in axes if name.startswith(router))
    _REGISTERED[layer_class] = _ExpertRule(dict(axes), of_router, count_argument, top_k_argument)


# Build a model or layer anew with another number of experts; its weights are another step.


def _set_expert_count(source: Anatomy, layers: Sequence[MoeLayer], *, sizes: Mapping[str, tuple[int, int]]) -> Any:
    """Build a model or layer with another number of experts, wrappers included; weights are not copied.

    Args:
        source: A built model or layer.
        layers: Its layers with experts.
        sizes: For each of them, by its path, the number of experts that it gets, and how many of them are used for
            each input.

    Raises:
        ValueError: If it cannot be built anew, or one configuration would need several numbers of experts.
    """

    def changed(config: dict[str, Any], held: Sequence[MoeLayer]) -> dict[str, Any]:
        config = deepcopy(config)
        counts = {layer.path: sizes[layer.path][0] for layer in held}
        if len({sizes[layer.path] for layer in held}) > 1:
            raise ValueError(
                f"Expected the same number of experts in all layers of {source.model.name!r}, as one argument of its "
                f"class counts them. Received: {counts}. Keep {max(counts.values())} in each."
            )
        for layer in held:
            names = layer.rule.count_argument, layer.rule.top_k_argument
            before = dict(zip(names, (layer.experts, layer.top_k), strict=True))
            _change(config, before, dict(zip(names, sizes[layer.path], strict=True)))
        return config

    root = source.model
    if not isinstance(root, keras.Model):
        return revive(changed(config_of(root), layers), root)
    if source.kind is Kind.CODE:
        raise ValueError(
            f"Expected a Sequential or Functional model, or a Functional subclass. Received: {root.name!r} "
            f"of class {type(root).__name__}, whose code creates its layers. Pass its layers one by one."
        )
    if source.kind is Kind.FUNCTIONAL_SUBCLASS:
        return _of_class(source, changed(class_config(root), layers))
    with_experts, before = {id(layer.layer): layer for layer in layers}, dict(source.leaves)

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        own = before[path]
        held = [with_experts[id(part)] for _, part in walk(own) if id(part) in with_experts]
        return revive(changed(config_of(own), held), own) if held else None

    return copy_layers(source, replace)


def _change(config: Any, before: dict[str, int], after: dict[str, int]) -> None:
    """Change the numbers wherever a configuration has all of the old ones."""
    for arguments in dicts_in(config):
        if all(type(arguments.get(name)) is int and arguments[name] == value for name, value in before.items()):
            arguments.update(after)


def _of_class(source: Anatomy, config: dict[str, Any]) -> keras.Model:
    new = fresh_copy(source.model, origin=config)
    counterparts = dict(zip(map(id, plain_parts(source.model)), plain_parts(new), strict=True))
    wrappers = [layer for _, layer in source.leaves if isinstance(layer, TransparentWrapper)]
    wrap_alike(new, {id(counterparts[id(wrapper.layer)]): wrapper for wrapper in wrappers})
    return new


# Weights of experts: each expert is the mean of some experts of another model.


def _average_experts(
    new: keras.layers.Layer,
    source: Anatomy,
    *,
    layers: Sequence[MoeLayer],
    groups: Mapping[str, Groups],
    shares: Mapping[str, Shares],
) -> dict[int, MadeOf]:
    """Give a model with another number of experts its weights, masks and latent values.

    Returns what each of its variables was made of, by its id.

    Args:
        new: A model or layer that `set_expert_count` returned.
        source: The model or layer that it was made of.
        layers: The layers with experts in `source`.
        groups: For each of them, by its path, the experts whose mean each new expert is.
        shares: The shares of these experts in the mean, by the path; equal ones for a path that is not there.

    Raises:
        ValueError: If the other weights of the two have different shapes.
    """
    axes = {
        key: (axis, groups[layer.path], shares.get(layer.path, ()))
        for layer in layers
        for key, axis in layer.axes.items()
    }
    axes |= dict(_masks_and_latents(source.model, axes))
    made_of: dict[int, MadeOf] = {}
    for part, counterpart in layer_pairs(source, new):
        layer = part.model
        train_alike(paired(layer, counterpart))
        for variable, other in zip(layer.variables, counterpart.variables, strict=True):
            axis, own_groups, own_shares = axes.get(id(variable), (0, (), ()))
            made_of[id(other)] = variable, axis, own_groups, own_shares
            value = as_numpy(variable)
            if own_groups:
                value = mean_of_groups(value, own_groups, axis=axis, shares=own_shares)
            if tuple(other.shape) != value.shape:
                raise ValueError(
                    f"Expected {layer.name!r} to have weights of the same shapes, those of its experts aside. "
                    f"Received: {variable.path} of shape {tuple(other.shape)} where it has {value.shape}. Name all "
                    f"weights of the experts in tfprune.experts.register."
                )
            other.assign(value)
    for _, layer in walk(new, stop=Pruned):
        if isinstance(layer, Pruned):
            _write_masked_values(layer)
    return made_of


def _masks_and_latents(
    root: keras.layers.Layer, axes: Mapping[int, tuple[int, Groups, Shares]]
) -> Iterator[tuple[int, tuple[int, Groups, Shares]]]:
    """Yield the axis, groups and shares of the masks and latent values of weights, by the id of the variable."""
    for _, layer in walk(root, stop=Pruned):
        if isinstance(layer, Pruned):
            saved = layer.saved_variables()
            for index, name in enumerate(layer.masks):
                own = axes.get(id(layer.kernels[name].variable))
                if own is not None:
                    yield from ((id(variable), own) for key, variable in saved.items() if key.startswith(f"{index}_"))


def _write_masked_values(layer: Pruned) -> None:
    """Clear the latent values of entries that a merged mask keeps; refuse a mask that the pattern does not allow."""
    for index, (name, mask) in enumerate(layer.masks.items()):
        keep = as_numpy(mask)
        if not layer.pattern.allows(to_matrix(keep, layer.kernels[name])):
            raise ValueError(
                f"Expected experts that can be merged under {layer.pattern!r}. Received: {layer.name}/{name}, where "
                f"the union of the masks of a group has another shape. Strip first: tfprune.strip(model)."
            )
        for key, variable in layer.saved_variables().items():
            if key.startswith(f"{index}_") and key.endswith("_latent"):
                variable.assign(np.where(keep, 0, as_numpy(variable)))


def _perturb_copies(
    layers: Sequence[MoeLayer], *, groups: Mapping[str, Groups], noise: float, random: str | None, seed: int
) -> None:
    """Add noise to the experts that are copies of earlier ones, and to their rows of the router; zeros stay zeros.

    Args:
        layers: The layers with experts in a model that has its weights.
        groups: For each of them, by its path, the experts that each expert is made of.
        noise: The standard deviation of the noise, as a fraction of that of the weight.
        random: The part to draw at random, with the standard deviation of the weight: `"router"`, all of its rows, or
            `"experts"`, the copies. None draws nothing.
        seed: Seed of the random numbers.
    """
    generator = np.random.default_rng(seed)
    for layer in layers:
        own_groups = groups[layer.path]
        is_copy = np.array([group in own_groups[:index] for index, group in enumerate(own_groups)])
        for variable in layer.layer.weights:
            if id(variable) not in layer.axes:
                continue
            value, axis = as_numpy(variable), layer.axes[id(variable)]
            part = "router" if id(variable) in layer.router else "experts"
            shape = [1] * value.ndim
            shape[axis] = len(own_groups)
            changes = (is_copy | (random == part == "router")).reshape(shape) & (value != 0)
            factor, scale = (0, 1) if part == random else (1, noise)
            perturbation = generator.normal(size=value.shape) * (scale * value.astype(np.float64).std())
            variable.assign(np.where(changes, factor * value + perturbation, value).astype(value.dtype))


# Report of `experts.grow`, `experts.merge` and `experts.drop`: the number of experts, and the change of outputs.


@dataclass(frozen=True)
class ExpertsRow(Report):
    """A layer with experts.

    Attributes:
        layer: Its path.
        experts: The number of its experts, before and after.
        top_k: The number of experts that are used for each input, before and after.
        nnz: The number of non-zero entries of the experts and the router, before and after.
    """

    layer: str
    experts: tuple[int, int]
    top_k: tuple[int, int]
    nnz: tuple[int, int]


@dataclass(frozen=True)
class ExpertsReport(Report):
    """The number of experts of a model, and whether it computes the same.

    Attributes:
        rows: A row for each layer with experts.
        groups: The experts that each new expert is made of; of the first layer, where layers differ.
        difference: The largest difference of an output, as a fraction of the largest output, on the data, or
            else on random numbers; None if it was not measured.
        samples: The number of samples of the data that it was measured on, 0 for random numbers.
        warning: Why the model does not compute the same although experts were only repeated; empty otherwise.
        origins: Where each weight of the new model comes from, for `carry_optimizer`.

    Example:
        >>> row = ExpertsRow("mixture", experts=(2, 4), top_k=(1, 2), nnz=(600, 1200))
        >>> report = ExpertsReport((row,), ((0,), (1,), (0,), (1,)), difference=0.0, samples=8)
        >>> report.copies, report.siblings, report.is_function_preserving
        ((2, 3), ((0, 2), (1, 3)), True)
    """

    JSON_NAMES = (
        *("rows", "groups", "copies", "siblings", "difference", "samples", "warning"),
        "is_function_preserving",
    )

    rows: tuple[ExpertsRow, ...]
    groups: tuple[tuple[int, ...], ...]
    difference: float | None
    samples: int
    warning: str = ""
    origins: Origins = field(default=(), repr=False)

    @property
    def copies(self) -> tuple[int, ...]:
        """The experts that are copies of earlier ones: `experts.drop` removes them again."""
        return tuple(index for index, group in enumerate(self.groups) if group in self.groups[:index])

    @property
    def siblings(self) -> tuple[tuple[int, ...], ...]:
        """The experts that are copies of the same one: `experts.merge` makes one of each group."""
        places: dict[tuple[int, ...], list[int]] = {}
        for index, group in enumerate(self.groups):
            places.setdefault(group, []).append(index)
        return tuple(map(tuple, places.values()))

    @property
    def is_function_preserving(self) -> bool | None:
        """Whether the outputs differ by no more than 1e-5; None if it was not measured."""
        return None if self.difference is None else self.difference <= 1e-5

    def __str__(self) -> str:
        lines = [
            [row.layer, *(f"{before:,} to {after:,}" for before, after in (row.experts, row.top_k, row.nnz))]
            for row in self.rows
        ]
        outputs = difference_in_words(self.difference, is_same=self.is_function_preserving, samples=self.samples)
        summary = f"{outputs} {self.warning}".rstrip()
        return table(["layer", "experts", "top k", "non-zeros"], lines) + f"\n\n{summary}"


# Build a model with other experts, compare it with the one that it is made of, and report both.


def read_experts(model_or_layer: Any) -> tuple[Anatomy, list[MoeLayer]]:
    """Read a built model or layer, and its layers with experts.

    Raises:
        TypeError: If it is neither a model nor a layer.
        ValueError: If it is not built, or has no experts.
    """
    anatomy = Anatomy.of(model_or_layer, accepts=keras.layers.Layer, argument="model_or_layer")
    if isinstance(model_or_layer, keras.Model):
        check_model(anatomy)
    elif not model_or_layer.built:
        raise ArgumentError(
            "model_or_layer", "a built layer", found=f"{model_or_layer.name!r}, which has no weights yet"
        )
    return anatomy, _moe_layers(model_or_layer)


def new_top_k(top_k: int | None, layers: Sequence[MoeLayer], *, groups: Mapping[str, Groups]) -> dict[str, int]:
    """Return a checked number of experts to use for each input; None keeps the number, or takes all if it is larger.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of range.
    """
    if top_k is None:
        return {layer.path: min(layer.top_k, len(groups[layer.path])) for layer in layers}
    return dict.fromkeys(groups, check_count(top_k, "top_k", least=1, most=min(map(len, groups.values()))))


def rebuild_experts(
    source: Anatomy,
    layers: Sequence[MoeLayer],
    *,
    groups: Mapping[str, Groups],
    top_k: Mapping[str, int],
    samples: Any,
    shares: Mapping[str, Shares] | None = None,
    noise: float = 0.0,
    random: str | None = None,
    seed: int = 0,
) -> tuple[Any, ExpertsReport]:
    """Build a model or layer with other experts, and report it.

    Args:
        source: A model or layer.
        layers: Its layers with experts.
        groups: For each of them, by its path, the experts whose mean each new expert is.
        top_k: For each of them, by its path, the number of new experts that are used for each input.
        samples: Inputs to compare on; None takes random numbers.
        shares: The shares of experts in the means, by the paths of the layers; None for equal ones.
        noise: The noise that copies get, as a fraction of the standard deviation of each weight.
        random: The part to draw at random instead: see `perturb_copies`.
        seed: Seed of the noise.
    """
    if samples is not None:
        check_source(samples, argument="samples")
    sizes = {path: (len(own), top_k[path]) for path, own in groups.items()}
    new = _set_expert_count(source, layers, sizes=sizes)
    made_of = _average_experts(new, source, layers=layers, groups=groups, shares=shares or {})
    new_layers = _moe_layers(new)
    if noise or random:
        renamed = {layer.path: groups[old.path] for layer, old in zip(new_layers, layers, strict=True)}
        _perturb_copies(new_layers, groups=renamed, noise=noise, random=random, seed=seed)
    rows = tuple(
        ExpertsRow(old.path, (old.experts, layer.experts), (old.top_k, layer.top_k), (_nnz(old), _nnz(layer)))
        for old, layer in zip(layers, new_layers, strict=True)
    )
    difference, size = _difference(source.model, new, samples=samples)
    first = tuple(map(tuple, next(iter(groups.values()))))
    origins = read_origins(source.model, new, made_of=made_of)
    return new, ExpertsReport(rows, first, difference, size, origins=origins)


def _nnz(layer: MoeLayer) -> int:
    """Count the non-zero entries of experts and router; masked entries are zero."""
    return sum(int(np.count_nonzero(as_numpy(weight))) for weight in layer.layer.weights if id(weight) in layer.axes)


def _difference(root: Any, new: Any, *, samples: Any) -> tuple[float | None, int]:
    """Return the largest difference relative to the largest output, and the number of samples."""
    inputs = _inputs(root, samples)
    difference = LargestDifference()
    for _, values in inputs:
        tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, values)
        difference.add(new(tensors), root(tensors))
    return (difference.fraction, sum(size for size, _ in inputs)) if inputs else (None, 0)


def _inputs(root: Any, samples: Any) -> list[tuple[int, Any]]:
    """Return inputs, each with the number of samples in it; 0 for random numbers."""
    if isinstance(root, keras.Sequential):  # whose `input` is the tensor that it was called on
        root = keras.Model(root.inputs[0], root.outputs[0])
    if samples is None:
        length = usable_length(root) if isinstance(root, keras.Model) else None
        return [] if length is None else [(0, numbers_for(root.input, length=length))]
    count = len(root.inputs) if isinstance(root, keras.Model) else 1
    inputs = []
    for batch in batches(samples, inputs=count, argument="samples"):
        check_batch(batch, root, argument="samples")
        inputs.append((len(keras.tree.flatten(batch.x)[0]), batch.x))
    return inputs
