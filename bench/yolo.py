"""Train Ultralytics' YOLO11n on drawn squares, export it by `yolo export`, prune and shrink the files, and validate.

It needs the environment of `torch_corpus.py` for `yolo`, and one with tfprune:

    python bench/yolo.py build/yolo --yolo build/torch/bin/yolo

The pictures are 64 pixels wide: colored rectangles of two classes on noise. 256 are for training, 64 for validation.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tfprune.export import prune_tflite, shrink_tflite
from tfprune.report import table

SIDE, COLORS = 64, ((40, 200, 230), (220, 60, 40))
PARTS = {"train": 256, "val": 64}


def draw(folder: Path) -> Path:
    """Write the pictures and their labels; return the file that names them."""
    generator = np.random.default_rng(1)
    for part, count in PARTS.items():
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = generator.integers(0, 90, (SIDE, SIDE, 3))
            width, height = generator.integers(12, 30, 2)
            left, top = generator.integers(0, SIDE - width), generator.integers(0, SIDE - height)
            kind = int(generator.integers(0, 2))
            noise = generator.integers(-20, 20, (height, width, 3))
            picture[top : top + height, left : left + width] = np.array(COLORS[kind]) + noise
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"images/{part}/{number:03}.png")
            box = (left + width / 2, top + height / 2, width, height)
            text = " ".join(str(length / SIDE) for length in box)
            (folder / f"labels/{part}/{number:03}.txt").write_text(f"{kind} {text}\n", encoding="utf-8")
    path = folder / "data.yaml"
    content = f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n  0: cyan\n  1: red\n"
    path.write_text(content, encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--yolo", default="yolo", help="the program of Ultralytics")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data, program = draw(options.folder), Path(options.yolo).resolve() if "/" in options.yolo else options.yolo

    def yolo(*arguments: str) -> str:
        command = [str(program), *arguments, f"imgsz={SIDE}", "plots=False"]
        done = subprocess.run(command, cwd=options.folder, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    run = ("epochs=30", "batch=32", "device=cpu", "amp=False", "workers=0", "mosaic=0", "exist_ok=True")
    yolo("train", "model=yolo11n.yaml", f"data={data.resolve()}", *run, f"project={options.folder.resolve()}/runs")
    weights = next(options.folder.glob("runs/**/last.pt"))
    (options.folder / "squares.pt").write_bytes(weights.read_bytes())
    yolo("export", "model=squares.pt", "format=tflite")
    yolo("export", "model=squares.pt", "format=tflite", "int8=True", f"data={data.resolve()}")
    pictures = [np.asarray(Image.open(path)) for path in sorted((options.folder / "images/train").iterdir())]
    samples = np.moveaxis(np.stack(pictures).astype(np.float32) / 255, 3, 1)
    rows = []
    for name in ("squares", "squares_int8"):
        path = options.folder / f"{name}.tflite"
        sparse, small = (path.with_name(f"{name}_{kind}.tflite") for kind in ("sparse", "small"))
        prune_tflite(path, sparse, samples, sparsity=0.6, verbose=0)
        shrink_tflite(path, small, samples, flops=0.6, verbose=0)
        for file in (path, sparse, small):
            printed = yolo("val", "task=detect", f"model={file.name}", f"data={data.resolve()}")
            scores = re.search(r"\ball +\d+ +\d+ +\S+ +\S+ +(\S+) +(\S+)", printed)
            rows.append([file.name, f"{file.stat().st_size:,}", *(scores.groups() if scores else ("-", "-"))])
    sys.stdout.write(table(["file", "bytes", "mAP50", "mAP50-95"], rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
