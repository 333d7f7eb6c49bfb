"""What `micro_support` says of one network before it is trained, beside what the interpreters say of the file after.

Prints a line per figure. The arena is asked of the interpreter for microcontrollers itself, without tfprune: it loads
in so many bytes and not in 16 fewer. The operators are those that LiteRT runs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from family import build, enliven, note

import tfprune.export
from tfprune.export import MicroSupportReport
from tfprune.export.keras_side.convert import convert

STEP, ROOM = 16, 2**28  # bytes
LOAD = """
import sys
from tflite_micro.python.tflite_micro import runtime
runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=int(sys.argv[1]))
"""


def before_and_after(model: keras.Model, samples: np.ndarray) -> tuple[MicroSupportReport, bytes]:
    """Return what is said of an untrained copy, and the file of the model itself."""
    with mock.patch.object(shutil, "which", return_value=None):  # the interpreter here has pointers of 64 bits
        report = tfprune.export.micro_support(keras.models.clone_model(model))
    return report, convert(model, quantize="int8", calibration=samples, io_dtype="int8", batch=1)


def compare(report: MicroSupportReport, data: bytes) -> None:
    """Hold a file against what was said."""
    note("operators", str(sum(report.ops.values())))
    note("lacks", ", ".join(report.missing) or "-")
    note("arena", f"{report.arena:,}" if report.arena else "-")
    note("flash", f"{report.flash:,}")
    expect("operators", dict(report.ops), dict(sorted(operators(data).items())))
    said = refusal(data, report.arena or ROOM)
    note("the interpreter", said or "runs")
    if report.arena is None:
        name = re.search("Didn't find op for builtin opcode '(.+?)'", said)
        expect("what stops it", True, name[1] in report.missing if name else report.reason in said)
    else:
        expect("refusal", "", said)
        expect("whether fewer bytes do", False, not refusal(data, report.arena - STEP))


def operators(data: bytes) -> Counter[str]:
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    details = Interpreter(model_content=data, experimental_op_resolver_type=plain)._get_ops_details()
    return Counter(one["op_name"] for one in details)


def refusal(data: bytes, arena: int) -> str:
    """Say why a file does not load in so many bytes; another process tries, as some operators crash in too few."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(arena)], input=data, capture_output=True, check=False)
    said = " ".join(done.stderr.decode(errors="replace").split())
    return (said or "it crashed") if done.returncode else ""


def expect(what: str, said: object, found: object) -> None:
    if said != found:
        raise ValueError(f"Expected {what}: {said}. Received: {found}")


def of_mlperf_tiny(name: str) -> tuple[keras.Model, np.ndarray]:
    sys.path.append(str(Path(__file__).parents[2] / "bench"))
    import micro

    model = micro.NETWORKS[name]()
    samples = micro.samples_of(model)
    enliven(model, samples)
    return model, samples


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    network = build(name, *map(int, numbers)) if numbers else of_mlperf_tiny(name)
    compare(*before_and_after(*network))
