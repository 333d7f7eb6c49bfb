"""A language model's file on the device: the cache in place against the signature runner, in turns, and the memory.

python bench/generator.py [FILE]   # one of to_generator; without, a random model of 65 million parameters

Times are processor time of one thread. Each turn is a process of its own, and the two ways take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TURNS, TOKENS, PROMPT = 3, 32, 128
WAYS = ("runner", "in place")


def made(folder: Path) -> Path:
    """Export a random Gemma 3 with 8-bit weights."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras_hub

    from tfprune.export import to_generator

    sizes = {"num_layers": 8, "num_query_heads": 4, "num_key_value_heads": 1, "head_dim": 256}
    widths = {"hidden_dim": 640, "intermediate_dim": 2048}
    backbone = keras_hub.models.Gemma3Backbone(32_000, None, **sizes, **widths)
    model = keras_hub.models.Gemma3CausalLM(backbone=backbone, preprocessor=None)
    to_generator(model, folder / "writer.tflite", length=1024, quantize="int8", max_tokens=2, verbose=0)
    return folder / "writer.tflite"


def measured(path: str, way: str) -> dict[str, float]:
    """Return seconds of a token of prompt and of text, seconds to load, and bytes of anonymous memory."""
    from tfprune.export.device.writer_file import InterpretedFile, PreparedFile, Signatures

    start = time.process_time()
    file = InterpretedFile(path, threads=1) if way == "runner" else PreparedFile(path, threads=1).loaded
    assert way == "runner" or file.runtime.endswith("in place"), file.runtime
    text = Signatures(file).begin()
    loaded = time.process_time()
    prompt = np.random.default_rng(0).integers(1, file.vocabulary, PROMPT).tolist()
    text.prefill(prompt)  # the first call may still arrange something
    text.decode(1)
    text.tokens.clear()
    begin = time.process_time()
    text.prefill(prompt)
    between = time.process_time()
    for _ in range(TOKENS):
        text.decode(1)
    end = time.process_time()
    return {
        "prefill": (between - begin) / PROMPT,
        "decode": (end - between) / TOKENS,
        "load": loaded - start,
        "anonymous": 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]),
    }


def main() -> None:
    from tfprune.report import table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else made(Path(folder))
        run(path, WAYS[1])  # the first start prepares the file
        runs: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(TURNS):
            for way in WAYS:
                runs[way].append(run(path, way))
        size = path.stat().st_size
    rows = []
    for way in WAYS:
        middle = {key: float(np.median([turn[key] for turn in runs[way]])) for key in runs[way][0]}
        speeds = [f"{1 / middle['prefill']:,.0f}", f"{1 / middle['decode']:,.1f}"]
        rows.append([way, *speeds, f"{middle['load']:.2f}", f"{middle['anonymous'] / size:.2f}"])
    titles = ["way", "prefill, tokens/s", "decode, tokens/s", "load, s", "anonymous memory / file"]
    print(table(titles, rows, left=1))
    ratios = {
        part: np.array([turn[part] for turn in runs[WAYS[0]]]) / [turn[part] for turn in runs[WAYS[1]]]
        for part in ("prefill", "decode")
    }
    for part, each in ratios.items():
        print(f"{part} in place: {np.median(each):.2f}x as fast as the runner, {each.min():.2f} to {each.max():.2f}")


def run(path: Path, way: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(path), way]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measured(*sys.argv[2:])))
    else:
        main()
