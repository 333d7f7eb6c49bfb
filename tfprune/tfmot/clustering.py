"""`tfmot.clustering.keras`, the path of the names in tensorflow-model-optimization; it leads to `tfprune.tfmot`."""

from __future__ import annotations

import sys

import tfprune.tfmot as keras

sys.modules[f"{__name__}.keras"] = keras  # so that `from tfprune.tfmot.clustering.keras import ...` finds it, too
