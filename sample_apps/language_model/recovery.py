"""Train a smaller sentence encoder to return the vectors of the dense model, and keep its best state.

The learning rate is searched for. Each state is judged on held-out sentences, the first one too, so that training
cannot make the model worse there.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from sample_apps.language_model import measures

RATES = (1e-4, 3e-4, 1e-3)
TRIAL, STEPS = 40, 200  # steps with each learning rate, and then with the best one
BATCH, EVERY = 16, 20  # sentences in a step, and steps from one look at the held-out sentences to the next


class Lesson(NamedTuple):
    """Sentences to train on, and others to choose by, each with the vectors of the dense model."""

    texts: dict[str, np.ndarray]
    vectors: np.ndarray
    held_out: dict[str, np.ndarray]
    held_out_vectors: np.ndarray


class State(NamedTuple):
    """Weights after some steps of training, and the mean cosine to the dense vectors of held-out sentences."""

    cosine: float
    rate: float
    steps: int
    weights: list[np.ndarray]


def lesson(dense: keras.Model, texts: dict[str, np.ndarray], *, held_out: dict[str, np.ndarray]) -> Lesson:
    """Return a lesson with the vectors of the dense model."""
    teacher = measures.embedder(dense)
    return Lesson(texts, teacher.predict(texts, verbose=0), held_out, teacher.predict(held_out, verbose=0))


def recover(model: keras.Model, lesson: Lesson) -> list[State]:
    """Train the blocks of a BERT in place, and give it the best weights.

    Returns:
        The state before the training, and the best one of each run: all rates, and then the best rate for longer.
    """
    student = measures.embedder(model)
    for layer in model.layers:
        layer.trainable = layer.name.startswith("transformer_layer")
    before = State(_cosine(student, lesson), 0.0, 0, student.get_weights())
    states = [before, *(_trained(student, before, lesson, rate=rate, steps=TRIAL) for rate in RATES)]
    best = max(states[1:], key=lambda state: state.cosine)
    states.append(_trained(student, before, lesson, rate=best.rate, steps=STEPS))
    student.set_weights(max(states, key=lambda state: state.cosine).weights)
    for layer in model.layers:
        layer.trainable = True
    return states


def _trained(student: keras.Model, before: State, lesson: Lesson, *, rate: float, steps: int) -> State:
    """Train for some steps, and return the best state on the way."""
    student.set_weights(before.weights)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=rate, warmup_steps=steps // 10)
    student.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss="cosine_similarity")
    student.optimizer.build(student.trainable_variables)  # else TensorFlow traces the first step twice
    states = []
    for start in range(0, steps, EVERY):
        sentences = slice(start * BATCH, (start + EVERY) * BATCH)
        texts = {name: rows[sentences] for name, rows in lesson.texts.items()}
        student.fit(texts, lesson.vectors[sentences], batch_size=BATCH, verbose=0)
        states.append(State(_cosine(student, lesson), rate, start + EVERY, student.get_weights()))
    return max(states, key=lambda state: state.cosine)


def _cosine(student: keras.Model, lesson: Lesson) -> float:
    return measures.cosine(student.predict(lesson.held_out, verbose=0), lesson.held_out_vectors)
