"""What a .tflite file holds: graphs, operators and tensors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tfprune.export.file.report import TensorInfo
from tfprune.export.file.tflite.tensor_values import WEIGHTS, TensorValues


@dataclass(frozen=True)
class Tensor:
    """A tensor of one graph.

    Attributes:
        name: Its name in the file.
        shape: Its shape, as the interpreter allocates it; free dimensions are 1.
        dtype: Type of its entries, such as `int8`.
        constant: True when its values are in the file.
        sparse: True when only some of the entries are stored.
        size: Number of entries.
        nnz: Entries that do not mean zero (for quantized values: that differ from the zero point). None when
            there are no values in the file, or the type is not a number.
        bytes: What the values take in the file, without the positions of a sparse tensor.
        buffer: Where they lie: tensors with the same buffer share their values.
        values: The values themselves, where `nnz` counts them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    sparse: bool
    size: int
    nnz: int | None
    bytes: int
    buffer: int
    values: TensorValues | None = field(default=None, compare=False, repr=False)

    @property
    def weight(self) -> bool:
        """True for a kernel or an embedding: constant real numbers of rank 2 or more."""
        return self.constant and len(self.shape) >= 2 and self.dtype in WEIGHTS and self.nnz is not None


@dataclass(frozen=True)
class Operator:
    """One step of a graph: its name and the indices of its tensors (-1 for an optional one left out)."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Subgraph:
    """A graph: the main one, or the body of a loop or a branch."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """What a .tflite file holds.

    Attributes:
        subgraphs: The main graph first.
        inputs: Inputs of the main graph, in the order in which `Runner` takes a list.
        outputs: Outputs of the main graph, in the order in which `Runner` returns a list.
        input_tensors: The tensors of the main graph that `inputs` are, by their indices.
        output_tensors: The same of `outputs`.
    """

    subgraphs: tuple[Subgraph, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input_tensors: tuple[int, ...]
    output_tensors: tuple[int, ...]

    @property
    def ops(self) -> dict[str, int]:
        """How often each operator occurs, in all graphs, by name."""
        names = [operator.name for graph in self.subgraphs for operator in graph.operators]
        return dict(sorted(Counter(names).items()))

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Kernels and embeddings of all graphs, those that share their values once."""
        by_buffer = {tensor.buffer: tensor for graph in self.subgraphs for tensor in graph.tensors if tensor.weight}
        return tuple(by_buffer.values())
