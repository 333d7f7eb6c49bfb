"""The base class of criteria, and their evidence: the weight, and the facts gathered about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tfprune.base.axes import input_axes, output_axes
from tfprune.base.spec import Spec
from tfprune.criteria.facts import FACTS, Fact, UnknownFact


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
                raise ValueError(
                    f"Expected `needs` among {', '.join(FACTS)}. Received: {name!r}, of {self!r}. Add a fact of your "
                    f"own with tfprune.criteria.register_fact."
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
