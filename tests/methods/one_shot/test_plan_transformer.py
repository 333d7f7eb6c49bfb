"""One budget over depth and width: the search against all choices, the plan against models that are made by hand."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from residual_blocks import X, by_hand, residual
from small_transformer import transformer
from tiers import first

import tfprune
from tfprune.methods.one_shot.plan_transformer import _MixedCuts
from tfprune.models.training import Batches
from tfprune.solving.zeros import Candidate, GreedyLevels

SAVED = {"blocks": 30.0, "units": 5.0, "heads": 2.0}  # by each step, of 100
LOSS = {"blocks": 0.9, "units": 0.1, "heads": 0.05}  # of the first step; each further one costs as much more
MOST = {"blocks": 2, "units": 7, "heads": 7}


def measured(levels):
    cost = 100 - sum(SAVED[kind] * level for kind, level in levels.items())
    loss = sum(LOSS[kind] * level * (level + 1) / 2 for kind, level in levels.items())
    return Candidate(dict(levels), {"bytes": cost}, loss)


@pytest.mark.parametrize("target", [90.0, 75.0, 60.0, 50.0, 30.0])
def test_the_search_comes_near_the_best_of_all_choices(target):
    search = GreedyLevels(MOST, measured, targets={"bytes": target})
    path = search.undone(search.walk())
    choices = [
        measured(dict(zip(MOST, levels, strict=True)))
        for levels in itertools.product(*(range(most + 1) for most in MOST.values()))
    ]
    best = min(each.loss for each in choices if each.costs["bytes"] <= target)
    assert path[-1].costs["bytes"] <= target
    found = min([path[-1].loss, *(each.loss for kind in MOST if (each := search.alone(kind)))])
    assert best <= found <= 1.3 * best + 0.15
    for kind in MOST:
        alone = search.alone(kind)
        one = [each for each in choices if each.levels[kind] == sum(each.levels.values())]
        fitting = [each for each in one if each.costs["bytes"] <= target]
        assert (alone is None) == (not fitting)
        assert alone is None or alone.loss == min(each.loss for each in fitting)


def test_each_step_has_the_least_rise_of_the_loss_per_saved_cost():
    search = GreedyLevels(MOST, measured, targets={"bytes": 40.0})
    path = search.walk()
    for before, after in itertools.pairwise(path[:-1]):  # the last one may save more than is needed
        rates = {}
        for kind in MOST:
            if before.levels[kind] < MOST[kind]:
                following = measured({**before.levels, kind: before.levels[kind] + 1})
                needed = min(before.costs["bytes"] - following.costs["bytes"], before.costs["bytes"] - 40)
                rates[kind] = (following.loss - before.loss) / needed
        (taken,) = [kind for kind in MOST if after.levels[kind] != before.levels[kind]]
        assert rates[taken] == pytest.approx(min(rates.values()))


def test_a_step_that_saves_nothing_is_passed_over_and_an_unneeded_one_taken_back():
    def coarse(levels):  # the first step of "a" alone saves nothing; "b" makes "a" superfluous
        cost = 100 - (10 if levels["a"] >= 2 else 0) - 50 * levels["b"]
        return Candidate(dict(levels), {"bytes": cost}, 0.01 * levels["a"] + 1.0 * levels["b"])

    search = GreedyLevels({"a": 3, "b": 1}, coarse, targets={"bytes": 55.0})
    path = search.walk()
    assert [each.levels for each in path] == [{"a": 0, "b": 0}, {"a": 2, "b": 0}, {"a": 2, "b": 1}]
    assert search.undone(path)[-1].levels == {"a": 0, "b": 1}


def test_a_step_that_costs_nothing_is_taken_before_others_are_tried():
    tried = []

    def measure(levels):
        tried.append(tuple(levels.values()))
        return Candidate(dict(levels), {"bytes": 100 - 30 * levels["a"] - 10 * levels["b"]}, 0.1 * levels["b"])

    path = GreedyLevels({"b": 3, "a": 1}, measure, targets={"bytes": 50.0}).walk()
    assert [each.levels for each in path] == [{"b": 0, "a": level} for level in (0, 1)] + [
        {"b": level, "a": 1} for level in (1, 2)
    ]
    tried.clear()
    GreedyLevels({"a": 1, "b": 3}, measure, targets={"bytes": 50.0}).walk()
    assert (0, 1) not in tried


def distance(model, kept):
    dense = by_hand(model, range(4), X)
    return float(np.mean(np.square(by_hand(model, kept, X) - dense)) / np.mean(np.square(dense)))


@pytest.mark.programs
def test_a_model_whose_loss_is_not_a_number_is_never_chosen():
    def broken(levels):
        return Candidate(dict(levels), {"bytes": 100.0 - 20 * sum(levels.values())}, np.nan if levels["a"] else 1.0)

    search = GreedyLevels({"a": 3, "b": 3}, broken, targets={"bytes": 60.0})
    path = search.undone(search.walk())
    assert path[-1].levels == {"a": 0, "b": 2}
    assert search.alone("a").loss == np.inf


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_a_model_that_overflows_is_refused():
    model = residual(4)
    model.layers[-1].set_weights([weight + np.inf for weight in model.layers[-1].get_weights()])
    with pytest.raises(
        ValueError, match=r"finite loss on `samples`. Received: .* computing in float32, with a loss of"
    ):
        tfprune.plan_transformer(model, X, budget=tfprune.budget(parameters=0.8), verbose=0)


def test_blocks_are_dropped_as_by_hand_and_the_costs_are_those_of_the_model():
    model = residual(4)
    plan = tfprune.plan_transformer(model, X, budget=tfprune.budget(parameters=0.6), parts=["blocks"], verbose=0)
    kept, gone = [0, 1, 2, 3], []
    while sum([76 * len(kept), 10]) > 0.6 * model.count_params():
        gone.append(min(kept, key=lambda block: distance(model, [other for other in kept if other != block])))
        kept.remove(gone[-1])
        step = plan.steps[len(gone) - 1]
        assert (step.part, step.removed) == ("blocks", f"block {gone[-1]}")
        assert step.loss == pytest.approx(distance(model, kept), rel=1e-3)
        assert step.costs["parameters"] == 76 * len(kept) + 10
    assert len(plan.steps) == len(gone) == plan.levels["blocks"]
    smaller, tokenizer = plan.build()
    assert tokenizer is None
    assert smaller.count_params() == plan.steps[-1].costs["parameters"]
    np.testing.assert_allclose(smaller(X), by_hand(model, kept, X), rtol=1e-4, atol=1e-4)
    assert "The budget: parameters of" in str(plan)
    assert plan.as_dict()["alone"][0]["part"] == "blocks"


def test_blocks_and_units_are_weighed_and_one_kind_alone_is_never_better():
    model = residual(4)
    plan = tfprune.plan_transformer(model, X, budget=tfprune.budget(parameters=0.6), batch_size=4, verbose=0)
    assert {row.part for row in plan.alone} == {"blocks", "units"}
    losses = [row.loss for row in plan.alone if row.loss is not None]
    assert losses
    assert plan.steps[-1].loss <= min(losses)
    smaller, _ = plan.build()
    assert smaller.count_params() == plan.steps[-1].costs["parameters"] <= 0.6 * model.count_params()
    dense = np.asarray(model(X))
    found = np.mean(np.square(np.asarray(smaller(X)) - dense)) / np.mean(np.square(dense))
    assert plan.steps[-1].loss == pytest.approx(found, rel=1e-2)


BUDGET = tfprune.budget(parameters=0.5)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (
            {"budget": tfprune.budget(parameters=100_000)},
            ValueError,
            "smaller than the model.*for a model of 314 para",
        ),
        ({"budget": 0.5}, TypeError, "Expected a budget"),
        ({"budget": tfprune.budget(flops=0.5)}, ValueError, "bytes, parameters or latency.*a limit of flops"),
        ({"budget": tfprune.budget(bytes=0.5, allocation="lamp")}, ValueError, "without an allocation"),
        ({"samples": X[:0]}, ValueError, "at least one sample"),
        ({"samples": X[:, :3]}, ValueError, "with inputs of shape"),
        ({"judge": "perplexity"}, ValueError, "token ids that an embedding reads"),
        ({"judge": "mse"}, ValueError, "with labels"),
        ({"parts": ["blocks", "experts"]}, ValueError, r"parts=\['blocks', 'experts'\].*Leave 'experts' out"),
        ({"parts": ["heads"]}, ValueError, "has no heads that can be removed"),
        ({"parts": ["layers"]}, ValueError, "Expected `parts`"),
        ({"parts": []}, ValueError, "Expected some parts"),
        ({"parts": ["vocabulary"]}, ValueError, "`texts` with 'vocabulary'"),
        ({"parts": ["blocks"], "texts": ["a"]}, ValueError, "`texts` with 'vocabulary'"),
        ({"criterion": "magnitude"}, ValueError, "Expected `criterion`"),
        ({"batch_size": 0}, ValueError, "Expected `batch_size`"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, kind, text):
    with pytest.raises(kind, match=text):
        tfprune.plan_transformer(residual(4), **{"samples": X, "budget": BUDGET, **arguments})


def test_token_ids_beyond_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="token ids from 0 to 29 in `samples`. Received: ids with 34"):
        tfprune.plan_transformer(transformer(2), np.full((4, 6), 34, "int32"), budget=BUDGET)


@pytest.mark.programs
def test_a_budget_that_cannot_be_met_names_the_closest_model():
    budget = tfprune.budget(parameters=101)  # a block of 16 units has 148, and the head 10
    with pytest.raises(ValueError, match=r"The closest was parameters of 158 where 101 are allowed.*after 3 steps"):
        tfprune.plan_transformer(residual(4, hidden=16), X, budget=budget, parts=["blocks"], verbose=0)


def test_a_model_without_blocks_and_units_is_refused():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(40)(x))
    with pytest.raises(ValueError, match="parts that can be removed"):
        tfprune.plan_transformer(model, X, budget=BUDGET)


def hub(name, **sizes):
    models = pytest.importorskip("keras_hub", reason="keras-hub is not installed").models
    keras.utils.set_random_seed(0)
    model = getattr(models, f"{name}Backbone")(hidden_dim=8, **sizes)
    random = np.random.default_rng(1)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(random.normal(size=weight.shape) / np.sqrt(weight.shape[0]))
    return model


def windows(model, low, high):
    ids = np.random.default_rng(0).integers(low, high, (4, 8)).astype("int32")
    return {name: ids if name == "token_ids" else np.full_like(ids, name == "padding_mask") for name in model.input}


@pytest.mark.programs
def test_the_vocabulary_goes_with_its_tokenizer_and_costs_nothing_on_the_texts():
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{index}" for index in range(95))]
    tokenizer = keras_hub.models.BertTokenizer(words)
    sizes = {"num_layers": 3, "num_heads": 2, "intermediate_dim": 16, "max_sequence_length": 8}
    model = hub("Bert", vocabulary_size=100, **sizes)
    arguments = {"tokenizer": tokenizer, "texts": ["word10 word11", "word40"], "parts": ["vocabulary", "blocks"]}
    x = windows(model, 5, 15)
    plan = tfprune.plan_transformer(model, x, budget=tfprune.budget(bytes=0.5), **arguments)
    assert [step.part for step in plan.steps] == ["vocabulary", "blocks", "blocks"]
    assert plan.steps[0].loss == pytest.approx(0, abs=1e-9)
    smaller, own = plan.build()
    assert type(smaller) is type(model)
    assert len(own.get_vocabulary()) == smaller.vocabulary_size < 40
    assert sum(4 * int(np.prod(each.shape)) for each in smaller.weights) == plan.steps[-1].costs["bytes"]
    assert {"word10", "word11", "word40"} <= {*own.get_vocabulary()}


@pytest.mark.programs
def test_experts_are_dropped_from_a_mixture():
    sizes = {"num_layers": 2, "num_query_heads": 2, "num_key_value_heads": 1, "intermediate_dim": 24}
    model = hub("Mixtral", vocabulary_size=20, num_experts=4, top_k=1, **sizes)
    budget = tfprune.budget(parameters=0.7)
    plan = tfprune.plan_transformer(
        model, windows(model, 0, 20), budget=budget, parts=["experts"], judge="perplexity"
    )
    smaller, _ = plan.build()
    assert type(smaller) is type(model)
    assert plan.levels == {"experts": 4 - smaller.num_experts}
    assert smaller.count_params() == plan.steps[-1].costs["parameters"] <= 0.7 * model.count_params()


@pytest.mark.programs
def test_hidden_dimensions_are_removed_as_by_narrow_and_judged_by_the_scores_of_the_narrower_model():
    sizes = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "intermediate_dim": 16, "head_dim": 4}
    model = hub("Qwen3", vocabulary_size=20, tie_word_embeddings=True, **sizes)
    x = windows(model, 0, 20)
    settings = {"budget": tfprune.budget(parameters=0.7), "parts": ["width", "units"], "batch_size": 4}
    plan = tfprune.plan_transformer(model, x, judge="perplexity", **settings)
    (alone,) = [row for row in plan.alone if row.part == "width"]
    expected, _ = tfprune.transformers.narrow(model, x, hidden_dim=8 - alone.levels["width"])
    assert expected.count_params() == alone.costs["parameters"] <= 0.7 * model.count_params()
    table = np.asarray(expected.get_layer("token_embedding").embeddings)
    scores = np.asarray(expected(x))[:, :-1] @ table.T
    likely = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    loss = -np.mean(np.take_along_axis(likely, x["token_ids"][:, 1:, np.newaxis], axis=-1))
    assert alone.loss == pytest.approx(loss, rel=1e-4)
    smaller, _ = plan.build()
    assert type(smaller) is type(model)
    assert smaller.hidden_dim == 8 - plan.levels["width"]
    assert smaller.count_params() == plan.steps[-1].costs["parameters"] <= 0.7 * model.count_params()
    with pytest.raises(ValueError, match="returns hidden states.*judge='perplexity'.*Leave 'width' out"):
        tfprune.plan_transformer(model, x, **settings)


@pytest.mark.programs
def test_tokens_blocks_and_dimensions_are_removed_one_after_the_other():
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    tokenizer = keras_hub.models.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(35))])
    sizes = {"num_layers": 3, "num_query_heads": 2, "num_key_value_heads": 1, "intermediate_dim": 16, "head_dim": 4}
    model = hub("Qwen3", vocabulary_size=40, tie_word_embeddings=True, **sizes)
    x = windows(model, 0, 20)
    settings = {"texts": ["3 7"], "tokenizer": tokenizer, "criterion": "activation", "judge": "perplexity"}
    cuts = _MixedCuts(model, list(Batches(x, model, batch_size=4, argument="samples")), **settings)
    smaller = cuts.build({"vocabulary": 1, "blocks": 1, "width": 2})
    fewer_tokens, report = tfprune.transformers.trim_vocabulary(model, ["3 7", *x["token_ids"]], tokenizer=tokenizer)
    renumbered = {**x, "token_ids": np.searchsorted(report.kept, x["token_ids"]).astype("int32")}
    fewer_blocks, _ = tfprune.transformers.drop_blocks(fewer_tokens, cuts.dropped(1))
    expected, _ = tfprune.transformers.narrow(fewer_blocks, renumbered, hidden_dim=6, verbose=0)
    assert type(smaller) is type(model) and smaller.vocabulary_size < 40
    for weight, other in zip(smaller.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    for levels in ({}, {"vocabulary": 1}, {"blocks": 1}, {"width": 2}, {"vocabulary": 1, "blocks": 1, "width": 2}):
        fewer = cuts.build(levels)  # all are judged by the scores of the tokens that may remain
        table = np.asarray(fewer.get_layer("token_embedding").embeddings)
        scores = np.asarray(fewer(renumbered if "vocabulary" in levels else x))[:, :-1] @ table.T
        scores = scores if "vocabulary" in levels else scores[..., report.kept]
        likely = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        loss = -np.mean(np.take_along_axis(likely, renumbered["token_ids"][:, 1:, np.newaxis], axis=-1))
        assert cuts.loss_of(fewer, levels) == pytest.approx(loss, rel=1e-4)


def test_labels_of_tokens_are_refused_where_tokens_may_go():  # they would number other tokens afterwards
    keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    tokenizer = keras_hub.models.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(35))])
    sizes = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "intermediate_dim": 16, "head_dim": 4}
    task = keras_hub.models.Qwen3CausalLM(backbone=hub("Qwen3", vocabulary_size=40, **sizes), preprocessor=None)
    x = windows(task, 5, 20)
    settings = {"texts": ["3 7"], "tokenizer": tokenizer, "judge": "sparse_categorical_crossentropy"}
    with pytest.raises(ValueError, match="labels number the tokens of the whole vocabulary"):
        tfprune.plan_transformer(task, (x, x["token_ids"]), budget=BUDGET, **settings)


@pytest.mark.programs
def test_a_width_that_narrow_refuses_is_refused_with_its_reason():
    sizes = {"num_layers": 2, "num_query_heads": 2, "num_key_value_heads": 1, "intermediate_dim": 16}
    model = hub("Llama", vocabulary_size=20, **sizes)
    x = windows(model, 0, 20)
    with pytest.raises(ValueError, match=r"width of the residual stream alone.*query/kernel.*Leave 'width' out"):
        tfprune.plan_transformer(model, x, budget=BUDGET, parts=["blocks", "width"], judge="perplexity")


@pytest.mark.programs
def test_blocks_with_a_window_lose_heads_as_well_and_are_saved(tmp_path):
    sizes = {"num_layers": 7, "num_query_heads": 4, "num_key_value_heads": 1, "intermediate_dim": 16}
    sizes |= {"use_sliding_window_attention": True, "sliding_window_size": 4, "head_dim": 4, "image_size": None}
    model = hub("Gemma3", vocabulary_size=20, **sizes)
    x = windows(model, 0, 20)
    settings = {"texts": None, "tokenizer": None, "criterion": "activation", "judge": "perplexity"}
    cuts = _MixedCuts(model, list(Batches(x, model, batch_size=4, argument="samples")), **settings)
    smaller = cuts.build({"blocks": 2, "heads": 3, "units": 2})
    assert isinstance(smaller, type(model)) and len(smaller.transformer_layers) == 5
    assert smaller.count_params() < cuts.build({"blocks": 2, "units": 2}).count_params()
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    np.testing.assert_array_equal(loaded(x), smaller(x))


@pytest.mark.programs
@pytest.mark.parametrize("family, kinds", first(("Gemma4", {"blocks"}), ("GptOss", {"blocks", "experts"})))
def test_blocks_that_cannot_be_opened_are_dropped_whole(family, kinds):  # as the page of KerasHub models says
    sizes = {"num_layers": 2, "num_query_heads": 2, "num_key_value_heads": 1, "intermediate_dim": 24}
    sizes |= {"num_experts": 4, "top_k": 2} if family == "GptOss" else {"head_dim": 4, "image_size": None}
    model = hub(family, vocabulary_size=20, **sizes)
    x = windows(model, 0, 20)
    plan = tfprune.plan_transformer(model, x, budget=tfprune.budget(parameters=0.9))
    smaller, _ = plan.build()
    assert type(smaller) is type(model)
    assert {kind for kind, level in plan.levels.items() if level} <= kinds <= {*plan.levels}
    assert smaller.count_params() <= 0.9 * model.count_params()
    with pytest.raises(ValueError, match="Expected channels that can be removed"):
        tfprune.plan_shrink(model, 0.5)
