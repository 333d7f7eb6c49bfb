"""Tiny language models of KerasHub with random weights, as large as they must be to write more than one token."""

from __future__ import annotations

import keras
import numpy as np
from hub_models import BACKBONES, TASKS
from keras_hub import models


def writer_task(name: str = "GPT2CausalLM", *, seed: int = 0) -> keras.Model:
    """Return a task with its tokenizer."""
    keras.utils.set_random_seed(seed)
    return _spread(TASKS[name](), seed)


def writer(family: str, *, seed: int = 0) -> keras.Model:
    """Return a task without a preprocessor."""
    keras.utils.set_random_seed(seed)
    task = getattr(models, f"{family}CausalLM")(backbone=BACKBONES[f"{family}Backbone"](), preprocessor=None)
    return _spread(task, seed)


def _spread(task: keras.Model, seed: int) -> keras.Model:
    """Add noise to all weights, those of norms and biases included: scores then differ from token to token."""
    random = np.random.default_rng(seed)
    for weight in task.trainable_variables:
        weight.assign(weight + 0.3 * random.normal(size=weight.shape))
    return task
