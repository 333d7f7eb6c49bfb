"""Sets of rules: certified by samples that they were not mined from, with the least units."""

import numpy as np
import pytest
from scipy.stats import beta

from tfprune.methods.rule_mining import ConceptLimits, ConceptRule, Limits, Part, Threshold


def above(*units, layer="l", concept="c"):
    return ConceptRule(concept, layer, tuple(Threshold(unit, True, 0.5) for unit in units), 1)


def parts_of(labels, rules, values):
    """Return parts that all hold the same samples."""
    labels = np.asarray(labels)
    part = Part({"c": labels, "not c": ~labels}, np.ones(labels.size))
    part.add(rules, np.asarray(values, np.float32))
    return {"mining": part, "choosing": part}


def chosen(rules, parts, *, precision=0.9, recall=0.5, layer="l", kept=(), **more):
    limits = Limits(precision, recall, **more)
    concept = ConceptLimits(limits, "c", rules=rules, parts=parts, units=lambda rule: rule.units)
    return concept.choose(layer, kept=kept)


def test_a_rule_that_holds_a_few_times_is_not_enough():
    labels = np.repeat([True, False], 100)
    values = np.zeros((200, 1))
    values[:9] = 1
    rules = [above(0)]
    parts = parts_of(labels, rules, values)
    assert chosen(rules, parts, precision=0.1, recall=0.01) == []  # nine matches, all right
    assert chosen(rules, parts, precision=0.1, recall=0.01, matches=9) == rules


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_bounds_are_corrected_for_the_sets_that_are_tested(confidence):
    labels = np.repeat([True, False], 400)
    values = np.zeros((800, 2))
    values[:390], values[400:420, 0] = 1, 1  # as mined: the longer rule is more precise, and proposed as well
    rules = [above(0), above(0, 1)]
    mining = parts_of(labels, rules, values)["mining"]
    values[400:430] = 1  # as chosen: both are the same
    parts = {"mining": mining, "choosing": parts_of(labels, rules, values)["choosing"]}
    single, double = (beta.ppf((1 - confidence) / sets, 390, 31) for sets in (1, 2))
    settings = {"recall": 0.5, "confidence": confidence}
    assert chosen(rules[:1], parts, precision=single - 1e-6, **settings) == [above(0)]
    assert chosen(rules[:1], parts, precision=single + 1e-6, **settings) == []
    assert chosen(rules, parts, precision=double - 1e-6, **settings) == [above(0)]
    assert chosen(rules, parts, precision=double + 1e-6, **settings) == []


def test_the_set_with_the_least_units_is_chosen():
    labels = np.repeat([True, False], 200)
    values = np.zeros((400, 6))
    values[:190, [0, 1, 2]] = 1  # three units together
    values[:150, 3] = 1  # one unit that finds less, but enough
    values[150:200, 4] = 1
    rules = [above(0, 1, 2), above(3), above(4)]
    parts = parts_of(labels, rules, values)
    assert chosen(rules, parts) == [above(3)]
    assert chosen(rules, parts, recall=0.85) == [above(3), above(4)]  # two units instead of three
    assert chosen(rules, parts, recall=None) == [above(3), above(4)]  # the third rule finds nothing more
    assert chosen(rules, parts, layer="other") == []


def test_a_shorter_rule_that_is_not_certified_gives_way_to_a_longer_one():
    labels = np.repeat([True, False], 400)
    values = np.zeros((800, 2))
    values[:400], values[400:440, 0] = 1, 1  # of one unit alone, 91 % are right
    rules = [above(0), above(0, 1)]
    parts = parts_of(labels, rules, values)
    assert chosen(rules, parts, precision=0.85) == [above(0)]
    assert chosen(rules, parts, precision=0.9) == [above(0, 1)]


def test_recall_is_certified_too():
    labels = np.repeat([True, False], 100)
    values = np.zeros((200, 1))
    values[:80] = 1
    rules = [above(0)]
    parts = parts_of(labels, rules, values)
    certified = beta.ppf(0.05, 80, 21)
    assert chosen(rules, parts, recall=certified - 1e-6) == rules
    assert chosen(rules, parts, recall=certified + 1e-6) == []
