"""The readers of packed files in other languages, run on the files of a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
READERS = HERE.parents[1] / "export" / "file" / "readers"
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-O2")
SANITIZERS = ("-std=c99", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def read_in_javascript(folder: Path) -> dict[str, dict[str, Any]]:
    """Return for each .tfz of a folder the SHA-256 of its content as `digest`, or the `refusal`, by name."""
    return _rows(["node", str(HERE / "read_tfz.mjs"), str(READERS / "tfz.mjs"), str(folder)])


def read_in_c(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the same by the reader in C, and the bytes of memory that it took beside input and output."""
    with tempfile.TemporaryDirectory() as name:
        program = compiled(Path(name), WARNINGS)
        files = [str(path) for path in sorted(folder.glob("*.tfz"))]
        rows = {Path(path).name: row for path, row in _rows([program, "--write", *files]).items()}
    for file, row in rows.items():
        output = folder / f"{file}.out"
        if output.exists():
            row["digest"] = sha256(output.read_bytes()).hexdigest()
            output.unlink()
    return rows


def compiled(folder: Path, options: tuple[str, ...]) -> str:
    """Compile the program around the reader in C, and return its path."""
    program = folder / "read_tfz"
    command = ["cc", *options, f"-I{READERS}", str(HERE / "read_tfz.c"), "-o", str(program)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not completed.returncode, completed.stderr[-2000:]
    return str(program)


def _rows(command: list[str]) -> dict[str, dict[str, Any]]:
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not completed.returncode, completed.stderr[-2000:]
    return {row.pop("name"): row for row in map(json.loads, completed.stdout.splitlines())}


def _needs(program: str, reader: str) -> Any:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program}, for {reader}, is not installed")


needs_node, needs_cc = _needs("node", "tfz.mjs"), _needs("cc", "tfz.h")
OTHER_READERS = [
    pytest.param(read_in_javascript, id="javascript", marks=[needs_node, pytest.mark.programs]),
    pytest.param(read_in_c, id="c", marks=[needs_cc, pytest.mark.programs]),
]
