"""Run in a fork, it becomes `python ARGUMENTS`, with files in its folder for what it writes."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path


def become(folder: Path) -> None:
    arguments = json.loads((folder / "arguments.json").read_text())
    for target, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), target)
    del sys.path[0]  # where this module is
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
