"""The list of operators, compared with what the interpreter says of each."""

import subprocess
import sys

import pytest

from tfprune.export.micro.interpreter import _CUSTOM, KNOWN_OPERATORS

# In a process of its own, whose forks may crash on an operator without what it needs, but only once it was found.
SCRIPT = """
import contextlib, os
import numpy as np
from tflite_micro.python.tflite_micro import runtime
from tfprune.export.file import schema
from tfprune.export.file.document import save_objects

def file_with(builtin):
    shape, first, second = np.array([1, 4], np.int32), np.array([0], np.int32), np.array([1], np.int32)
    tensors = [schema.TensorT(shape=shape, buffer=0, name=name) for name in (b"x", b"y")]
    operators = [schema.OperatorT(opcodeIndex=0, inputs=first, outputs=second)]
    graph = schema.SubGraphT(tensors=tensors, inputs=first, outputs=second, operators=operators)
    code = schema.OperatorCodeT(deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin, version=1)
    return save_objects(schema.ModelT(version=3, operatorCodes=[code], subgraphs=[graph], buffers=[schema.BufferT()]))

def finds(data):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        with contextlib.suppress(RuntimeError):
            runtime.Interpreter.from_bytes(data, arena_size=20_000)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return "Didn't find op" not in said

for name, number in vars(schema.BuiltinOperator).items():
    if isinstance(number, int) and not name.startswith(("STABLEHLO", "CUSTOM")) and finds(file_with(number)):
        print(name)
"""


def test_the_list_is_what_the_interpreter_has():
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert {*done.stdout.split()} == KNOWN_OPERATORS - {*_CUSTOM}
