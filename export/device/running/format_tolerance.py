"""How much the outputs of a file may differ from those of its Keras model, by the number format of the file."""

from __future__ import annotations

from tfprune.export.file.tflite.model import Model

# Relative to the largest Keras output. Right files were seen to differ by 2e-6, 2e-3, 0.02 and 0.26 at most (the last
# an untrained LSTM on integers, 0.03 without recurrent layers), files with shuffled weights by 0.7 at least.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.35, "int16x8": 0.1, "int4": 0.5}
STORED = {"float16": "float16", "int8": "dynamic", "uint8": "dynamic", "int4": "int4"}  # formats by weight type
COMPUTED = {"int8": "int8", "uint8": "int8", "int16": "int16x8"}  # formats by activation type


def format_tolerance(model: Model) -> float:
    """Return the difference allowed, relative to the largest output: the widest of the formats that the file has.

    Args:
        model: The file.
    """
    stored = {STORED.get(weight.dtype) for weight in model.weights}
    return max(TOLERANCES[scheme] for scheme in {None, *stored, *_computed(model)})


def _computed(model: Model) -> set[str]:
    """Return the formats of the operators that compute integers from integers.

    A file of floats has operators that only read integers (DEQUANTIZE) or only look them up in a constant (GATHER).
    """
    formats = set()
    for graph in model.subgraphs:
        operators = [operator for operator in graph.operators if operator.name != "DENSIFY"]
        computed = {index for operator in operators for index in operator.outputs} | set(graph.inputs)
        for operator in operators:
            input_types, output_types = (
                {graph.tensors[index].dtype for index in indices if index in computed}
                for indices in (operator.inputs, operator.outputs)
            )
            formats |= {COMPUTED[dtype] for dtype in input_types & output_types & COMPUTED.keys()}
    return formats
