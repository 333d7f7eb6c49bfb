"""Dynamic sparse training: entries that return in mask updates, initial scales, and thresholds that are learned."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.allocation import Weight, global_
from tfprune.base.spec import ArgumentError, Spec, check_choice, check_count, check_number, check_sparsity
from tfprune.criteria import Criterion, Evidence, Magnitude
from tfprune.masking.pruned import Pruned, holds_pruned
from tfprune.masking.strip import copy_with, hidden_share, pruned_layers
from tfprune.masking.wrap import choose_weights
from tfprune.models.anatomy import Anatomy, Filters, as_numpy, check_model, from_matrix, to_matrix
from tfprune.models.training import arguments_of, check_compiled, compile_like, optimizers_of, updates_of
from tfprune.patterns import Block, Pattern, Unstructured
from tfprune.schedules import Polynomial, Step, check_step

# Grow: in each mask update, replace a part of the kept entries by masked ones, at a constant number of zeros.

GRADIENT, _RANDOM = "gradient", "random"


@dataclass(frozen=True)
class Grow(Spec):
    """Replace kept entries by masked ones in each mask update: training that is sparse from the first step.

    Pass one as `grow` to `PruningCallback` or `update_masks` to change the defaults of `grow="gradient"` (RigL) and
    `grow="random"` (SET). An update removes `fraction` of the kept entries of each weight, those with the lowest
    scores of its criterion, and adds the same number of entries, which start at 0.

    In `PruningCallback` the fraction falls with the steps, f(t) = fraction / 2 * (1 + cos(pi * t / end)), and is 0
    from `end` on. `update_masks` takes `fraction` as it is: pass `grow.at(step)` for the fraction of a step.

    Args:
        by: How the added entries are chosen. `"gradient"` (default): those with the largest gradient of the loss on
            `data`. `"random"`: at random.
        fraction: The fraction of the kept entries to replace, in [0, 1]. Default 0.3. At 1 with `by="random"`, all
            entries are drawn at random.
        end: The step from which on nothing is replaced: an int above 0, or a float in (0, 1] as a fraction of the
            fit. Default 0.75.
        seed: The seed of everything random, at least 0. Default 0.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or `by` is another name.

    Example:
        >>> grow = Grow("random", end=1000)
        >>> [round(grow.at(step).fraction, 3) for step in (0, 250, 500, 750, 1000)]
        [0.3, 0.256, 0.15, 0.044, 0.0]

    Reference:
        Evci et al., 2020, "Rigging the Lottery", arXiv:1911.11134, section 3 (RigL). Mocanu et al., 2018, "Scalable
        training of artificial neural networks with adaptive sparse connectivity", arXiv:1707.04780 (SET).
    """

    by: str = GRADIENT
    fraction: float = dataclasses.field(default=0.3, kw_only=True)
    end: Step = dataclasses.field(default=0.75, kw_only=True)
    seed: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self.by, "by", choices=(GRADIENT, _RANDOM))
        end = check_step(self.end, "end")
        if not end:
            raise ArgumentError("end", "`end` above 0, or nothing would be replaced", repr(self.end))
        fraction = check_number(self.fraction, "fraction", least=0, most=1)
        self._hold(fraction=fraction, end=end, seed=check_count(self.seed, "seed", least=0))

    def resolve(self, steps: int, *, first: int = 0) -> Grow:
        """Return this value with its fraction of the training run turned into a step, as `Schedule.resolve` does."""
        return dataclasses.replace(self, end=first + round(self.end * steps)) if type(self.end) is float else self

    def at(self, step: int) -> Grow:
        """Return this value with the fraction that is replaced at a step.

        Args:
            step: The number of optimizer updates, at least 0.

        Raises:
            ValueError: If `end` is still a fraction of the training run.
        """
        if isinstance(self.end, float):
            raise ArgumentError(
                "end",
                "`end` in steps",
                f"{self.end!r}, a fraction of the training run",
                advice="Give it as an int, such as Grow(end=3000).",
            )
        share = 0.0 if step >= self.end else (1 + math.cos(math.pi * step / self.end)) / 2
        return dataclasses.replace(self, fraction=self.fraction * share)


def check_grow(value: Any, *, beside: str = "") -> Grow | None:
    """Return the value of an argument `grow`, names replaced.

    Args:
        value: The value.
        beside: Another argument and its value that excludes `grow`, for the message; empty if there is none.

    Raises:
        TypeError: If it is not a name, a `Grow` or None.
        ValueError: If it is another name, or comes with what excludes it.
    """
    if value is None:
        return None
    if not isinstance(value, Grow):
        check_choice(value, "grow", choices=(None, GRADIENT, _RANDOM), others="or a tfprune.Grow")
    if beside:
        raise ArgumentError(
            "grow",
            "`grow` with a sparsity, and with regrow=True",
            f"{value!r}, {beside}",
            advice="Leave out one of them.",
        )
    return value if isinstance(value, Grow) else Grow(value)


def check_growable(layers: Iterable[tuple[str, Pruned]]) -> None:
    """Refuse wrappers whose patterns cannot be grown.

    Raises:
        ValueError: Naming the first of them.
    """
    for path, layer in layers:
        if not isinstance(layer.pattern, (Unstructured, Block)):
            raise ValueError(
                f"Expected a model with single entries or blocks as zeros, which can grow. Received: {path}, "
                f"which is wrapped with pattern={layer.pattern!r}. Wrap it with pattern='unstructured' or "
                f"patterns.Block(rows, cols), or leave out grow."
            )


@dataclass(frozen=True)
class _DropAndGrow(Criterion):
    """The criterion that entries are removed by, with the fact that others are added by."""

    drop: Criterion

    def __repr__(self) -> str:
        return f"grow={GRADIENT!r}"

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.drop.needs, "gradient")

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return self.drop(evidence)


def criterion_of(layer: Pruned, grow: Grow | None) -> Criterion:
    """Return the criterion of a wrapper, which needs gradients if its entries grow by them."""
    return _DropAndGrow(layer.criterion) if grow and grow.by == GRADIENT else layer.criterion


def uses_data(model: keras.layers.Layer, grow: Grow | None) -> bool:
    """Return True if an update gathers evidence from data."""
    criteria = [criterion_of(layer, grow) for _, layer in pruned_layers(model)]
    return any(fact.needs_data for criterion in criteria for fact in criterion.needed_facts())


def grow_at(step: int, grow: Grow, *, model: keras.layers.Layer, is_last: bool) -> Grow:
    """Return what an update of a fit replaces: at step 0 everything, at random, if no weight is pruned yet."""
    if step == 0 and all(as_numpy(mask).all() for _, layer in pruned_layers(model) for mask in layer.masks.values()):
        return dataclasses.replace(grow, by=_RANDOM, fraction=1.0)
    return dataclasses.replace(grow.at(step), fraction=0.0) if is_last or step == 0 else grow.at(step)


@dataclass(frozen=True, eq=False)
class Growth:
    """One update in which entries are replaced.

    Attributes:
        grow: What is replaced.
        step: The number of optimizer updates so far, which random choices depend on, so that resumed runs agree.
        facts: The gathered facts, by the path of the weight.
    """

    grow: Grow
    step: int
    facts: Mapping[str, Mapping[str, Any]]

    def mask(
        self, layer: Pruned, name: str, *, path: str, scores: np.ndarray, shown: np.ndarray, sparsity: float
    ) -> np.ndarray:
        """Return the new mask of a weight, in the matrix view like `scores` and `shown`, its mask now."""
        kernel = layer.kernels[name]
        candidates = to_matrix(self._scores(path, tuple(kernel.variable.shape)), kernel)
        stays = _stay(layer.pattern, scores, shown=shown, sparsity=sparsity, fraction=self.grow.fraction)
        return layer.pattern(np.where(stays, np.inf, candidates), sparsity)

    def _scores(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        if self.grow.by == GRADIENT:
            evidence = Evidence(np.empty(0), path, facts=self.facts[path])
            return np.abs(evidence.fact("gradient"))
        return np.random.default_rng([self.grow.seed, self.step, zlib.crc32(path.encode())]).random(shape)


def _stay(pattern: Pattern, scores: np.ndarray, *, shown: np.ndarray, sparsity: float, fraction: float) -> np.ndarray:
    """Return which kept entries stay: at the new sparsity, all but a fraction of those that it keeps."""
    dropped = 1 - (1 - sparsity) * (1 - fraction)
    if dropped == 1:  # which patterns do not take
        return np.zeros_like(shown)
    return pattern(np.where(shown, scores, -np.inf), dropped) & shown


# Scale the initial weights of a sparse model to the number of inputs that each unit keeps.


def scale_initial_weights(model: keras.layers.Layer) -> None:
    """Scale the initial weights of a sparse model to the number of inputs that each unit keeps.

    Use it before the first training step of a model that is sparse from the start, after its masks are set. Keras
    draws initial weights for units with all their inputs. With most of them masked, activations and gradients shrink
    from layer to layer, and training starts slowly. A unit that keeps k of n inputs gets its weights times
    sqrt(n / k), so that its output keeps the variance of the dense model. Where a normalization follows each layer,
    its effect is small.

    Args:
        model: A model or layer with `Pruned` layers, which is changed. Frozen layers are left as they are.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no pruned layers, no mask has a zero, or an optimizer has trained the model.

    Example:
        >>> from tfprune import update_masks, wrap
        >>> model = wrap(keras.Sequential([keras.Input((100,)), keras.layers.Dense(1, kernel_initializer="ones")]))
        >>> report = update_masks(model, 0.96)
        >>> scale_initial_weights(model)
        >>> float(keras.ops.max(model.layers[0].layer.kernel))
        5.0

    Reference:
        Evci et al., 2022, "Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win", arXiv:2010.03533,
        section 3.1.
    """
    layers = pruned_layers(model)
    if not hidden_share(model):
        raise ValueError(
            f"Expected a sparse model. Received: {model.name!r}, whose masks have no zeros. Set its masks first, for "
            f"example with tfprune.update_masks."
        )
    steps = max(map(updates_of, optimizers_of(model)), default=0)
    if steps:
        raise ValueError(
            f"Expected a model before its first training step, as only initial weights are scaled. Received: "
            f"{model.name!r} after {steps} steps. Scale the weights of a new model."
        )
    for _, layer in layers:
        for name in layer.trained():
            kernel = layer.kernels[name]
            kept = to_matrix(as_numpy(layer.masks[name]), kernel)
            inputs = kept.reshape(len(kept), -1)
            factors = np.sqrt(inputs.shape[1] / np.maximum(inputs.sum(axis=1), 1))
            each = from_matrix(np.broadcast_to(factors.reshape(-1, *[1] * (kept.ndim - 1)), kept.shape), kernel)
            kernel.variable.assign(as_numpy(kernel.variable) * each)


# Learn how a sparsity is split over weights: thresholds that a short training moves together with the weights.

_START = 0.1  # the fraction of all entries below the threshold that all weights have at first
_LEAST = 1e-6  # of a threshold: its logarithm is learned
_SPEED = 3.0  # of a threshold's logarithm, compared with a weight
_UPDATES, _END = 50, 0.75  # how often thresholds are set to the sparsity of a step, and until which part of the fit


def learn_allocation(
    model: keras.Model,
    sparsity: float,
    data: Any,
    *,
    filters: Filters = None,
    epochs: int = 1,
    batch_size: int | None = None,
    verbose: int | str = 0,
) -> dict[str, float]:
    """Train a copy with a threshold for each weight, and split a sparsity over the weights as the thresholds do.

    Use it before you prune, to compare a learned split with those by formula, which cost nothing. In the copy, an
    entry w counts as sign(w) * max(|w| - t, 0). All weights start with the same threshold t, and the loss moves each
    apart. A common factor keeps the zeros of all weights at a sparsity that rises to `sparsity`.

    Args:
        model: A compiled, built model that is not wrapped. It is left unchanged.
        sparsity: The fraction of zeros over all weights, in [0, 1).
        data: A tuple (x, y) or (x, y, sample weights), or a dataset that can be read more than once.
        filters: The weights to prune, as in `tfprune.wrap`. None (the default) takes all kernels that mix inputs.
        epochs: The number of epochs that the copy is trained, at least 1. Default 1.
        batch_size: Samples in a batch of arrays. None (the default) is 32, and leaves datasets as they are.
        verbose: As in `fit`. Default 0.

    Returns:
        The sparsity of each weight by a regular expression: pass it as `allocation` to `PruningCallback` or
        `update_masks`, with the same `filters` in `wrap`. The zeros of all weights add up to `sparsity`.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not compiled or wrapped already, cannot be copied, or no weight can be pruned.
        ValueError: If an argument is out of its range.

    Example:
        >>> stack = [keras.layers.Dense(8, name="hidden"), keras.layers.Dense(1, name="out")]
        >>> model = keras.Sequential([keras.Input((8,)), *stack])
        >>> model.compile("adam", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 8))
        >>> list(learn_allocation(model, 0.5, (x, x[:, :1])))
        ['^hidden/kernel$', '^out/kernel$']

    Reference:
        Kusupati et al., 2020, "Soft Threshold Weight Reparameterization for Learnable Sparsity", arXiv:2002.03231.
        The paper keeps the zeros of its training, whose number a penalty decides; here they only give the split.
    """
    check_compiled(model)
    sparsity = check_sparsity(sparsity, "sparsity")
    if holds_pruned(model):
        raise ValueError(
            f"Expected a model that is not wrapped. Received: {model.name!r} with masks. Call "
            f"learn_allocation first, and then tfprune.wrap(model)."
        )
    arguments = {**arguments_of(data), "epochs": check_count(epochs, "epochs", least=1), "verbose": verbose}
    copy = _with_thresholds(model, filters)
    copy.fit(**arguments, batch_size=batch_size, callbacks=[_Level(sparsity)])
    weights = _over_thresholds(copy)
    split = zip(weights, global_(weights, sparsity), strict=True)
    return {f"^{re.escape(weight.path)}$": share for weight, share in split}


@keras.saving.register_keras_serializable(package="tfprune")
class SoftThreshold(Pruned):
    """A wrapper whose layer reads each weight with all entries moved toward 0 by a learned threshold."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        self._logarithms: dict[str, keras.Variable] = {}
        super().__init__(layer, **kwargs)

    def _add_masks(self) -> None:
        super()._add_masks()
        for name in self.kernels:
            own = f"{name.replace('/', '_')}_threshold"
            self._logarithms[name] = self.add_weight(name=own, shape=(), initializer="zeros")

    def threshold(self, name: str) -> Any:
        """Return the threshold of a weight."""
        return ops.exp(_SPEED * self._logarithms[name].value)

    def scale(self, factor: float) -> None:
        """Multiply all thresholds, which are 1 at first."""
        for logarithm in self._logarithms.values():
            logarithm.assign_add(np.log(factor) / _SPEED)

    def _read(self, variable: keras.Variable, training: bool | None) -> Any:
        weight = super()._read(variable, training)
        name = next((name for name, kernel in self.kernels.items() if kernel.variable is variable), None)
        if name is None:
            return weight
        threshold = ops.cast(self.threshold(name), weight.dtype)
        return ops.sign(weight) * ops.relu(ops.abs(weight) - threshold)


class _Level(keras.callbacks.Callback):
    """Multiply all thresholds by a factor, from time to time, so that the zeros follow a schedule."""

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self._schedule = Polynomial(sparsity, end=_END).resolve(_UPDATES)
        self._epoch = self._updates = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        within = (batch + 1) / self.params["steps"] if self.params["steps"] else 0  # unknown in a first epoch
        due = int(_UPDATES * (self._epoch + within) / self.params["epochs"])
        if due == self._updates:
            return
        self._updates = due
        scores = np.concatenate([weight.scores().ravel() for weight in _over_thresholds(self.model)])
        factor = float(np.quantile(scores, max(self._schedule(due), _START)))
        for _, layer in pruned_layers(self.model):
            layer.scale(max(factor, _LEAST))


def _with_thresholds(model: keras.Model, filters: Filters) -> keras.Model:
    """Return a compiled copy of a model whose weights have thresholds."""
    anatomy = Anatomy.of(model)
    check_model(anatomy)
    criterion, pattern = Magnitude(), Unstructured()
    choice = choose_weights(anatomy, criterion=criterion, pattern=pattern, filters=filters, latent="zero")

    def wrapped(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return SoftThreshold(layer, weights=choice[path][0], latent="zero") if path in choice else None

    copy = copy_with(anatomy, wrapped)
    layers = [layer for _, layer in pruned_layers(copy)]
    sizes = [np.abs(as_numpy(kernel.variable)).ravel() for layer in layers for kernel in layer.kernels.values()]
    for layer in layers:
        layer.scale(max(float(np.quantile(np.concatenate(sizes), _START)), _LEAST))
    return compile_like(copy, model, advice="Compile it with the names of a loss and of metrics")


def _over_thresholds(model: keras.Model) -> list[Weight]:
    """Return the trained weights, scored by the sizes of their entries divided by their thresholds."""

    def scores(layer: Any, name: str) -> np.ndarray:
        return np.abs(as_numpy(layer.kernels[name].variable)) / float(as_numpy(layer.threshold(name)))

    return [
        Weight(
            path=f"{path}/{name}",
            shape=tuple(layer.kernels[name].variable.shape),
            scores=functools.partial(scores, layer, name),
        )
        for path, layer in pruned_layers(model)
        for name in layer.trained()
    ]
