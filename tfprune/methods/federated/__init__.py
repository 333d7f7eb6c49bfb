"""Federated pruning: clients with masks of their own, and averages that respect the masks.

    from tfprune import federated
    averaged = federated.masked_average(updates, masks, weights=[120, 80], server=weights)

A model is a list of arrays, as `get_weights` of the stripped model returns them; masks are a list of the same length,
booleans, or None for an array of which a client has all entries. `MaskedModel` reads and sets both in a wrapped
model. `LotteryFL`, `FedMask`, `PruneFL` and `HeteroFL` choose masks, `agreement` compares them, and an `Update` is
sent: the entries under a mask, packed. `MaskedFedAvg` and `MaskedClient` run on Flower, the only modules that need
it. All modules but these two, `MaskedModel` and `HeteroFL` are NumPy alone.
Start at `average.masked_average`.
"""
