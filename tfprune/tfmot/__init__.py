"""The names of tensorflow-model-optimization (tfmot), for Keras 3: change one import and go on.

    from tfprune import tfmot
    model = tfmot.sparsity.keras.prune_low_magnitude(model)

`tfmot.sparsity.keras` is this module itself, under tfmot's path; so are `quantization.keras` and `clustering.keras`.
`prune` has wrappers that carry their own schedules, policies that choose the layers of a model, and the callback that
updates masks. `quantize` annotates and quantizes layers, keeps zeros and shared values of weights, and lets entries
share values. All of it only turns arguments into those of the other folders. Start at `prune.prune_low_magnitude`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    import tfprune.tfmot as clustering  # noqa: F401
    import tfprune.tfmot as combine  # noqa: F401
    import tfprune.tfmot as experimental  # noqa: F401
    import tfprune.tfmot as keras  # noqa: F401
    import tfprune.tfmot as quantization  # noqa: F401
    import tfprune.tfmot as sparsity  # noqa: F401
    from tfprune.masking.sensitivity import PruningSummaries as PruningSummaries
    from tfprune.models.anatomy import PrunableLayer as PrunableLayer
    from tfprune.tfmot.prune import ConstantSparsity as ConstantSparsity
    from tfprune.tfmot.prune import PolynomialDecay as PolynomialDecay
    from tfprune.tfmot.prune import PruneForLatencyOnXNNPack as PruneForLatencyOnXNNPack
    from tfprune.tfmot.prune import PruningPolicy as PruningPolicy
    from tfprune.tfmot.prune import PruningSchedule as PruningSchedule
    from tfprune.tfmot.prune import UpdatePruningStep as UpdatePruningStep
    from tfprune.tfmot.prune import prune_low_magnitude as prune_low_magnitude
    from tfprune.tfmot.prune import prune_scope as prune_scope
    from tfprune.tfmot.prune import strip_pruning as strip_pruning
    from tfprune.tfmot.quantize import CentroidInitialization as CentroidInitialization
    from tfprune.tfmot.quantize import (
        Default8BitClusterPreserveQuantizeScheme as Default8BitClusterPreserveQuantizeScheme,
    )
    from tfprune.tfmot.quantize import (
        Default8BitPrunePreserveQuantizeScheme as Default8BitPrunePreserveQuantizeScheme,
    )
    from tfprune.tfmot.quantize import Default8BitQuantizeScheme as Default8BitQuantizeScheme
    from tfprune.tfmot.quantize import cluster_scope as cluster_scope
    from tfprune.tfmot.quantize import cluster_weights as cluster_weights
    from tfprune.tfmot.quantize import quantize_annotate_layer as quantize_annotate_layer
    from tfprune.tfmot.quantize import quantize_annotate_model as quantize_annotate_model
    from tfprune.tfmot.quantize import quantize_apply as quantize_apply
    from tfprune.tfmot.quantize import quantize_model as quantize_model
    from tfprune.tfmot.quantize import quantize_scope as quantize_scope
    from tfprune.tfmot.quantize import strip_clustering as strip_clustering
    from tfprune.tfmot.quantize import strip_clustering_cqat as strip_clustering_cqat

_HOMES = {
    "masking.sensitivity": ["PruningSummaries"],
    "models.anatomy": ["PrunableLayer"],
    "tfmot.prune": [
        "UpdatePruningStep",
        "PruneForLatencyOnXNNPack",
        "PruningPolicy",
        "prune_low_magnitude",
        "prune_scope",
        "strip_pruning",
        "ConstantSparsity",
        "PolynomialDecay",
        "PruningSchedule",
    ],
    "tfmot.quantize": [
        "quantize_annotate_layer",
        "quantize_annotate_model",
        "CentroidInitialization",
        "cluster_scope",
        "cluster_weights",
        "strip_clustering",
        "strip_clustering_cqat",
        "quantize_apply",
        "quantize_model",
        "quantize_scope",
        "Default8BitClusterPreserveQuantizeScheme",
        "Default8BitPrunePreserveQuantizeScheme",
        "Default8BitQuantizeScheme",
    ],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

# Paths of tfmot, each of which is this module: tfmot.sparsity.keras.prune_low_magnitude, for example, and
# tfmot.clustering.keras.experimental.cluster.cluster_weights; `from tfprune.tfmot.sparsity.keras import ...` works.
_PATHS = ("clustering", "experimental", "quantization", "sparsity")
_INNER = ("keras", "experimental", "combine", "cluster", "collab_opts", "default_8bit")
for _path in _PATHS:
    for _name in ("", ".keras", ".keras.experimental", ".combine"):
        sys.modules[f"{__name__}.{_path}{_name}"] = sys.modules[__name__]

# Names of tfmot that are not here, and what to do without them.
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
    _load, _names = lazy_names(__name__, _HOMES, package="tfprune")

    def __getattr__(name: str) -> Any:
        if name in _PATHS or name in _INNER:
            return sys.modules[__name__]
        if name in _ABSENT:
            raise AttributeError(f"tfprune.tfmot has no {name!r}, which tfmot has. {_ABSENT[name]}.")
        return _load(name)

    def __dir__() -> list[str]:
        return sorted({*_names(), *_PATHS, *_INNER})
