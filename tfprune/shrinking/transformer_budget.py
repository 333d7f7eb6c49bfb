"""How a sparsity is split between the attention and the feed-forward parts of a transformer."""

from __future__ import annotations

from tfprune.spec import check_count, check_sparsity

_ALPHA = 1.5  # as in the paper: attention goes later than its share of the parameters


def transformer_budget(
    sparsity: float, *, blocks: int, attention: int, feed_forward: int, width: int
) -> tuple[int, int]:
    """Split a sparsity over equal blocks of attention and a feed-forward network.

    With B blocks, of |A| and |F| parameters, round(B s^((|F|/|A|) / 1.5)) layers' worth of attention heads go; the
    rest comes from the feed-forward networks, all alike.

    Args:
        sparsity: The fraction of the blocks' parameters to remove, in [0, 1).
        blocks: Their number.
        attention: Parameters of the attention of one block.
        feed_forward: Parameters of the feed-forward network of one block.
        width: Its hidden units.

    Returns:
        How many attention layers' worth of heads to remove, and how many hidden units to keep in each block.

    Raises:
        TypeError: For arguments that are no numbers.
        ValueError: For a sparsity outside [0, 1), counts below 1, or if the networks would have to lose all units.

    Example:
        >>> transformer_budget(0.5, blocks=32, attention=41_943_040, feed_forward=176_160_768, width=14336)
        (5, 5995)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331, section on the budget.
    """
    sparsity = check_sparsity(sparsity, "sparsity")
    counts = {"blocks": blocks, "attention": attention, "feed_forward": feed_forward, "width": width}
    for name, count in counts.items():
        check_count(count, name, least=1)
    removed = round(blocks * sparsity ** (feed_forward / attention / _ALPHA))
    total = blocks * (attention + feed_forward)
    lost = (round(sparsity * total) - removed * attention) / blocks / feed_forward
    kept = min(round(width * (1 - lost)), width)  # more attention may go than was asked for
    if kept < 1:
        raise ValueError(
            f"Expected a sparsity that leaves a unit of the feed-forward networks. Received: sparsity={sparsity!r}, "
            f"with {removed} of {blocks} layers of attention removed. Lower it."
        )
    return removed, kept
