"""Half of the experts of a small trained mixture dropped: by REAP, by frequency, at random; or merged into others.

nice python bench/experts.py [STEPS] [SEED ...]   # a Mixtral of 2 blocks with 8 experts, trained on our pages

Each byte is a token. Losses are those of the next byte on held-out text, without training after the cut.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy

import keras
import keras_hub
import numpy as np

import tfprune
from tfprune.report import table

ROOT = Path(__file__).parents[1]
SEEDS, STEPS, WINDOW, BATCH, EXPERTS = (0, 1, 2), 600, 64, 16, 8


def windows() -> np.ndarray:
    """Return the bytes of the pages and of some code, in windows of one more than is read."""
    paths = [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tfprune").rglob("*.py"))]
    content = np.frombuffer(b"\n".join(path.read_bytes() for path in paths), np.uint8).astype("int32")
    rows = content[: len(content) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1)
    return rows[np.random.default_rng(0).permutation(len(rows))]


def inputs(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"token_ids": rows[:, :-1], "padding_mask": np.ones_like(rows[:, :-1])}


def loss(model: keras.Model, rows: np.ndarray) -> float:
    scores = model.predict(inputs(rows), batch_size=BATCH, verbose=0)
    each = keras.losses.sparse_categorical_crossentropy(rows[:, 1:], scores, from_logits=True)
    return float(np.asarray(each).mean())


def trained(seed: int, rows: np.ndarray, steps: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    sizes = {"num_layers": 2, "num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 64}
    backbone = keras_hub.models.MixtralBackbone(
        vocabulary_size=256, intermediate_dim=96, num_experts=EXPERTS, top_k=2, **sizes
    )
    model = keras_hub.models.MixtralCausalLM(backbone=backbone, preprocessor=None)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=crossentropy)
    few = rows[: steps * BATCH]
    model.fit(inputs(few), few[:, 1:], batch_size=BATCH, epochs=-(-steps * BATCH // len(few)), verbose=0)
    return model


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    seeds = tuple(map(int, sys.argv[2:])) or SEEDS
    rows = windows()
    held_out, calibration, training = rows[:200], rows[200:264], rows[264:]
    rows = []
    for seed in seeds:
        model, random = trained(seed, training, steps), np.random.default_rng(seed)
        reap = tfprune.experts.rank(model, inputs(calibration))
        half = EXPERTS // 2
        choices = {
            "REAP": reap.lowest(half),
            "frequency": tfprune.experts.rank(model, inputs(calibration), criterion="frequency").lowest(half),
            "random": {layer: random.permutation(EXPERTS)[:half].tolist() for layer in reap.lowest(half)},
            "the last ones everywhere": range(half, EXPERTS),
        }
        cut = {name: loss(tfprune.experts.drop(model, drop)[0], held_out) for name, drop in choices.items()}
        cut["merged by REAP"] = loss(tfprune.experts.merge(model, half, ranking=reap)[0], held_out)
        rows.append([seed, loss(model, held_out), *cut.values()])
        print(rows[-1], flush=True)
    print(table(["seed", "all experts", *cut], [[row[0], *(f"{value:.3f}" for value in row[1:])] for row in rows]))


if __name__ == "__main__":
    main()
