"""End a child process as soon as its parent is gone, even while the child is still importing."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import threading
from pathlib import Path

REMOVE_TRIES = 100  # to remove a folder into which another thread may still write


def end_with_parent(folder: Path) -> None:
    """Wait in a thread until stdin closes, which tells that the parent is gone; then remove the folder and end.

    Args:
        folder: The folder of the child's job.
    """
    threading.Thread(target=_wait_and_end, args=(folder,), daemon=True).start()


def _wait_and_end(folder: Path) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock could not be taken when Python ends
        pass
    for _ in range(REMOVE_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    os._exit(1)


if __name__ == "__main__":
    _, module, job = sys.argv
    end_with_parent(Path(job))  # before the module is imported, which may take many seconds
    sys.argv[:] = [module, job]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
