"""Federated pruning: masked models and clients, averages over the owners of each entry, and ways to choose masks.

The ways are those of LotteryFL (arXiv:2008.03371), FedMask, PruneFL (arXiv:1909.12326) and HeteroFL
(arXiv:2010.01264). Averages and packing need NumPy alone; `MaskedFedAvg` and the clients need Flower.

Example:
    >>> import numpy as np, tfprune
    >>> updates, masks = [[np.array([2.0, 4.0])], [np.array([4.0, 8.0])]], [[np.array([1, 1])], [np.array([1, 0])]]
    >>> tfprune.federated.masked_average(updates, masks, client_weights=[1, 1], server=[np.zeros(2)])
    [array([3., 4.])]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from tfprune.methods.federated.agreement import mask_iou as mask_iou
    from tfprune.methods.federated.agreement import merge_masks as merge_masks
    from tfprune.methods.federated.average import clip_updates as clip_updates
    from tfprune.methods.federated.average import masked_average as masked_average
    from tfprune.methods.federated.averages import TrimmedMean as TrimmedMean
    from tfprune.methods.federated.dense_gradients import dense_gradients as dense_gradients
    from tfprune.methods.federated.masked_model import MaskedModel as MaskedModel
    from tfprune.methods.federated.measure_statistics import measure_statistics as measure_statistics
    from tfprune.methods.federated.packed_masks import pack_masks as pack_masks
    from tfprune.methods.federated.packed_masks import unpack_masks as unpack_masks
    from tfprune.methods.federated.traffic import Traffic as Traffic
    from tfprune.methods.federated.update import Update as Update
    from tfprune.methods.federated_flower.fed_mask_client import FedMaskClient as FedMaskClient
    from tfprune.methods.federated_flower.masked_client import MaskedClient as MaskedClient
    from tfprune.methods.federated_flower.masked_fed_avg import MaskedFedAvg as MaskedFedAvg
    from tfprune.methods.federated_masks.fed_mask import FedMask as FedMask
    from tfprune.methods.federated_masks.hetero_fl import HeteroFL as HeteroFL
    from tfprune.methods.federated_masks.hetero_fl import leading_channels as leading_channels
    from tfprune.methods.federated_masks.lottery_fl import LotteryFL as LotteryFL
    from tfprune.methods.federated_masks.prune_fl import PruneFL as PruneFL
    from tfprune.methods.federated_masks.scaler import OwnClassesLoss as OwnClassesLoss
    from tfprune.methods.federated_masks.scaler import Scaler as Scaler

_ROOMS = {
    "methods.federated": ["MaskedModel", "Traffic", "Update"],
    "methods.federated_masks": ["FedMask", "HeteroFL", "LotteryFL", "PruneFL", "Scaler"],
    "methods.federated_flower": ["FedMaskClient", "MaskedClient", "MaskedFedAvg"],
}
_FUNCTIONS = {
    "methods.federated.agreement": ["mask_iou", "merge_masks"],
    "methods.federated.average": ["clip_updates", "masked_average"],
    "methods.federated.averages": ["TrimmedMean"],
    "methods.federated.dense_gradients": ["dense_gradients"],
    "methods.federated.measure_statistics": ["measure_statistics"],
    "methods.federated_masks.scaler": ["OwnClassesLoss"],
    "methods.federated_masks.hetero_fl": ["leading_channels"],
    "methods.federated.packed_masks": ["pack_masks", "unpack_masks"],
}
__all__ = [name for table in (_ROOMS, _FUNCTIONS) for names in table.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _ROOMS, elsewhere=_FUNCTIONS, package="tfprune")
