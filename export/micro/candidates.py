"""The files of one model for microcontrollers: from dense ones to those that unpack every layer, in few parts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from tfprune.export.file.model_file import ModelFile, fitting
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import numbers_operators, save_objects
from tfprune.export.micro.drop_unused import drop_unused
from tfprune.export.micro.layers import Layer, largest_live, layers_of
from tfprune.export.micro.micro_report import MicroLayer
from tfprune.export.micro.unpacking import Unpacker, encode_smallest

MAX_PARTS = 100  # parts of a layer
LAYER_OVERHEAD_BYTES, PART_OVERHEAD_BYTES = (
    130,
    360,
)  # bytes of the file that an unpacked layer takes besides, and each further part, about
GAINLESS = "the file would not be smaller"
TIGHT = "unpacked it would not fit into the arena"

Plan = tuple[int, ...]  # for each layer: in how many parts it is unpacked, 0 for not at all


@dataclass(frozen=True)
class MicroCandidate:
    """A way to write the file, and how each layer is stored."""

    file: ModelFile
    rows: tuple[MicroLayer, ...]


class Candidates:
    """Writes a model in several ways.

    Args:
        dense: The file, with every weight as it is.

    Attributes:
        layers: The number of layers with weights.
        caps: The bytes that are live at once, at most: in the dense file, and where every layer is unpacked whole.

    Raises:
        ValueError: If the file names its operators by number.
    """

    layers: int
    caps: tuple[int, int]

    def __init__(self, dense: ModelFile) -> None:
        self._model = dense.objects()
        if numbers_operators(self._model):
            raise ValueError(
                "Expected a file whose operators can change. Received: one whose metadata name them by number. "
                "Convert the model again."
            )
        with fitting(dense):
            self._layers = layers_of(self._model)
            least = largest_live(self._model)
        self._dense, self.layers = dense, len(self._layers)
        self.caps = (least, max([least, *(layer.peak(1) for layer in self._layers if not layer.reason)]))
        self._bytes = [0 if layer.reason else encode_smallest(layer.values).bytes for layer in self._layers]

    def plan(self, cap: int, least: int) -> Plan:
        """Choose the layers that are unpacked, each in as few parts as possible.

        Args:
            cap: Bytes that may be live at once.
            least: Bytes of the file that a layer has to save.
        """
        pairs = [*zip(self._layers, self._bytes, strict=True)]
        pieces = [_pieces(layer, size, cap=cap, least=least) for layer, size in pairs]
        # A weight that one layer reads as it is stays in the file, and the others may do so, too.
        whole = {layer.buffer for layer, count in zip(self._layers, pieces, strict=True) if not count}
        return tuple(0 if layer.buffer in whole else count for layer, count in zip(self._layers, pieces, strict=True))

    def write(self, plan: Plan) -> MicroCandidate:
        """Write the file that a plan describes."""
        model = _copy(self._model)
        with fitting(self._dense):
            layers, unpacker = layers_of(model), Unpacker(model)
            rows = tuple(_row(unpacker, layer, count) for layer, count in zip(layers, plan, strict=True))
            drop_unused(model)
        return MicroCandidate(ModelFile(save_objects(model)), rows)


def spread(least: int, most: int, *, count: int) -> Sequence[int]:
    """Return so many whole numbers from one to another whose ratios are alike."""
    ratio = (max(1, most) / max(1, least)) ** (1 / (count - 1))
    return sorted({round(least * ratio**step) for step in range(count - 1)} | {most})


def _pieces(layer: Layer, size: int, *, cap: int, least: int) -> int:
    for pieces in range(1, min(layer.pieces, MAX_PARTS) + 1):
        gain = layer.values.nbytes - size - LAYER_OVERHEAD_BYTES - PART_OVERHEAD_BYTES * (pieces - 1)
        if layer.reason or gain <= least:
            return 0
        if layer.peak(pieces) <= cap:
            return pieces
    return 0


def _row(unpacker: Unpacker, layer: Layer, pieces: int) -> MicroLayer:
    parts = unpacker.unpack(layer, pieces) if pieces else []
    size = layer.values.nbytes
    tight = size - encode_smallest(layer.values).bytes > LAYER_OVERHEAD_BYTES
    return MicroLayer(
        name=layer.name,
        operator=layer.kind,
        shape=layer.values.shape,
        stored="+".join(sorted({part.kind for part in parts})) or "dense",
        slices=pieces,
        dense_bytes=size,
        bytes=sum(part.bytes for part in parts) if parts else size,
        buffer=layer.slice_bytes(pieces) if pieces else 0,
        reason="" if pieces else layer.reason or (TIGHT if tight else GAINLESS),
    )


def _copy(model: schema.ModelT) -> schema.ModelT:
    """Copy what is changed in a model, and share the values."""
    copied = copy.copy(model)
    copied.buffers, copied.operatorCodes = [*model.buffers], [*map(copy.copy, model.operatorCodes)]
    copied.subgraphs = [*map(copy.copy, model.subgraphs)]
    for graph in copied.subgraphs:
        graph.tensors = [*map(copy.copy, graph.tensors)]
        graph.operators = [*map(copy.copy, graph.operators or ())]
    return copied
