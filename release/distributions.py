"""Build the sdist and the wheel, into build/dist or a folder that is named; the same commit gives the same bytes.

The wheel is reproducible as it is, given a time. setuptools writes the times of the checkout into the sdist, so it is
packed again with the time of the commit.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build_distributions(target: Path) -> list[Path]:
    """Return the files of a fresh build: sdist, wheel."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would ship modules that are gone
    time = os.environ.get("SOURCE_DATE_EPOCH") or _time_of_commit()
    command = [sys.executable, "-m", "build", "--installer", "uv", "--outdir", target, ROOT]
    done = subprocess.run(command, env=os.environ | {"SOURCE_DATE_EPOCH": time}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    (sdist,) = target.glob("*.tar.gz")
    sdist.write_bytes(_with_time(sdist.read_bytes(), int(time)))
    return [sdist, *target.glob("*.whl")]


def _time_of_commit() -> str:
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _with_time(archive: bytes, time: int) -> bytes:
    """Return a .tar.gz with the same files, whose times, owners and permissions depend on nobody's machine."""
    content = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=content, mode="w") as new:
        for member in sorted(old, key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(content.getvalue(), mtime=time)


if __name__ == "__main__":
    for path in build_distributions(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "dist"):
        print(f"{path}: {path.stat().st_size:,} bytes")
