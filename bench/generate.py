"""Files of language models against Keras: tiny models of every class of KerasHub with a cache, dense and pruned.

python bench/generate.py [FAMILY ...]   # such as Gemma3 Llama; all without
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

import hub_writers
import numpy as np

import tfprune
from tfprune.export import to_generator
from tfprune.report import table

FAMILIES = (
    *("Bloom", "Falcon", "GPT2", "GPTNeoX", "Gemma", "Gemma2", "Gemma3", "Gemma3n", "Gemma4", "GptOss", "Llama"),
    *("Llama3", "TiedLlama3", "Mistral", "Mixtral", "OPT", "Phi3", "Qwen", "Qwen3", "Qwen3Moe", "QwenMoe", "SmolLM3"),
    *("PaliGemma", "Qwen3_5", "Qwen3_5Moe", "RWKV7"),  # refused, as GPTNeoX and Gemma3n are
)
PROMPTS = [[3, 5, 7, 9, 2], [40, 1, 33]]
LENGTH, COUNT = 16, 8


def measured(model, folder: Path) -> list:
    """Return equal and written tokens, and the file's bytes to those of the parameters; or why there is no file."""
    start = time.process_time()
    settings = {"length": LENGTH, "prefill": (4,), "check_on": PROMPTS, "max_tokens": COUNT, "verbose": 0}
    try:
        report = to_generator(model, folder / "writer.tflite", **settings)
    except ValueError as error:
        return [f"{error}"[:160], "", ""]
    seconds = time.process_time() - start
    return [f"{report.equal} of {report.written}", f"{report.difference:.1g}", f"{seconds:.1f}"]


def pruned(model):
    """Return a smaller model whose blocks keep different numbers of heads and units, and these numbers."""
    ids = np.random.default_rng(0).integers(1, 50, (8, 9))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    parts = {"units": 0.3, "heads": 0.3}
    masked, report = tfprune.prune_units(model, inputs, sparsity=parts, reconstruction=None, batch_size=4, verbose=0)
    plan = _unequal(report.plan)
    counts = {kind: [row.kept for row in plan.rows if row.kind == kind] for kind in ("heads", "channels")}
    return tfprune.shrink(masked, plan, into="class"), counts


def _unequal(plan):
    """Remove more units of the last block, so that blocks differ in units, too."""
    units = [group for group in plan.network.groups if group.kind == "channels"][-1]
    remaining = [bundle for bundle in units.bundles if plan.keep[bundle]]
    keep = plan.keep.copy()
    keep[remaining[: len(remaining) // 4]] = False
    return dataclasses.replace(plan, keep=keep, planned_copy=None)


def main() -> None:
    logging.disable(logging.WARNING)
    rows = []
    for family in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            model = hub_writers.writer(family)
            row = [family, "dense", *measured(model, Path(folder)), ""]
            rows.append(row)
            print(*row, flush=True)
            if " of " not in row[2][:9]:
                continue
            try:
                smaller, kept = pruned(model)
            except ValueError as error:
                row = [family, "pruned", str(error)[:160], "", "", ""]
            else:
                row = [family, "pruned", *measured(smaller, Path(folder)), str(kept)]
            rows.append(row)
            print(*row, flush=True)
    print(table(["class", "", "equal tokens", "difference", "processor s", "kept"], rows, left=2))


if __name__ == "__main__":
    main()
