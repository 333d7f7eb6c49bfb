"""The reader of packed files in JavaScript, run by Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
READER = HERE.parents[1] / "export" / "file" / "readers" / "tfz.mjs"
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node, which runs tfz.mjs, is not installed")


def read_in_javascript(folder: Path) -> dict[str, dict[str, Any]]:
    """Return for each .tfz of a folder the SHA-256 of its content as `digest`, or the `refusal`, by name."""
    command = ["node", str(HERE / "read_tfz.mjs"), str(READER), str(folder)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not completed.returncode, completed.stderr[-2000:]
    return {row.pop("name"): row for row in map(json.loads, completed.stdout.splitlines())}
