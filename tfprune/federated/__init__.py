"""Pruning where the data live: clients with masks of their own, and averages that respect them.

    from tfprune import federated
    averaged = federated.masked_average(updates, masks, weights=[120, 80], server=weights)

A model is a list of arrays, as `get_weights` of the stripped model returns them; masks are a list of the same length,
booleans, or None for an array of which a client has all entries. `MaskedModel` reads and sets both in a wrapped
model. `LotteryFL`, `FedMask`, `PruneFL` and `leading_channels` choose masks, `agreement` compares them, and an
`Update` is what travels: the entries under a mask, packed. `MaskedFedAvg` and `MaskedClient` run on Flower, the only
modules that need it. All but these two, `MaskedModel` and `leading_channels` is NumPy alone.
Start at `average.masked_average`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfprune.federated.agreement import mask_iou as mask_iou
    from tfprune.federated.agreement import merge_masks as merge_masks
    from tfprune.federated.average import masked_average as masked_average
    from tfprune.federated.fed_mask import FedMask as FedMask
    from tfprune.federated.leading import leading_channels as leading_channels
    from tfprune.federated.lottery_fl import LotteryFL as LotteryFL
    from tfprune.federated.masked_client import MaskedClient as MaskedClient
    from tfprune.federated.masked_fed_avg import MaskedFedAvg as MaskedFedAvg
    from tfprune.federated.masked_model import MaskedModel as MaskedModel
    from tfprune.federated.packed_masks import pack_masks as pack_masks
    from tfprune.federated.packed_masks import unpack_masks as unpack_masks
    from tfprune.federated.prune_fl import PruneFL as PruneFL
    from tfprune.federated.traffic import Traffic as Traffic
    from tfprune.federated.update import Update as Update

# A function is not in a module of its own name, which would hide it once it is imported.
_HOMES = {
    "FedMask": "fed_mask",
    "LotteryFL": "lottery_fl",
    "MaskedClient": "masked_client",
    "MaskedFedAvg": "masked_fed_avg",
    "MaskedModel": "masked_model",
    "PruneFL": "prune_fl",
    "Traffic": "traffic",
    "Update": "update",
    "leading_channels": "leading",
    "mask_iou": "agreement",
    "masked_average": "average",
    "merge_masks": "agreement",
    "pack_masks": "packed_masks",
    "unpack_masks": "packed_masks",
}
__all__ = list(_HOMES)  # noqa: PLE0605

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted(_HOMES)
