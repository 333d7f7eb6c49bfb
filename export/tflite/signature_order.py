"""The order of the inputs and outputs that a file names in its signature."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

OUTPUT_NUMBER = re.compile(r"output_(\d+)")


def in_order(tensors: Sequence[tuple[int, str]], signature: Mapping[str, tuple[int, str]]) -> dict[str, int]:
    """Name the inputs or outputs of a file, in the order in which a list holds them.

    Args:
        tensors: Index and name of each, as the graph lists them.
        signature: The same by the signature's names; empty when there is none.

    Returns:
        Index by name. Outputs that the converter numbered go by their number, all others as the graph lists
        them; a signature that does not belong to these tensors is not used.
    """
    if not signature or set(signature.values()) != set(tensors):
        return {name: index for index, name in tensors}
    matches = [OUTPUT_NUMBER.fullmatch(name) for name in signature]
    if all(matches):
        ordered = sorted(signature, key=lambda name: int(name.removeprefix("output_")))
    else:
        ordered = sorted(signature, key=lambda name: tensors.index(signature[name]))
    return {name: signature[name][0] for name in ordered}
