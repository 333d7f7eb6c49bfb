"""Three parts of the samples: disjoint, of whole groups, in which a group counts as one sample."""

import numpy as np
import pytest

from tfprune.methods.rule_mining import ConceptRule, Counts, Part, Threshold, draw_parts, part_of


def test_parts_are_disjoint_and_as_large_as_asked():
    parts, weights = draw_parts(400, validation_split=0.5, seed=3)
    assert {name: int(rows.sum()) for name, rows in parts.items()} == {
        "mining": 200,
        "choosing": 100,
        "reporting": 100,
    }
    assert (np.sum([*parts.values()], axis=0) == 1).all()
    assert (weights == 1).all()
    other, _ = draw_parts(400, validation_split=0.5, seed=4)
    assert (parts["mining"] != other["mining"]).any()


def test_a_group_stays_together_and_counts_as_one():
    groups = np.repeat([f"person {number}" for number in range(60)], np.arange(60) % 5 + 1)
    groups = np.random.default_rng(0).permutation(groups)
    parts, weights = draw_parts(groups.size, validation_split=0.5, groups=groups, seed=0)
    members = [set(groups[rows]) for rows in parts.values()]
    assert sum(map(len, members)) == len(set.union(*members)) == 60
    for rows, names in zip(parts.values(), members, strict=True):
        assert weights[rows].sum() == pytest.approx(len(names))
    assert 0.4 < parts["mining"].mean() < 0.6


def test_rules_are_counted_together():
    values = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]], np.float32)
    part = Part({"c": np.array([False, True, True, True, False])}, np.array([1, 1, 1, 0.5, 0.5]))
    rules = [ConceptRule("c", "l", (Threshold(unit, True, 0.5),), 1) for unit in (0, 1)]
    part.add(rules, values)
    assert part.size == 4
    assert part.counts("c", rules[:1]) == Counts(2, 1.5, 2.5)
    assert part.counts("c", rules) == Counts(3, 2.5, 2.5)


def test_wrong_groups_are_refused():
    with pytest.raises(ValueError, match=r"one group for each of 4 samples as `groups`\. Received: .* \(3,\)"):
        draw_parts(4, validation_split=0.5, groups=[1, 2, 3], seed=0)
    with pytest.raises(TypeError, match="`groups` to be an array of integers or strings"):
        draw_parts(3, validation_split=0.5, groups=[0.5, 1, 2], seed=0)


def test_a_part_without_a_concept_is_refused():
    labels = {"c": np.array([True, False, False])}
    with pytest.raises(ValueError, match=r"with 'c' and without it among the samples for choosing\. Received: 0"):
        part_of(labels, np.ones(3), rows=np.array([False, True, True]), name="choosing")
