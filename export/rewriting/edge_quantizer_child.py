"""Quantize a float file with LiteRT Quantizer: a program for an environment that has it, without tfprune."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

_PACKAGES = ("litert_quantizer", "ai_edge_quantizer")  # its name, and the one that it had up to version 0.10
JOB, FLOAT, QUANTIZED = "job", "float.tflite", "quantized.tflite"
FIXED = "fixed.tflite"  # the float file with the batch of the samples, if it is needed
RANGES = "ranges.json"  # of the activations, by the names of the tensors
_REASON = "reason.txt"
_OWN_STATISTICS = ("GPTQ", "OSCAR")  # algorithms that collect more than ranges


def _quantize_folder(folder: Path) -> None:
    """Quantize the file in a folder by the recipe of the job there, and write the new file beside it."""
    quantizer = _module("quantizer").Quantizer(str(folder / FLOAT))
    job = json.loads((folder / f"{JOB}.json").read_text(encoding="utf-8"))
    settings = job["settings"]
    recipe = settings["recipe"]
    if isinstance(recipe, str):
        recipe = _named(recipe, folder)
    quantizer.load_quantization_recipe(recipe)
    ranges = None
    if quantizer.need_calibration:
        samples = _samples(folder, job["arrays"], count=settings["samples"])
        if not samples:
            _refuse(folder, "Expected `calibration` with this recipe, which looks at samples. Received: None.")
        ranges = _known(folder) or _calibrated(quantizer, {settings["signature"]: samples}, folder)
    if settings.get("stops"):
        (folder / RANGES).write_text(json.dumps({name: _ends(each) for name, each in (ranges or {}).items()}))
        return
    content = quantizer.quantize(ranges).quantized_model
    (folder / QUANTIZED).write_bytes(content)


def _module(name: str) -> Any:
    """Import a module of the package."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package):
            return importlib.import_module(f"{package}.{name}")
    raise ModuleNotFoundError(f"No module named {' or '.join(map(repr, _PACKAGES))}")


def _calibrated(quantizer: Any, samples: dict[str, list[dict[str, np.ndarray]]], folder: Path) -> Any:
    """Return the ranges of activations: their extremes, as the package's moving averages clip many values.

    An algorithm that collects more than ranges gets what the package collects, and so do all rules beside it.
    """
    threads = os.cpu_count() or 1
    recipe = quantizer.get_quantization_recipe()
    if any(rule["algorithm_key"] in _OWN_STATISTICS for rule in recipe):
        return quantizer.calibrate(samples, num_threads=threads)
    calibrator, recipe_manager = map(_module, ("calibrator", "recipe_manager"))
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    source = next(folder / name for name in (FIXED, FLOAT) if (folder / name).exists())
    calibration = calibrator.Calibrator(str(source), num_threads=threads, qsv_update_func=_extremes)
    calibration.calibrate(samples, manager)
    return calibration.get_model_qsvs()


def _ends(values: dict[str, Any]) -> list[float]:
    return [float(np.min(values["min"])), float(np.max(values["max"]))]


def _known(folder: Path) -> Any:
    """Return the ranges that an earlier run has found, with what was changed since; None without one."""
    if not (folder / RANGES).exists():
        return None
    ranges = json.loads((folder / RANGES).read_text(encoding="utf-8"))
    return {
        name: {"min": np.float32(low).reshape(1, 1), "max": np.float32(high).reshape(1, 1)}
        for name, (low, high) in ranges.items()
    }


def _extremes(before: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    if not before:
        return sample
    return {"min": np.minimum(before["min"], sample["min"]), "max": np.maximum(before["max"], sample["max"])}


def _named(name: str, folder: Path) -> Any:
    """Return a recipe of the package: a function of its module, or a file beside it."""
    recipes: Any = _module("recipe")
    files = {path.stem.removesuffix("_recipe"): path for path in Path(recipes.__file__).parent.glob("recipes/*.json")}
    if name in files:
        return json.loads(files[name].read_text(encoding="utf-8"))
    makers = {key: value for key, value in vars(recipes).items() if callable(value) and not key.startswith("_")}
    makers = {key: value for key, value in makers.items() if getattr(value, "__module__", "") == recipes.__name__}
    if name not in makers:
        offered = ", ".join(repr(each) for each in sorted({*files, *makers}))
        _refuse(folder, f"Expected a recipe of the package by name: {offered}. Received: recipe={name!r}.")
    return makers[name]()


def _samples(folder: Path, names: list[str], *, count: int) -> list[dict[str, np.ndarray]]:
    with np.load(folder / f"{JOB}.npz", allow_pickle=False) as stored:
        arrays = {name: stored[f"array_{index}"] for index, name in enumerate(names)}
    return [
        {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{row}/")}
        for row in range(count)
    ]


def _refuse(folder: Path, reason: str) -> NoReturn:
    (folder / _REASON).write_text(reason, encoding="utf-8")
    sys.exit(1)


def _end_with_parent(folder: Path) -> None:
    while os.read(0, 1):  # until stdin closes, which tells that the parent is gone
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, args=(Path(sys.argv[1]),), daemon=True).start()
    _quantize_folder(Path(sys.argv[1]))
