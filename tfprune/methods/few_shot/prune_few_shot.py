"""prune_few_shot: prune, meta-train and prune a few-shot model again, as PMP-DACIS does, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.run_folder import RunFolder
from tfprune.base.spec import resolve
from tfprune.compact.fine_tuning.fine_tuning import check_callbacks
from tfprune.compact.fine_tuning.rounds import described
from tfprune.criteria import CRITERIA, DACIS, Criterion
from tfprune.keras_models.evidence.episodes import Episodes
from tfprune.keras_models.models.graph import check_graph
from tfprune.keras_models.models.layers import weight_values
from tfprune.methods.few_shot.channel_taxonomy import ChannelTaxonomy
from tfprune.methods.few_shot.few_shot_report import FewShotReport
from tfprune.methods.few_shot.few_shot_stage import FewShotStage
from tfprune.methods.few_shot.learner import Learner
from tfprune.methods.few_shot.maml import MAML
from tfprune.methods.few_shot.meta_training import Episodic, settings_of
from tfprune.methods.few_shot.plan_stage import Planner
from tfprune.methods.few_shot.prototypes import Prototypes
from tfprune.methods.few_shot.stages import Stages

LEARNERS: dict[str, type[Learner]] = {"prototypes": Prototypes, "maml": MAML}


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
    learner = resolve(learner, LEARNERS, Learner, "learner")
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
        run = Stages(
            learner=learner,
            planner=Planner(tasks, criterion, taxonomy, learner.embedding),
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
        raise TypeError(
            f"Expected `stages` to be a list of tfprune.few_shot.FewShotStage. Received: stages={stages!r:.200}. "
            f"Pass [tfprune.few_shot.FewShotStage(tfprune.budget(parameters=0.5), episodes=100)], for example."
        )
    if not stages:
        raise ValueError("Expected at least one stage. Received: stages=[].")
    return list(stages)


def _check_episodes(name: str, value: Any) -> None:
    is_optional = name != "tasks"
    if not (isinstance(value, Episodes) or (is_optional and value is None)):
        raise TypeError(
            f"Expected `{name}` to be tfprune.few_shot.Episodes{' or None' if is_optional else ''}. Received: {name}="
            f"{value!r:.100}. Pass tfprune.few_shot.Episodes(x, y, ways=5, shots=5)."
        )
    if value is not None and not value.queries:
        raise ValueError(f"Expected `{name}` with queries, whose loss or accuracy counts. Received: queries=0.")


def _check_taxonomy(taxonomy: Any, tasks: Episodes) -> None:
    if taxonomy is None:
        return
    if not isinstance(taxonomy, ChannelTaxonomy):
        raise TypeError(
            f"Expected `taxonomy` to be a tfprune.few_shot.ChannelTaxonomy or None. Received: {taxonomy!r:.100}."
        )
    missing = [label for label in tasks.labels if label not in dict(taxonomy.kinds)]
    if missing:
        raise ValueError(
            f"Expected `taxonomy` with all classes of `tasks`. Received: none for {missing[:5]}. Add them to `kinds`."
        )


def _shape(tasks: Episodes) -> dict[str, int]:
    return {name: getattr(tasks, name) for name in ("ways", "shots", "queries", "episodes", "seed")}
