"""Read rules off a decision tree over activations: a path to each leaf where the concept is always there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfprune.methods.concepts.rule import Threshold

Path = tuple[tuple[Threshold, ...], int]  # the thresholds of a path, and the samples of its leaf


def mine_rules(activations: np.ndarray, labels: np.ndarray, *, seed: int) -> list[Path]:
    """Return the paths to the leaves of a tree that hold only samples with the concept, largest first.

    The tree grows until no leaf can be split. A unit that is asked several times on a path leaves its narrowest
    bounds, which hold for the same samples.

    Args:
        activations: The activations of a layer, float32, (samples, units).
        labels: Whether the concept is there, (samples,); both cases occur.
        seed: Decides between splits that are equally good.

    Raises:
        ValueError: If scikit-learn is not installed.

    Reference:
        Gopinath et al., 2023, "Feature-Guided Analysis of Neural Networks", FASE 2023.
    """
    tree = _fitted(activations, labels, seed)
    return sorted(_pure_paths(tree), key=lambda path: (-path[1], path[0]))


def _fitted(activations: np.ndarray, labels: np.ndarray, seed: int) -> Any:
    try:
        from sklearn.tree import DecisionTreeClassifier
    except ImportError as error:
        raise ValueError(
            'Expected the package scikit-learn. Received: not installed. Run pip install "tfprune[concepts]".'
        ) from error
    return DecisionTreeClassifier(random_state=seed).fit(activations, labels).tree_


def _pure_paths(tree: Any) -> Iterator[Path]:
    """Yield the path to each leaf of one class, if it is the second: that of the samples with the concept."""
    ahead: list[tuple[int, dict[tuple[int, bool], float]]] = [(0, {})]
    while ahead:
        node, bounds = ahead.pop()
        left, right = int(tree.children_left[node]), int(tree.children_right[node])
        if left >= 0:
            unit, value = int(tree.feature[node]), float(tree.threshold[node])
            lowest = min(value, bounds.get((unit, False), value))
            highest = max(value, bounds.get((unit, True), value))
            ahead += [(left, bounds | {(unit, False): lowest}), (right, bounds | {(unit, True): highest})]
        elif tree.impurity[node] == 0 and tree.value[node, 0].argmax() == 1:
            path = sorted(Threshold(unit, is_above, value) for (unit, is_above), value in bounds.items())
            yield tuple(path), int(tree.n_node_samples[node])
