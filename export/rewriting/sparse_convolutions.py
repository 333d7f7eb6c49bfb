"""Rewrite the convolutions of a file so that XNNPACK skips their zeros, with the same outputs, where that pays.

XNNPACK skips zeros in groups of operators that run with channels first, which begin with a 3x3 convolution of stride
2 on three channels, end in a mean or DEPTH_TO_SPACE, and hold 1x1 and small depthwise convolutions. Every convolution
of a file is written with such operators (`phases`), maps enter and leave the group by layers that only move them,
and the operators that stay dense are those for which the rewriting would cost time by the estimate.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import (
    add_constant,
    add_operator,
    add_tensor,
    indices_of,
    inputs_of,
    numbers_operators,
    operator_name,
    sorted_operators,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Tensor
from tfprune.export.file.report import open_batch
from tfprune.export.file.xnnpack import (
    LEAST_GAIN,
    Layers,
    RewritingReport,
    delegated_parts,
    is_delegated,
    rewriting_report,
)
from tfprune.export.rewriting import phases as algebra
from tfprune.export.rewriting.maps import NO_ACTIVATION, RELU, Stored, spread
from tfprune.export.rewriting.maps import Node as _Node
from tfprune.export.rewriting.maps import Reader as _Reader
from tfprune.export.rewriting.phases import Chain, Window
from tfprune.export.rewriting.shapes import fix_batch

_MOST_CHANNELS_IN_PHASES = 512
_MOST_WEIGHTS = (
    3 * 2**18
)  # of a 1x1 convolution between phases once it is unpacked: sixteen times those of plain maps
_SINGLE = Window((1, 1))
_IMAGE_CHANNELS = 3
_NEXT_TO_NOTHING = 1e-30  # times a number, and then added to 1, it is lost
_OUTSIDE = 2.0**100  # is subtracted where a map ends
_AS_FLOATS = Stored()
_ENTRY_CHANNELS = 12  # of a 3x3 convolution with stride 2 that takes three channels apart into 2 x 2 phases


# Which operators form the group, and in how many phases each of their maps is kept.


@dataclass(frozen=True)
class _Plan:
    """A group of operators, as it would run.

    Attributes:
        nodes: Its operators, in order.
        entering: The tensors that it takes from the rest of the graph.
        leaving: Those that it makes for the rest.
        outside: The operators of the rest.
        phases: 1 or 2 for each tensor inside of it, as it is made.
        taken: 1 or 2 for each node, by its target: how it takes its first source, and those that are alike.
        grids: Rows and columns of each tensor as it is kept; what is behind its own size is of no meaning.
        before: The estimate for the whole graph as it is, in multiplications of a dense convolution.
        after: The estimate for the rewritten graph.
    """

    nodes: tuple[_Node, ...] = ()
    entering: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()
    outside: tuple[schema.OperatorT, ...] = field(default=(), repr=False)
    phases: Mapping[int, int] = field(default_factory=dict)
    taken: Mapping[int, int] = field(default_factory=dict)
    grids: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    before: float = 1.0
    after: float = 1.0

    @property
    def gain(self) -> float:
        return self.before / self.after


_NO_PLAN = _Plan()
_CACHE = 2**20  # bytes that are near to a processor
_PER_MOVED = 28.0  # for each number that is copied with channels last
_PER_JOINED = 2.0  # for each number that an operator on single entries makes with channels last
_PER_CURVE, _CURVES = 10.0, {"LOGISTIC", "TANH", "EXP", "ELU", "GELU"}  # for each number, in either order of channels
_PER_WINDOW = 1.5  # for each multiplication of a dense depthwise convolution, and each comparison of a pool
_PER_NUMBER = {  # by kind, in the group
    "gate": algebra.PER_SUM,
    "clamp": algebra.PER_SUM,
    "difference": algebra.PER_PRODUCT + algebra.PER_ENTRY + algebra.PER_SUM,
    "leak": 3 * algebra.PER_PRODUCT + 4 * algebra.PER_ENTRY,
}
_BEGINNINGS, _PASSES = 6, 8  # that are planned in full, and rounds over the maps in which each may change


def _best_plan(reader: _Reader) -> _Plan:
    """Return the plan with the lowest estimate, among those that begin at an operator and go on to the end.

    All beginnings are compared with plain maps, and the best of them planned in full.
    """
    nodes = [node for node in reader.nodes if isinstance(node, _Node) and _Planner(reader, [node]).has_form(node)]
    planners = [_Planner(reader, nodes[start:]) for start in range(len(nodes))]
    simple = [(plan.after, number) for number, each in enumerate(planners) if (plan := each.plan(passes=0))]
    plans = (planners[number].plan(passes=_PASSES) for _, number in sorted(simple)[:_BEGINNINGS])
    return min(filter(None, plans), key=lambda plan: plan.after, default=_NO_PLAN)


class _Planner:
    """Chooses phases for the maps of some operators, and estimates what they take.

    Args:
        reader: The file.
        nodes: The operators of the group, in order.
    """

    def __init__(self, reader: _Reader, nodes: Sequence[_Node]) -> None:
        self.reader = reader
        self.grids: dict[int, tuple[int, int]] = {}
        self.nodes = tuple(node for node in nodes if self._has_grid(node))
        self.made = {node.target for node in self.nodes if node.kind != "mean"}
        sources = dict.fromkeys(index for node in self.nodes for index in node.sources)
        self.entering = tuple(index for index in sources if index not in self.made)
        outside = self.outside()
        read = {index for operator in outside for index in inputs_of(operator)} | {*indices_of(reader.graph.outputs)}
        self.leaving = tuple(index for index in self.made if index in read)
        self._maps = [*self.entering, *self.made]

    def _has_grid(self, node: _Node) -> bool:
        """Tell whether a node reads only what has a meaning; then note the size at which its map is kept.

        A window without padding leaves rows and columns at the end that it should not have made, which stay.
        """
        own = [self.reader.shape(index)[1:3] for index in node.sources]
        grids = [
            self.grids.setdefault(index, (size[0], size[1])) for index, size in zip(node.sources, own, strict=True)
        ]
        is_exact = grids == own
        if node.is_window:
            made = self._made_grid(node, grids[0], own[0])
        else:
            made = grids[0] if is_exact or (node.alike and len({*grids[: len(node.alike)]}) == 1) else None
        if node.kind == "enlarge" and made is not None:
            made = made[0] * node.window.size[0], made[1] * node.window.size[1]
        if made is not None and node.kind not in ("mean", "squeeze"):
            self.grids[node.target] = made
        return made is not None

    def _made_grid(self, node: _Node, grid: tuple[int, int], own: Sequence[int]) -> tuple[int, int] | None:
        """Return the size at which the map of a window is kept; None if it would read what has no meaning."""
        window, target = node.window, self.reader.shape(node.target)[1:3]
        rows, columns = (-(-length // window.stride) for length in grid)
        for axis, made in enumerate((rows, columns)):
            last = (target[axis] - 1) * window.stride + window.reach[axis] - 1 - window.padding[axis]
            if target[axis] > made or last >= own[axis] < grid[axis]:
                return None
        return rows, columns

    def outside(self) -> list[schema.OperatorT]:
        """Return the operators that stay as they are; zeros that others read stay, too."""
        last = {id(node.operators[-1]) for node in self.nodes}
        joined = {id(operator) for node in self.nodes for operator in node.operators}
        others = [operator for operator in self.reader.operators if id(operator) not in joined]
        read = {index for operator in others for index in inputs_of(operator)}
        return [
            operator
            for operator in self.reader.operators
            if id(operator) not in joined or (id(operator) not in last and read & {*indices_of(operator.outputs)})
        ]

    def plan(self, *, passes: int) -> _Plan | None:
        """Return the best plan that was found; None if the operators cannot run in a group."""
        if not any(node.kind == "convolution" for node in self.nodes) or not self._runs_whole():
            return None
        plain = {index: 2 if index in self.entering and self._is_image(index) else 1 for index in self._maps}
        starts = [plain, {index: max(self._possible(index)) for index in self._maps}] if passes else [plain]
        best = min((self._improved(start, passes) for start in starts), key=self._cost)
        cost = self._cost(best)
        if cost == float("inf"):
            return None
        taken = {node.target: self._best(node, best)[1] for node in self.nodes}
        outside = tuple(self.outside())
        before, rest = (sum(map(self._dense, operators)) for operators in (self.reader.operators, outside))
        rest += cost
        return _Plan(self.nodes, self.entering, self.leaving, outside, best, taken, self.grids, before, rest)

    def _improved(self, phases: dict[int, int], passes: int) -> dict[int, int]:
        """Change maps, and maps that are joined, one after the other for as long as the estimate falls."""
        users: dict[int, list[_Node]] = {index: [] for index in self._maps}
        for node in self.nodes:
            for index in {*node.sources, node.target} & users.keys():
                users[index].append(node)
        groups = [*self._joined(), *([index] for index in self._maps)]
        near = [[*{id(node): node for index in group for node in users[index]}.values()] for group in groups]
        is_changed = True
        while is_changed and passes:
            is_changed, passes = False, passes - 1
            for group, nodes in zip(groups, near, strict=True):
                for wanted in (1, 2):
                    other = phases | {index: wanted for index in group if wanted in self._possible(index)}
                    if other != phases and self._cost(other, nodes, group) < self._cost(phases, nodes, group):
                        phases, is_changed = other, True
        return phases

    def _joined(self) -> list[list[int]]:
        """Return maps that other operators than windows take and make together."""
        leader = {index: index for index in self._maps}

        def root(index: int) -> int:
            while leader[index] != index:
                index = leader[index]
            return index

        for node in self.nodes:
            for index in node.alike:
                leader[root(index)] = root(node.target)
        groups: dict[int, list[int]] = {}
        for index in self._maps:
            groups.setdefault(root(index), []).append(index)
        return [group for group in groups.values() if len(group) > 1]

    def has_form(self, node: _Node) -> bool:
        """Tell whether a node can run in a group at all, in some phases."""
        phases = itertools.product(self._possible(node.sources[0]), (1, 2))
        return any(self._known(node, *each) < float("inf") for each in phases)

    def _runs_whole(self) -> bool:
        """Tell whether the group is in the first part of the graph that XNNPACK gets."""
        reader = self.reader
        nodes = {id(node.operators[-1]): node for node in self.nodes}
        outside = {id(operator) for operator in self.outside()}
        steps, inside = list[tuple[bool, Sequence[int], Sequence[int]]](), list[int]()
        for operator in reader.operators:
            kind, inputs, node = reader.kind(operator), inputs_of(operator), nodes.get(id(operator))
            if node is not None:
                inside.append(len(steps))
                steps.append((True, node.sources, (node.target,)))
            elif id(operator) in outside and not (kind == "DEQUANTIZE" and reader.is_constant(inputs[0])):
                taken = is_delegated(kind, operator.builtinOptions)
                steps.append((taken, inputs, indices_of(operator.outputs)))
        return {*inside} <= {*itertools.chain(*delegated_parts(steps)[:1])}

    def _is_image(self, index: int) -> bool:
        return self.reader.shape(index)[3] <= _IMAGE_CHANNELS

    def _possible(self, index: int) -> tuple[int, ...]:
        """Return the phases that a map may have: 1, or 1 and 2."""
        height, width = self.grids[index]
        channels = self.reader.shape(index)[3]
        is_even = not (height % 2 or width % 2) or (index in self.entering and self._is_image(index))
        return (1, 2) if is_even and channels <= _MOST_CHANNELS_IN_PHASES else (1,)

    def _cost(
        self, phases: Mapping[int, int], nodes: Sequence[_Node] | None = None, maps: Collection[int] | None = None
    ) -> float:
        """Estimate nodes and maps (by default, all) in the group."""
        nodes, maps = self.nodes if nodes is None else nodes, self._maps if maps is None else maps
        total = sum(self._best(node, phases)[0] for node in nodes)
        total += sum(_entry_cost(self.reader.shape(index), phases[index]) for index in self.entering if index in maps)
        return total + sum(
            _exit_cost(self.reader.shape(index), phases[index]) for index in self.leaving if index in maps
        )

    def _best(self, node: _Node, phases: Mapping[int, int]) -> tuple[float, int]:
        """Return what a node costs, with maps taken apart or put together for it, and how it takes its sources."""
        behind = phases.get(node.target, 1)
        wanted = (behind,) if node.alike else self._possible(node.sources[0])
        return min((self._known(node, each, behind) + self._moving(node, each, phases), each) for each in wanted)

    def _moving(self, node: _Node, wanted: int, phases: Mapping[int, int]) -> float:
        """Estimate giving the sources of a node the phases that it wants."""
        total = 0.0
        for index in node.alike or node.sources[:1]:
            shape = self.reader.shape(index)
            if wanted not in self._possible(index):
                return float("inf")
            if wanted > phases[index]:
                total += _phases_cost(shape)
            elif wanted < phases[index]:
                total += _entry_cost(shape, 1) + (0.0 if index in self.entering else _exit_cost(shape, 2))
        return total

    def _known(self, node: _Node, before: int, behind: int) -> float:
        key = node.target, before, behind, *self.grids[node.sources[0]]
        if key not in self.reader.costs:
            self.reader.costs[key] = self._sparse(node, before, behind)
        return self.reader.costs[key]

    def _sparse(self, node: _Node, before: int, behind: int) -> float:
        """Estimate a node in the group."""
        reader = self.reader
        if node.kind in ("mean", "squeeze"):
            return float(np.prod(reader.shape(node.sources[0]))) * 2
        _, height, width, channels = reader.shape(node.target)
        pixels = -(-height // behind) * -(-width // behind)
        if node.kind == "join":
            is_curve = reader.kind(node.operators[-1]) in _CURVES
            each = _PER_CURVE if is_curve else algebra.PER_SUM * max(len(node.sources) - 1, 1)
            return pixels * behind**2 * channels * each
        if node.kind in _PER_NUMBER:
            return pixels * behind**2 * channels * _PER_NUMBER[node.kind]
        inputs = [reader.shape(index)[3] for index in node.sources]
        if node.kind == "enlarge":
            return self._enlarging(node, (before, behind))
        if node.kind == "concatenation":
            return pixels * behind**2 * channels * (algebra.PER_PRODUCT + algebra.PER_SUM) * len(inputs)
        if not self._keeps_grid(node, (before, behind)):
            return float("inf")
        is_even = _is_even(self.grids[node.sources[0]])
        if node.ignores_border and before == 2 and not is_even:
            return float("inf")  # the last row in phases is outside of the image
        if node.kind == "maximum":
            each = algebra.cost_of_maximum(
                node.window, channels=channels, phases=(before, behind), border=_border(node), is_even=is_even
            )
            return pixels * each
        if node.is_plain_depthwise and node.centered is not None and before == behind == 1:
            return pixels * channels * algebra.PER_SHIFT[node.window.stride] * node.centered.shape[1] ** 2 / 9
        sizes = inputs[0], channels
        if before * behind > 1 and (before * behind) ** 2 * inputs[0] * channels > _MOST_WEIGHTS:
            return float("inf")
        is_far = 4 * max(math.prod(reader.shape(index)) for index in (node.sources[0], node.target)) > _CACHE
        cost = functools.partial(
            algebra.cost, node.window, sizes=sizes, entries=node.entries, phases=(before, behind)
        )
        return pixels * cost(pixels=pixels, is_far=is_far)

    def _enlarging(self, node: _Node, phases: tuple[int, int]) -> float:
        before, behind = phases
        shapes = self.reader.shape(node.sources[0]), self.reader.shape(node.target)
        copied = float(np.prod(shapes[1])) * (algebra.PER_PRODUCT + algebra.PER_ENTRY)
        if behind == 2 and node.window.size[0] == 2:
            return copied if before == 1 else float("inf")
        return copied + float(np.prod(shapes[1])) * _PER_MOVED + _entry_cost(shapes[1], behind)

    def _keeps_grid(self, node: _Node, phases: tuple[int, int]) -> bool:
        """Tell whether shifts with zeros around them give an image of the right size."""
        stride = algebra.stride_between(node.window.stride, phases)
        sizes = [self.grids.get(index, (0, 0)) for index in (node.sources[0], node.target)]
        grids = [[-(-length // each) for length in size] for size, each in zip(sizes, phases, strict=True)]
        return stride > 0 and grids[1] == [-(-length // stride) for length in grids[0]]

    def _dense(self, operator: schema.OperatorT) -> float:
        """Estimate an operator as it is, with channels last."""
        reader, kind, inputs = self.reader, self.reader.kind(operator), inputs_of(operator)
        made = float(sum(np.prod(reader.shape(index)) for index in indices_of(operator.outputs)))
        if kind in ("CONV_2D", "FULLY_CONNECTED") and len(inputs) > 1:
            return made * float(np.prod(reader.shape(inputs[1])[1:]))
        if kind == "DEQUANTIZE":
            return 0.0  # while the file is loaded
        if kind == "MEAN":
            return float(np.prod(reader.shape(inputs[0]))) * _PER_JOINED
        if kind == "DEPTHWISE_CONV_2D":
            return made * float(np.prod(reader.shape(inputs[1])[1:3])) * _PER_WINDOW
        if kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            return made * operator.builtinOptions.filterHeight * operator.builtinOptions.filterWidth * _PER_WINDOW
        return made * (_PER_CURVE if kind in _CURVES else _PER_JOINED)


def _is_even(grid: tuple[int, int]) -> bool:
    return not (grid[0] % 2 or grid[1] % 2)


def _border(node: _Node) -> float:
    return _OUTSIDE if node.ignores_border else 0.0


def _entry_cost(shape: Sequence[int], phases: int) -> float:
    _, height, width, channels = shape
    if phases == 2 and channels <= _IMAGE_CHANNELS:
        return height * width / 4 * _ENTRY_CHANNELS * 27
    chunks = -(-channels // _ENTRY_CHANNELS)
    each = _ENTRY_CHANNELS * (2 * _PER_MOVED + 27) + channels * (algebra.PER_PRODUCT + algebra.PER_SUM)
    return height * width * chunks * each + (_phases_cost(shape) if phases == 2 else 0.0)


def _exit_cost(shape: Sequence[int], phases: int) -> float:
    _, height, width, channels = shape
    return height * width * channels * _PER_MOVED + (_phases_cost(shape) if phases == 1 else 0.0)


def _phases_cost(shape: Sequence[int]) -> float:
    """Estimate taking a plain map apart into phases."""
    _, height, width, channels = shape
    sizes = channels, channels
    return -(-height // 2) * -(-width // 2) * algebra.cost(_SINGLE, sizes=sizes, entries=channels, phases=(1, 2))


# Write a plan.


class _Writer:
    """Puts the operators of a plan into a file.

    Args:
        reader: The file, whose objects are changed.
        plan: What is written.
    """

    def __init__(self, reader: _Reader, plan: _Plan) -> None:
        self.reader, self.plan = reader, plan
        self.model, self.graph = reader.model, reader.graph
        self.maps: dict[tuple[int, int], int] = {}  # by the tensor of the file that a map stands for, and phases
        self.constants: dict[Hashable, int] = {}
        self.unpacked: dict[int, int] = {}  # by the constant that DEQUANTIZE takes

    def write(self) -> None:
        plan = self.plan
        self.graph.operators = [*plan.outside]
        for node in plan.nodes:
            if node.kind == "mean":
                self._mean(node)
            else:
                self.maps[node.target, plan.phases[node.target]] = self._node(node)
        for index in plan.leaving:
            self._leave(index)
        self._drop_unpacking()
        self._unpack_others()
        self.graph.operators = sorted_operators(self.graph.operators)

    def _drop_unpacking(self) -> None:
        """Remove what unpacks kernels that nothing takes any more."""
        read = {index for operator in self.graph.operators for index in inputs_of(operator)}
        read |= {*indices_of(self.graph.outputs)}
        self.graph.operators = [
            operator
            for operator in self.graph.operators
            if self.reader.kind(operator) != "DEQUANTIZE" or read & {*indices_of(operator.outputs)}
        ]

    def _unpack_others(self) -> None:
        """Let all operators that compute in float32 take float32 kernels: XNNPACK does not mix them with 8 bits."""
        for operator in list(self.graph.operators):
            if self.reader.kind(operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                continue
            inputs = inputs_of(operator)
            first, weight = (self.graph.tensors[index] for index in inputs[:2])
            if weight.type == schema.TensorType.INT8 and first.type == schema.TensorType.FLOAT32:
                inputs[1] = add_tensor(
                    self.graph, weight, type=schema.TensorType.FLOAT32, buffer=0, quantization=None
                )
                self._add("DEQUANTIZE", [inputs_of(operator)[1]], inputs[1], schema.DequantizeOptionsT())
                operator.inputs = np.array(inputs, np.int32)

    def _sources(self, node: _Node) -> list[int]:
        """Return the maps that a node takes, in its phases."""
        alike = node.alike or node.sources[:1]
        taken = self.plan.taken[node.target]
        return [self._in(index, taken if index in alike else self.plan.phases[index]) for index in node.sources]

    def _in(self, index: int, phases: int) -> int:
        """Return a map in phases, which enters, or is taken apart or put together, where it was not made so."""
        if (index, phases) not in self.maps:
            if index in self.plan.entering:
                made = self._entered(index, phases=phases)
            elif phases == 2:
                made = self._in_phases(self.maps[index, 1])
            else:
                made = self._airlock(self._whole(self.maps[index, 2]))
            self.maps[index, phases] = made
        return self.maps[index, phases]

    def _phases(self, node: _Node) -> tuple[int, int]:
        return self.plan.taken[node.target], self.plan.phases[node.target]

    def _node(self, node: _Node) -> int:
        """Write a node, and return the map that it makes."""
        if node.ignores_border and node.kind == "depthwise":
            return self._averaged(node)
        if node.kind in _WRITING:
            return _WRITING[node.kind](self, node)
        source, phases = self._sources(node)[0], self._phases(node)
        if node.is_plain_depthwise and node.centered is not None and phases == (1, 1):
            return self._depthwise(
                source,
                node.centered,
                stride=node.window.stride,
                bias=node.bias,
                activation=node.activation,
                stored=node.stored,
            )
        channels = self._shape(node.sources[0])[3]
        if node.kind == "maximum":
            chain, bias = self._maximum(node, channels, phases), None
        else:
            chain = algebra.cheapest(spread(node.kernel, channels), node.window, phases=phases)
            bias = np.tile(node.bias, phases[1] ** 2)
        return self._follow(chain, source, bias=bias, activation=node.activation, stored=node.stored)

    def _join(self, node: _Node) -> int:
        return self._copied(node.operators[-1], self._sources(node))

    def _maximum(self, node: _Node, channels: int, phases: tuple[int, int]) -> Chain:
        is_even = _is_even(self.plan.grids[node.sources[0]])
        return algebra.maximum(node.window, channels=channels, phases=phases, border=_border(node), is_even=is_even)

    def _shape(self, index: int) -> tuple[int, ...]:
        return self.reader.shape(index)

    def _follow(
        self,
        chain: Chain,
        source: int,
        *,
        bias: np.ndarray | None,
        activation: int,
        stored: Stored = _AS_FLOATS,
    ) -> int:
        """Write the steps of a chain, and return the last map."""
        maps = [source]
        for number, step in enumerate(chain.steps, 1):
            own = bias if number == chain.bias else None
            fused = activation if number == len(chain.steps) else RELU if step.clips else NO_ACTIVATION
            inputs = [maps[each] for each in step.sources]
            if step.matrix is not None:
                own = np.full(len(step.matrix), step.constant) if step.constant else own
                maps.append(self._product(inputs[0], step.matrix, bias=own, activation=fused, stored=stored))
            elif step.amounts is not None:
                kernel = _one_hot(step.amounts)
                kernel[:, 1, 1] -= step.differs
                maps.append(self._depthwise(inputs[0], kernel, stride=step.stride, activation=fused))
            else:
                maps.append(self._sum(*inputs, activation=fused))
        return maps[-1]

    def _map(self, height: int, width: int, channels: int) -> int:
        shape = np.array([1, height, width, channels], np.int32)
        return add_tensor(self.graph, schema.TensorT(name=b"", shape=shape, type=schema.TensorType.FLOAT32, buffer=0))

    def _constant(self, values: np.ndarray, *, steps: np.ndarray | None = None, axis: int = 0) -> int:
        """Add a constant; equal ones are one."""
        key = values.dtype.str, values.shape, values.tobytes(), None if steps is None else steps.tobytes()
        if key not in self.constants:
            index = self.constants[key] = add_constant(self.model, self.graph, name=b"", values=values)
            if steps is not None:
                zeros = np.zeros(len(steps), np.int64)
                self.graph.tensors[index].quantization = schema.QuantizationParametersT(
                    scale=steps, zeroPoint=zeros, quantizedDimension=axis
                )
        return self.constants[key]

    def _weight(self, values: np.ndarray, stored: Stored, *, axis: int) -> int:
        """Add a kernel in the precision of the one that it is made of; the outputs are along an axis."""
        if not len(stored.steps):
            return self._constant(values)
        steps = np.tile(stored.steps, values.shape[axis] // len(stored.steps)).astype(np.float32)
        along = steps.reshape([-1 if number == axis else 1 for number in range(values.ndim)])
        small = np.rint(values / along).astype(np.int8)
        if np.any(small.astype(np.float32) * along != values):
            return self._constant(values)
        constant = self._constant(small, steps=steps, axis=axis)
        if constant not in self.unpacked:
            plain = self.graph.tensors[constant]
            self.unpacked[constant] = add_tensor(
                self.graph, plain, type=schema.TensorType.FLOAT32, buffer=0, quantization=None
            )
            self._add("DEQUANTIZE", [constant], self.unpacked[constant], schema.DequantizeOptionsT())
        return self.unpacked[constant]

    def _add(self, name: str, inputs: Sequence[int], output: int, options: Any) -> int:
        add_operator(self.model, self.graph, name=name, inputs=inputs, outputs=[output], options=options)
        return output

    def _product(
        self,
        source: int,
        matrix: np.ndarray,
        *,
        bias: np.ndarray | None = None,
        activation: int = NO_ACTIVATION,
        stored: Stored = _AS_FLOATS,
    ) -> int:
        _, height, width, _ = self._shape(source)
        kernel = matrix[:, None, None].astype(np.float32)
        if not kernel.any():  # a sparse tensor without values counts as one that is not constant
            kernel[0, 0, 0, 0] = _NEXT_TO_NOTHING
        bias = np.zeros(len(matrix), np.float32) if bias is None else bias.astype(np.float32)
        options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=1, strideW=1)
        options.fusedActivationFunction = activation
        inputs = [source, self._weight(kernel, stored, axis=0), self._constant(bias)]
        return self._add("CONV_2D", inputs, self._map(height, width, len(matrix)), options)

    def _depthwise(
        self,
        source: int,
        kernel: np.ndarray,
        *,
        stride: int,
        bias: np.ndarray | None = None,
        activation: int = NO_ACTIVATION,
        stored: Stored = _AS_FLOATS,
    ) -> int:
        """Add a depthwise convolution; its kernel is an array [channels, rows, columns]."""
        _, height, width, channels = self._shape(source)
        around, padding = kernel.shape[1] // 2, schema.Padding.SAME
        if stride == 2:
            source, padding = self._padded(source, around), schema.Padding.VALID
        bias = np.zeros(channels, np.float32) if bias is None else bias
        options = schema.DepthwiseConv2DOptionsT(padding=padding, strideH=stride, strideW=stride, depthMultiplier=1)
        options.fusedActivationFunction = activation
        weight = np.ascontiguousarray(np.moveaxis(kernel, 0, 2)[None], np.float32)
        inputs = [source, self._weight(weight, stored, axis=3), self._constant(bias)]
        made = self._map(-(-height // stride), -(-width // stride), channels)
        return self._add("DEPTHWISE_CONV_2D", inputs, made, options)

    def _padded(self, source: int, around: int) -> int:
        _, height, width, channels = self._shape(source)
        amounts = np.array([[0, 0], [around, around], [around, around], [0, 0]], np.int32)
        made = self._map(height + 2 * around, width + 2 * around, channels)
        return self._add("PAD", [source, self._constant(amounts)], made, schema.PadOptionsT())

    def _sum(self, first: int, second: int, *, activation: int = NO_ACTIVATION) -> int:
        options = schema.AddOptionsT(fusedActivationFunction=activation)
        return self._add("ADD", [first, second], self._map(*self._shape(first)[1:]), options)

    def _copied(self, operator: schema.OperatorT, inputs: Sequence[int], *, like: int | None = None) -> int:
        """Add an operator like another one, on maps."""
        made = self._map(*self._shape(inputs[0] if like is None else like)[1:])
        return self._add(self.reader.kind(operator), inputs, made, operator.builtinOptions)

    def _concatenation(self, node: _Node) -> int:
        phases = self.plan.phases[node.target]
        sizes = [self._shape(index)[3] for index in node.sources]
        made, start = [], 0
        for source, size in zip(self._sources(node), sizes, strict=True):
            matrix = np.zeros((phases**2, sum(sizes), phases**2, size), np.float32)
            for phase in range(phases**2):
                matrix[phase, start : start + size, phase] = np.eye(size)
            made.append(self._product(source, matrix.reshape(phases**2 * sum(sizes), -1)))
            start += size
        return functools.reduce(lambda first, second: self._sum(first, second, activation=node.activation), made)

    def _enlarged(self, node: _Node) -> int:
        """Copy each pixel into 2 x 2 phases, which are the enlarged map, or leave and enter the group again."""
        (source,), (before, behind), times = self._sources(node), self._phases(node), node.window.size[0]
        _, height, width, channels = self._shape(node.target)
        block = times * before
        copies = np.zeros((block, block, channels, before, before, channels), np.float32)
        for p, q in np.ndindex(block, block):
            copies[p, q, :, p // times, q // times] = np.eye(channels)
        source = self._product(source, copies.reshape(block**2 * channels, -1))
        if behind == block == 2:
            return source
        large = self._put_together(source, self._map(height, width, channels), block=block)
        return self._entered(large, phases=behind)

    def _squeezed(self, node: _Node) -> int:
        """Reduce a map to one pixel; a product has to come behind it, without which XNNPACK gets the shape wrong."""
        (source,), phases = self._sources(node), self._phases(node)[0]
        channels = self._shape(source)[3]
        axes, options = self._constant(np.array([1, 2], np.int32)), schema.ReducerOptionsT(keepDims=True)
        pixel = self._add("MEAN", [source, axes], self._map(1, 1, channels), options)
        return self._product(pixel, np.tile(np.eye(channels // phases**2, dtype=np.float32), phases**2) / phases**2)

    def _averaged(self, node: _Node) -> int:
        """Average the entries inside of the image: the sum of zeros around it as well, divided by that of ones."""
        (source,), phases = self._sources(node), self._phases(node)
        made = self._node(replace(node, activation=NO_ACTIVATION, ignores_border=False))
        ones = np.zeros((phases[0] ** 2, self._shape(source)[3]), np.float32)
        whole = self._product(source, ones, bias=np.ones(len(ones)))
        chain = algebra.cheapest(node.kernel[:1], node.window, phases=phases)
        part = self._follow(chain, whole, bias=None, activation=NO_ACTIVATION)
        for kind in ("SQUARE", "RSQRT"):  # their inverse
            part = self._add(kind, [part], self._map(*self._shape(part)[1:]), None)
        spread = np.kron(np.eye(phases[1] ** 2), np.ones((len(node.kernel), 1))).astype(np.float32)
        options = schema.MulOptionsT(fusedActivationFunction=node.activation)
        return self._add("MUL", [made, self._product(part, spread)], self._map(*self._shape(made)[1:]), options)

    def _gated(self, node: _Node) -> int:
        source, pixel = self._sources(node)
        if self.plan.phases[node.target] == 2:
            pixel = self._product(pixel, np.tile(np.eye(self._shape(pixel)[3], dtype=np.float32), (4, 1)))
        return self._copied(node.operators[-1], [source, pixel])

    def _clamped(self, node: _Node) -> int:
        source = self._sources(node)[0]
        inputs = [source if index in node.sources else index for index in inputs_of(node.operators[-1])]
        return self._copied(node.operators[-1], inputs, like=source)

    def _difference(self, node: _Node) -> int:
        first, second = self._sources(node)
        negative = self._product(second, -np.eye(self._shape(second)[3], dtype=np.float32))
        return self._sum(first, negative, activation=node.activation)

    def _leak(self, node: _Node) -> int:
        """Write PRELU as relu(x) - slope relu(-x)."""
        (source,) = self._sources(node)
        slopes = np.tile(node.bias, self.plan.phases[node.target] ** 2)
        one = np.eye(len(slopes), dtype=np.float32)
        both = self._product(source, np.concatenate([one, -one]), activation=RELU)
        return self._product(both, np.concatenate([one, -slopes * one], axis=1))

    def _mean(self, node: _Node) -> None:
        """Leave the group by a mean over the image."""
        (source,), phases = self._sources(node), self.plan.taken[node.target]
        channels = self._shape(node.sources[0])[3]
        if phases == 2:
            source = self._product(source, np.tile(np.eye(channels, dtype=np.float32) / 4, 4))
        shape, axes = self._shape(node.target), self._constant(np.array([1, 2], np.int32))
        if len(shape) == 2:
            self._add("MEAN", [source, axes], node.target, schema.ReducerOptionsT(keepDims=False))
            return
        flat = add_tensor(
            self.graph, self.graph.tensors[node.target], name=b"", shape=np.array([1, channels], np.int32)
        )
        self.graph.tensors[flat].shapeSignature = None
        self._add("MEAN", [source, axes], flat, schema.ReducerOptionsT(keepDims=False))
        lengths = np.array(shape, np.int32)
        self._add("RESHAPE", [flat, self._constant(lengths)], node.target, schema.ReshapeOptionsT(newShape=lengths))

    def _entered(self, index: int, *, phases: int) -> int:
        """Enter the group with a map."""
        if phases == 1:
            return self._airlock(index)
        is_image = self._shape(index)[3] <= _IMAGE_CHANNELS
        return self._image(index) if is_image else self._in_phases(self._airlock(index))

    def _in_phases(self, source: int) -> int:
        """Take a plain map inside of the group apart into phases."""
        kernel = np.eye(self._shape(source)[3], dtype=np.float32)[:, None, None]
        chain = algebra.cheapest(kernel, _SINGLE, phases=(1, 2))
        return self._follow(chain, source, bias=None, activation=NO_ACTIVATION)

    def _put_together(self, source: int, target: int, *, block: int = 2) -> int:
        """Leave the group with a map in phases."""
        return self._add("DEPTH_TO_SPACE", [source], target, schema.DepthToSpaceOptionsT(blockSize=block))

    def _image(self, index: int) -> int:
        """Enter the group with an image of at most three channels, in phases."""
        _, height, width, channels = self._shape(index)
        more = np.array([[0, 0], [0, height % 2], [0, width % 2], [0, 3 - channels]], np.int32)
        source = index
        if more.any():
            made = self._map(height + height % 2, width + width % 2, 3)
            source = self._add("PAD", [index, self._constant(more)], made, schema.PadOptionsT())
        entered = self._taken_apart(source)
        if channels == 3:
            return entered
        kept = np.eye(_ENTRY_CHANNELS, dtype=np.float32).reshape(4, 3, _ENTRY_CHANNELS)[:, :channels]
        return self._product(entered, kept.reshape(-1, _ENTRY_CHANNELS))

    def _taken_apart(self, source: int) -> int:
        """Take an image of three channels apart into 2 x 2 phases, which begins a group."""
        _, height, width, _ = self._shape(source)
        kernel = np.zeros((2, 2, 3, 3, 3, 3), np.float32)
        for p, q, channel in np.ndindex(2, 2, 3):
            kernel[p, q, channel, 1 + p, 1 + q, channel] = 1
        options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=2, strideW=2)
        weight = self._constant(kernel.reshape(_ENTRY_CHANNELS, 3, 3, 3))
        inputs = [self._padded(source, 1), weight, self._constant(np.zeros(_ENTRY_CHANNELS, np.float32))]
        return self._add("CONV_2D", inputs, self._map(height // 2, width // 2, _ENTRY_CHANNELS), options)

    def _airlock(self, index: int) -> int:
        """Enter the group with a map of any number of channels, twelve at a time."""
        _, height, width, channels = self._shape(index)
        source = index
        if channels < _ENTRY_CHANNELS:
            more = np.array([[0, 0], [0, 0], [0, 0], [0, _ENTRY_CHANNELS - channels]], np.int32)
            made = self._map(height, width, _ENTRY_CHANNELS)
            source = self._add("PAD", [index, self._constant(more)], made, schema.PadOptionsT())
        parts = []
        for start in range(0, channels, _ENTRY_CHANNELS):
            first = max(min(start, channels - _ENTRY_CHANNELS), 0)
            part = source
            if channels > _ENTRY_CHANNELS:
                cut = [np.array([0, 0, 0, first], np.int32), np.array([1, height, width, _ENTRY_CHANNELS], np.int32)]
                made = self._map(height, width, _ENTRY_CHANNELS)
                part = self._add("SLICE", [source, *map(self._constant, cut)], made, schema.SliceOptionsT())
            large = self._map(2 * height, 2 * width, 3)
            self._put_together(part, large)
            matrix = np.zeros((channels, _ENTRY_CHANNELS), np.float32)
            for channel in range(start, min(start + _ENTRY_CHANNELS, channels)):
                matrix[channel, channel - first] = 1
            parts.append(self._product(self._taken_apart(large), matrix))
        return functools.reduce(self._sum, parts)

    def _leave(self, index: int) -> None:
        """Leave the group with a map, which DEPTH_TO_SPACE puts together from its phases."""
        shape = self._shape(index)
        is_even = _is_even(self.plan.grids[index])
        source = self._in(index, 2) if is_even or (index, 2) in self.maps else self._in_phases(self.maps[index, 1])
        _, height, width, _ = self._shape(source)
        if (2 * height, 2 * width) == shape[1:3]:
            self._put_together(source, index)
            return
        cut = [np.zeros(4, np.int32), np.array(shape, np.int32)]
        self._add("SLICE", [self._whole(source), *map(self._constant, cut)], index, schema.SliceOptionsT())

    def _whole(self, source: int) -> int:
        """Leave the group with a map in phases, all of it."""
        _, height, width, channels = self._shape(source)
        return self._put_together(source, self._map(2 * height, 2 * width, channels // 4))


_WRITING: dict[str, Callable[[_Writer, _Node], int]] = {
    "join": _Writer._join,
    "concatenation": _Writer._concatenation,
    "enlarge": _Writer._enlarged,
    "squeeze": _Writer._squeezed,
    "gate": _Writer._gated,
    "clamp": _Writer._clamped,
    "difference": _Writer._difference,
    "leak": _Writer._leak,
}


def _one_hot(amounts: np.ndarray) -> np.ndarray:
    """Return kernels [channels, 3, 3] that shift each channel by its own rows and columns."""
    kernel = np.zeros((len(amounts), 3, 3), np.float32)
    rows, columns = (amounts + 1).T
    kernel[np.arange(len(amounts)), rows, columns] = 1
    return kernel


def spread_convolutions(file: ModelFile) -> tuple[ModelFile, float]:
    """Write the convolutions of a file's main graph as sparse 1x1 convolutions between shifts of whole maps.

    Outputs stay the same but for the order of sums. XNNPACK skips the zeros of such a file on ARM and in WebAssembly
    once its weights are stored sparse; elsewhere it runs all of it dense, and slower than the file as it was.

    Args:
        file: A float32 file with a fixed batch of 1.

    Returns:
        The next file, whose 1x1 convolutions are still stored dense, and the estimated time of the file as it was,
        divided by that of the next one. Where the estimate is below 1.1, the file itself and 1.
    """
    model = file.objects()
    reader = _Reader(model)
    plan = _best_plan(reader)
    if plan.gain < LEAST_GAIN or numbers_operators(model):
        return file, 1.0
    _Writer(reader, plan).write()
    return file.saved(model), plan.gain


def estimated_gain(file: ModelFile) -> float:
    """Return the estimated time of a file on dense kernels, divided by that on the sparse ones that it reaches.

    Args:
        file: A file whose weights are stored dense. XNNPACK takes its groups once they are stored sparse.

    Returns:
        An estimate on the scale of `spread_convolutions`: 1 for a file that reaches no sparse kernels.
    """
    analysis = file.analyses[0]
    sparse = {
        analysis.steps[number].outputs[0]
        for group in analysis.groups
        if group.taken
        for number in group.members
        if not analysis.roles[number].enters
    }
    reader = _Reader(file.objects())
    every = _Planner(reader, [node for node in reader.nodes if isinstance(node, _Node) and node.target in sparse])
    planner = _Planner(reader, [node for node in every.nodes if every._known(node, 1, 1) < float("inf")])
    after = sum(planner._known(node, 1, 1) for node in planner.nodes) + sum(map(planner._dense, planner.outside()))
    return sum(map(planner._dense, reader.operators)) / after if after else 1.0


# Say what would be written, without writing it, and why operators stay dense.

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_SPARSITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_INSTEAD = {"TRANSPOSE_CONV": "use UpSampling2D and Conv2D instead"}


def plan_convolutions(file: ModelFile, *, layers: Layers = ({}, {})) -> RewritingReport | None:
    """Say what `spread_convolutions` makes of a file, which it leaves as it is, and why operators stay dense.

    Args:
        file: A file. If its batch is open, the plan is that of a batch of 1.
        layers: Paths of the Keras layers with kernels, and of all, by name; empty where they are not known.

    Returns:
        The estimate, and a row for each convolution; None for a file without convolutions.
    """
    if not any(operator.name in _CONVOLUTIONS for operator in file.graph.subgraphs[0].operators):
        return None
    reasons = []
    if open_batch(file.graph.inputs):
        try:
            file = fix_batch(file, 1)
            reasons.append("the batch is open: build the model with batch_size=1, or export it with batch=1")
        except ValueError as error:
            reasons.append(f"its batch cannot be fixed. {error}")
    model = file.objects()
    if numbers_operators(model):
        reasons.append("its metadata name operators by their numbers, which would change: leave the metadata out")
    reader = _Reader(model)
    plan = _NO_PLAN if numbers_operators(model) else _best_plan(reader)
    dense = _reasons(reader, plan, tensors=file.graph.subgraphs[0].tensors)
    gains = {} if plan is _NO_PLAN else _gains(model)
    report = rewriting_report(file.analyses[0], layers=layers, dense=dense, gain=plan.gain, gains=gains)
    return replace(report, reasons=tuple(reasons))


def _gains(model: schema.ModelT) -> dict[float, float]:
    """Return the gain by fractions of zeros in each convolution; the objects are used up."""
    gains = {}
    for zeros in _SPARSITIES:
        for operator in model.subgraphs[0].operators:
            if operator_name(model, operator) == "CONV_2D":
                _thin(model, model.subgraphs[0].tensors[inputs_of(operator)[1]], zeros)
        gains[zeros] = _best_plan(_Reader(model)).gain
    return gains


def _thin(model: schema.ModelT, kernel: schema.TensorT, zeros: float) -> None:
    """Give a kernel this fraction of zeros, and ones elsewhere: only their number counts."""
    data = model.buffers[kernel.buffer].data
    if data is not None and len(data) and kernel.type == schema.TensorType.FLOAT32 and kernel.sparsity is None:
        values = (np.random.default_rng(0).random(len(data) // 4, np.float32) >= zeros).astype("<f4")
        model.buffers[kernel.buffer].data = values.view(np.uint8)


def _reasons(reader: _Reader, plan: _Plan, *, tensors: Sequence[Tensor]) -> dict[int, str]:
    """Return why operators stay dense, by the tensors that they make: convolutions, and what is before them."""
    nodes = [node for node in reader.nodes if isinstance(node, _Node)]
    running = {id(each) for node in plan.nodes for each in node.operators} if plan.gain >= LEAST_GAIN else set()
    joined = {id(each) for node in nodes for each in node.operators}
    ahead = [each for each in reader.operators if reader.kind(each) in _CONVOLUTIONS]
    before: dict[int, schema.OperatorT] = {}
    while ahead:
        operator = ahead.pop()
        if id(operator) not in before:
            before[id(operator)] = operator
            ahead += [reader.producers[index] for index in inputs_of(operator) if index in reader.producers]
    reasons = {}
    for operator, node in zip(reader.operators, reader.nodes, strict=True):
        target = int(operator.outputs[0])
        if id(operator) not in before or id(operator) in running or len(reader.shape(target)) != 4:
            continue
        if isinstance(node, _Node) and reader.kind(operator) in _CONVOLUTIONS:
            reasons[target] = _why_dense(reader, node, plan)
        elif isinstance(node, str) and id(operator) not in joined:
            reasons[target] = _why_not(reader, operator, node, tensors=tensors)
    return reasons


def _why_not(reader: _Reader, operator: schema.OperatorT, reason: str, *, tensors: Sequence[Tensor]) -> str:
    """Say why an operator has no form, and what to change."""
    kind, target = reader.kind(operator), int(operator.outputs[0])
    shape, dtype = reader.shape(target), tensors[target].dtype
    if dtype != "float32":
        return f"it computes with {dtype}; sparse kernels compute in float32: leave `quantize` out"
    if shape[0] > 1:
        return f"it takes {shape[0]} images at once: build the model with batch_size=1, or leave the batch open"
    if min(shape) < 0:
        return "the size of its image is open: give keras.Input a height and a width"
    if kind in _CONVOLUTIONS and reader.weight(inputs_of(operator)[1])[0] is None:
        weight = inputs_of(operator)[1]
        while weight in reader.producers and inputs_of(reader.producers[weight]):
            weight = inputs_of(reader.producers[weight])[0]
        if tensors[weight].constant and tensors[weight].dtype != "float32":
            return f"its kernel is stored as {tensors[weight].dtype}: float32, float16 and int8 have a form"
    return f"{reason}: {_INSTEAD[kind]}" if kind in _INSTEAD else reason


def _why_dense(reader: _Reader, node: _Node, plan: _Plan) -> str:
    """Say why a convolution that has a form stays dense."""
    outputs, rows, columns, inputs = node.kernel.shape
    planner = _Planner(reader, [node])
    phases = [(before, behind) for before in (1, 2) for behind in (1, 2)]
    phases = [each for each in phases if planner._keeps_grid(node, each)]
    if not phases:
        return "its image gets larger by its padding: padding='same' and 'valid' have a form"

    def estimate(entries: float) -> float:
        """Return the time for one pixel, in multiplications of a dense convolution."""
        cost = functools.partial(algebra.cost, node.window, sizes=(inputs, outputs), entries=int(entries))
        return min(cost(phases=each) / each[1] ** 2 for each in phases)

    if estimate(0) == float("inf"):
        return f"its kernel of {rows}x{columns} with dilation {node.window.dilation} reaches too far to be shifts"
    if node.kind == "depthwise":
        return "a depthwise convolution is not faster by zeros; it runs between convolutions that are"
    size, zeros = node.kernel.size, 1 - node.entries / node.kernel.size
    pays_from = next((each for each in _SPARSITIES if estimate((1 - each) * size) < size), None)
    if pays_from is None:
        return f"it has too few channels, {inputs} to {outputs}, to be faster by zeros"
    if estimate(node.entries) >= size:
        return f"it has too few zeros, {zeros:.0%}: it would be faster from about {pays_from:.0%}"
    if plan.gain >= LEAST_GAIN:
        return "sparse kernels begin behind it, where the estimate is best"
    return "moving maps into the sparse kernels and out of them costs more than its zeros save"
