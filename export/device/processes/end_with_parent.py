"""What a child process does: end as soon as its parent is gone, even while importing, and call the job's function."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
from pathlib import Path

REASON = "reason.txt"  # in the folder of a job: why it refused
REMOVE_TRIES = 100  # to remove a folder into which another thread may still write


def end_with_parent(folder: Path) -> None:
    """Wait in a thread until stdin closes, which tells that the parent is gone; then remove the folder and end.

    Args:
        folder: The folder of the child's job.
    """
    threading.Thread(target=_wait_and_end, args=(folder,), daemon=True).start()


def call_work(work: str, folder: Path) -> None:
    """Import and call a function of one argument, the folder of the job.

    Args:
        work: `module:function`.
        folder: The folder. The text of a ValueError or TypeError is written there, as the reason for the parent.
    """
    module, _, function = work.partition(":")
    try:
        getattr(importlib.import_module(module), function)(folder)
    except (TypeError, ValueError) as error:
        (folder / REASON).write_text(str(error), encoding="utf-8")
        raise


def _wait_and_end(folder: Path) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock could not be taken when Python ends
        pass
    for _ in range(REMOVE_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    os._exit(1)


if __name__ == "__main__":
    _, name, job = sys.argv
    end_with_parent(Path(job))  # before the module is imported, which may take many seconds
    call_work(name, Path(job))
