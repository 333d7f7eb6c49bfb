"""Scores with many ties, and the mask of the largest by a full sort."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

# Few distinct values, so that ties are the rule; all of them and their sums are exact in every float type.
TIED = st.integers(-2, 3).map(float)
SPARSITIES = st.floats(0, 1, exclude_max=True)


def scores_of(*, min_dims: int = 2, max_dims: int = 3, max_side: int = 9) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=max_side)
    return hnp.arrays(np.float32, shapes, elements=TIED)


def by_sorting(scores: np.ndarray, count: int) -> np.ndarray:
    """Keep the first `count` of a full, stable sort: larger first, of equal ones the earlier first."""
    keep = np.zeros(scores.size, dtype=bool)
    keep[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return keep.reshape(scores.shape)
