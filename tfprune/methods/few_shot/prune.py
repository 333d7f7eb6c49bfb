"""prune_few_shot: prune, meta-train and prune a few-shot model again, as PMP-DACIS does, in one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import keras
import numpy as np

from tfprune.allocation import LayerThreshold, Weight
from tfprune.base.folders import NamedArrays, RunFolder
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, ArgumentTypeError, Spec, check_count, check_number, resolve
from tfprune.compact.plan import Budget, plan_shrink
from tfprune.compact.prune_to import described
from tfprune.compact.shrink import ShrinkPlan, shrink
from tfprune.compact.trainer import check_callbacks
from tfprune.criteria import CRITERIA, DACIS, Criterion, Evidence
from tfprune.facts import META, ClassMoments
from tfprune.gradients import Episodes, MetaGradients
from tfprune.methods.few_shot.learners import (
    MAML,
    Episodic,
    Learner,
    Lessons,
    Prototypes,
    optimizer_of,
    query_loss,
    settings_of,
    task_complexity,
)
from tfprune.models.anatomy import as_numpy, weight_values
from tfprune.models.graph import check_graph
from tfprune.report import Report, table

# A stage of `prune_few_shot`: how much is removed, and how long the model is meta-trained afterwards.


@dataclass(frozen=True)
class FewShotStage(Spec):
    """How much a stage removes, and how long it meta-trains afterwards.

    Args:
        budget: A budget, such as `tfprune.budget(parameters=0.6)`, with fractions of the model that you pass to
            `prune_few_shot`; a `LayerThreshold`, which removes the channels below the threshold of their layer, so
            that the task decides how many; or None (the default), which removes nothing.
        episodes: The number of episodes to train on afterwards, at least 0. Default 100.
        learning_rate: The learning rate of this training, above 0. Default 1e-3.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of its range.

    Example:
        >>> from tfprune.allocation import LayerThreshold
        >>> FewShotStage(LayerThreshold(threshold=0.4), episodes=500).episodes
        500
    """

    budget: Budget | LayerThreshold | None = None
    episodes: int = 100
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.budget is not None and not isinstance(self.budget, (Budget, LayerThreshold)):
            raise ArgumentTypeError(
                "budget",
                "`budget` to be a budget, a LayerThreshold or None",
                repr(self.budget),
                advice="Pass tfprune.budget(parameters=0.5), for example.",
            )
        rate = check_number(self.learning_rate, "learning_rate", above=0)
        self._hold(episodes=check_count(self.episodes, "episodes", least=0), learning_rate=rate)


# Which channels tell broad kinds of classes apart, and so go last: the taxonomy of PMP-DACIS.

_LevelsOfClasses = Mapping[int, Hashable] | Sequence[tuple[int, Hashable]]
_PRUNABLE, _PARTLY, _PROTECTED = 0, 1, 2
_LEVELS = ("prunable", "partly", "protected")


@dataclass(frozen=True)
class ChannelTaxonomy(Spec):
    """Sort channels by the level of a hierarchy of classes that they separate best.

    A channel that separates broad kinds (in the paper: types of pathogens) is protected. One that separates groups in
    between (symptoms) is partly protected: the better half of these. One that separates single classes only is
    prunable, as is a constant one. Protected channels go last. The level of a channel is the one with the largest F
    statistic, which counts fewer groups in favor of a level; equal ones count for the broader level.

    Args:
        kinds: The broad kind of each class: a dict from labels, integers, to names or numbers.
        symptoms: The group in between of each class; None (the default) has no such level.

    Raises:
        TypeError: If an argument is not a dict.
        ValueError: If a level has fewer than two groups, or both name other classes.

    Example:
        >>> taxonomy = ChannelTaxonomy(kinds={0: "fungus", 1: "fungus", 2: "virus", 3: "virus"})
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[0, 0], [1, 9], [5, 1], [6, 8], [1, 1], [0, 8], [6, 0], [5, 9.0]]),
        ...             np.array([0, 1, 2, 3, 0, 1, 2, 3]))
        >>> [_LEVELS[level] for level in taxonomy.levels(moments)]
        ['protected', 'prunable']

    Reference:
        Uddin, Alam & Pasha, 2026, "PMP-DACIS", arXiv:2601.02353, which names the three levels. That a level is found
        by its F statistic is this library's reading.
    """

    kinds: _LevelsOfClasses
    symptoms: _LevelsOfClasses | None = None

    def __post_init__(self) -> None:
        self._hold(kinds=_pairs(self.kinds, "kinds"))
        if self.symptoms is not None:
            self._hold(symptoms=_pairs(self.symptoms, "symptoms"))
            if dict(self.symptoms).keys() != dict(self.kinds).keys():
                raise ArgumentError(
                    "kinds",
                    "`kinds` and `symptoms` of the same classes",
                    found=f"{sorted(dict(self.kinds))} and {sorted(dict(self.symptoms))}",
                )

    def levels(self, moments: ClassMoments) -> np.ndarray:
        """Return the level of each unit: 2 protected, 1 partly, 0 prunable.

        Args:
            moments: The moments of the units within the classes.
        """
        by_level = {_PROTECTED: moments.grouped(dict(self.kinds)), _PRUNABLE: moments}
        if self.symptoms is not None:
            by_level[_PARTLY] = moments.grouped(dict(self.symptoms))
        order = sorted(by_level, reverse=True)
        statistics = np.stack([by_level[level].f_statistic() for level in order])
        return np.where(statistics.max(axis=0) > 0, np.array(order)[statistics.argmax(axis=0)], _PRUNABLE)


def _pairs(groups: Any, argument: str) -> tuple[tuple[int, Hashable], ...]:
    """Return the group of each class as pairs, which can be hashed; they, too, are taken."""
    listed = list(groups.items()) if isinstance(groups, Mapping) else groups
    if not isinstance(listed, (list, tuple)) or not all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in listed
    ):
        raise ArgumentTypeError(argument, f"`{argument}` to be a dict from classes to groups", repr(groups))
    pairs = tuple((int(label), group) for label, group in listed)
    if len({group for _, group in pairs}) < 2:
        raise ArgumentError(argument, f"`{argument}` with at least two groups of classes", repr(dict(pairs)))
    return pairs


@dataclass(frozen=True)
class LevelOf(Criterion):
    """Scores an entry by the level of its channel."""

    taxonomy: ChannelTaxonomy = field(repr=False)
    needs: ClassVar[tuple[str, ...]] = ("output_moments",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        levels = self.taxonomy.levels(evidence.fact("output_moments"))
        return evidence.everywhere(evidence.over_outputs(levels.astype(np.float64)))


def _guarded(scores: Mapping[str, np.ndarray], levels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return scores of channels in which those that the taxonomy protects lie above all others.

    Args:
        scores: The scores of the channels of each group.
        levels: The levels of the same channels.
    """
    span = 1 + max(values.max() for values in scores.values()) - min(values.min() for values in scores.values())
    return {name: values + span * _is_protected(values, levels[name]) for name, values in scores.items()}


def _is_protected(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Mark the channels that are removed last: protected ones, and the better half of the partly protected ones."""
    mask = levels == _PROTECTED
    partly = np.flatnonzero(levels == _PARTLY)
    best = partly[np.argsort(-scores[partly], kind="stable")]
    mask[best[: -(-len(best) // 2)]] = True
    return mask


# Plan which channels a stage removes: scores from episodes, the taxonomy, and a budget or thresholds.

_StageBudget = Budget | LayerThreshold


@dataclass(frozen=True)
class _Planner:
    """Makes the plans of a run.

    Attributes:
        tasks: The episodes that scores and complexity are computed of.
        criterion: How important a channel is.
        taxonomy: Which channels go last; None ranks by scores alone.
        embedding: Returns the part of a model whose outputs are compared between classes.
    """

    tasks: Episodes
    criterion: Criterion
    taxonomy: ChannelTaxonomy | None
    embedding: Callable[[keras.Model], keras.Model]

    def complexity(self, model: keras.Model) -> float:
        """Return the complexity of the tasks, as a model sees them."""
        return task_complexity(self.embedding(model), self.tasks)

    def plan(
        self, model: keras.Model, budget: _StageBudget | None, complexity: float
    ) -> tuple[ShrinkPlan, dict[str, np.ndarray]]:
        """Return a plan, and the level of the channels of each group, where there is a taxonomy."""
        levels = self._levels(model)
        if budget is None:
            return _all_kept(model), levels
        budget = _with_complexity(budget, complexity)
        criterion, evidence = self._criterion_for(model)
        if not levels:
            return plan_shrink(model, budget, criterion=criterion, verbose=0, **evidence), {}
        scores = _guarded(_by_group(model, criterion, evidence), levels)
        return plan_shrink(model, budget, criterion=scores, verbose=0), levels

    def _levels(self, model: keras.Model) -> dict[str, np.ndarray]:
        if self.taxonomy is None:
            return {}
        by_group = _by_group(model, LevelOf(self.taxonomy), {"data": self.tasks})
        # Of tied channels, all get the higher level.
        return {name: np.ceil(values).astype(np.int64) for name, values in by_group.items()}

    def _criterion_for(self, model: keras.Model) -> tuple[Criterion, dict[str, Any]]:
        """Return the criterion of a model, without meta-gradients where none were recorded, and its evidence."""
        criterion = self.criterion
        if isinstance(criterion, DACIS) and not any(hasattr(each, META) for each in model.trainable_variables):
            criterion = replace(criterion, meta=0.0)
        facts = criterion.needed_facts()
        evidence: dict[str, Any] = {"data": self.tasks} if any(fact.needs_data for fact in facts) else {}
        if any(fact.needs_loss for fact in facts):
            evidence["loss"] = query_loss(self.tasks)
        return criterion, evidence


def _all_kept(model: keras.Model) -> ShrinkPlan:
    """Return a plan that removes nothing."""
    return plan_shrink(model, 0.0, verbose=0)


def _with_complexity(budget: _StageBudget, complexity: float) -> _StageBudget:
    """Return a budget whose thresholds depend on the complexity of the task."""
    if isinstance(budget, LayerThreshold):
        return replace(budget, complexity=complexity)
    if isinstance(budget.allocation, LayerThreshold):
        return replace(budget, allocation=replace(budget.allocation, complexity=complexity))
    return budget


def _by_group(model: keras.Model, criterion: Criterion, evidence: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the scores of the channels of each group that may lose some."""
    scores: dict[str, np.ndarray] = {}

    def listen(weights: Sequence[Weight], sparsity: float) -> list[float]:
        scores.update({weight.path: weight.scores() for weight in weights})
        return [sparsity] * len(weights)

    plan_shrink(model, 0.0, criterion=criterion, allocation=listen, verbose=0, **evidence)
    return scores


# The report of `prune_few_shot`: what each stage removed, cost and brought back, and the paper's metrics.


@dataclass(frozen=True)
class LevelRow(Report):
    """The channels of one level of the taxonomy.

    Attributes:
        level: "protected", "partly" or "prunable".
        channels: Their number before the stage.
        kept: How many remain.
    """

    level: str
    channels: int
    kept: int


@dataclass(frozen=True, eq=False)
class FewShotRow(Report):
    """One stage of `prune_few_shot`.

    Attributes:
        plan: What was removed.
        complexity: The complexity of the tasks before the removal, from 0 to 2: 1 minus the mean cosine of the class
            means.
        removed: The mean accuracy right after the removal.
        trained: The mean accuracy after meta-training.
        levels: The channels by their level in the taxonomy; empty without one.
    """

    plan: ShrinkPlan
    complexity: float
    removed: float
    trained: float
    levels: tuple[LevelRow, ...] = ()


@dataclass(frozen=True, eq=False)
class FewShotReport(Report):
    """Report of `prune_few_shot`: the parameters and the accuracy of each stage; prints as a table.

    Attributes:
        before: The mean accuracy of the model given.
        stages: One entry for each stage.
        accuracies: The accuracy of the model returned on each episode of the validation.
        later: Its mean accuracy on the later episodes; None without them.

    Example:
        >>> report = FewShotReport(0.9, (), accuracies=(0.8, 0.6), later=0.56)
        >>> round(report.accuracy, 3), round(report.stability, 3), round(report.stage_generalization, 3)
        (0.7, 0.857, 0.8)
    """

    JSON_NAMES = ("before", "stages", "accuracy", "stability", "stage_generalization")

    before: float
    stages: tuple[FewShotRow, ...]
    accuracies: tuple[float, ...]
    later: float | None = None

    @property
    def accuracy(self) -> float:
        """The mean accuracy of the model returned."""
        return float(np.mean(self.accuracies))

    @property
    def stability(self) -> float:
        """The few-shot stability index (FSI): 1 minus the standard deviation over episodes divided by their mean."""
        return float(1 - np.std(self.accuracies) / max(self.accuracy, np.finfo(float).tiny))

    @property
    def stage_generalization(self) -> float | None:
        """The cross-stage generalization (CSG): accuracy on the later episodes divided by that on the others."""
        return None if self.later is None else self.later / max(self.accuracy, np.finfo(float).tiny)

    def deployment_efficiency(self, *, fps: float, energy: float) -> float:
        """Return the deployment efficiency score (DES): accuracy * fps / (parameters * energy).

        Compare it only between models that were measured on one device: the paper does not give its units.

        Args:
            fps: Inferences per second, measured on the device, above 0.
            energy: Energy of an inference, in a unit of your choice, above 0.

        Raises:
            TypeError: If a number is not one.
            ValueError: If it is not above 0, or there was no stage.

        Returns:
            The score, with the parameters in millions.
        """
        if not self.stages:
            raise ValueError("Expected a report of at least one stage, which counts parameters. Received: none.")
        speed, cost = check_number(fps, "fps", above=0), check_number(energy, "energy", above=0)
        return self.accuracy * speed / (self.stages[-1].plan.parameters_kept / 1e6 * cost)

    def __str__(self) -> str:
        rows = [["before", "", "", "", "", f"{self.before:.1%}"]]
        for number, row in enumerate(self.stages, start=1):
            sizes = [f"{row.plan.parameters_kept:,}", f"{row.plan.flops_kept:,}"]
            rows.append([str(number), *sizes, f"{row.complexity:.3f}", f"{row.removed:.1%}", f"{row.trained:.1%}"])
        parts = [table(["stage", "parameters", "FLOPs", "complexity", "removed", "trained"], rows)]
        lines = [
            [number, *(f"{level.kept} of {level.channels}" for level in row.levels)]
            for number, row in enumerate(self.stages, start=1)
            if row.levels
        ]
        if lines:
            parts.append(table(["stage, channels kept", *_LEVELS[::-1]], lines))
        generalization = "" if self.later is None else f", cross-stage generalization {self.stage_generalization:.3f}"
        parts.append(f"stability over {len(self.accuracies)} episodes {self.stability:.3f}{generalization}")
        return "\n\n".join(parts)


# The stages of a run, each kept in a folder once it is done, so that a run that was killed goes on.

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Stages:
    """Carries stages out, or reads those that are done from a folder.

    Attributes:
        learner: How models learn from episodes.
        planner: Chooses the channels.
        tasks: The episodes to train on are drawn as these.
        validation_data: The episodes that accuracy is measured on.
        optimizer: The settings of the optimizer.
        callbacks: Further callbacks.
        folder: Where finished stages are kept.
        progress: A bar over the episodes.
    """

    learner: Learner
    planner: _Planner
    tasks: Episodes
    validation_data: Episodes
    optimizer: dict[str, Any]
    callbacks: Sequence[keras.callbacks.Callback]
    folder: RunFolder
    progress: Progress

    def go(self, model: keras.Model, stages: Sequence[FewShotStage]) -> tuple[keras.Model, list[FewShotRow]]:
        """Return the model after the last stage, and an entry for each stage."""
        rows, network = [], _all_kept(model).network
        # Fractions are of the first model.
        budgets = [
            stage.budget.in_rounds(1, network=network, model=model)[0]
            if isinstance(stage.budget, Budget)
            else stage.budget
            for stage in stages
        ]
        for number, (stage, budget) in enumerate(zip(stages, budgets, strict=True), start=1):
            model, row = self._carry_out(number, model, replace(stage, budget=budget))
            _log.info("stage %d: %s parameters, %.4f", number, row.plan.parameters_kept, row.trained)
            rows.append(row)
        return model, rows

    def _carry_out(self, number: int, current: keras.Model, stage: FewShotStage) -> tuple[keras.Model, FewShotRow]:
        """Return the model after the stage of this number, from 1, and what happened in it."""
        results: list[tuple[keras.Model, FewShotRow]] = []

        def carry_out() -> NamedArrays:
            results.append(self._stage(number, current, stage))
            smaller, row = results[0]
            numbers = np.array([row.complexity, row.removed, row.trained])
            levels = np.array([(level.channels, level.kept) for level in row.levels]).reshape(-1, 2)
            return {"keep": row.plan.keep, "numbers": numbers, "levels": levels, **_state(smaller)}

        def read(stored: NamedArrays) -> tuple[keras.Model, FewShotRow]:
            return results[0] if results else self._again(current, stage, stored)

        return self.folder.remember(f"stage_{number}", carry_out, read)

    def _stage(self, number: int, current: keras.Model, stage: FewShotStage) -> tuple[keras.Model, FewShotRow]:
        complexity = self.planner.complexity(current)
        plan, levels = self.planner.plan(current, stage.budget, complexity)
        smaller = shrink(current, plan)
        judge = Episodic(smaller, self.learner, self.validation_data)
        removed = trained = float(np.mean(judge.accuracies(self.validation_data)))
        if stage.episodes:
            Episodic(smaller, self.learner, self.tasks).train(
                Lessons(self.tasks, stage.episodes, number),
                optimizer_of(self.optimizer, stage.learning_rate),
                number=number,
                callbacks=self.callbacks,
                progress=self.progress,
            )
            trained = float(np.mean(judge.accuracies(self.validation_data)))
        plan = replace(plan, planned_copy=None)  # the report would keep the copy alive
        return smaller, FewShotRow(plan, complexity, removed, trained, _rows(_counts(plan, levels)))

    def _again(
        self, current: keras.Model, stage: FewShotStage, stored: NamedArrays
    ) -> tuple[keras.Model, FewShotRow]:
        """Return the model of a stage that was done before."""
        plan = replace(_all_kept(current), keep=stored["keep"])
        smaller = shrink(current, plan)
        _set_state(smaller, stored)
        self.progress.add(stage.episodes)
        complexity, removed, trained = map(float, stored["numbers"])
        plan = replace(plan, planned_copy=None)
        return smaller, FewShotRow(plan, complexity, removed, trained, _rows(stored["levels"]))


def _counts(plan: ShrinkPlan, levels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the channels of each level, the highest first, and how many of them stay, (levels, 2); or nothing."""
    groups = [group for group in plan.network.groups if group.name in levels]
    if not groups:
        return np.zeros((0, 2), dtype=int)
    all_levels = np.concatenate([levels[group.name] for group in groups])
    keep = np.concatenate([plan.keep[group.bundles] for group in groups])
    return np.array(
        [((all_levels == level).sum(), keep[all_levels == level].sum()) for level in range(len(_LEVELS))][::-1]
    )


def _rows(counts: np.ndarray) -> tuple[LevelRow, ...]:
    pairs = zip(_LEVELS[::-1], counts.tolist(), strict=False)
    return tuple(LevelRow(level, channels, kept) for level, (channels, kept) in pairs)


def _state(model: keras.Model) -> NamedArrays:
    """Return the weights of a model and the norms of its meta-gradients, by the names in a file."""
    norms = {index: getattr(each, META, None) for index, each in enumerate(model.trainable_variables)}
    recorded = {f"norms_{index}": each for index, each in norms.items() if each is not None}
    return {f"variable_{index}": as_numpy(each) for index, each in enumerate(model.variables)} | recorded


def _set_state(model: keras.Model, stored: NamedArrays) -> None:
    for index, variable in enumerate(model.variables):
        variable.assign(stored[f"variable_{index}"])
    norms = [stored[name] if (name := f"norms_{index}") in stored else None for index in range(len(model.variables))]
    if any(each is not None for each in norms):
        MetaGradients(model).take(norms)


_LEARNERS: dict[str, type[Learner]] = {"prototypes": Prototypes, "maml": MAML}


def prune_few_shot(
    model: keras.Model,
    tasks: Episodes,
    *,
    stages: Sequence[FewShotStage],
    criterion: str | Criterion = DACIS(meta=0.1),  # noqa: B008 (frozen)
    taxonomy: ChannelTaxonomy | None = None,
    validation_data: Episodes | None = None,
    later: Episodes | None = None,
    learner: str | Learner = "prototypes",
    optimizer: str | keras.optimizers.Optimizer = "adam",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    folder: str | os.PathLike[str] | None = None,
    verbose: int | str = "auto",
) -> tuple[keras.Model, FewShotReport]:
    """Prune a few-shot model in stages, and meta-train it after each removal.

    Use it to make a model small that learns new classes from a few samples. Each stage scores the channels on the
    episodes of `tasks`, removes as many as its budget demands, and trains on other episodes of the same classes.
    Training records the norms of the outer gradients for the scores of the next stage.

    A stage without a budget only trains: put one first if the model is not trained. With `folder`, a run that was
    stopped continues when you call it again with the same arguments; finished stages are read from the folder.

    Args:
        model: A Sequential or Functional model: an embedding for prototypes, with outputs of shape (samples,
            numbers); for MAML a classifier with as many logits as episodes have ways. It is not changed.
        tasks: Episodes of the classes to train on. Channels are scored on them; training draws other episodes of the
            same classes.
        stages: The stages in order, for example `[FewShotStage(tfprune.budget(parameters=0.6), 400),
            FewShotStage(tfprune.budget(parameters=0.22), 400)]`. The complexity of a `LayerThreshold` is measured in
            each stage.
        criterion: As in `plan_shrink`. The default is `DACIS(meta=0.1)`, as in the paper; the gradients of
            meta-training count from the second stage on.
        taxonomy: Channels to remove last, because they separate broad kinds of classes. None (the default) ranks by
            scores alone.
        validation_data: Episodes to measure accuracy on, preferably of other classes. None (the default) takes
            `tasks`.
        later: Episodes for the cross-stage generalization in the report, for example of the same classes at a later
            stage of a disease. None (the default) leaves it out.
        learner: `"prototypes"` (the default), `"maml"`, or an instance such as
            `tfprune.few_shot.MAML(learning_rate=0.1, steps=3)`.
        optimizer: A Keras optimizer or its name. Each stage starts with a fresh copy at the learning rate of the
            stage.
        callbacks: Keras callbacks. Each stage is one epoch, and each episode one batch.
        folder: The folder where finished stages are kept. None (the default) keeps none.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        The smaller model, not compiled, and a `FewShotReport`.

    Raises:
        TypeError: If `model` is not a Keras model, `tasks` are not episodes, or an argument has the wrong type.
        ValueError: If the model is not a graph of layers, its output does not fit the learner, or there is no stage.
        ValueError: If a budget cannot be met, or the taxonomy lacks a class of `tasks`.
        ValueError: If `folder` holds another run, is in use by one, or cannot be written.

    Example:
        >>> import numpy as np, tfprune
        >>> layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(8)]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> y = np.arange(60) % 6
        >>> x = np.eye(6, 4)[y] + np.random.default_rng(0).normal(0, 0.1, (60, 4))
        >>> tasks = tfprune.few_shot.Episodes(x.astype("float32"), y, ways=3, shots=2, queries=2, episodes=4)
        >>> stages = [tfprune.few_shot.FewShotStage(tfprune.budget(parameters=0.5), episodes=5)]
        >>> smaller, report = prune_few_shot(model, tasks, stages=stages, verbose=0)
        >>> smaller.count_params() <= model.count_params() / 2, len(report.stages)
        (True, 1)

    Reference:
        Uddin, Alam & Pasha, 2026, "PMP-DACIS", arXiv:2601.02353.
    """
    check_graph(model)
    check_verbose(verbose)
    learner = resolve(learner, _LEARNERS, Learner, "learner")
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    stages, callbacks = _checked(stages), check_callbacks(callbacks)
    for name, value in (("tasks", tasks), ("validation_data", validation_data), ("later", later)):
        _check_episodes(name, value)
    _check_taxonomy(taxonomy, tasks)
    judged_on = tasks if validation_data is None else validation_data
    headed = learner.headed(model, tasks)
    trained_by = settings_of(optimizer)
    settings = {
        "stages": described(stages),
        "choice": described({"learner": learner, "criterion": criterion, "taxonomy": taxonomy}),
        "optimizer": trained_by,
        "episodes": [_shape(each) for each in (tasks, judged_on)],
    }
    arrays = [*weight_values(model), *(next(iter(each)).x for each in (tasks, judged_on))]
    progress = Progress(sum(stage.episodes for stage in stages), verbose=verbose, unit="episode")
    with RunFolder(folder, settings=settings, arrays=arrays) as state, progress:
        before = float(np.mean(Episodic(headed, learner, judged_on).accuracies(judged_on)))
        run = _Stages(
            learner=learner,
            planner=_Planner(tasks, criterion, taxonomy, learner.embedding),
            tasks=tasks,
            validation_data=judged_on,
            optimizer=trained_by,
            callbacks=callbacks,
            folder=state,
            progress=progress,
        )
        smaller, rows = run.go(headed, stages)
    accuracies = tuple(Episodic(smaller, learner, judged_on).accuracies(judged_on).tolist())
    on_later = None if later is None else float(np.mean(Episodic(smaller, learner, later).accuracies(later)))
    return learner.bare(smaller), FewShotReport(before, tuple(rows), accuracies, on_later)


def _checked(stages: Any) -> list[FewShotStage]:
    is_listed = isinstance(stages, Sequence) and all(isinstance(stage, FewShotStage) for stage in stages)
    if not is_listed:
        raise ArgumentTypeError(
            "stages",
            "`stages` to be a list of tfprune.few_shot.FewShotStage",
            f"{stages!r:.200}",
            advice=(
                "Pass [tfprune.few_shot.FewShotStage(tfprune.budget(parameters=0.5), episodes=100)], for example."
            ),
        )
    if not stages:
        raise ArgumentError("stages", "at least one stage", "[]")
    return list(stages)


def _check_episodes(name: str, value: Any) -> None:
    is_optional = name != "tasks"
    if not (isinstance(value, Episodes) or (is_optional and value is None)):
        raise ArgumentTypeError(
            name,
            f"`{name}` to be tfprune.few_shot.Episodes{' or None' if is_optional else ''}",
            f"{value!r:.100}",
            advice="Pass tfprune.few_shot.Episodes(x, y, ways=5, shots=5).",
        )
    if value is not None and not value.queries:
        raise ArgumentError("queries", f"`{name}` with queries, whose loss or accuracy counts", "0")


def _check_taxonomy(taxonomy: Any, tasks: Episodes) -> None:
    if taxonomy is None:
        return
    if not isinstance(taxonomy, ChannelTaxonomy):
        raise ArgumentTypeError(
            "taxonomy", "`taxonomy` to be a tfprune.few_shot.ChannelTaxonomy or None", found=f"{taxonomy!r:.100}"
        )
    missing = [label for label in tasks.labels if label not in dict(taxonomy.kinds)]
    if missing:
        raise ArgumentError(
            "taxonomy",
            "`taxonomy` with all classes of `tasks`",
            found=f"none for {missing[:5]}",
            advice="Add them to `kinds`.",
        )


def _shape(tasks: Episodes) -> dict[str, int]:
    return {name: getattr(tasks, name) for name in ("ways", "shots", "queries", "episodes", "seed")}
