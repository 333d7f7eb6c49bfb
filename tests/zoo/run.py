"""Take every family of keras.applications from the model to the file, and print tables: `make zoo`.

python run.py [--only family] [--only integers] [--only converters] [--only support] [FAMILY ...]: without a name all,
and all ways but `converters`, which needs litert-converter (extra `jax`) beside TensorFlow.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

# The smallest side of an image that each accepts, and a brightness at which untrained weights tell images apart.
FAMILIES = {
    "MobileNet": (32, 1),
    "MobileNetV2": (32, 1),
    "MobileNetV3Small": (32, 255),
    "MobileNetV3Large": (32, 255),
    "EfficientNetB0": (32, 255),
    "EfficientNetV2B0": (32, 255),
    "ResNet50": (32, 1),
    "ResNet50V2": (32, 1),
    "DenseNet121": (32, 1),
    "NASNetMobile": (32, 1),
    "Xception": (71, 1),
    "InceptionV3": (75, 1),
    "InceptionResNetV2": (75, 1),
    "ConvNeXtTiny": (32, 255),
    "VGG16": (32, 255),
    "VGG19": (32, 255),
}
MLPERF_TINY = (
    "DS-CNN",
    "MobileNet 0.25",
    "ResNet-8",
    "autoencoder",
)  # for `support`; bench/micro.py builds them
# What each program notes, in the order in which it is shown.
PROGRAMS = {
    "family": [
        "input", "parameters", "pruned weights", "skipped layers", "sparsity", "|wrap|", "|strip|", "|tflite| / max",
        "|sparse| / max", "sparse / dense", "form", "wrap, s", "update, s",
    ],
    "integers": [
        "layers that round", "left", "in float", "bytes", "checked", "compared", "worst", "within 2 steps",
        "quantize_aware, s", "to_tflite, s",
    ],
    "converters": [
        "|Keras| / max",
        *("|tensorflow| / max", "tensorflow, operators", "tensorflow, s"),
        *("|litert| / max", "litert, operators", "litert, s", "litert / tensorflow, time"),
    ],
    "support": ["operators", "lacks", "arena", "flash", "the interpreter"],
}  # fmt: skip


def row(program: str, name: str) -> dict[str, str]:
    """Return a family's figures by column and its verdict, measured in a process of its own for its memory."""
    command = [
        sys.executable,
        str(Path(__file__).with_name(f"{program}.py")),
        name,
        *map(str, FAMILIES.get(name, ())),
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    figures = dict(line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 1)
    return {**figures, "verdict": verdict(done)}


def verdict(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:  # its last line is then no error message
        return f"killed by signal {-done.returncode}"
    return (done.stderr.strip().rpartition("\n")[2] or "it says nothing") if done.returncode else "holds"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*")
    parser.add_argument("--only", action="append", choices=PROGRAMS)
    options = parser.parse_args()
    wanted = options.families or [*FAMILIES, *MLPERF_TINY]
    unknown = [name for name in wanted if name not in (*FAMILIES, *MLPERF_TINY)]
    if unknown:
        raise SystemExit(f"Expected families among {', '.join(FAMILIES)}. Received: {', '.join(unknown)}")
    families = [name for name in wanted if name in FAMILIES]
    programs = options.only or [program for program in PROGRAMS if program != "converters"]
    held = [_measured(program, wanted if program == "support" else families) for program in programs]
    return int(not all(held))


def _measured(program: str, wanted: list[str]) -> bool:
    """Print a program's table; tell whether all families hold."""
    console = Console(width=210)
    columns = [*PROGRAMS[program], "verdict"]
    table = Table("family", *columns)
    verdicts = []
    for name in wanted:
        figures = row(program, name)
        console.print(f"{name}: {figures['verdict']}", style="dim")
        verdicts.append(figures["verdict"])
        table.add_row(name, *(figures.get(column, "-") for column in columns))
    console.print(table)
    return all(verdict == "holds" for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
