"""Plan a group for XNNPACK's sparse kernels: which operators form it, and in how many phases each map is kept.

A plan is priced in multiplications of a dense convolution (`phases`), with what maps take that enter the group, leave
it, or are taken apart for an operator that wants them otherwise than they are made.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import indices_of
from tfprune.export.file.xnnpack import delegated_parts
from tfprune.export.rewriting import phases as algebra
from tfprune.export.rewriting.maps import Node, Reader
from tfprune.export.rewriting.phases import Window

SINGLE = Window((1, 1))
IMAGE_CHANNELS = 3
ENTRY_CHANNELS = 12  # of a 3x3 convolution with stride 2 that takes three channels apart into 2 x 2 phases
_MOST_CHANNELS_IN_PHASES = 512
_MOST_WEIGHTS = 3 * 2**18  # of a 1x1 convolution in phases, once unpacked: sixteen times those of plain maps
_OUTSIDE = 2.0**100  # is subtracted where a map ends
_PARTIAL = {"LOG", "RSQRT", "SQRT"}  # are NaN or infinite for some numbers


@dataclass(frozen=True)
class Plan:
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

    nodes: tuple[Node, ...] = ()
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


NO_PLAN = Plan()
_NEAR, _LITTLE, _HUGE = 2**16, 160_000, 900_000  # bytes: of what 32 pixels read, and of small and large maps
_RUN, _SPREAD = 128, 500  # bytes of 32 pixels in a channel; pixels for which so many take twice the room
_PER_MOVED = 28.0  # for each number that is copied with channels last
_PER_JOINED = 2.0  # for each number that an operator on single entries makes with channels last
_PER_CURVE, _CURVES = 10.0, {"LOGISTIC", "TANH", "EXP", "ELU", "GELU"}  # for each number, in either order of channels
_PER_RESIZED = 6.0  # for each number that bilinear interpolation makes, in either order of channels
_PER_WINDOW = 1.5  # for each multiplication of a dense depthwise convolution, and each comparison of a pool
_PER_NUMBER = {  # by kind, in the group
    "gate": algebra.PER_SUM,
    "clamp": algebra.PER_SUM,
    "difference": algebra.PER_PRODUCT + algebra.PER_ENTRY + algebra.PER_SUM,
    "leak": 3 * algebra.PER_PRODUCT + 4 * algebra.PER_ENTRY,
}
_BEGINNINGS, _PASSES = 6, 8  # that are planned in full, and rounds over the maps in which each may change


def best_plan(reader: Reader) -> Plan:
    """Return the plan with the lowest estimate, among those that begin at an operator and go on to the end.

    All beginnings are compared with plain maps, and the best of them planned in full.
    """
    nodes = [node for node in reader.nodes if isinstance(node, Node) and Planner(reader, [node]).has_form(node)]
    simple: list[tuple[float, int]] = []
    planners, skipped = [], 0.0  # what the operators take that come before a beginning, and stay as they are
    for number, node in enumerate(nodes):
        if len(simple) >= _BEGINNINGS and skipped > sorted(simple)[_BEGINNINGS - 1][0]:
            break
        planners.append(Planner(reader, nodes[number:]))
        plan = planners[-1].plan(passes=0)
        if plan is not None:
            simple.append((plan.after, number))
        skipped += sum(map(planners[-1].dense_price, node.operators))
    plans = (planners[number].plan(passes=_PASSES) for _, number in sorted(simple)[:_BEGINNINGS])
    return min(filter(None, plans), key=lambda plan: plan.after, default=NO_PLAN)


class Planner:
    """Chooses phases for the maps of some operators, and estimates what they take.

    Args:
        reader: The file.
        nodes: The operators of the group, in order.
    """

    def __init__(self, reader: Reader, nodes: Sequence[Node]) -> None:
        self.reader = reader
        self.grids: dict[int, tuple[int, int]] = {}
        self._found: dict[tuple[int, ...], tuple[float, int]] = {}  # of nodes, by their targets and phases
        self.nodes = tuple(node for node in nodes if self._has_grid(node))
        self.made = {node.target for node in self.nodes if node.kind != "mean"}
        sources = dict.fromkeys(index for node in self.nodes for index in node.sources)
        self.entering = tuple(index for index in sources if index not in self.made)
        needed = {index for operator in self.outside for index in reader.inputs(operator)}
        needed |= {*indices_of(reader.graph.outputs)}
        self.leaving = tuple(index for index in self.made if index in needed)
        self._maps = [*self.entering, *self.made]

    def _has_grid(self, node: Node) -> bool:
        """Tell whether a node reads only what has a meaning; then note the size at which its map is kept.

        A window without padding leaves rows and columns at the end that it should not have made, which stay.
        """
        own = [self.reader.shape(index)[1:3] for index in node.sources]
        grids = [
            self.grids.setdefault(index, (size[0], size[1])) for index, size in zip(node.sources, own, strict=True)
        ]
        is_exact = grids == own
        is_total = node.kind != "join" or self.reader.kind(node.operators[-1]) not in _PARTIAL
        grid: tuple[int, int] | None = None
        if node.is_window:
            grid = self._grid_behind(node, grids[0], own[0])
        elif is_exact or (node.alike and is_total and len({*grids[: len(node.alike)]}) == 1):
            grid = grids[0]
        if node.kind == "resize" and grid is not None:
            _, height, width, _ = self.reader.shape(node.target)
            grid = height, width
        if node.kind == "enlarge" and grid is not None:
            grid = grid[0] * node.window.size[0], grid[1] * node.window.size[1]
        if grid is not None and node.kind not in ("mean", "squeeze"):
            self.grids[node.target] = grid
        return grid is not None

    def _grid_behind(self, node: Node, grid: tuple[int, int], own: Sequence[int]) -> tuple[int, int] | None:
        """Return the size at which the map of a window is kept; None if it would read what has no meaning."""
        window, target = node.window, self.reader.shape(node.target)[1:3]
        if window.enlarges:
            return (target[0], target[1]) if grid == own else None
        rows, columns = (-(-length // window.stride) for length in grid)
        for axis, length in enumerate((rows, columns)):
            last = (target[axis] - 1) * window.stride + window.reach[axis] - 1 - window.padding[axis]
            if target[axis] > length or last >= own[axis] < grid[axis]:
                return None
        return rows, columns

    @functools.cached_property
    def outside(self) -> tuple[schema.OperatorT, ...]:
        """The operators that stay as they are; zeros that others read stay, too."""
        last = {id(node.operators[-1]) for node in self.nodes}
        inside = {id(operator) for node in self.nodes for operator in node.operators}
        between = [each for node in self.nodes for each in node.operators[:-1] if id(each) not in last]
        others = [operator for operator in self.reader.operators if id(operator) not in inside]
        if between:
            needed = {index for operator in others for index in self.reader.inputs(operator)}
            kept = {id(each) for each in between if needed & {*indices_of(each.outputs)}}
            others = [each for each in self.reader.operators if id(each) not in inside or id(each) in kept]
        return tuple(others)

    def plan(self, *, passes: int) -> Plan | None:
        """Return the best plan that was found; None if the operators cannot run in a group."""
        if not any(node.kind == "convolution" for node in self.nodes) or not self._runs_whole():
            return None
        plain = {index: 2 if index in self.entering and self._is_image(index) else 1 for index in self._maps}
        starts = [plain, {index: max(self._possible(index)) for index in self._maps}] if passes else [plain]
        plans = [self._improved(start, passes) for start in starts] if passes else starts
        cost, best = min(((self._cost(each), each) for each in plans), key=lambda pair: pair[0])
        if cost == float("inf"):
            return None
        taken = {node.target: self._best(node, best)[1] for node in self.nodes if passes}
        before, rest = (sum(map(self.dense_price, each)) for each in (self.reader.operators, self.outside))
        rest += cost
        return Plan(self.nodes, self.entering, self.leaving, self.outside, best, taken, self.grids, before, rest)

    def _improved(self, phases: dict[int, int], passes: int) -> dict[int, int]:
        """Change maps, and maps that are joined, one after the other for as long as the estimate falls."""
        users: dict[int, list[Node]] = {index: [] for index in self._maps}
        for node in self.nodes:
            for index in {*node.sources, node.target} & users.keys():
                users[index].append(node)
        groups = [*self._joined(with_windows=True), *self._joined(), *([index] for index in self._maps)]
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

    def _joined(self, *, with_windows: bool = False) -> list[list[int]]:
        """Return maps that other operators than windows take and make together, or also those of stride 1."""
        leader = {index: index for index in self._maps}

        def root(index: int) -> int:
            while leader[index] != index:
                index = leader[index]
            return index

        for node in self.nodes:
            keeps = with_windows and node.is_window and node.window.stride == 1 and not node.window.enlarges
            for index in node.sources[:1] if keeps else node.alike:
                leader[root(index)] = root(node.target)
        groups: dict[int, list[int]] = {}
        for index in self._maps:
            groups.setdefault(root(index), []).append(index)
        return [group for group in groups.values() if len(group) > 1]

    def has_form(self, node: Node) -> bool:
        """Tell whether a node can run in a group at all, in some phases."""
        phases = itertools.product(self._possible(node.sources[0]), (1, 2))
        return any(self.price(node, *each) < float("inf") for each in phases)

    def _runs_whole(self) -> bool:
        """Tell whether the group is in the first part of the graph that XNNPACK gets."""
        reader = self.reader
        nodes = {id(node.operators[-1]): node for node in self.nodes}
        outside = {id(operator) for operator in self.outside}
        steps, inside = list[tuple[bool, Sequence[int], Sequence[int]]](), list[int]()
        for operator in reader.operators:
            kind, inputs, node = reader.kind(operator), reader.inputs(operator), nodes.get(id(operator))
            if node is not None:
                inside.append(len(steps))
                steps.append((True, node.sources, (node.target,)))
            elif id(operator) in outside and not (kind == "DEQUANTIZE" and reader.is_constant(inputs[0])):
                steps.append((reader.is_delegated(operator), inputs, indices_of(operator.outputs)))
        return {*inside} <= {*itertools.chain(*delegated_parts(steps)[:1])}

    def _is_image(self, index: int) -> bool:
        return self.reader.shape(index)[3] <= IMAGE_CHANNELS

    def _possible(self, index: int) -> tuple[int, ...]:
        """Return the phases that a map may have: 1, or 1 and 2."""
        height, width = self.grids[index]
        channels = self.reader.shape(index)[3]
        is_even = not (height % 2 or width % 2) or (index in self.entering and self._is_image(index))
        return (1, 2) if is_even and channels <= _MOST_CHANNELS_IN_PHASES else (1,)

    def _cost(
        self, phases: Mapping[int, int], nodes: Sequence[Node] | None = None, maps: Collection[int] | None = None
    ) -> float:
        """Estimate nodes and maps (by default, all) in the group."""
        nodes, maps = self.nodes if nodes is None else nodes, self._maps if maps is None else maps
        total = sum(self._best(node, phases)[0] for node in nodes)
        total += sum(_entry_cost(self.reader.shape(index), phases[index]) for index in self.entering if index in maps)
        return total + sum(
            _exit_cost(self.reader.shape(index), phases[index]) for index in self.leaving if index in maps
        )

    def _best(self, node: Node, phases: Mapping[int, int]) -> tuple[float, int]:
        """Return what a node costs, with maps taken apart or put together for it, and how it takes its sources."""
        behind = phases.get(node.target, 1)
        key = node.target, behind, *(phases[index] for index in node.alike or node.sources[:1])
        if key not in self._found:
            wanted = (behind,) if node.alike else self._possible(node.sources[0])
            self._found[key] = min(
                (self.price(node, each, behind) + self._moving(node, each, phases), each) for each in wanted
            )
        return self._found[key]

    def _moving(self, node: Node, wanted: int, phases: Mapping[int, int]) -> float:
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

    def price(self, node: Node, before: int, behind: int) -> float:
        """Estimate a node in the group that takes and makes maps in these phases; infinite if it cannot."""
        key = node.target, before, behind, *self.grids[node.sources[0]]
        if key not in self.reader.costs:
            self.reader.costs[key] = self._sparse(node, before, behind)
        return self.reader.costs[key]

    def _sparse(self, node: Node, before: int, behind: int) -> float:
        reader = self.reader
        is_even = is_even_grid(self.grids[node.sources[0]])
        if before == 2 and not is_even and (node.ignores_border or node.kind in ("mean", "squeeze", "enlarge")):
            return float("inf")  # the last row in phases is outside of the image
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
        if node.kind == "resize":
            return pixels * channels * _PER_RESIZED if before == behind == 1 else float("inf")
        if node.window.enlarges and behind == 1:  # it leaves, and enters again
            shape = reader.shape(node.target)
            return self._sparse(node, before, 2) + _exit_cost(shape, 2) + _entry_cost(shape, 1)
        if not self.keeps_grid(node, (before, behind)):
            return float("inf")
        if node.kind == "maximum":
            each = algebra.cost_of_maximum(
                node.window, channels=channels, phases=(before, behind), border=border_of(node), is_even=is_even
            )
            return pixels * each
        if node.is_plain_depthwise and node.centered is not None and before == behind == 1:
            return pixels * channels * algebra.PER_SHIFT[node.window.stride] * node.centered.shape[1] ** 2 / 9
        sizes = inputs[0], channels
        if before * behind > 1 and (before * behind) ** 2 * inputs[0] * channels > _MOST_WEIGHTS:
            return float("inf")
        cost = functools.partial(
            algebra.cost, node.window, sizes=sizes, entries=node.entries, phases=(before, behind)
        )
        return pixels * cost(pixels=pixels, slowdown=self._slowdown(node, before))

    def _slowdown(self, node: Node, phases: int) -> float:
        """Return how many times as long the entries of a convolution take as those that find their inputs at hand."""
        _, height, width, channels = self.reader.shape(node.sources[0])
        if 4 * max(math.prod(self.reader.shape(index)) for index in (node.sources[0], node.target)) > _HUGE:
            return 2.0
        channels, pixels = channels * phases**2, height * width / phases**2
        is_near = _RUN * channels * (1 + pixels / _SPREAD) <= _NEAR or 4 * channels * pixels <= _LITTLE
        return 1.0 if is_near else 1.5 if phases == 1 else 1.2  # in phases, only some entries read all channels

    def _enlarging(self, node: Node, phases: tuple[int, int]) -> float:
        before, behind = phases
        shapes = self.reader.shape(node.sources[0]), self.reader.shape(node.target)
        copied = float(np.prod(shapes[1])) * (algebra.PER_PRODUCT + algebra.PER_ENTRY)
        if behind == 2 and node.window.size[0] == 2:
            return copied if before == 1 else float("inf")
        return copied + float(np.prod(shapes[1])) * _PER_MOVED + _entry_cost(shapes[1], behind)

    def keeps_grid(self, node: Node, phases: tuple[int, int]) -> bool:
        """Tell whether shifts with zeros around them give an image of the right size."""
        stride = node.window.stride_between(phases)
        sizes = [self.grids.get(index, (0, 0)) for index in (node.sources[0], node.target)]
        grids = [[-(-length // each) for length in size] for size, each in zip(sizes, phases, strict=True)]
        return stride > 0 and grids[1] == [-(-length // stride) for length in grids[0]]

    def dense_price(self, operator: schema.OperatorT) -> float:
        """Estimate an operator as it is, with channels last."""
        key = (id(operator),)
        if key not in self.reader.costs:
            self.reader.costs[key] = self._dense(operator)
        return self.reader.costs[key]

    def _dense(self, operator: schema.OperatorT) -> float:
        reader, kind, inputs = self.reader, self.reader.kind(operator), self.reader.inputs(operator)
        numbers = float(sum(np.prod(reader.shape(index)) for index in indices_of(operator.outputs)))
        if kind in ("CONV_2D", "FULLY_CONNECTED") and len(inputs) > 1:
            return numbers * float(np.prod(reader.shape(inputs[1])[1:]))
        if kind == "TRANSPOSE_CONV" and len(inputs) > 1:
            pace = operator.builtinOptions.strideH * operator.builtinOptions.strideW
            return numbers * float(np.prod(reader.shape(inputs[1])[1:])) / pace
        if kind == "RESIZE_BILINEAR":
            return numbers * _PER_RESIZED
        if kind == "DEQUANTIZE":
            return 0.0  # while the file is loaded
        if kind == "MEAN":
            return float(np.prod(reader.shape(inputs[0]))) * _PER_JOINED
        if kind == "DEPTHWISE_CONV_2D":
            return numbers * float(np.prod(reader.shape(inputs[1])[1:3])) * _PER_WINDOW
        if kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            return numbers * operator.builtinOptions.filterHeight * operator.builtinOptions.filterWidth * _PER_WINDOW
        return numbers * (_PER_CURVE if kind in _CURVES else _PER_JOINED)


def is_even_grid(grid: tuple[int, int]) -> bool:
    """Tell whether 2 x 2 phases hold a map of this size and nothing else."""
    return not (grid[0] % 2 or grid[1] % 2)


def border_of(node: Node) -> float:
    """Return what a pool subtracts where a map ends, so that nothing there is the largest; 0 if zeros may be."""
    return _OUTSIDE if node.ignores_border else 0.0


@functools.cache
def _entry_cost(shape: tuple[int, ...], phases: int) -> float:
    _, height, width, channels = shape
    if phases == 2 and channels <= IMAGE_CHANNELS:
        return height * width / 4 * ENTRY_CHANNELS * 27
    chunks = -(-channels // ENTRY_CHANNELS)
    each = ENTRY_CHANNELS * (2 * _PER_MOVED + 27) + channels * (algebra.PER_PRODUCT + algebra.PER_SUM)
    return height * width * chunks * each + (_phases_cost(shape) if phases == 2 else 0.0)


@functools.cache
def _exit_cost(shape: tuple[int, ...], phases: int) -> float:
    _, height, width, channels = shape
    return height * width * channels * _PER_MOVED + (_phases_cost(shape) if phases == 1 else 0.0)


@functools.cache
def _phases_cost(shape: tuple[int, ...]) -> float:
    """Estimate taking a plain map apart into phases."""
    _, height, width, channels = shape
    sizes = channels, channels
    pixels = -(-height // 2) * -(-width // 2)
    return pixels * algebra.cost(SINGLE, sizes=sizes, entries=channels, phases=(1, 2), pixels=pixels)
