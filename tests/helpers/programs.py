"""Programs run as their users run them: in a process each, most of them forks of one that has imported Keras."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfprune.export.device.processes import _CAN_FORK, _ForkServer

ROOT = Path(__file__).parents[2]
HELPERS = str(Path(__file__).parent)
TIMEOUT = 600  # seconds
WITHOUT_KERAS = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "tensorflow"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, and the texts that it wrote."""

    code: int
    stdout: str
    stderr: str


def started(*arguments: str | Path, folder: Path, **environment: str) -> Ended:
    """Run `python ARGUMENTS` in a folder; it loads all that it imports."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(environment),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def forked(*arguments: str | Path, folder: Path, **environment: str) -> Ended:
    """Run `python ARGUMENTS` in a folder, in a fork of a process that has imported Keras: seconds less.

    `forked_program` is the other side.
    """
    if not _CAN_FORK:
        return started(*arguments, folder=folder, **environment)
    with tempfile.TemporaryDirectory() as files:
        Path(files, "arguments.json").write_text(json.dumps([str(argument) for argument in arguments]))
        code = _warm_process().run(
            {
                "work": "forked_program:become",
                "folder": files,
                "here": str(folder),
                "path": [HELPERS, *(path for path in sys.path if path != HELPERS)],
                "environment": _environment(environment),
            },
            timeout=TIMEOUT,
        )
        stdout, stderr = (Path(files, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return Ended(code, stdout, stderr)


def printed_by(*arguments: str | Path, folder: Path, run: Callable[..., Ended] = forked, **environment: str) -> str:
    """Return what a program printed that `started` or `forked` runs, and that ends well."""
    ended = run(*arguments, folder=folder, **environment)
    assert ended.code == 0, ended.stderr[-2000:]
    return ended.stdout


def _environment(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8", **changes}


_warm: list[_ForkServer] = []  # none or one


def _warm_process() -> _ForkServer:
    environment = _environment({"PYTHONPATH": HELPERS})
    if not (_warm and _warm[0].fits(environment)):
        _end()
        _warm.append(_ForkServer("warm", environment))
    return _warm[0]


@atexit.register
def _end() -> None:
    while _warm:
        _warm.pop().close()
