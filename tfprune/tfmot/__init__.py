"""The pruning names of tensorflow-model-optimization (tfmot), for Keras 3: change one import and go on.

    from tfprune import tfmot
    model = tfmot.sparsity.keras.prune_low_magnitude(model)

`tfmot.sparsity.keras` is this module itself, under tfmot's path. `prune` wraps, strips and loads; `wrapper` is a
`Pruned` layer that carries its own schedule (`schedules`), `policy` says which layers of a model are taken, and
`callback` updates the masks. Nothing is done here that the other rooms do not do: arguments are turned into theirs.
Start at `prune.prune_low_magnitude`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfprune.models.kernels import PrunableLayer as PrunableLayer
    from tfprune.tfmot import sparsity as sparsity
    from tfprune.tfmot.callback import UpdatePruningStep as UpdatePruningStep
    from tfprune.tfmot.policy import PruneForLatencyOnXNNPack as PruneForLatencyOnXNNPack
    from tfprune.tfmot.policy import PruningPolicy as PruningPolicy
    from tfprune.tfmot.prune import prune_low_magnitude as prune_low_magnitude
    from tfprune.tfmot.prune import prune_scope as prune_scope
    from tfprune.tfmot.prune import strip_pruning as strip_pruning
    from tfprune.tfmot.schedules import ConstantSparsity as ConstantSparsity
    from tfprune.tfmot.schedules import PolynomialDecay as PolynomialDecay
    from tfprune.tfmot.schedules import PruningSchedule as PruningSchedule
    from tfprune.training.pruning_summaries import PruningSummaries as PruningSummaries

_HOMES = {
    "ConstantSparsity": "tfprune.tfmot.schedules",
    "PolynomialDecay": "tfprune.tfmot.schedules",
    "PrunableLayer": "tfprune.models.kernels",
    "PruneForLatencyOnXNNPack": "tfprune.tfmot.policy",
    "PruningPolicy": "tfprune.tfmot.policy",
    "PruningSchedule": "tfprune.tfmot.schedules",
    "PruningSummaries": "tfprune.training.pruning_summaries",
    "UpdatePruningStep": "tfprune.tfmot.callback",
    "prune_low_magnitude": "tfprune.tfmot.prune",
    "prune_scope": "tfprune.tfmot.prune",
    "strip_pruning": "tfprune.tfmot.prune",
}
__all__ = list(_HOMES)  # noqa: PLE0605

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "sparsity":  # tfmot.sparsity.keras.prune_low_magnitude
            return importlib.import_module(f"{__name__}.sparsity")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*_HOMES, "sparsity"})
