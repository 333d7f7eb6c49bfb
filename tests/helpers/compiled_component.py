"""Compile a component for a microcontroller with GCC, and run its self test in TensorFlow Lite Micro on this machine.

The interpreter and the reference kernels are those of the Python package tflite-micro, which has no headers:
`tflm/` declares the functions that components call. As a program, it runs a compiled component and lets it print.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEADERS = Path(__file__).with_name("tflm")
STRICT = ("g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or importlib.util.find_spec("tflite_micro") is None,
    reason="g++ or tflite-micro is not installed (extra `micro`)",
)


def run_component(folder: Path) -> str:
    """Compile a component for ESP-IDF with the program of its example, and return what that prints."""
    project = folder / "examples" / "self_test" / "main"
    return _run([*folder.glob("*.cc"), project / "main.cc"], folder / "include", functions=["app_main"])


def run_library(folder: Path) -> str:
    """Compile a library for Arduino with its sketch, and return what that prints."""
    sketch = folder / "sketch.cpp"
    lines = ['#include "Arduino.h"', f'#include "{next(folder.rglob("*.ino"))}"']
    begin = 'extern "C" void begin() { setup(); loop(); }'
    sketch.write_text("\n".join([*lines, begin, ""]))
    return _run([*folder.glob("src/*.cpp"), sketch], folder / "src", functions=["begin"])


def _run(sources: list[Path], headers: Path, *, functions: list[str]) -> str:
    library = headers / "component.so"
    (headers / "operators_of_the_wheel.h").write_text(_methods())
    included = [f"-I{headers}", f"-I{HEADERS}"]
    subprocess.run([*STRICT, *included, "-o", library, *sources], check=True, timeout=300)
    command = [sys.executable, __file__, library, *functions]
    done = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True)
    return done.stdout.strip()


def _methods() -> str:
    """Return the methods of the resolver that add an operator each."""
    from tfprune.export.file import schema
    from tfprune.export.micro.interpreter import KNOWN_OPERATORS, registrations

    lines = []
    for name in sorted(KNOWN_OPERATORS):
        (method,) = registrations([name])
        code = getattr(schema.BuiltinOperator, name, None)
        arguments = f'kCustom, "{name}"' if code is None else f"{code}, nullptr"
        lines.append(f"  TfLiteStatus {method}() {{ return Add({arguments}); }}\n")
    return "".join(lines)


def main(library: str, *functions: str) -> None:
    """Load the interpreter, so that a component finds its functions, and call functions of the component."""
    sys.setdlopenflags(os.RTLD_GLOBAL | os.RTLD_LAZY)
    from tflite_micro.python.tflite_micro import runtime

    assert runtime.Interpreter
    component = ctypes.CDLL(library)
    for function in functions:
        getattr(component, function)()
    ctypes.CDLL(None).fflush(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
