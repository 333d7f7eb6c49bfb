"""Install the package as users do, and ask mypy in an empty folder for the type of every public name."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import tfprune
import tfprune.export
import tfprune.federated
import tfprune.tfmot

HOMES = (tfprune, tfprune.export, tfprune.federated, tfprune.tfmot)
NAMES = [f"{home.__name__}.{name}" for home in HOMES for name in home.__all__]


def check_types(sdist: Path) -> None:
    """Refuse a package whose names mypy does not know in a plain or in a strict editable installation.

    Args:
        sdist: The package, as a checkout has it.

    Raises:
        SystemExit: If a name is unknown, or `Any`.
    """
    ways = {"plain": [], "strict editable": ["--config-settings", "editable_mode=strict", "--editable"]}
    with tempfile.TemporaryDirectory() as folder:
        for way, options in ways.items():
            checkout = Path(folder, way.split()[0])
            with tarfile.open(sdist) as archive:
                archive.extractall(checkout, filter="data")
            arguments = [*options, str(next(checkout.iterdir()))]
            missing = untyped_names(arguments, folder=checkout, cache=Path(folder, "cache"))
            if missing:
                raise SystemExit(f"No type after a {way} installation: {', '.join(missing)}.")


def untyped_names(arguments: list[str], *, folder: Path, cache: Path) -> list[str]:
    """Return the public names that mypy knows no type of, or `Any`, after `uv pip install` with these arguments.

    mypy looks for each module anew; the cache spares it a module whose content it has checked.
    """
    environment, empty = folder / "environment", folder / "empty"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, environment], check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", environment, "--no-deps", *arguments]
    subprocess.run(install, check=True)
    empty.mkdir()
    imports = "import " + ", ".join(home.__name__ for home in HOMES)
    lines = [imports, *(f"reveal_type({name})" for name in NAMES)]
    Path(empty, "script.py").write_text("\n".join(lines), encoding="utf-8")
    program = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    options = ["--ignore-missing-imports", "--no-pretty", "--cache-dir", cache]  # Keras ships no types
    mypy = [sys.executable, "-m", "mypy", *options, "--python-executable", program, "script.py"]
    printed = subprocess.run(mypy, capture_output=True, text=True, cwd=empty, check=False).stdout
    types = dict(re.findall(r'^script\.py:(\d+): note: Revealed type is "(.*)"$', printed, re.MULTILINE))
    return [name for line, name in enumerate(NAMES, 2) if types.get(str(line), "Any") == "Any"]
