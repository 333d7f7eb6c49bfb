"""Pruning where the data live: the public names of `methods.federated`, loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfprune.methods.federated.agreement import mask_iou as mask_iou
    from tfprune.methods.federated.agreement import merge_masks as merge_masks
    from tfprune.methods.federated.average import masked_average as masked_average
    from tfprune.methods.federated.fed_mask import FedMask as FedMask
    from tfprune.methods.federated.leading import leading_channels as leading_channels
    from tfprune.methods.federated.lottery_fl import LotteryFL as LotteryFL
    from tfprune.methods.federated.masked_client import MaskedClient as MaskedClient
    from tfprune.methods.federated.masked_fed_avg import MaskedFedAvg as MaskedFedAvg
    from tfprune.methods.federated.masked_model import MaskedModel as MaskedModel
    from tfprune.methods.federated.packed_masks import pack_masks as pack_masks
    from tfprune.methods.federated.packed_masks import unpack_masks as unpack_masks
    from tfprune.methods.federated.prune_fl import PruneFL as PruneFL
    from tfprune.methods.federated.traffic import Traffic as Traffic
    from tfprune.methods.federated.update import Update as Update

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
        return getattr(importlib.import_module(f"tfprune.methods.federated.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted(_HOMES)
