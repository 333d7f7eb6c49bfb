"""The order of a file's inputs and outputs: the converter's follows a hash of the names, here it becomes Keras'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfprune.export.tflite import schema
from tfprune.export.tflite.signature_order import OUTPUT_NUMBER


def keep_order(data: bytes, inputs: Sequence[str]) -> bytes:
    """Put the inputs and outputs of a file in the order of the Keras model.

    Args:
        data: A .tflite file with one signature, fresh from the converter.
        inputs: Names of the inputs, in the order wanted. Outputs are ordered by their number, or by their key
            where the model returns a dict.

    Returns:
        The same file; only the lists of input and output tensors are permuted.
    """
    edited = bytearray(data)
    model = schema.Model.GetRootAs(edited, 0)
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    given = {_name(signature.Inputs(index)): index for index in range(signature.InputsLength())}
    made = {_name(signature.Outputs(index)): index for index in range(signature.OutputsLength())}
    _arrange(graph.InputsAsNumpy(), [signature.Inputs(given[name]).TensorIndex() for name in inputs])
    ordered = sorted(made, key=_output_key)
    _arrange(graph.OutputsAsNumpy(), [signature.Outputs(made[name]).TensorIndex() for name in ordered])
    return bytes(edited)


def _arrange(tensors: Any, wanted: list[int]) -> None:
    # One tensor can be two outputs; the file then lists it once, and there is no order to keep.
    if sorted(tensors.tolist()) == sorted(wanted):
        tensors[:] = wanted


def _name(entry: Any) -> str:
    return entry.Name().decode()


def _output_key(name: str) -> tuple[int, str]:
    match = OUTPUT_NUMBER.fullmatch(name)
    return (int(match[1]) if match else 0, name)
