"""Which parts of a language model's file take its bytes, and the time of a token."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune.export.file.tflite.reader import read
from tfprune.export.keras_side.generating.cached_blocks import CachedModel
from tfprune.export.keras_side.generating.refusals import vocabulary_size
from tfprune.keras_models.models.layers import walk

LOOK_UPS = {"GATHER", "EMBEDDING_LOOKUP", "SLICE", "STRIDED_SLICE"}  # operators that read a row of a table


def weight_shares(content: bytes, cached: CachedModel) -> dict[str, tuple[float, float]]:
    """Return the share of a file's bytes, and of the weights that one token reads, of each part of a model.

    Reading its weights from the memory takes most of a token's time, which the second share therefore estimates. A
    mixture of experts reads some of its experts only; the estimate counts all.

    Args:
        content: The plain .tflite file.
        cached: The model in it.

    Returns:
        The two shares by part: "vocabulary", "blocks", and "units", which are a part of the blocks.
    """
    rows = int(cached.model.output.shape[-1])
    size, read_by_token = {"vocabulary": 0, "blocks": 0}, {"vocabulary": 0, "blocks": 0}
    file = read(content)
    graph = file.subgraphs[0]  # all signatures read the same weights
    readers: dict[int, set[str]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            if index >= 0 and graph.tensors[index].weight:
                readers.setdefault(graph.tensors[index].buffer, set()).add(operator.name)
    for buffer, tensor in {tensor.buffer: tensor for tensor in graph.tensors if tensor.weight}.items():
        part = "vocabulary" if rows in tensor.shape else "blocks"
        size[part] += tensor.bytes
        read_by_token[part] += tensor.bytes if readers.get(buffer, set()) - LOOK_UPS else 0
    of_file, of_token = len(content), max(sum(read_by_token.values()), 1)
    shares = {part: (size[part] / of_file, read_by_token[part] / of_token) for part in size}
    units = _units(cached)
    return shares | {"units": (shares["blocks"][0] * units, shares["blocks"][1] * units)}


def _units(cached: CachedModel) -> float:
    """Return the share of the parameters of the blocks that are not in their attentions."""
    blocks = cached.model.count_params() - vocabulary_size(cached.model) - _positions(cached.model)
    return 1 - cached.attention_parameters / max(blocks, 1)


def _positions(model: Any) -> int:
    tables = [getattr(layer, "position_embeddings", None) for _, layer in walk(model)]
    return sum(
        int(np.prod(table.shape)) for table in {id(each): each for each in tables if each is not None}.values()
    )
