"""Peak memory of an export of a language model, of its float32 weights: this process and those that it starts.

python bench/generate_memory.py [MILLIONS OF PARAMETERS, or a preset's folder of Gemma 3] [int8]
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub

from tfprune.export import to_generator

EVERY = 0.05  # seconds


def family() -> dict[int, int]:
    """Return the memory of this process and of those that descend from it, in bytes."""
    parents = {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
    members = {os.getpid()}
    for _ in range(5):
        members |= {child for child, parent in parents.items() if parent in members}
    sizes = {}
    for member in members:
        try:
            pages = (Path("/proc") / str(member) / "statm").read_text().split()
        except OSError:
            continue
        sizes[member] = (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")  # without shared pages
    return sizes


class Peak(threading.Thread):
    """The largest sum of `family`, and the largest of this process and of the others."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.sum = self.own = self.others = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(EVERY):
            sizes = family()
            own, total = sizes.get(os.getpid(), 0), sum(sizes.values())
            self.sum, self.own, self.others = max(self.sum, total), max(self.own, own), max(self.others, total - own)


def language_model(millions: float) -> keras.Model:
    keras.utils.set_random_seed(0)
    width = int((millions * 1e6 / (8 * 12 + 32)) ** 0.5) // 64 * 64  # a vocabulary of 32 times the width
    sizes = {"num_query_heads": 8, "num_key_value_heads": 8, "intermediate_dim": 8 * width // 3}
    backbone = keras_hub.models.LlamaBackbone(
        32 * width, num_layers=8, hidden_dim=width, tie_word_embeddings=True, **sizes
    )
    return keras_hub.models.LlamaCausalLM(backbone=backbone, preprocessor=None)


def of_preset(folder: str) -> keras.Model:
    backbone = keras_hub.models.Gemma3Backbone.from_preset(folder, dtype="float32")
    return keras_hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=None)


def seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def measured(model: keras.Model, quantize: str | None) -> tuple[Peak, float]:
    start, peak = seconds(), Peak()
    peak.start()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "writer.tflite"
        to_generator(model, path, length=64, prefill=(16,), quantize=quantize, max_tokens=4, verbose=0)
    peak.ended.set()
    peak.join()
    return peak, seconds() - start


def main() -> None:
    logging.disable(logging.WARNING)
    subject = sys.argv[1] if len(sys.argv) > 1 else "50"
    quantize = sys.argv[2] if len(sys.argv) > 2 else None
    small, _ = measured(language_model(1), quantize)
    model = of_preset(subject) if Path(subject).is_dir() else language_model(float(subject))
    size, before = 4 * model.count_params(), sum(family().values())
    peak, spent = measured(model, quantize)
    for name in ("sum", "own", "others"):
        most, least = getattr(peak, name), getattr(small, name)
        print(f"{name}: {most / 1e6:,.0f} MB, {(most - least) / size:.1f} x the weights above a tiny model's")
    print(f"before the export {before / 1e6:,.0f} MB, weights {size / 1e6:,.0f} MB, {quantize or 'float32'}")
    print(f"{spent:.0f} processor seconds of this process, and of its children that have ended")


if __name__ == "__main__":
    main()
