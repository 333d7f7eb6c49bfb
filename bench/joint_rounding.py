"""Zeros and 4-bit integers chosen together, against one after the other, in a small language model of Gemma's class.

python bench/joint_rounding.py build/joint_rounding --seeds 3   # reads trained models from the folder if there

The model predicts bytes of the World English Bible; the perplexity is that of a byte of Luke, on which it was not
trained. All kernels of its blocks get the same zeros by SparseGPT on 128 windows. They are rounded to the nearest
value afterwards, or both is done together: scales, bits and zeros are as many, so files have the same bytes. The rows
of Gemma 3 270M are those of one_shot_language.py that end in int4.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import keras_hub
import numpy as np
from common import Row, at_most
from one_shot_language import round_kernels

import tfprune
from sample_apps.language_model import texts

WINDOW, BATCH, STEPS = 128, 32, 400
CALIBRATED, MEASURED = 128, 256  # windows
SPARSITY = 0.5
ROUNDINGS = {
    "int4, a scale for 32 weights": tfprune.Rounding(4, block=32),
    "int4, a scale for an output": tfprune.Rounding(4),
    "int8": tfprune.Rounding(8),
}


def windows(sections: list[texts.Section], count: int, seed: int) -> np.ndarray:
    """Return windows of bytes, one longer than the model reads."""
    data = np.frombuffer("\n".join(section.text for section in sections).encode(), np.uint8)
    starts = np.random.default_rng(seed).integers(len(data) - WINDOW - 1, size=count)
    return np.stack([data[start : start + WINDOW + 1] for start in starts]).astype("int32")


def inputs(tokens: np.ndarray) -> dict[str, np.ndarray]:
    return {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}


def trained(seed: int, path: Path, sections: list[texts.Section]) -> keras.Model:
    """Return the backbone, whose token embedding also makes the scores."""
    keras.utils.set_random_seed(seed)
    sizes = {"num_layers": 3, "hidden_dim": 96, "intermediate_dim": 384, "head_dim": 32}
    heads = {"num_query_heads": 3, "num_key_value_heads": 1, "use_query_key_norm": True, "sliding_window_size": 512}
    backbone = keras_hub.models.Gemma3Backbone(
        256, 256, vision_encoder=None, use_sliding_window_attention=True, **sizes, **heads
    )
    if path.exists():
        backbone.load_weights(path)
        return backbone
    scores = backbone.token_embedding(backbone.output, reverse=True)
    model = keras.Model(backbone.input, scores)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, STEPS, warmup_target=3e-3, warmup_steps=50)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss)
    tokens = windows(sections, STEPS * BATCH, seed)
    model.fit(inputs(tokens[:, :-1]), tokens[:, 1:], batch_size=BATCH, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    backbone.save_weights(path)
    return backbone


def perplexity(backbone: keras.Model, tokens: np.ndarray) -> float:
    losses = []
    for batch in tokens.reshape(-1, BATCH, WINDOW + 1):
        hidden = backbone(inputs(batch[:, :-1]), training=False)
        scores = backbone.get_layer("token_embedding")(hidden, reverse=True)
        losses.append(keras.ops.sparse_categorical_crossentropy(batch[:, 1:], scores, from_logits=True))
    return float(np.exp(np.mean([keras.ops.convert_to_numpy(loss) for loss in losses])))


def pruned(
    backbone: keras.Model, samples: np.ndarray, sparsity: float, rounding: tfprune.Rounding | None
) -> tuple[keras.Model, list[str]]:
    way = {"criterion": "sparsegpt", "allocation": "uniform", "targets": "own", "rounding": rounding}
    settings = {"filters": "decoder_block", "batch_size": 32, "verbose": 0}
    model, report = tfprune.prune_weights(backbone, inputs(samples), sparsity, **way, **settings)
    return model, [f"{row.layer}/{row.weight}" for row in report.rows]


def measure(folder: Path, seeds: int) -> list[Row]:
    text = texts.load("bible")
    test = windows(text.evaluation, MEASURED, 0)
    by_kind: dict[tuple[str, str], list[float]] = {}

    def note(name: str, way: str, model: keras.Model) -> None:
        by_kind.setdefault((name, way), []).append(perplexity(model, test))
        sys.stdout.write(f"{name}, {way}: {by_kind[name, way][-1]:.3f}\n")
        sys.stdout.flush()

    for seed in range(seeds):
        backbone = trained(seed, folder / f"{seed}.weights.h5", text.calibration)
        samples = windows(text.calibration, CALIBRATED, 1000 + seed)[:, :-1]
        note("float32", "dense", backbone)
        sparse, paths = pruned(backbone, samples, SPARSITY, None)
        note("float32", "zeros alone", sparse)
        values = sparse.get_weights()
        for name, rounding in ROUNDINGS.items():
            sparse.set_weights(values)
            round_kernels(sparse, paths, rounding)
            note(name, "one after the other", sparse)
            note(name, "together", pruned(backbone, samples, SPARSITY, rounding)[0])
    rows = []
    for name in ROUNDINGS:
        together, after = (by_kind[name, way] for way in ("together", "one after the other"))
        each = ", ".join(f"{alone:.3f} -> {joint:.3f}" for alone, joint in zip(after, together, strict=True))
        what = f"{SPARSITY:.0%} zeros, {name}: perplexity together, of one after the other (each seed: {each})"
        rows.append(at_most(what, np.mean(together) / np.mean(after), 1, digits=4))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where trained models are kept")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for row in measure(options.folder, options.seeds):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
