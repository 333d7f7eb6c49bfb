"""Federated pruning: masked models and clients, averages over the owners of each entry, and ways to choose masks.

The ways are those of LotteryFL (arXiv:2008.03371), FedMask, PruneFL (arXiv:1909.12326) and HeteroFL
(arXiv:2010.01264). HeteroFL, `MaskedModel` and what works on it need Keras. The other names need NumPy alone, and
`MaskedFedAvg` and the clients Flower as well.

Example:
    >>> import numpy as np, tfprune
    >>> updates, masks = [[np.array([2.0, 4.0])], [np.array([4.0, 8.0])]], [[np.array([1, 1])], [np.array([1, 0])]]
    >>> tfprune.federated.masked_average(updates, masks, client_weights=[1, 1], server=[np.zeros(2)])
    [array([3., 4.])]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.methods.federated.averages import TrimmedMean as TrimmedMean
    from tfprune.methods.federated.averages import clip_updates as clip_updates
    from tfprune.methods.federated.averages import mask_iou as mask_iou
    from tfprune.methods.federated.averages import masked_average as masked_average
    from tfprune.methods.federated.averages import merge_masks as merge_masks
    from tfprune.methods.federated.flower import FedMaskClient as FedMaskClient
    from tfprune.methods.federated.flower import MaskedClient as MaskedClient
    from tfprune.methods.federated.flower import MaskedFedAvg as MaskedFedAvg
    from tfprune.methods.federated.masked_model import HeteroFL as HeteroFL
    from tfprune.methods.federated.masked_model import MaskedModel as MaskedModel
    from tfprune.methods.federated.masked_model import OwnClassesLoss as OwnClassesLoss
    from tfprune.methods.federated.masked_model import Scaler as Scaler
    from tfprune.methods.federated.masked_model import dense_gradients as dense_gradients
    from tfprune.methods.federated.masked_model import leading_channels as leading_channels
    from tfprune.methods.federated.masked_model import measure_statistics as measure_statistics
    from tfprune.methods.federated.masks import FedMask as FedMask
    from tfprune.methods.federated.masks import LotteryFL as LotteryFL
    from tfprune.methods.federated.masks import PruneFL as PruneFL
    from tfprune.methods.federated.update import MaskedTrainer as MaskedTrainer
    from tfprune.methods.federated.update import Traffic as Traffic
    from tfprune.methods.federated.update import Update as Update
    from tfprune.methods.federated.update import pack_masks as pack_masks
    from tfprune.methods.federated.update import unpack_masks as unpack_masks

_HOMES = {
    "methods.federated.averages": ["mask_iou", "merge_masks", "clip_updates", "masked_average", "TrimmedMean"],
    "methods.federated.flower": ["FedMaskClient", "MaskedClient", "MaskedFedAvg"],
    "methods.federated.masks": ["FedMask", "LotteryFL", "PruneFL"],
    "methods.federated.masked_model": [
        "MaskedModel",
        "dense_gradients",
        "measure_statistics",
        "HeteroFL",
        "Scaler",
        "OwnClassesLoss",
        "leading_channels",
    ],
    "methods.federated.update": [
        "MaskedTrainer",
        "Traffic",
        "Update",
        "pack_masks",
        "unpack_masks",
    ],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, package="tfprune")
