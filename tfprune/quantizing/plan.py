"""Which layers of a model round where, so that each operator of the file is one that computes in 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras

from tfprune.keras_models.models.graph import Call, Graph
from tfprune.quantizing import rules
from tfprune.quantizing.refusals import refusal
from tfprune.quantizing.rules import FIXED, FUSED, RoundingRule, activation_of, rule_of
from tfprune.report import Skipped

LEFT_OUT = "left out by `filters` or `skip`"


@dataclass(frozen=True)
class QuantizationPlan:
    """Which layers are quantized, and which are not.

    Attributes:
        ranges: By the path of each layer that is quantized, the names of the tensors that it rounds to a range of
            their own: `input_0` and so on for its inputs, `activation` before its activation, `output`, and those
            inside that its rule names.
        skipped: The layers and operations that stay in float, with the reason.
    """

    ranges: Mapping[str, tuple[str, ...]]
    skipped: tuple[Skipped, ...]


def plan_quantization(graph: Graph, paths: Mapping[int, str], *, is_left: Callable[[str], bool]) -> QuantizationPlan:
    """Follow the tensors of a flat graph, and give a range to each that an operator of the file returns.

    Args:
        graph: The calls of a model without wrappers and nested models.
        paths: The path of each layer, by its id.
        is_left: Tells by the path of a layer whether it is to stay in float.
    """
    planner = _Planner(graph, paths, is_left)
    for call in graph.calls:
        planner.visit(call)
    return planner.plan()


class _Planner:
    def __init__(self, graph: Graph, paths: Mapping[int, str], is_left: Callable[[str], bool]) -> None:
        self.graph, self.paths, self.is_left = graph, paths, is_left
        self.skipped: dict[str, Skipped] = {}
        self.places: dict[int, list[str]] = {}
        self.rounding: set[int] = set()  # layers that round without a range, their weights for example
        self.float: set[int] = {id(tensor) for tensor in graph.model.inputs}  # tensors without a range
        self.folded: set[int] = set()  # calls that belong to the operator before them
        self.left: set[int] = set()  # normalizations that belong to an operator in float
        calls: dict[int, int] = {}
        for call in graph.calls:
            calls[id(call.layer)] = calls.get(id(call.layer), 0) + 1
        self.once = {layer for layer, count in calls.items() if count == 1}

    def visit(self, call: Call) -> None:
        rule = self._rule(call)
        if rule is None:
            self.float |= {id(tensor) for tensor in call.outputs}
        elif rule.kind == rules.KEEPS:
            if any(id(tensor) in self.float for tensor in call.inputs):
                self.float |= {id(tensor) for tensor in call.outputs}
        else:
            self._place(call, rule)

    def _rule(self, call: Call) -> RoundingRule | None:
        """Return the rule of a call, None with a note of the reason if it stays in float."""
        layer = call.layer
        path = self.paths.get(id(layer), layer.name)
        rule = rule_of(layer) if isinstance(layer, keras.layers.Layer) else None
        reason = None
        if path in self.skipped:
            return None
        left = isinstance(layer, keras.layers.Layer) and (self.is_left(path) or id(call) in self.left)
        if rule is None or left:
            self._leave(call)
            reason = LEFT_OUT if left else refusal(layer)
            kind = Skipped.FILTERED if left else Skipped.NO_RULE
        else:
            reason, kind = refusal(layer), Skipped.NO_RULE
            rule = rules.ALONE if rule.kind == rules.NORMALIZES and id(call) not in self.folded else rule
        if reason is not None:
            self.skipped[path] = Skipped(path, reason, kind)
            return None
        return rule

    def _leave(self, call: Call) -> None:
        """Let a normalization stay with the kernel that the converter folds it into."""
        if isinstance(call.layer, rules.FOLDING) and activation_of(call.layer) == "linear":
            followers = [(taker, rule_of(taker.layer)) for taker in self.graph.consumers(call)]
            self.left |= {id(taker) for taker, rule in followers if rule and rule.kind == rules.NORMALIZES}

    def _place(self, call: Call, rule: RoundingRule) -> None:
        names = self.places.setdefault(id(call.layer), [])
        for index, tensor in enumerate(call.inputs):
            if id(tensor) in self.float and keras.backend.is_float_dtype(tensor.dtype):
                _add(names, f"input_{index}")
        if rule.kind in (rules.MIXES, rules.LOOKS_UP) or activation_of(call.layer) in FIXED:
            self.rounding.add(id(call.layer))
        for name in rule.within:
            _add(names, name)
        if self._is_continued(call, rule):
            return
        if rule.inside:
            for name in rule.inside:
                _add(names, name)
            return
        activation = activation_of(call.layer)
        if activation not in FUSED and rule.kind != rules.ACTIVATES:
            _add(names, "activation")
        if activation not in FIXED and not self._is_joined(call):
            _add(names, "output")

    def _is_joined(self, call: Call) -> bool:
        """Tell whether only a concatenation takes the output: the file rounds it to the range of that, and once."""
        following = self.graph.consumers(call)
        if len(following) != 1 or self.graph.is_output(call) or activation_of(call.layer) not in FUSED:
            return False
        (taker,) = following
        path = self.paths.get(id(taker.layer), "")
        is_alone = {id(call.layer), id(taker.layer)} <= self.once and not self.is_left(path)
        return is_alone and isinstance(taker.layer, keras.layers.Concatenate) and refusal(taker.layer) is None

    def _is_continued(self, call: Call, rule: RoundingRule) -> bool:
        """Tell whether the operator goes on with the next call, and note that call."""
        following = self.graph.consumers(call)
        if (
            len(following) != 1
            or self.graph.is_output(call)
            or not {id(call.layer), id(following[0].layer)} <= self.once
        ):
            return False
        if rule.inside or rule.kind not in (rules.MIXES, rules.NORMALIZES, rules.MERGES):
            return False
        (taker,) = following
        path, next_rule = self.paths.get(id(taker.layer), ""), rule_of(taker.layer)
        if next_rule is None or self.is_left(path) or activation_of(call.layer) != "linear":
            return False
        folds = next_rule.kind == rules.NORMALIZES and isinstance(call.layer, rules.FOLDING)
        applies = next_rule.kind == rules.ACTIVATES and activation_of(taker.layer) in FUSED
        if folds or applies:
            self.folded.add(id(taker))
        return folds or applies

    def plan(self) -> QuantizationPlan:
        ranges = {
            self.paths[layer]: tuple(names) for layer, names in self.places.items() if names or layer in self.rounding
        }
        return QuantizationPlan(ranges, tuple(self.skipped.values()))


def _add(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
