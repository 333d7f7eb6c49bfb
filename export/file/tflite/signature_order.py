"""The order of a file's inputs and outputs by its signature; the converter's own follows a hash of the names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tfprune.export.file.tflite import schema

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
    input_indices = {_name(signature.Inputs(index)): index for index in range(signature.InputsLength())}
    output_indices = {_name(signature.Outputs(index)): index for index in range(signature.OutputsLength())}
    _arrange(graph.InputsAsNumpy(), [signature.Inputs(input_indices[name]).TensorIndex() for name in inputs])
    ordered = sorted(output_indices, key=_output_key)
    _arrange(graph.OutputsAsNumpy(), [signature.Outputs(output_indices[name]).TensorIndex() for name in ordered])
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
