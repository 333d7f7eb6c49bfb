"""Meta-training: ProtoNet, and MAML of the second order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

import tfprune
from sample_apps.few_shot.networks import SHOTS, WAYS, query_loss

QUERIES = 10  # of each class, in training
INNER_RATE, INNER_STEPS = 0.1, 3
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def episodes(glyphs: Any, *, count: int, seed: int) -> tfprune.Episodes:
    """Return the episodes that all models of a seed are trained on."""
    settings = {"ways": WAYS, "shots": SHOTS, "queries": QUERIES}
    return tfprune.Episodes(glyphs.x, glyphs.y, **settings, count=count, seed=seed)


def train_prototypes(
    model: keras.Model, tasks: Iterable, *, rate: float, meta: tfprune.MetaGradients | None = None
) -> keras.Model:
    """Train a network that ends in `Distances`; each episode is one step."""

    def gradients_of(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(query_loss(y, model(x, training=True)))
        return tape.gradient(loss, model.trainable_variables)

    return train(model, gradients_of, tasks, rate=rate, meta=meta)


def train_maml(
    model: keras.Model, tasks: Iterable, *, rate: float, meta: tfprune.MetaGradients | None = None
) -> keras.Model:
    """Train a network that ends in a classifier, so that a few steps on a support set adapt it to a task."""

    def gradients_of(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = adapted(model, x[: WAYS * SHOTS], y[: WAYS * SHOTS], x[WAYS * SHOTS :], steps=INNER_STEPS)
            loss = CROSS_ENTROPY(y[WAYS * SHOTS :], logits)
        return tape.gradient(loss, model.trainable_variables)

    return train(model, gradients_of, tasks, rate=rate, meta=meta)


def adapted(model: keras.Model, x: Any, y: Any, queries: Any, *, steps: int) -> Any:
    """Return logits of queries after some steps on a support set; the model itself does not change.

    The steps move copies of the weights, through which the outer gradient flows: this is what makes it MAML, and what
    the public code of PMP-DACIS leaves out. Normalization takes the statistics of the batch, as in MAML.
    """
    fast = [tf.convert_to_tensor(variable) for variable in model.trainable_variables]
    others = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(fast)
            loss = CROSS_ENTROPY(y, model.stateless_call(fast, others, x, training=True)[0])
        fast = [w - INNER_RATE * g for w, g in zip(fast, tape.gradient(loss, fast), strict=True)]
    return model.stateless_call(fast, others, queries, training=True)[0]


def train(
    model: keras.Model, gradients_of: Any, tasks: Iterable, *, rate: float, meta: tfprune.MetaGradients | None
) -> keras.Model:
    """Take one step on each episode; hand the gradients to a recorder, if there is one."""
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x: Any, y: Any) -> Any:
        gradients = gradients_of(x, y)
        optimizer.apply(gradients, model.trainable_variables)
        return gradients

    for number, task in enumerate(tasks):
        gradients = step(tf.constant(task.x), tf.constant(task.y))
        if meta is not None and number % 10 == 0:
            meta.add(gradients)
    return model
