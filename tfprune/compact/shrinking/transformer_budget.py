"""Split a sparsity between the attention layers and the feed-forward networks of a transformer."""

from __future__ import annotations

from tfprune.base.spec import check_count, check_sparsity

_ALPHA = 1.5  # as in the paper: attention goes later than its share of the parameters


def transformer_budget(
    sparsity: float, *, blocks: int, attention: int, feed_forward: int, width: int
) -> tuple[int, int]:
    """Split a sparsity over equal blocks of attention and a feed-forward network.

    Use it before `plan_shrink`, to remove heads and hidden units in the proportion that the paper found best. With B
    blocks of |A| and |F| parameters, the heads of round(B s^((|F|/|A|) / 1.5)) attention layers go; the rest comes
    from the feed-forward networks, the same from each.

    Args:
        sparsity: The fraction of the blocks' parameters to remove, in [0, 1).
        blocks: The number of blocks, at least 1.
        attention: The number of parameters of the attention in one block, at least 1.
        feed_forward: The number of parameters of the feed-forward network in one block, at least 1.
        width: The number of hidden units of the feed-forward network in one block, at least 1.

    Returns:
        Two counts: of how many attention layers to remove the heads, and how many hidden units to keep in each block.
        This is not a `budget`. Where the hidden layers are called "hidden", the plan is `plan_shrink(model, sparsity,
        allocation={"heads": removed / blocks, "hidden": 1 - kept / width, "": None})`.

    Raises:
        TypeError: If `sparsity` is not a number, or a count is not an integer.
        ValueError: If `sparsity` is outside [0, 1), a count is below 1, or the networks would lose all units.

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
    removed = attention_layers(sparsity, blocks=blocks, attention=attention, feed_forward=feed_forward)
    total = blocks * (attention + feed_forward)
    lost = (round(sparsity * total) - removed * attention) / blocks / feed_forward
    kept = min(round(width * (1 - lost)), width)  # more attention may go than was asked for
    if kept < 1:
        raise ValueError(
            f"Expected a sparsity that leaves a unit of the feed-forward networks. Received: sparsity={sparsity!r}, "
            f"with {removed} of {blocks} layers of attention removed. Lower it."
        )
    return removed, kept


def attention_layers(sparsity: float, *, blocks: int, attention: float, feed_forward: float) -> int:
    """Return of how many layers of attention the heads go, where these are the parameters of one block."""
    return round(blocks * sparsity ** (feed_forward / attention / _ALPHA))
