"""One form of a file, read once: its graph, and the kernels that it reaches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from tfprune.export.file.tflite.model import Model
from tfprune.export.file.tflite.reader import read
from tfprune.export.file.xnnpack.sparse_inference_report import RUNTIME, SparseInferenceReport, inference_of


class Speed(IntEnum):
    """The kernels that a form reaches, the fastest last."""

    DENSE = 0
    BLOCKS = 1  # of fully connected layers whose zeros come in blocks of four
    SPARSE = 2  # of XNNPACK, for 1x1 convolutions


KERNELS = {Speed.DENSE: "dense kernels", Speed.BLOCKS: "kernels for blocks", Speed.SPARSE: "sparse kernels"}
HOLDS_FOR = {Speed.BLOCKS: "TFLite's own kernels in ai-edge-litert 2.3, on any processor", Speed.SPARSE: RUNTIME}


@dataclass(frozen=True)
class FileForm:
    """One way to write a file.

    Attributes:
        name: What distinguishes it from the others.
        content: The plain .tflite file.
        bitwise_reference: A file whose outputs it has to give bit for bit; None where it may round in another way.
    """

    name: str
    content: bytes
    bitwise_reference: bytes | None = None

    @cached_property
    def graph(self) -> Model:
        """The file as its reader describes it."""
        return read(self.content)

    @cached_property
    def inference(self) -> SparseInferenceReport:
        """How XNNPACK runs it."""
        return inference_of(self.content)

    @property
    def speed(self) -> Speed:
        """The fastest kernels that it reaches."""
        if self.inference.active:
            return Speed.SPARSE
        has_blocks = any(
            operator.name == "FULLY_CONNECTED" and subgraph.tensors[operator.inputs[1]].sparse
            for subgraph in self.graph.subgraphs
            for operator in subgraph.operators
        )
        return Speed.BLOCKS if has_blocks else Speed.DENSE
