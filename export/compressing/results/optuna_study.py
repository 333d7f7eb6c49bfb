"""A search as a study of Optuna, whose dashboard draws it."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tfprune.export.compressing.trials.recipe import LEAST_FLOPS, PATTERNS
from tfprune.export.compressing.trials.trial import FORMATS

if TYPE_CHECKING:
    from tfprune.export.compressing.results.compress_report import CompressReport
    from tfprune.export.compressing.trials.trial import MeasuredFile

NAMES = {"bytes": "bytes", "latency_ms": "milliseconds", "cycles": "cycles"}


def optuna_study(report: CompressReport, storage: str | None) -> Any:
    """Return a study with a trial for each file of a search.

    Args:
        report: The search.
        storage: The URL of a database; None keeps the study in memory.

    Raises:
        ValueError: If Optuna is not installed, or the storage has a study of this name.
    """
    if find_spec("optuna") is None:
        raise ValueError("Expected Optuna. Received: none. Run pip install 'tfprune[search]'.")
    import optuna

    name, by = f"compress {report.folder}", report.cost if report.optimize == "latency" else "bytes"
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=["minimize", "minimize"])
    except optuna.exceptions.DuplicatedStudyError as error:
        raise ValueError(
            f"Expected a storage without a study named {name!r}. Received: one that has it. Delete that study with "
            f"optuna.delete_study, or pass another storage."
        ) from error
    with warnings.catch_warnings():  # Optuna may change how objectives get their names
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([NAMES[by], f"drop of {report.metric}"])
    distributions = optuna.distributions
    space = {
        "multiply-adds": distributions.FloatDistribution(LEAST_FLOPS, 1.0),
        "zeros": distributions.FloatDistribution(0.0, 1.0),
        "pattern": distributions.CategoricalDistribution(tuple(PATTERNS)),
        "quantization-aware": distributions.CategoricalDistribution((False, True)),
        "number format": distributions.CategoricalDistribution(FORMATS),
    }
    for file in report.tried:
        size = getattr(file, by)
        if size is not None:
            study.add_trial(
                optuna.create_trial(
                    params=_parameters(file),
                    distributions=space,
                    values=[float(size), float(file.drop)],
                    user_attrs={"file": file.file, "steps": file.recipe.steps_of_chain if file.recipe else 0},
                )
            )
    return study


def _parameters(file: MeasuredFile) -> dict[str, Any]:
    recipe = file.recipe
    return {
        "multiply-adds": 1.0 if recipe is None else max(LEAST_FLOPS, recipe.remaining[0]),
        "zeros": 0.0 if recipe is None else recipe.sparsity,
        "pattern": "unstructured" if recipe is None else recipe.pattern,
        "quantization-aware": recipe is not None and recipe.quantize_aware,
        "number format": file.quantize or "float32",
    }
