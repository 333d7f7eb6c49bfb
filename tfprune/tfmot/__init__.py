"""The names of tensorflow-model-optimization (tfmot), for Keras 3: change one import and go on.

    from tfprune import tfmot
    model = tfmot.sparsity.keras.prune_low_magnitude(model)

`tfmot.sparsity.keras` is this module itself, under tfmot's path; so are `quantization.keras` and `clustering.keras`.
`prune` wraps, strips and loads; `wrapper` is a `Pruned` layer that carries its own schedule (`schedules`), `policy`
says which layers of a model are taken, and `callback` updates the masks. `annotate` says which layers are quantized,
`quantize` does it, `schemes` what of the weights is kept; `cluster` lets their entries share values. Nothing is done
here that the other rooms do not do: arguments are turned into theirs. Start at `prune.prune_low_magnitude`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfprune.keras_models.models.kernels import PrunableLayer as PrunableLayer
    from tfprune.masking.training.pruning_summaries import PruningSummaries as PruningSummaries
    from tfprune.tfmot import clustering as clustering
    from tfprune.tfmot import experimental as experimental
    from tfprune.tfmot import quantization as quantization
    from tfprune.tfmot import sparsity as sparsity
    from tfprune.tfmot.annotate import quantize_annotate_layer as quantize_annotate_layer
    from tfprune.tfmot.annotate import quantize_annotate_model as quantize_annotate_model
    from tfprune.tfmot.callback import UpdatePruningStep as UpdatePruningStep
    from tfprune.tfmot.cluster import CentroidInitialization as CentroidInitialization
    from tfprune.tfmot.cluster import cluster_scope as cluster_scope
    from tfprune.tfmot.cluster import cluster_weights as cluster_weights
    from tfprune.tfmot.cluster import strip_clustering as strip_clustering
    from tfprune.tfmot.cluster import strip_clustering_cqat as strip_clustering_cqat
    from tfprune.tfmot.policy import PruneForLatencyOnXNNPack as PruneForLatencyOnXNNPack
    from tfprune.tfmot.policy import PruningPolicy as PruningPolicy
    from tfprune.tfmot.prune import prune_low_magnitude as prune_low_magnitude
    from tfprune.tfmot.prune import prune_scope as prune_scope
    from tfprune.tfmot.prune import strip_pruning as strip_pruning
    from tfprune.tfmot.quantize import quantize_apply as quantize_apply
    from tfprune.tfmot.quantize import quantize_model as quantize_model
    from tfprune.tfmot.quantize import quantize_scope as quantize_scope
    from tfprune.tfmot.schedules import ConstantSparsity as ConstantSparsity
    from tfprune.tfmot.schedules import PolynomialDecay as PolynomialDecay
    from tfprune.tfmot.schedules import PruningSchedule as PruningSchedule
    from tfprune.tfmot.schemes import (
        Default8BitClusterPreserveQuantizeScheme as Default8BitClusterPreserveQuantizeScheme,
    )
    from tfprune.tfmot.schemes import Default8BitPrunePreserveQuantizeScheme as Default8BitPrunePreserveQuantizeScheme
    from tfprune.tfmot.schemes import Default8BitQuantizeScheme as Default8BitQuantizeScheme

_HOMES = {
    "CentroidInitialization": "tfprune.tfmot.cluster",
    "ConstantSparsity": "tfprune.tfmot.schedules",
    "Default8BitClusterPreserveQuantizeScheme": "tfprune.tfmot.schemes",
    "Default8BitPrunePreserveQuantizeScheme": "tfprune.tfmot.schemes",
    "Default8BitQuantizeScheme": "tfprune.tfmot.schemes",
    "PolynomialDecay": "tfprune.tfmot.schedules",
    "PrunableLayer": "tfprune.keras_models.models.kernels",
    "PruneForLatencyOnXNNPack": "tfprune.tfmot.policy",
    "PruningPolicy": "tfprune.tfmot.policy",
    "PruningSchedule": "tfprune.tfmot.schedules",
    "PruningSummaries": "tfprune.masking.training.pruning_summaries",
    "UpdatePruningStep": "tfprune.tfmot.callback",
    "cluster_scope": "tfprune.tfmot.cluster",
    "cluster_weights": "tfprune.tfmot.cluster",
    "prune_low_magnitude": "tfprune.tfmot.prune",
    "prune_scope": "tfprune.tfmot.prune",
    "quantize_annotate_layer": "tfprune.tfmot.annotate",
    "quantize_annotate_model": "tfprune.tfmot.annotate",
    "quantize_apply": "tfprune.tfmot.quantize",
    "quantize_model": "tfprune.tfmot.quantize",
    "quantize_scope": "tfprune.tfmot.quantize",
    "strip_clustering": "tfprune.tfmot.cluster",
    "strip_clustering_cqat": "tfprune.tfmot.cluster",
    "strip_pruning": "tfprune.tfmot.prune",
}
__all__ = list(_HOMES)  # noqa: PLE0605

_PATHS = ("clustering", "experimental", "quantization", "sparsity")  # tfmot.sparsity.keras.prune_low_magnitude
_HERE = ("collab_opts", "default_8bit")  # tfmot.quantization.keras.collab_opts.Default8BitPrunePreserveQuantizeScheme

# What tfmot has besides, and what to do without it.
_ONE_WAY = "How a layer is quantized follows from its operator. To keep one in float, do not annotate it"
_ABSENT = {
    **dict.fromkeys(("QuantizeConfig", "QuantizeScheme", "QuantizeRegistry", "QuantizeLayoutTransform"), _ONE_WAY),
    **dict.fromkeys(("quantizers", "graph_transformations"), _ONE_WAY),
    **dict.fromkeys(("fix_input_output_range", "remove_input_range"), "Ranges are trained: tfprune.freeze_ranges"),
    **dict.fromkeys(("QuantizeWrapper", "QuantizeWrapperV2"), "The wrapper is tfprune.Quantized"),
    **dict.fromkeys(("ClusterableLayer", "ClusteringAlgorithm"), "Name the weights with tfprune.register_prunable"),
    "ClusteringSummaries": "The values are in `layer.centroids` of each wrapper",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _PATHS:
            return importlib.import_module(f"{__name__}.{name}")
        if name in _HERE:
            return importlib.import_module(__name__)
        if name in _ABSENT:
            raise AttributeError(f"tfprune.tfmot has no {name!r}, which tfmot has. {_ABSENT[name]}.")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*_HOMES, *_PATHS, *_HERE})
