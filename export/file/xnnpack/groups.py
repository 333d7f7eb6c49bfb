"""Which operators of a file XNNPACK runs with its sparse kernels, why not the others, and when that goes wrong.

XNNPACK, the library that runs float models in LiteRT and TFLite, has sparse kernels for 1x1 convolutions with
channels first. While it loads a file that holds a sparse weight, it looks for groups of operators that can all run
so. A group begins with the first convolution of a network for images and ends in a mean over the image. It is taken
when more than two thirds of its 1x1 kernels are zero. On x86 processors with AVX no group is ever taken.

XNNPACK does not check how a group ends: one that is left in another way than by a mean is taken too, and then gives
wrong outputs, or the file does not load. `Analysis.hazards` lists these.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tfprune.export.file.report import fraction_of_zeros
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.model import Model
from tfprune.export.file.xnnpack.roles import READY, Role, averages, pointwise, role
from tfprune.export.file.xnnpack.steps import Step, Steps, steps_of

CHANNELS_LAST_REASON = "it works with channels last"
KEEPDIMS_REASON = (
    "after a mean with keepdims=True XNNPACK gets the shape wrong, unless two or more 1x1 convolutions follow"
)
VECTOR_OPERATORS = {"RESHAPE", "FULLY_CONNECTED"}  # they count the entries of a pooled image, whatever its shape
BATCH_REASON = "in a batch it is right for the first row only: build the model with keras.Input(..., batch_size=1)"
SPARSE_THRESHOLD = 2 / 3  # fraction of zeros in the 1x1 kernels of a group; more is needed


@dataclass(frozen=True)
class Group:
    """Operators that XNNPACK can only move to channels first together.

    Attributes:
        members: Their numbers in `Analysis.steps`.
        obstacles: What keeps it from being taken: numbers of steps, and why.
        leaks: What makes it wrong if it is taken: numbers of steps, and why.
        size: Entries of its 1x1 kernels.
        zeros: Those that are zero.
    """

    members: tuple[int, ...]
    obstacles: tuple[tuple[int, str], ...]
    leaks: tuple[tuple[int, str], ...]
    size: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in its 1x1 kernels."""
        return fraction_of_zeros(self.size - self.zeros, self.size)

    @property
    def whole(self) -> bool:
        """True when it can run sparse, given enough zeros."""
        return self.size > 0 and not self.obstacles and not self.leaks

    @property
    def taken(self) -> bool:
        """True when XNNPACK takes it in a file that holds a sparse weight, right or wrong."""
        return not self.obstacles and 3 * self.zeros > 2 * self.size


@dataclass(frozen=True)
class Analysis:
    """What XNNPACK makes of one graph of a file on ARM.

    Attributes:
        graph: The operators.
        roles: What each can do.
        groups: The groups they form.
        sparse: True when the graph holds a sparse weight, without which XNNPACK looks for no groups.
    """

    graph: Steps
    roles: tuple[Role, ...]
    groups: tuple[Group, ...]
    sparse: bool

    @property
    def steps(self) -> tuple[Step, ...]:
        """The operators, in order."""
        return self.graph.steps

    @property
    def hazards(self) -> tuple[str, ...]:
        """Why outputs are wrong on ARM as soon as any weight of the file is sparse; empty when they are right."""
        return tuple(
            f"{self.steps[number].name} ({self.steps[number].kind}): {text}" for number, text in self.dangers
        )

    @property
    def dangers(self) -> tuple[tuple[int, str], ...]:
        """The same with the numbers of the steps: leaks, and gates on more rows than one."""
        sparse_groups = [group for group in self.groups if group.taken]
        leaks = [leak for group in sparse_groups for leak in group.leaks]
        gates = [
            (number, BATCH_REASON)
            for group in sparse_groups
            for number in group.members
            if self._is_batched_gate(number)
        ]
        return (*leaks, *gates)

    def _is_batched_gate(self, number: int) -> bool:
        """Tell whether a step joins maps of different sizes in a batch, of which the second row comes out wrong."""
        step = self.steps[number]
        shapes = {self.graph.tensors[index].shape for index in self.graph.running(step)}
        return step.kind in ("MUL", "ADD") and len(shapes) > 1 and self.graph.is_batched(step.outputs[0])


def analyze(whole: Model, model: schema.ModelT) -> tuple[Analysis, ...]:
    """Find the groups of operators that XNNPACK runs sparse, or would (`ModelFile.analyses`).

    Args:
        whole: The file as it was read.
        model: Its objects, which are only read.

    Returns:
        For each of its graphs the operators, what each can do, and the groups. The main graph comes first; others
        are where further signatures start, or bodies of loops.
    """
    return tuple(_analysis(graph) for graph in steps_of(whole, model))


def _analysis(graph: Steps) -> Analysis:
    roles = tuple(role(graph, step) for step in graph.steps)
    groups = _Grouping(graph, roles).groups()
    return Analysis(graph, roles, groups, any(graph.tensors[index].sparse for index in graph.origin.values()))


class _Grouping:
    """Joins steps as XNNPACK does, in the same order, because the order matters to what it takes."""

    def __init__(self, graph: Steps, roles: tuple[Role, ...]) -> None:
        self._graph, self._roles = graph, roles
        self._inputs = [graph.running(step) for step in graph.steps]
        self._producer = {index: number for number, step in enumerate(graph.steps) for index in step.outputs}
        self._consumers: dict[int, list[int]] = defaultdict(list)
        for number, indices in enumerate(self._inputs):
            for index in indices:
                self._consumers[index].append(number)
        self._outputs = set(graph.outputs)
        self._leader = list(range(len(graph.steps)))
        self._spoiled: dict[int, tuple[int, str]] = {}  # by step: what gives it channels last, and why

    def groups(self) -> tuple[Group, ...]:
        numbers = range(len(self._roles))
        changed = self._join([number for number in numbers if self._roles[number].leaves])
        sought = changed  # without an end there is no search at all
        while changed:
            changed = self._join([number for number in numbers if self._takes(number)])
        members = defaultdict(list)
        for number in numbers:
            if self._takes(number) or self._roles[number].enters:
                members[self._root(number)].append(number)
        return tuple(self._group(group, sought) for group in members.values())

    def _takes(self, number: int) -> bool:
        return self._roles[number].inside or self._roles[number].leaves

    def _gives(self, number: int) -> bool:
        return self._roles[number].inside or self._roles[number].enters

    def _root(self, number: int) -> int:
        while self._leader[number] != number:
            self._leader[number] = number = self._leader[self._leader[number]]
        return number

    def _join(self, numbers: list[int]) -> bool:
        changed = False
        for number in numbers:
            if number in self._spoiled:
                continue
            for index in self._inputs[number]:
                cause = self._cause(number, index)
                if cause is not None:
                    self._spoiled[number] = cause
                else:
                    changed |= self._unite(self._producer[index], number)
        return changed

    def _cause(self, number: int, index: int) -> tuple[int, str] | None:
        """Say why an input of a step cannot come with channels first; None when it can."""
        producer = self._producer.get(index)
        if producer is None:
            return number, "it takes an input of the model; a 3x3 convolution with stride 2 has to begin"
        if not self._gives(producer):
            return producer, self._roles[producer].reason or CHANNELS_LAST_REASON
        return self._spoiled.get(producer)

    def _unite(self, producer: int, number: int) -> bool:
        first, last = sorted((self._root(producer), self._root(number)))
        self._leader[first] = last
        return first != last

    def _group(self, members: list[int], sought: bool) -> Group:
        weights = [pointwise(self._graph, self._graph.steps[number]) for number in members]
        constants = [weight for weight in weights if weight is not None]
        size = sum(weight.size for weight in constants)
        obstacles = self._obstacles(members)
        if not sought:
            obstacles.append((members[-1], "no mean over the image follows"))
        leaks = [leak for number in members for leak in self._leaks(number)]
        zeros = size - sum(weight.nnz or 0 for weight in constants)
        return Group(tuple(members), tuple(dict.fromkeys(obstacles)), tuple(dict.fromkeys(leaks)), size, zeros)

    def _obstacles(self, members: list[int]) -> list[tuple[int, str]]:
        reasons = [self._spoiled[number] for number in members if number in self._spoiled]
        shared = dict.fromkeys(index for number in members if self._takes(number) for index in self._inputs[number])
        for index in shared:
            outside = [consumer for consumer in self._consumers[index] if not self._takes(consumer)]
            reasons += [(consumer, self._roles[consumer].reason or CHANNELS_LAST_REASON) for consumer in outside]
            if index in self._outputs:
                reasons.append(
                    (self._producer.get(index, members[0]), "its output is an output of the model as well")
                )
        return reasons

    def _leaks(self, number: int) -> list[tuple[int, str]]:
        """Say why the output of a step has the wrong order or shape if its group is taken."""
        step = self._graph.steps[number]
        producers = [self._producer.get(index) for index in self._inputs[number]]
        after_mean = any(producer is not None and self._keeps_mean(producer) for producer in producers)
        consumers = [consumer for index in step.outputs for consumer in self._consumers[index]]
        final = any(index in self._outputs for index in step.outputs)
        goes_on = bool(consumers) and not final and all(map(self._takes, consumers))
        if after_mean and not (goes_on and pointwise(self._graph, step) is not None):
            return [(number, KEEPDIMS_REASON + (f": {READY}" if step.kind == "CONV_2D" else ""))]
        if not self._takes(number):
            return []
        if self._roles[number].leaves and not self._roles[number].inside:
            return []
        if self._roles[number].leaves:
            return self._mean_leaks(number, consumers, final)
        shape = self._graph.tensors[step.outputs[0]].shape
        if goes_on or (len(shape) == 4 and shape[1:3] == (1, 1)):
            return []
        left = [consumer for consumer in consumers if not self._takes(consumer)]
        reasons = [(consumer, self._roles[consumer].reason or CHANNELS_LAST_REASON) for consumer in left]
        return reasons or [(number, "its output leaves the model as an image")]

    def _mean_leaks(self, number: int, consumers: list[int], final: bool) -> list[tuple[int, str]]:
        step = self._graph.steps[number]
        if not averages(self._graph, step):
            return [(number, "it does not reduce exactly the height and the width")]
        kinds = {self._graph.steps[consumer].kind for consumer in consumers if not self._takes(consumer)}
        if self._keeps_mean(number) and (final or kinds - VECTOR_OPERATORS):
            return [(number, "XNNPACK gets the shape of a mean with keepdims=True wrong; leave keepdims out")]
        return []

    def _keeps_mean(self, number: int) -> bool:
        step = self._graph.steps[number]
        return step.kind in ("MEAN", "SUM") and len(self._graph.tensors[step.outputs[0]].shape) == 4
