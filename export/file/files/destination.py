"""Write a file whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from pathlib import Path

from tfprune.export.file.report import reason_of

_log = logging.getLogger(__name__)


def check_destination(path: str | os.PathLike[str]) -> Path:
    """Return the path if a file can be written there, before any work is done for it.

    Raises:
        ValueError: If it is a folder or a device, or its folder is missing or not writable.
        TypeError: If it is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"Expected the path of the file to write. Received: an object of type {type(path).__name__}.")
    destination = Path(path)
    try:
        real = _real_path(destination)
        is_folder, has_folder = real.is_dir(), real.parent.is_dir()
        is_special = os.path.lexists(real) and not real.is_file()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot write {str(destination)!r}: {reason_of(error)}. Choose another path.") from error
    if is_folder:
        raise ValueError(f"Cannot write {str(destination)!r}: it is a folder. Add a file name.")
    if is_special:  # a device or a pipe, which a file would replace, or a link to itself
        raise ValueError(
            f"Cannot write {str(destination)!r}: it exists and is not a regular file. Choose another path."
        )
    if not has_folder:
        raise ValueError(
            f"Cannot write {str(destination)!r}: the folder {str(real.parent)!r} does not exist. Create it first."
        )
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"Cannot write {str(destination)!r}: no permission to write in the folder {str(real.parent)!r}. "
            "Choose another folder or change its permissions."
        )
    return destination


def _real_path(path: Path) -> Path:
    """Return where a file really lies: links are kept, and what they point to is written."""
    return Path(os.path.realpath(path))


def check_not_read(destination: str, *sources: str | None) -> None:
    """Refuse to write where something is read.

    Raises:
        ValueError: If one of the sources is the file to write, under whatever name.
    """
    for source in filter(None, sources):
        try:
            same = Path(destination).samefile(source)
        except (OSError, ValueError):
            continue  # a missing file is reported where it is read
        if same:
            raise ValueError(
                f"Expected a path to write that is not read as well. Received: {destination!r}, which is {source!r}. "
                "Choose another path."
            )


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: readers see the old content or the new, never a part.

    The permissions of a file that is replaced stay.

    Args:
        path: Where to write, exactly as given; a link stays, and what it points to is written.
        data: The content.

    Raises:
        ValueError: If the file cannot be written; what was there before is untouched.
    """
    destination = check_destination(path)
    real = _real_path(destination)
    temporary = real.parent / f".tfprune-{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as stream:
            if real.exists():
                shutil.copymode(real, temporary)  # who may read a file stays as it is
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(real)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(destination)!r}: {error.strerror}. Choose another folder or free some space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    _log.info("wrote %s: %s bytes", destination, f"{len(data):,}")
