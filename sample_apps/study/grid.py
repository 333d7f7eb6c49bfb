"""From a configuration to the list of trainings: plain dicts, which are hashed, stored and compared as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomllib

CONFIGS = Path(__file__).with_name("configs")
STUDIES = tuple(sorted(path.stem for path in CONFIGS.glob("*.toml")))
Settings = dict[str, Any]


def read_config(study: str) -> dict[str, Any]:
    return tomllib.loads((CONFIGS / f"{study}.toml").read_text(encoding="utf-8"))


def expand(study: str, config: dict[str, Any], *, seeds: int, smoke: bool) -> list[Settings]:
    """List every training of a study, seed by seed, so that an interrupted study is complete for the first seeds.

    With `smoke` the first training of some series is left, on made-up data and with settings of the section `smoke`.
    """
    short = config["smoke"] if smoke else {}
    settings = []
    for run in config["runs"]:
        if smoke and run["series"] not in short["series"]:
            continue
        sizes, sparsities = _list(run["size"]), _list(run.get("sparsity", 0.0))
        pairs = [(size, sparsity) for size in sizes for sparsity in sparsities]
        for size, sparsity in pairs[:1] if smoke else pairs:
            pruning = {**config["pruning"], **run.get("pruning", {}), **short.get("pruning", {})}
            settings.append(
                {
                    "study": study,
                    "series": run["series"],
                    "size": size,
                    "sparsity": sparsity,
                    "model": {**config["sizes"][size], **short.get("sizes", {}).get(size, {})},
                    "training": {**config["training"], **run.get("training", {}), **short.get("training", {})},
                    "pruning": pruning if sparsity else None,
                    "smoke": smoke,
                }
            )
    return [{**setting, "seed": seed} for seed in range(seeds) for setting in settings]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
