"""Split a sparsity between the attention layers and the feed-forward networks of a transformer."""

from __future__ import annotations

from tfprune.base.spec import check_count, check_sparsity

_ALPHA = 1.5  # as in the paper: less attention is removed than its share of the parameters


def transformer_budget(
    sparsity: float, *, block_count: int, attention: int, feed_forward: int, width: int
) -> tuple[int, int]:
    """Split a sparsity over equal blocks of attention and a feed-forward network.

    Use it before `plan_shrink`, to remove heads and hidden units in the proportion that the paper found best. With B
    blocks of |A| and |F| parameters, the heads of round(B s^((|F|/|A|) / 1.5)) attention layers are removed. The rest
    is removed from the feed-forward networks, the same from each.

    Args:
        sparsity: The fraction of the blocks' parameters to remove, in [0, 1).
        block_count: The number of blocks, at least 1.
        attention: The number of parameters of the attention in one block, at least 1.
        feed_forward: The number of parameters of the feed-forward network in one block, at least 1.
        width: The number of hidden units of the feed-forward network in one block, at least 1.

    Returns:
        Two counts: the number of attention layers whose heads are removed, and the number of hidden units that each
        block keeps. These are not what `tfprune.budget` returns. If the hidden layers are called "hidden", the plan
        is `plan_shrink(model, sparsity, allocation=split)` with
        `split = {"heads": removed / block_count, "hidden": 1 - kept / width, "": None}`.

    Raises:
        TypeError: If `sparsity` is not a number, or a count is not an integer.
        ValueError: If `sparsity` is outside [0, 1), a count is below 1, or the networks would lose all units.

    Example:
        >>> transformer_budget(0.5, block_count=32, attention=41_943_040, feed_forward=176_160_768, width=14336)
        (5, 5995)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331, section on the budget.
    """
    sparsity = check_sparsity(sparsity, "sparsity")
    counts = {"block_count": block_count, "attention": attention, "feed_forward": feed_forward, "width": width}
    for name, count in counts.items():
        check_count(count, name, least=1)
    removed = attention_layers(sparsity, block_count=block_count, attention=attention, feed_forward=feed_forward)
    total = block_count * (attention + feed_forward)
    lost = (round(sparsity * total) - removed * attention) / block_count / feed_forward
    remaining_width = min(round(width * (1 - lost)), width)  # more attention may go than was asked for
    if remaining_width < 1:
        raise ValueError(
            f"Expected a sparsity that leaves a unit of the feed-forward networks. Received: sparsity={sparsity!r}, "
            f"with {removed} of {block_count} layers of attention removed. Lower it."
        )
    return removed, remaining_width


def attention_layers(sparsity: float, *, block_count: int, attention: float, feed_forward: float) -> int:
    """Return the number of attention layers to remove, from the parameters of one block."""
    return round(block_count * sparsity ** (feed_forward / attention / _ALPHA))
