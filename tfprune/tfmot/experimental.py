"""`tfmot.experimental.combine`, a path of names in tensorflow-model-optimization; it leads to `tfprune.tfmot`."""

from __future__ import annotations

import sys

import tfprune.tfmot as combine

cluster = combine  # tfmot.clustering.keras.experimental.cluster.cluster_weights
sys.modules[f"{__name__}.combine"] = combine  # so that `from tfprune.tfmot.experimental.combine import ...` finds it
