"""The folder of a page: written whole or not at all, and never over files of somebody else."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfprune.base.untrusted import LARGEST_JSON, parse_json
from tfprune.export.file.report import reason_of

PACKAGE = "package.json"
MARK = "tfprune"  # a key of package.json, which npm leaves alone
MODELS = "models"


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the path if the page can be written there, before any work is done for it.

    Raises:
        TypeError: If it is not a path.
        ValueError: If it is a file, a folder with files of somebody else, or its parent is missing or not writable.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(
            f"Expected the path of the folder to write. Received: an object of type {type(folder).__name__}."
        )
    name = repr(os.fspath(folder))
    try:
        real = Path(os.path.realpath(folder))
        exists = os.path.lexists(real)
        is_foreign = exists and not (real.is_dir() and (_is_ours(real) or not any(real.iterdir())))
        has_parent = real.parent.is_dir()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot write {name}: {reason_of(error)}. Choose another folder.") from error
    if is_foreign:
        raise ValueError(
            f"Expected a new or empty folder, or one that `web` has written. Received: {name}, which is not. "
            "Choose another folder."
        )
    if not has_parent:
        raise ValueError(f"Cannot write {name}: the folder {str(real.parent)!r} does not exist. Create it first.")
    if not os.access(real if exists else real.parent, os.W_OK | os.X_OK):
        raise ValueError(f"Cannot write {name}: no permission. Choose another folder or change its permissions.")
    return Path(folder)


def _is_ours(folder: Path) -> bool:
    path = folder / PACKAGE
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:
        return False
    try:
        package = parse_json(path.read_bytes())
    except ValueError:
        return False
    return isinstance(package, dict) and isinstance(package.get(MARK), dict) and "web" in package[MARK]


def write_folder(folder: Path, files: Mapping[str, bytes], *, package: Mapping[str, Any]) -> None:
    """Write the files of a page, all of them or none.

    They are written beside the others first. A new folder then gets its name in one step; in an old one each file is
    replaced, and its models are removed that are not among the new ones. Other files stay.

    Args:
        folder: What `check_folder` returned.
        files: Contents by name; those in `models/` are the models.
        package: The content of package.json, to which the mark of such folders is added.

    Raises:
        ValueError: If the folder cannot be written.
    """
    real = Path(os.path.realpath(folder))
    marked = json.dumps({**package, MARK: {"web": 1}}, indent=2).encode()
    inside = real.is_dir()
    staged = (real if inside else real.parent) / f".tfprune-{uuid.uuid4().hex}"
    try:
        for name, content in {**files, PACKAGE: marked}.items():
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if inside:
            _replace(real, staged)
        else:
            staged.rename(real)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(folder)!r}: {reason_of(error)}. Choose another folder or free some space."
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _replace(folder: Path, staged: Path) -> None:
    """Move new files to their places in an existing folder, with the mark first, so that a second try may go on."""
    (staged / PACKAGE).replace(folder / PACKAGE)
    if (folder / MODELS).exists():
        (folder / MODELS).rename(staged / "old")
    for path in staged.iterdir():
        if path.name != "old":
            path.replace(folder / path.name)
