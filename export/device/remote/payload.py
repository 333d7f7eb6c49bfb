"""What a device needs of this library, as one archive that Python imports from; and the line that takes it there."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# What `benchmark` and `verify` import, on the device.
OF_BASE = (
    "__init__",
    "spec",
    "classes",
    "groups",
    "limit",
    "lazy",
    "streams",
    "coders",
    "untrusted",
    "progress",
)
OF_BOTH = ("__init__", "report", *(f"base/{name}" for name in OF_BASE))
OF_EXPORT = (
    "__init__",
    "file/__init__",
    "file/report",
    "file/model_file",
    "file/trailing_archive",
    "device/__init__",
    "device/board",
    "device/interpreter",
)
ROOMS = (
    *("file/tflite", "file/files", "file/xnnpack"),
    *("device/processes", "device/generating", "device/running", "device/remote"),
)

# Runs on the device: takes the archive from its input into a folder of its own, and removes it whatever happens.
START = """\
import hashlib, os, shutil, signal, sys, tempfile
for name in ("SIGTERM", "SIGHUP", "SIGINT"):
    signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
if sys.version_info < (3, 10):
    sys.exit("Python %d.%d is too old, the device half needs 3.10" % sys.version_info[:2])
content = sys.stdin.buffer.read(int(sys.argv[1]))
if hashlib.sha256(content).hexdigest() != sys.argv[2]:
    sys.exit("the archive arrived damaged")
folder = tempfile.mkdtemp(prefix="tfprune-")
try:
    path = os.path.join(folder, "device.zip")
    with open(path, "wb") as file:
        file.write(content)
    sys.path.insert(0, path)
    from tfprune.export.device.remote.agent import serve
    serve(folder, silence=float(sys.argv[3]))
finally:
    shutil.rmtree(folder, ignore_errors=True)
"""


class Payload(NamedTuple):
    """The archive and its hash."""

    content: bytes
    digest: str


@functools.cache
def payload() -> Payload:
    """Return the device half as a zip archive, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_files()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), path.read_bytes(), zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return Payload(content, hashlib.sha256(content).hexdigest())


def _files() -> Iterator[tuple[str, Path]]:
    import tfprune.export

    both, export = Path(tfprune.__path__[0]), Path(tfprune.export.__path__[0])
    yield from ((f"tfprune/{name}.py", both / f"{name}.py") for name in OF_BOTH)
    yield from ((f"tfprune/export/{name}.py", export / f"{name}.py") for name in OF_EXPORT)
    for room in ROOMS:
        yield from ((f"tfprune/export/{room}/{path.name}", path) for path in (export / room).glob("*.py"))
