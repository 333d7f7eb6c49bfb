"""Ways to choose the masks of clients: LotteryFL, FedMask, PruneFL and HeteroFL.

    from tfprune import federated
    weights, masks = federated.LotteryFL(target=0.8).prune(weights, masks, initial=first, accuracy=0.9)

Each is a frozen value with the settings of its paper, and takes and returns lists of arrays and masks as
`federated.average` does. Start at `lottery_fl.LotteryFL`.
"""
