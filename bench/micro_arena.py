"""Compare the arena on 32 bits that reports give with the interpreter for microcontrollers, compiled for 32 bits.

    python bench/micro_arena.py SOURCES

SOURCES is a folder with checkouts of tflite-micro, flatbuffers (include/ alone is enough), gemmlowp and ruy; once,
the interpreter and its reference kernels are compiled there, in ten minutes. It needs GCC for 32 bits
(g++-multilib), and for the files: pip download --no-deps -d build/packages pymicro-wakeword==2.5.0
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import micro
from common import Row, at_most
from foreign_files import PACKAGES, members_of

from tfprune.export import Quantization, micro_support, rewrite, to_tflite
from tfprune.export.file.model_file import ModelFile
from tfprune.export.micro.interpreter import variables_of

WORDS = ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")
MOST_OFF = 0.01  # of the arena
FOLDERS = ("micro", *(f"micro/{name}" for name in ("arena_allocator", "memory_planner", "kernels", "tflite_bridge")))
FOLDERS += ("core/api", "core/c", "kernels", "kernels/internal", "kernels/internal/reference")
SKIPPED = re.compile(r"test|mock_|fake_|kernel_runner|hexdump|detection_postprocess")
FLAGS = ["-m32", "-std=c++17", "-O1", "-w", "-fno-rtti", "-fno-exceptions", "-DTF_LITE_STATIC_MEMORY"]


def program_of(sources: Path) -> Path:
    """Compile the program that measures, if it is not there yet."""
    root, objects = sources / "tflite-micro", sources / "objects"
    objects.mkdir(exist_ok=True)
    version = re.findall(r"VERSION_(\w+) == (\d+)", (root / "tensorflow/lite/schema/schema_generated.h").read_text())
    header = sources / "flatbuffers/include/flatbuffers/base.h"
    text = header.read_text()
    for part, number in version:  # a check of the generated code; the layout of the format is that of all versions
        text = re.sub(rf"(#define FLATBUFFERS_VERSION_{part}) \d+", rf"\1 {number}", text)
    header.write_text(text)
    includes = [
        f"-I{folder}" for folder in (root, sources / "flatbuffers/include", sources / "gemmlowp", sources / "ruy")
    ]
    files = [path for folder in FOLDERS for path in sorted((root / "tensorflow/lite" / folder).glob("*.cc"))]
    files += sorted((root / "tensorflow/compiler/mlir/lite").glob("*/api/*.cc"))
    files += sorted((root / "tensorflow/compiler/mlir/lite/schema").glob("*.cc"))
    files = [path for path in files if not SKIPPED.search(path.name)]

    def compiled(path: Path) -> Path:
        target = objects / f"{'_'.join(path.relative_to(root).parts)}.o"
        if not target.exists():
            subprocess.run(["g++", *FLAGS, *includes, "-c", path, "-o", target], check=True)
        return target

    parts = ThreadPool(2).map(compiled, files)
    program = objects / "arena"
    source = Path(__file__).with_suffix(".cc")
    subprocess.run(["g++", *FLAGS, *includes, source, *parts, "-o", program], check=True)
    return program


def files() -> Iterator[tuple[str, bytes]]:
    """Yield twelve files: four wake words, as they are and as rewritten, and MLPerf Tiny's networks in int8."""
    packaged = dict(members_of(PACKAGES, (".tflite",)))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "file.tflite")
        for word in WORDS:
            content = packaged[f"pymicro_wakeword/models/{word}.tflite"]
            yield word, content
            rewrite(content, path, target="micro", verbose=0)
            yield f"{word}, rewritten", path.read_bytes()
        for title, build in micro.NETWORKS.items():
            model = micro.settled(build())
            samples = micro.samples_of(model)
            form = Quantization("int8", io_dtype="int8")
            to_tflite(model, path, quantize=form, calibration=samples, tolerance=10, batch=1, verbose=0)
            yield title, path.read_bytes()


def measure(sources: Path) -> Iterator[Row]:
    program = program_of(sources)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "file.tflite")
        for title, content in files():
            path.write_bytes(content)
            variables = variables_of(ModelFile(content))
            done = subprocess.run([program, path, str(variables)], capture_output=True, text=True, check=True)
            _, least = map(int, done.stdout.split())
            reported = micro_support(content).arena
            off = abs(reported - least) / least
            yield at_most(f"{title}: {reported:,} reported, {least:,} needed", off, MOST_OFF, unit="", digits=4)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for row in measure(Path(sys.argv[1])):
        print(f"{row.what}\t{row.measured}\t{row.bar}\t{'yes' if row.holds else 'NO'}", flush=True)


if __name__ == "__main__":
    main()
