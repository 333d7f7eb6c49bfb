"""Server and client of federated pruning on Flower, the only modules that need the package flwr.

    strategy = tfprune.federated.MaskedFedAvg(check_masks=model.check_masks)
    client = tfprune.federated.MaskedClient(message, context, model)

The strategy averages each entry over the clients that own it, and keeps the masks and the bytes of each round. The
client keeps its masks in Flower's state. Start at `masked_fed_avg.MaskedFedAvg`.
"""
