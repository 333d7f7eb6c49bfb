"""Importance criteria: one class each, and the facts that they look at.

A criterion is a pure function from evidence to scores of the weight's shape; entries with the largest scores are
kept. A new one is a frozen dataclass that derives from `Criterion` and defines `__call__`. In `needs` it names the
facts that it uses besides the weight. A new fact is one `Fact`, passed to `register_fact`.
Some criteria use the weight alone, others activations and gradients, and others class labels. `facts` describes the
facts, and `evidence` gathers them. All of this is NumPy. Start at `Criterion` and `Evidence`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tfprune.base.arrays import input_axes, output_axes
from tfprune.base.spec import ArgumentError, ArgumentTypeError, Spec, check_choice, check_count, check_number
from tfprune.facts import FACTS, ClassMoments, Fact, UnknownFact, register_fact

# The base class of criteria, and their evidence: the weight, and the facts gathered about it.


@dataclass(frozen=True, eq=False)
class Evidence:
    """The evidence by which a criterion scores a weight.

    Attributes:
        weight: The latent values of the weight, including masked entries, in the shape of Keras.
        path: The weight's path in the model, for example `block_1/conv/kernel`.
        axes: One letter per dimension: `o` output, `i` input, `c` both, any other letter a kernel position.
        facts: The facts that the criterion `needs`, by name.

    Example:
        >>> evidence = Evidence(np.ones((2, 3)), path="out/kernel", axes="io", facts={"input_norms": np.ones(2)})
        >>> evidence.fact("input_norms")
        array([1., 1.])
    """

    weight: np.ndarray
    path: str
    axes: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def fact(self, name: str) -> Any:
        """Return a fact by its name.

        Raises:
            ValueError: If the fact was not gathered, or cannot be known of this weight.
        """
        value = self.facts.get(name)
        if value is None:
            raise ValueError(
                f"Expected evidence of {self.path}: {FACTS.get(name, name)}. Received: none. Pass data= to "
                f"update_masks, PruningCallback or plan_shrink, and name {name!r} among the criterion's `needs`."
            )
        if isinstance(value, UnknownFact):
            raise ValueError(
                f"Expected evidence of {self.path}: {FACTS.get(name, name)}. Received: none, as {value.reason}. "
                f"Leave this weight out with `filters`, or choose another criterion for it."
            )
        return value

    def over_outputs(self, vector: np.ndarray) -> np.ndarray:
        """Return one value per output in a shape that broadcasts over the weight.

        Example:
            >>> Evidence(np.zeros((3, 3, 8, 4)), "conv/kernel", "hwio").over_outputs(np.arange(4)).shape
            (1, 1, 1, 4)
        """
        return self._over(output_axes(self.axes), vector)

    def over_inputs(self, vector: np.ndarray) -> np.ndarray:
        """Return one value per input in a shape that broadcasts over the weight.

        A grouped convolution takes the values of all inputs, group by group.

        Example:
            >>> Evidence(np.zeros((3, 3, 8, 4)), "conv/kernel", "hwio").over_inputs(np.arange(8)).shape
            (1, 1, 8, 1)
        """
        inputs = input_axes(self.axes)
        count = int(np.prod([self.weight.shape[axis] for axis in inputs]))
        groups, rest = divmod(np.size(vector), count)
        outputs = [axis for axis in output_axes(self.axes) if axis not in inputs]
        if groups < 2 or rest or len(inputs) != 1 or len(outputs) != 1:
            return self._over(inputs, vector)
        # Each group of outputs reads its own inputs.
        table = np.repeat(np.reshape(vector, (groups, count)), self.weight.shape[outputs[0]] // groups, axis=0)
        return self._over(sorted(inputs + outputs), table.T if inputs < outputs else table)

    def everywhere(self, values: np.ndarray) -> np.ndarray:
        """Return values that broadcast over the weight in the weight's own shape."""
        return np.broadcast_to(values, self.weight.shape).copy()

    def _over(self, axes: list[int], values: np.ndarray) -> np.ndarray:
        sizes = [size if axis in axes else 1 for axis, size in enumerate(self.weight.shape)]
        if len(self.axes) != self.weight.ndim or np.size(values) != np.prod(sizes):
            raise ValueError(
                f"Expected one value for each unit of {self.path} of shape {self.weight.shape} and axes "
                f"{self.axes!r}. Received: {np.size(values)} values."
            )
        return np.reshape(values, sizes)


class Criterion(Spec):
    """Base of all criteria.

    Example:
        >>> @dataclass(frozen=True)
        ... class Smallest(Criterion):
        ...     def __call__(self, evidence):
        ...         return -np.abs(evidence.weight)
        >>> Smallest()(Evidence(np.array([[1.0, -3.0]]), path="out/kernel", axes="io"))
        array([[-1., -3.]])
    """

    _EXAMPLES: ClassVar[str] = "criteria.Random(7)"

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the facts that it uses, as in `FACTS`; empty if it uses the weight alone."""
        return ()

    def needed_facts(self) -> tuple[Fact, ...]:
        """Return the facts that it needs.

        Raises:
            ValueError: If a name in `needs` is not registered.
        """
        for name in self.needs:
            if name not in FACTS:
                raise ArgumentError(
                    "needs",
                    f"`needs` among {', '.join(FACTS)}",
                    found=f"{name!r}, of {self!r}",
                    advice="Add a fact of your own with tfprune.criteria.register_fact.",
                )
        return tuple(FACTS[name] for name in dict.fromkeys(self.needs))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Return finite scores of the weight's shape, larger = keep."""
        raise NotImplementedError


def finite(scores: np.ndarray, path: str) -> np.ndarray:
    """Return the scores of a weight, if all are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(scores.sum()) or np.isfinite(scores).all()  # a sum of finite numbers may overflow
    if not is_finite:
        raise ValueError(
            f"Expected finite values in {path}. Received: NaN or infinity. Training has diverged: lower the learning "
            f"rate, or load an earlier checkpoint."
        )
    return scores


# Criteria that look at the weight alone.


@dataclass(frozen=True)
class Magnitude(Criterion):
    """Score an entry by its absolute value.

    Example:
        >>> Magnitude()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel"))
        array([[2., 1.]])

    Reference:
        Zhu & Gupta, 2017, "To prune, or not to prune", arXiv:1710.01878, section 3.
    """

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.abs(evidence.weight)


@dataclass(frozen=True)
class L2(Criterion):
    """Score an entry by its square.

    For single entries the ranking is that of `Magnitude`. Blocks, channels and heads have the mean score of their
    entries, so they are ranked by their L2 norm instead of their L1 norm.

    Example:
        >>> L2()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel"))
        array([[4., 1.]])

    Reference:
        Li et al., 2017, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710, section 3.
    """

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.square(evidence.weight, dtype=np.promote_types(evidence.weight.dtype, np.float32))


@dataclass(frozen=True)
class Random(Criterion):
    """Score entries at random. Use it as the baseline that any other criterion has to beat.

    The scores depend only on the seed and the path of the weight. A pruned entry therefore stays pruned as the
    sparsity rises, and two runs agree.

    Args:
        seed: The seed, at least 0 (default 0).

    Example:
        >>> Random(seed=1)(Evidence(np.zeros((2, 3)), "dense/kernel")).shape
        (2, 3)
    """

    seed: int = 0

    def __post_init__(self) -> None:
        self._hold(seed=check_count(self.seed, "seed", least=0))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        generator = np.random.default_rng([self.seed, zlib.crc32(evidence.path.encode())])
        return generator.random(evidence.weight.shape, dtype=np.float32)


@dataclass(frozen=True)
class UnitScores(Criterion):
    """Score an entry by a number that is given for its unit; entries of units with the same number by magnitude.

    Use it to train towards a choice of units that was made before, such as that of a `ConceptTrace`: with scores of 0
    and 1, units with a 0 go first, and of these the smallest. Weights without scores are ranked by magnitude.

    Args:
        scores: For each weight, by its path, a number for each of its outputs; a dict or pairs.

    Raises:
        TypeError: If it is neither, or holds anything but numbers.

    Example:
        >>> scores = UnitScores({"dense/kernel": [1, 0]})
        >>> scores(Evidence(np.array([[1.0, -3.0]]), "dense/kernel", "io"))
        array([[1.25, 0.75]])
    """

    scores: Any = field(repr=False)

    def __post_init__(self) -> None:
        pairs = self.scores.items() if isinstance(self.scores, Mapping) else self.scores
        try:
            held = tuple((str(path), tuple(map(float, values))) for path, values in pairs)
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(
                "scores", "`scores` to be a dict from paths of weights to numbers", repr(self.scores)
            ) from error
        self._hold(scores=held)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        size = np.abs(evidence.weight)
        magnitude = size / (1 + size.max(initial=0))  # below 1: decides between units of one score
        scores = dict(self.scores).get(evidence.path)
        return magnitude if scores is None else evidence.over_outputs(np.array(scores)) + magnitude


# Criteria that look at inputs, gradients and scales besides the weight.


@dataclass(frozen=True)
class BatchNormGamma(Criterion):
    """Score an entry by the scale of the BatchNormalization that takes its output: |gamma_o|. It needs no data.

    All entries of a channel have the same score. Use it with `patterns.Channel` and `plan_shrink`.

    Example:
        >>> facts = {"gamma": np.array([0.5, -2.0])}
        >>> BatchNormGamma()(Evidence(np.array([[3.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.5, 2. ]])

    Reference:
        Liu et al., 2017, "Learning Efficient Convolutional Networks through Network Slimming", arXiv:1708.06519.
    """

    needs: ClassVar[tuple[str, ...]] = ("gamma",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.everywhere(evidence.over_outputs(np.abs(evidence.fact("gamma"))))


@dataclass(frozen=True)
class Taylor(Criterion):
    """Score an entry by the change of the loss if it were zero, to first order: the mean over batches of |w dL/dw|.

    Within a batch, gradients of opposite sign cancel. Over batches, their sizes add up, so that weights still differ
    where training has converged. Gradients are taken in the masked model, for masked entries as well.

    Example:
        >>> facts = {"gradient_sizes": np.array([[0.1, 3.0]])}
        >>> Taylor()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.2, 3. ]])

    Reference:
        Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient_sizes",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.abs(evidence.weight) * evidence.fact("gradient_sizes")


@dataclass(frozen=True)
class SNIP(Criterion):
    """Score an entry by |w dL/dw|, with the mean gradient over all batches. Use it before training.

    Gradients of opposite sign cancel over the whole data, while `Taylor` adds up their sizes batch by batch. Choose
    the first masks with `update_masks(model, 0.9, allocation="global", data=(x, y))`, and train with them.

    Example:
        >>> facts = {"gradient": np.array([[0.1, -3.0]])}
        >>> SNIP()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.2, 3. ]])

    Reference:
        Lee, Ajanthan & Torr, 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        arXiv:1810.02340, equation 5.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.abs(evidence.weight * evidence.fact("gradient"))


@dataclass(frozen=True)
class GraSP(Criterion):
    """Score an entry by how much gradient flow the model loses without it: w Hg. Use it before training.

    g is the mean gradient over all batches with respect to the scored weights, and H the Hessian of the mean loss. An
    entry with a score below 0 lowers the norm of the gradient, and is removed first. The data are read twice. The
    paper divides the logits by 200 in the loss: pass a `loss` that does so.

    Example:
        >>> facts = {"hessian_gradient": np.array([[0.5, 2.0]])}
        >>> GraSP()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[-1.,  2.]])

    Reference:
        Wang, Zhang & Grosse, 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        arXiv:2002.07376, equation 8, with the opposite sign.
    """

    needs: ClassVar[tuple[str, ...]] = ("hessian_gradient",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.weight * evidence.fact("hessian_gradient")


@dataclass(frozen=True)
class Fisher(Criterion):
    """Score an entry by w^2 times the mean over batches of (dL/dw)^2, the diagonal of the Fisher information.

    It estimates the loss of removing the entry to second order. With batches of one sample the diagonal is exact;
    larger batches average gradients before they are squared, which makes it smaller.

    Example:
        >>> facts = {"squared_gradients": np.array([[0.5, 2.0]])}
        >>> Fisher()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[2., 2.]])

    Reference:
        Theis et al., 2018, "Faster gaze prediction with dense networks and Fisher pruning", arXiv:1801.05787.
    """

    needs: ClassVar[tuple[str, ...]] = ("squared_gradients",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.square(evidence.weight, dtype=np.float64) * evidence.fact("squared_gradients")


@dataclass(frozen=True)
class SynFlow(Criterion):
    """Score an entry by the synaptic flow that passes through it. It needs no data. Use it before training.

        score = |w| dR/d|w|, R = the sum of the outputs on inputs of ones, all weights taken by their absolute values

    The scores of each layer without biases add up to R, so that no layer is emptied if masks are set in many small
    steps: `for k in range(1, 101): update_masks(model, 1 - 0.1 ** (k / 100), allocation="global", regrow=False)`. The
    model must not end with softmax. Activations stay as they are; the paper's are ReLU.

    Example:
        >>> facts = {"synaptic_flow": np.array([[0.5, 2.0]])}
        >>> SynFlow()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.5, 2. ]])

    Reference:
        Tanaka et al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
        arXiv:2006.05467, algorithm 1.
    """

    needs: ClassVar[tuple[str, ...]] = ("synaptic_flow",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.fact("synaptic_flow")


@dataclass(frozen=True)
class Movement(Criterion):
    """Score an entry by whether training moves it away from zero: the sum of -w dL/dw. Use it for fine-tuning.

    Each mask update adds the mean of one pass over the data. A weight that training makes smaller has a score below
    zero, however large it is. `PruningCallback` adds up the updates of one `fit`, a `Gatherer` all of its passes.

    Example:
        >>> facts = {"movement": np.array([[-0.4, 0.1]])}
        >>> Movement()(Evidence(np.array([[5.0, 0.1]]), "dense/kernel", "io", facts))
        array([[-0.4,  0.1]])

    Reference:
        Sanh, Wolf & Rush, 2020, "Movement Pruning", arXiv:2005.07683, section 4. The paper adds up scores in every
        training step; tfprune adds them up in every mask update.
    """

    needs: ClassVar[tuple[str, ...]] = ("movement",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.fact("movement")


@dataclass(frozen=True)
class Wanda(Criterion):
    """Score an entry by its absolute value times the L2 norm of the input that it multiplies: |w_oi| ||x_i||.

    Args:
        compare: `"layer"` (default) compares all entries of a weight. `"output"` compares the entries of each output,
            as the paper does for language models: the score is the rank of an entry within its output, in (0, 1], and
            every output loses the same share.

    Raises:
        ValueError: If `compare` is another name.

    Example:
        >>> facts = {"input_norms": np.array([10.0, 0.1])}
        >>> Wanda()(Evidence(np.array([[1.0], [-30.0]]), "dense/kernel", "io", facts))
        array([[10.],
               [ 3.]])

    Reference:
        Sun et al., 2023, "A Simple and Effective Pruning Approach for Large Language Models",
        arXiv:2306.11695, equation 1.
    """

    compare: str = "layer"
    needs: ClassVar[tuple[str, ...]] = ("input_norms",)

    def __post_init__(self) -> None:
        check_choice(self.compare, "compare", choices=("layer", "output"))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        scores = np.abs(evidence.weight) * evidence.over_inputs(evidence.fact("input_norms"))
        if self.compare == "layer":
            return scores
        outputs = output_axes(evidence.axes)
        front = np.moveaxis(scores, outputs, range(len(outputs)))
        rows = front.reshape(np.prod(front.shape[: len(outputs)], dtype=int), -1)
        positions = np.argsort(np.argsort(-rows, axis=1, kind="stable"), axis=1)  # 0 is the best of its output
        ranks = 1 - positions / rows.shape[1]
        return np.moveaxis(ranks.reshape(front.shape), range(len(outputs)), outputs)


# Criteria that look at how well the units of a layer separate the classes.

_PERFECT = 1e15  # instead of an infinite F, of a unit that is constant within every class


@dataclass(frozen=True)
class FStatistic(Criterion):
    """Score an entry by how well its unit separates the classes: F times |w|.

    F is the statistic of a one-way analysis of variance over classes; a channel counts with its mean over positions.
    F does not change when a unit is scaled. Therefore F alone cannot rank the connections of one unit.

    Args:
        unit: The units that F is computed for: `"input"`, to rank connections (default), or `"output"`, to rank
            channels.
        mix: None (default) multiplies. A number in [0, 1] mixes ranks instead, each in [0, 1] within the weight:
            mix * rank(F) + (1 - mix) * rank(|w|).

    Raises:
        ValueError: If `unit` is another name, or `mix` lies outside [0, 1].
        TypeError: If `mix` is not a number.

    Example:
        >>> from tfprune.facts import ClassMoments
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]]), np.array([0, 1, 0, 1]))
        >>> facts = {"input_moments": moments}
        >>> FStatistic()(Evidence(np.array([[-2.0, 1.0], [9.0, 9.0]]), "dense/kernel", "io", facts))
        array([[1. , 0.5],
               [0. , 0. ]])

    Reference:
        Wang et al., 2025, "Exploring Vision Neural Network Pruning via Screening Methodology", arXiv:2502.07189, as
        its abstract describes it.
    """

    unit: str = "input"
    mix: float | None = None

    def __post_init__(self) -> None:
        check_choice(self.unit, "unit", choices=("input", "output"))
        if self.mix is not None:
            self._hold(mix=check_number(self.mix, "mix", least=0, most=1, meaning="or None"))

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"{self.unit}_moments",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        f_statistic = np.minimum(evidence.fact(f"{self.unit}_moments").f_statistic(), _PERFECT)
        over = evidence.over_inputs if self.unit == "input" else evidence.over_outputs
        size = np.abs(evidence.weight)
        if self.mix is None:
            return over(f_statistic) * size
        return self.mix * over(_ranks(f_statistic)) + (1 - self.mix) * _ranks(size)


@dataclass(frozen=True)
class DACIS(Criterion):
    """Score an entry by its channel: gradient G, variance V and discrimination D, each from 0 to 1 within the weight.

        score_o = gradient * G_o + variance * V_o + discrimination * D_o

    With `meta`, the score is multiplied by 1 + meta * M_o, where M is the norm of the channel's gradient in the outer
    steps of meta-training (`tfprune.few_shot.MetaGradients`), also from 0 to 1. In the paper M is the norm itself, so
    that its effect depends on the scale of the loss.

    G is the mean over batches of the norm of the channel's gradient. V is the variance over samples of its activation
    (the mean over positions). D is the activation's squared deviations between classes divided by those within
    classes. All entries of a channel have the same score; a channel with a constant activation and no gradient has 0.

    Args:
        gradient: The weight of G, at least 0 (default 0.3). At 0 no gradients are computed.
        variance: The weight of V, at least 0 (default 0.2).
        discrimination: The weight of D, at least 0 (default 0.5).
        meta: The weight of the meta-gradient, at least 0 (default 0, which needs none). The paper takes 0.1.

    Raises:
        TypeError: If a weight is not a number.
        ValueError: If a weight is negative, or those of G, V and D are all 0.

    Example:
        >>> from tfprune.facts import ClassMoments
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0], [4.0, 5.0]]), np.array([0, 0, 1, 1]))
        >>> facts = {"gradient_norms": np.array([0.1, 0.7]), "output_moments": moments}
        >>> DACIS()(Evidence(np.ones((1, 2)), "dense/kernel", "io", facts)).round(6)
        array([[0.7, 0.3]])

    Reference:
        Uddin, Alam & Pasha, 2026, "PMP-DACIS", arXiv:2601.02353, and its public code.
    """

    gradient: float = 0.3
    variance: float = 0.2
    discrimination: float = 0.5
    meta: float = 0.0

    def __post_init__(self) -> None:
        weights = {name: check_number(value, name, least=0) for name, value in self.get_config().items()}
        if not any(value for name, value in weights.items() if name != "meta"):
            raise ValueError(f"Expected at least one weight above 0. Received: {self!r}.")
        self._hold(**weights)

    @property
    def needs(self) -> tuple[str, ...]:
        optional = {"gradient_norms": self.gradient, "meta_gradient_norms": self.meta}
        return ("output_moments", *(fact for fact, weight in optional.items() if weight))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        moments = evidence.fact("output_moments")
        score = self.variance * _from_0_to_1(moments.variance())
        score += self.discrimination * _from_0_to_1(moments.discrimination())
        if self.gradient:
            score += self.gradient * _from_0_to_1(evidence.fact("gradient_norms"))
        if self.meta:
            score *= 1 + self.meta * _from_0_to_1(evidence.fact("meta_gradient_norms"))
        return evidence.everywhere(evidence.over_outputs(score))


def _from_0_to_1(values: np.ndarray) -> np.ndarray:
    """Return values scaled so that the smallest is 0 and the largest is 1; 0 if all are equal."""
    smallest, span = values.min(), np.ptp(values)
    return (values - smallest) / span if span else np.zeros_like(values)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 0 to 1; equal values share the mean of their ranks."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts + 1) / 2
    return ranks[codes].reshape(values.shape) / max(values.size - 1, 1)


__all__ = [
    "CRITERIA",
    "DACIS",
    "FACTS",
    "L2",
    "BatchNormGamma",
    "ClassMoments",
    "Criterion",
    "Evidence",
    "FStatistic",
    "Fact",
    "Fisher",
    "Magnitude",
    "Movement",
    "Random",
    "Taylor",
    "UnitScores",
    "UnknownFact",
    "Wanda",
    "register_fact",
]


CRITERIA: dict[str, type[Criterion]] = {
    "magnitude": Magnitude,
    "l2": L2,
    "random": Random,
    "gamma": BatchNormGamma,
    "taylor": Taylor,
    "snip": SNIP,
    "grasp": GraSP,
    "fisher": Fisher,
    "synflow": SynFlow,
    "movement": Movement,
    "wanda": Wanda,
    "f_statistic": FStatistic,
    "dacis": DACIS,
}
