"""Facts that a criterion may use besides the weight, each described once, and statistics of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice

# Facts that a criterion may use besides the weight, each described once.
#
# `tfprune.evidence` knows no fact by name. For each weight and each fact that its criterion needs, it follows the
# `Fact`: it records the values that `recorded` names batch by batch, reduces a batch by `reduce` while the model
# runs, combines batches by `combine`, and ends a pass with `finish` and `over_passes`.
#
# To add a fact, from your own code or here:
#
# 1. Choose what is `recorded`, and for gradients whether each entry, output or input has a value
#          (`per`). 2. Write `reduce(recorded, ops)` with operations of `ops`, which is `keras.ops`: so a fact
#          works on each backend and
#    in a compiled model, this module loads no Keras, and a fact can be tried with `fact.reduce(array,
#             numpy)`. 3. Pass the `Fact` to `register_fact`; the facts of the library are listed in `_OWN`. 4.
#             Name it in the `needs` of a criterion, which reads it by `evidence.fact(name)`.
#
# Nothing else has to change. A value that is unknown or has no effect is refused when the `Fact` is created.

INPUTS, OUTPUTS, _GRADIENTS, _MODEL = "inputs", "outputs", "gradients", "model"
HESSIAN_GRADIENTS = "hessian_gradients"
MEAN, _SUM, _CLASS_MOMENTS = "mean", "sum", "class_moments"
_PER = {INPUTS: ("input",), OUTPUTS: ("output",), _GRADIENTS: ("entry", "output", "input")}


@dataclass(frozen=True)
class UnknownFact:
    """The reason why a fact is not known for a weight, in place of its value.

    Attributes:
        reason: The reason, as the end of a sentence: "it is frozen (trainable=False), so it has no gradient".

    Example:
        >>> UnknownFact("it is frozen (trainable=False), so it has no gradient").reason
        'it is frozen (trainable=False), so it has no gradient'
    """

    reason: str


@dataclass(frozen=True)
class Fact:
    """Describe a fact: where it is recorded, how a batch is reduced, and how batches and passes are combined.

    Args:
        name: The name that criteria give in `needs`.
        text: A description for error messages, for example `"the mean over batches of |dL/dw|"`.
        recorded: The values to record. `"inputs"` or `"outputs"`: those of the layer, (samples, positions, units).
            `"gradients"`: the gradient of the loss of one batch with respect to the weight, in float64.
            `"hessian_gradients"`: the Hessian of the loss of one batch, with respect to all weights that need the
            fact, times their mean gradient over all batches; the data are read twice. `"model"`: no data, but an
            object with the `path` of the weight, the `variable`, its `layer`, its `synaptic_flow`, and the
            `normalizer`: the BatchNormalization that reads the outputs of the layer, or None.
        reduce: A function `reduce(recorded, ops)` that reduces the values recorded in a batch to one number per
            entry, output or input; for `"class_moments"` to (samples, units). With `"model"` it may return an
            `UnknownFact`.
        per: The parts of the weight that have a value each. `"entry"` (default for gradients and the model): the
            shape of the weight. `"output"`: (outputs,), and the gradient is recorded as (entries, outputs).
            `"input"`: (inputs,), and the gradient is recorded as (entries, inputs). Recorded `"inputs"` and
            `"outputs"` have one value for each unit only.
        combine: How batches are combined: by their `"mean"` or `"sum"`, or as `"class_moments"`, which makes a
            `ClassMoments` of the units and needs class labels.
        finish: A function of the combined batches that returns the fact; None leaves them as they are.
        over_passes: A function `over_passes(so_far, value, weight)` of the fact after the passes before (0.0 at
            first), the value of this pass and the latent weight, which returns the fact. None (the default) starts
            anew in each pass.

    Raises:
        TypeError: If a name or text is not a string, or a hook is not a function.
        ValueError: If a value is unknown, or has no effect for what is recorded.

    Example:
        >>> fisher = Fact("fisher", "the mean over batches of (dL/dw)^2", "gradients", lambda g, ops: ops.square(g))
        >>> fisher.reduce(np.array([[0.5, -2.0]]), np)
        array([[0.25, 4.  ]])
    """

    name: str
    text: str
    recorded: str
    reduce: Callable[[Any, Any], Any]
    per: str | None = None
    combine: str = MEAN
    finish: Callable[[Any], Any] | None = None
    over_passes: Callable[[Any, Any, np.ndarray], Any] | None = None

    def __post_init__(self) -> None:
        for argument, text in (("name", self.name), ("text", self.text)):
            if not isinstance(text, str) or not text:
                raise ArgumentTypeError(argument, f"`{argument}` of a fact to be text", repr(text))
        for argument in ("reduce", "finish", "over_passes"):
            hook = getattr(self, argument)
            if not callable(hook) and (hook is not None or argument == "reduce"):
                raise ArgumentTypeError(argument, f"`{argument}` of a fact to be a function", repr(hook))
        check_choice(self.recorded, "recorded", choices=(INPUTS, OUTPUTS, _GRADIENTS, HESSIAN_GRADIENTS, _MODEL))
        units = _PER.get(self.recorded, _PER[_GRADIENTS])
        object.__setattr__(self, "per", self.per or units[0])
        check_choice(self.per, "per", choices=units)
        check_choice(self.combine, "combine", choices=(MEAN, _SUM, _CLASS_MOMENTS))
        if self.needs_labels and self.recorded not in (INPUTS, OUTPUTS):
            raise ArgumentError("recorded", "class moments of inputs or outputs", repr(self.recorded))
        if self.recorded == _MODEL and (self.combine != MEAN or self.finish or self.over_passes):
            raise ValueError("Expected no `combine`, `finish` or `over_passes`, as recorded='model' has no batches.")

    def __str__(self) -> str:
        return self.text

    @property
    def needs_data(self) -> bool:
        """Whether it is gathered from data; else it is read from the model."""
        return self.recorded != _MODEL

    @property
    def needs_loss(self) -> bool:
        """Whether it needs targets and a loss to differentiate."""
        return self.recorded in (_GRADIENTS, HESSIAN_GRADIENTS)

    @property
    def needs_labels(self) -> bool:
        """Whether it needs class labels."""
        return self.combine == _CLASS_MOMENTS


def _sum_of_squares(units: Any, ops: Any) -> Any:
    return ops.sum(ops.square(units), axis=(0, 1))


def _mean_over_positions(units: Any, ops: Any) -> Any:
    return units[:, 0] if units.shape[1] == 1 else ops.mean(units, axis=1)


def _scales(surroundings: Any, ops: Any) -> Any:
    normalizer = surroundings.normalizer
    if normalizer is None:
        return UnknownFact("no BatchNormalization takes the outputs of its layer")
    if not normalizer.scale:
        return UnknownFact(f"{normalizer.name} has no scale (scale=False)")
    return ops.convert_to_tensor(normalizer.gamma)


META = "tfprune_meta_gradients"  # where a weight keeps the norms that `MetaGradients` records


def _meta_norms(surroundings: Any, ops: Any) -> Any:
    norms = getattr(surroundings.variable, META, None)
    if norms is None:
        return UnknownFact(
            "no outer step was recorded: add() the gradients of each to a tfprune.few_shot.MetaGradients"
        )
    return ops.convert_to_tensor(norms)


_OWN = (
    Fact(
        "input_norms",
        "the L2 norm of each input over all samples and positions, (inputs,)",
        recorded=INPUTS,
        reduce=_sum_of_squares,
        combine=_SUM,
        finish=np.sqrt,
    ),
    Fact(
        "input_moments",
        "`ClassMoments` of the inputs, each the mean over its positions",
        recorded=INPUTS,
        reduce=_mean_over_positions,
        combine=_CLASS_MOMENTS,
    ),
    Fact(
        "output_moments",
        "`ClassMoments` of the outputs, each the mean over its positions",
        recorded=OUTPUTS,
        reduce=_mean_over_positions,
        combine=_CLASS_MOMENTS,
    ),
    Fact(
        "gradient",
        "the mean over batches of dL/dw, of the weight's shape",
        recorded=_GRADIENTS,
        reduce=lambda gradient, ops: gradient,
    ),
    Fact(
        "squared_gradients",
        "the mean over batches of (dL/dw)^2, of the weight's shape",
        recorded=_GRADIENTS,
        reduce=lambda gradient, ops: ops.square(gradient),
    ),
    Fact(
        "gradient_sizes",
        "the mean over batches of |dL/dw|, of the weight's shape",
        recorded=_GRADIENTS,
        reduce=lambda gradient, ops: ops.abs(gradient),
    ),
    Fact(
        "hessian_gradient",
        "the Hessian of the loss times its gradient, both means over batches, of the weight's shape",
        recorded=HESSIAN_GRADIENTS,
        reduce=lambda product, ops: product,
    ),
    Fact(
        "gradient_norms",
        "the mean over batches of the L2 norm of an output's gradient, (outputs,)",
        recorded=_GRADIENTS,
        per="output",
        reduce=lambda gradient, ops: ops.sqrt(ops.sum(ops.square(gradient), axis=0)),
    ),
    Fact(
        "movement",
        "the sum over passes of -w * dL/dw, of the weight's shape",
        recorded=_GRADIENTS,
        reduce=lambda gradient, ops: gradient,
        over_passes=lambda so_far, gradient, weight: so_far - gradient * weight,
    ),
    Fact(
        "gamma",
        "the scales of the BatchNormalization that takes the layer's outputs, (outputs,)",
        recorded=_MODEL,
        per="output",
        reduce=_scales,
    ),
    Fact(
        "synaptic_flow",
        "|w| times the gradient of the summed outputs on inputs of ones, all weights taken by their absolute values",
        recorded=_MODEL,
        reduce=lambda surroundings, ops: surroundings.synaptic_flow,
    ),
    Fact(
        "meta_gradient_norms",
        "the mean over outer steps of meta-training of the L2 norm of an output's gradient, (outputs,)",
        recorded=_MODEL,
        per="output",
        reduce=_meta_norms,
    ),
)
_REGISTRY = {fact.name: fact for fact in _OWN}
FACTS: Mapping[str, Fact] = MappingProxyType(_REGISTRY)


def register_fact(fact: Fact) -> None:
    """Add a fact that criteria can name in `needs`. It replaces a fact of the same name that you added before.

    Args:
        fact: The fact.

    Raises:
        TypeError: If `fact` is not a `Fact`.
        ValueError: If a fact of the library has this name.

    Example:
        >>> register_fact(Fact("loudness", "the mean over batches of |output|, (outputs,)", "outputs",
        ...                    lambda units, ops: ops.mean(ops.abs(units), axis=(0, 1))))
        >>> str(FACTS["loudness"])
        'the mean over batches of |output|, (outputs,)'
    """
    if not isinstance(fact, Fact):
        raise ArgumentTypeError("fact", "a tfprune.criteria.Fact", repr(fact))
    if fact.name in {own.name for own in _OWN}:
        raise ArgumentError(
            "name", "the name of a new fact", f"{fact.name!r}, a fact of tfprune", advice="Choose another name."
        )
    _REGISTRY[fact.name] = fact


# Statistics of units by class for an analysis of variance, added up batch by batch in float64.

_CONSTANT = 1e-12  # of a unit's mean: a smaller standard deviation is a rounding error


class ClassMoments:
    """Count, mean and squared deviations of each unit within each class.

    Batches are merged by the formula for two sets, on deviations from their own means, so that a large common offset
    does not reduce the precision. Memory grows with classes times units, not with samples.

    Attributes:
        labels: The classes seen, in the order of the rows below.
        counts: The number of samples of each class, (classes,).
        means: The mean of each unit in each class, (classes, units).
        squares: The sum of squared deviations from the mean of the class, (classes, units).

    Args:
        units: The number of units.

    Example:
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[1.0, 5.0], [2.0, 5.0]]), np.array([0, 1]))
        >>> moments.add(np.array([[3.0, 5.0], [4.0, 5.0]]), np.array([0, 1]))
        >>> moments.f_statistic()
        array([0.5, 0. ])

    Reference:
        Chan, Golub & LeVeque, 1983, "Algorithms for computing the sample variance", The American Statistician 37(3).
    """

    def __init__(self, units: int) -> None:
        self.labels: list[int] = []
        self.counts = np.zeros(0)
        self.means = np.zeros((0, units))
        self.squares = np.zeros((0, units))

    def add(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch.

        Args:
            values: The values of the units, (samples, units).
            labels: The class of each sample, integers.
        """
        classes, codes = np.unique(np.asarray(labels), return_inverse=True)
        values, member = np.asarray(values, dtype=np.float64), np.eye(len(classes))[codes.ravel()].T
        counts = member.sum(axis=1)
        # Relative to the first sample: a large common offset would cost the sums their digits.
        means = values[0] + member @ (values - values[0]) / counts[:, None]
        squares = member @ np.square(values - means[codes.ravel()])
        self._merge(self._rows(classes), counts[:, None], means, squares)

    def _rows(self, classes: np.ndarray) -> list[int]:
        new = [label for label in classes.tolist() if label not in self.labels]
        self.labels += new
        self.counts = np.append(self.counts, np.zeros(len(new)))
        empty = np.zeros((len(new), self.means.shape[1]))
        self.means, self.squares = np.vstack([self.means, empty]), np.vstack([self.squares, empty])
        return [self.labels.index(label) for label in classes.tolist()]

    def _merge(self, rows: list[int], counts: np.ndarray, means: np.ndarray, squares: np.ndarray) -> None:
        before = self.counts[rows][:, None]
        total, apart = before + counts, np.where(before > 0, means - self.means[rows], 0.0)
        self.means[rows] = np.where(before > 0, self.means[rows] + apart * counts / total, means)
        self.squares[rows] += squares + np.square(apart) * before * counts / total
        self.counts[rows] = total[:, 0]

    def grouped(self, kinds: Mapping[int, Any]) -> ClassMoments:
        """Return the moments of groups of classes, without another pass over the data.

        Args:
            kinds: The group of each class, such as a broader kind. Groups are numbered in the order of the classes
                seen.

        Raises:
            ValueError: If a class is not in `kinds`.

        Example:
            >>> moments = ClassMoments(1)
            >>> moments.add(np.array([[1.0], [3.0], [8.0]]), np.array([0, 1, 2]))
            >>> moments.grouped({0: "leaf", 1: "leaf", 2: "stem"}).means.ravel()
            array([2., 8.])
        """
        missing = [label for label in self.labels if label not in kinds]
        if missing:
            raise ArgumentError(
                "kinds",
                "`kinds` with a group for each class",
                found=f"none for {missing}",
                advice="Add these classes.",
            )
        numbers = {name: number for number, name in enumerate(dict.fromkeys(kinds[each] for each in self.labels))}
        merged = ClassMoments(self.means.shape[1])
        for row, label in enumerate(self.labels):
            of_group = merged._rows(np.array([numbers[kinds[label]]]))
            merged._merge(of_group, self.counts[[row], None], self.means[[row]], self.squares[[row]])
        return merged

    @property
    def size(self) -> int:
        """The number of samples."""
        return int(self.counts.sum())

    def mean(self) -> np.ndarray:
        """Return the mean of each unit over all samples."""
        first = self.means[0]
        return first + self.counts @ (self.means - first) / self.size

    def between(self) -> np.ndarray:
        """Return the squared deviations of the class means from the mean, weighted by count, 0 for constant units."""
        return np.where(self._is_constant(), 0.0, self._between())

    def within(self) -> np.ndarray:
        """Return the squared deviations from the class means, 0 for constant units."""
        return np.where(self._is_constant(), 0.0, self.squares.sum(axis=0))

    def _between(self) -> np.ndarray:
        return self.counts @ np.square(self.means - self.mean())

    def _is_constant(self) -> np.ndarray:
        deviation = np.sqrt((self._between() + self.squares.sum(axis=0)) / self.size)
        return deviation <= _CONSTANT * np.abs(self.mean())

    def variance(self) -> np.ndarray:
        """Return the variance of each unit over all samples of all classes."""
        return (self.between() + self.within()) / self.size

    def discrimination(self) -> np.ndarray:
        """Return squared deviations between classes divided by those within classes, S_B / (S_W + 1e-8)."""
        return self.between() / (self.within() + 1e-8)

    def complexity(self) -> float:
        """Return the difference of the classes in direction: 1 minus the mean cosine of their means, over pairs.

        It is 0 if all class means have the same direction, and 2 at most. With embeddings as units, it is the task
        complexity of PMP-DACIS, for `allocation.LayerThreshold`.

        Raises:
            ValueError: If there are fewer than two classes.
        """
        classes = len(self.labels)
        if classes < 2:
            raise ValueError(f"Expected samples of at least two classes. Received: {classes}. Pass more data.")
        norms = np.linalg.norm(self.means, axis=1, keepdims=True)
        units = self.means / np.maximum(norms, np.finfo(np.float64).tiny)
        return float(1 - (units @ units.T)[np.triu_indices(classes, 1)].mean())

    def f_statistic(self) -> np.ndarray:
        """Return the F of a one-way analysis of variance: 0 for constant units, infinite where classes are constant.

        Raises:
            ValueError: If there are fewer than two classes, or not more samples than classes.
        """
        classes = len(self.labels)
        if classes < 2 or self.size <= classes:
            raise ValueError(
                f"Expected samples of at least two classes, and more samples than classes. Received: {self.size} "
                f"samples of {classes} classes. Pass more data, of all classes."
            )
        between, within = self.between() / (classes - 1), self.within() / (self.size - classes)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(between > 0, between / within, 0.0)
