"""Plan to keep the units that the rules for the required concepts read."""

from __future__ import annotations

import keras

from tfprune.base.spec import check_count
from tfprune.compact.shrinking.plan_shrink import left_alone
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.concepts.concept_rules import ConceptRules
from tfprune.methods.concepts.concept_trace import ConceptTrace, evidence_of
from tfprune.methods.concepts.keep_units import KeptUnits
from tfprune.methods.concepts.layer_units import UnitsOfModel
from tfprune.methods.concepts.observe import check_rule_layers
from tfprune.methods.concepts.requirements import Require, requirements
from tfprune.methods.concepts.trace_units import scores_of, traced_layers, traced_units
from tfprune.methods.rule_mining.choose_rules import Limits
from tfprune.methods.rule_mining.parts import REPORTING


def plan_concepts(
    model: keras.Model,
    rules: ConceptRules,
    *,
    require: Require,
    min_precision: float = 0.9,
    min_recall: float | None = 0.8,
    min_matches: int = 10,
    confidence: float = 0.95,
    min_units: int = 1,
) -> tuple[ShrinkPlan, ConceptTrace]:
    """Plan to keep the units that the rules for the required concepts read, and to remove the others.

    Use it if a model does more than the product needs: the smaller model keeps a unit only for a reason that you can
    read. Print the plan and the trace, then call `shrink(model, plan)`, or `prune_to(model, plan, data)` to train the
    smaller model as well. A layer keeps all its units if a required concept has no precise rule in it; the plan lists
    these layers.

    Args:
        model: The model that the rules were mined from.
        rules: The rules that `concept_rules` returned.
        require: The required concepts, or a dict from requirements, in words, to the concepts that each needs. For
            each concept `c`, `not c` is a concept as well.
        min_precision: The least precision of a rule, in (0, 1]. Default 0.9.
        min_recall: The least recall of the rules for a concept together, in (0, 1]. Rules that need the fewest units
            are chosen first, until they reach this recall. None takes every precise rule that adds to it. Default
            0.8.
        min_matches: The least number of samples for choosing on which a rule holds, at least 1. Default 10.
        confidence: The least probability that the rules for a concept have this precision and recall, in (0, 1). Both
            are judged by lower bounds that are corrected for the number of rules. Default 0.95.
        min_units: The least number of units that a layer keeps, at least 1. Default 1.

    Returns:
        The plan, as from `plan_shrink`, and the trace from requirements to units. Its precision and recall are
        measured on samples that neither mined nor chose the rules.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If no layer has rules of this precision and recall for a concept; the message shows the best.
        ValueError: If the rules were mined from another model, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> import tfprune
        >>> x = np.random.default_rng(0).normal(size=(1000, 2)).astype("float32")
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
        >>> model.layers[0].set_weights([np.eye(2, 4), np.zeros(4)])
        >>> rules = tfprune.concepts.concept_rules(model, x, {"right": x[:, 0] > 0, "up": x[:, 1] > 0})
        >>> plan, trace = plan_concepts(model, rules, require={"R1: tell left from right": ["right"]})
        >>> plan.rows[0].channels, plan.rows[0].kept
        (4, 1)

    Reference:
        Formica et al., 2026, "Engineering Resource-constrained Software Systems with DNN Components",
        arXiv:2604.09988, as its abstract describes it.
    """
    if not isinstance(rules, ConceptRules):
        raise TypeError(
            f"Expected rules. Received: rules={rules!r} of type {type(rules).__name__}. Mine them with "
            f"tfprune.concepts.concept_rules(model, samples, concepts)."
        )
    limits = Limits(min_precision, min_recall, confidence, min_matches)
    min_units = check_count(min_units, "min_units", least=1)
    required = requirements(require, concepts=rules.names)
    concepts = list(dict.fromkeys(concept for needed in required.values() for concept in needed))
    copy = flat_copy(Anatomy.of(model))
    units = check_rule_layers(UnitsOfModel(copy), rules.layers)
    decision = KeptUnits(units, rules, concepts=concepts, limits=limits, min_units=min_units)
    plan = ShrinkPlan(
        decision.network, decision.keep, left_alone(decision.network, decision.shrunk, left_out=decision.left_out)
    )
    trace = ConceptTrace(
        required,
        limits.precision,
        limits.recall,
        decision.rules,
        tuple(traced_layers(decision)),
        tuple(traced_units(decision)),
        tuple(scores_of(copy, decision)),
        limits.confidence,
        evidence_of(decision.rules, rules.parts[REPORTING], precision=limits.precision, recall=limits.recall),
    )
    return plan, trace
