"""Federated pruning: what clients and server exchange, and averages under the masks of the clients.

    from tfprune import federated
    averaged = federated.masked_average(updates, masks, client_weights=[120, 80], server=weights)

A model is a list of arrays, as `get_weights` of the stripped model returns them; masks are a list of the same length,
booleans, or None for an array of which a client has all entries. `MaskedModel` reads and sets both in a wrapped
model. `agreement` compares masks, and an `Update` packs the entries under a mask for sending. The methods that choose
masks are in `federated_masks`, server and client on Flower in `federated_flower`. All modules that do not take a
model use NumPy alone. Start at `average.masked_average`.
"""
