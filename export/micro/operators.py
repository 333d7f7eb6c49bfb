"""The operators that the interpreter for microcontrollers has, and how an application registers each."""

from __future__ import annotations

from collections.abc import Iterable

from tfprune.export.file.tflite.decode_format import OPERATOR

# Of tflite-micro 0.dev20261023; tests/export/micro/test_operators.py asks the interpreter for each.
NAMES = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
CUSTOM = {
    OPERATOR: "AddDecode",
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
}
# Where the name is not what the rule makes of it.
IRREGULAR_NAMES = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}
KNOWN_OPERATORS = frozenset(NAMES.split()) | frozenset(CUSTOM)


def missing(names: Iterable[str]) -> list[str]:
    """Return the operators that the interpreter lacks, in order."""
    return sorted({*names} - KNOWN_OPERATORS)


def registrations(names: Iterable[str]) -> list[str]:
    """Return the functions of the resolver that an application calls for operators, in order.

    Example:
        >>> registrations(["SOFTMAX", "CONV_2D"])
        ['AddConv2D', 'AddSoftmax']
    """
    return sorted(CUSTOM.get(name) or IRREGULAR_NAMES.get(name) or _rule(name) for name in {*names})


def _rule(name: str) -> str:
    words = name.split("_")
    return "Add" + "".join("2D" if word == "2D" else word.capitalize() for word in words)
