"""Feed damaged .keras files to the command line's loader: `make fuzz TARGETS=keras RUNS=1000`, or MINUTES=10.

They are loaded in a child process. A finding is another exception than ValueError, a child that dies or takes more
than `SECONDS` of processor time for a file (or `WAITING` by the clock), and more than `MEMORY` on top of what the
libraries take. The file is kept in build/fuzz.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import resource
import subprocess
import sys
import time
import traceback
import zipfile
from pathlib import Path
from random import Random
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from mutations import places  # noqa: E402 (which stands there)

FOLDER = Path(__file__).parents[2] / "build" / "fuzz" / "keras"
MEMORY = 2**30  # bytes
SECONDS = 60  # of processor time: a busy machine takes longer by the clock
WAITING = 1200
NUMBERS = (0, 1, -1, 3, 2**15, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, float("nan"), float("inf"))
OTHERS = (
    "",
    "\x1b[2J",
    "\u202e",
    None,
    True,
    [],
    {},
    [1, 2],
    {"class_name": "Dense"},
    "../../x",
    "keras.layers",
    "os",
)
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def main() -> int:
    """Load mutants in one child after the other; return 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=["keras"], help=argparse.SUPPRESS)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--runs", type=int, default=1000, help="files (default: %(default)s)")
    length.add_argument("--minutes", type=float, help="how long to load files, instead of a number of them")
    parser.add_argument("--seed", type=int, default=1, help="where the mutations begin (default: %(default)s)")
    parser.add_argument("--child", type=float, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if options.child is not None:
        first, last, end = options.child
        load_mutants(int(first), int(last), end, write_seeds())
        return 0
    first, last, end = options.seed, options.seed + options.runs, math.inf
    if options.minutes is not None:
        last, end = 2**31, time.monotonic() + 60 * options.minutes
    findings: list[str] = []
    while first < last and time.monotonic() < end:
        first, more = load_in_child(first, last, end)
        findings += more
    print(f"keras: {len(findings)} finding(s) in {first - options.seed:,} files", *findings, sep="\n")
    return 1 if findings else 0


def load_in_child(first: int, last: int, end: float) -> tuple[int, list[str]]:
    """Return the number to go on with, and the findings."""
    command = [sys.executable, __file__, "--child", str(first), str(last), str(end)]
    with (FOLDER / "log").open("wb") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as child:
        assert child.stdout is not None
        lines = [line.decode().split(maxsplit=1) for line in child.stdout]
    findings = [f"{number}: {what.strip()}" for number, what in lines if what.strip() not in ("begun", "done")]
    number = int(lines[-1][0]) if lines else first
    if child.returncode:
        findings.append(f"{number}: the process ended with {child.returncode}")
    return number + 1, findings


def load_mutants(first: int, last: int, end: float, seeds: list[bytes]) -> None:
    """Load files, at least one and none after `end`, and print of each when it begins, and how it ended."""
    import signal

    from tfprune.export.keras_side.loading import load_keras, load_model

    keras = load_keras()
    for data in seeds:
        (FOLDER / "model.keras").write_bytes(data)
        load_model(str(FOLDER / "model.keras"), compiled=True)
    for number in range(first, last):
        random = Random(number)
        data = mutant(random.choice(seeds), random)
        (FOLDER / "model.keras").write_bytes(data)
        print(number, "begun", flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAITING)
        before, ended = peak_bytes(), "done"
        try:
            load_model(str(FOLDER / "model.keras"), compiled=bool(number % 2))
        except ValueError as error:
            if len(" ".join(str(error).split())) > 2000:
                ended = "a message of more than 2,000 characters"
        except BaseException as error:  # noqa: BLE001 (each is a finding)
            traceback.print_exc()
            ended = f"raised {type(error).__name__}"
        if peak_bytes() - before > MEMORY:
            ended = f"took {(peak_bytes() - before) / 2**20:,.0f} MiB"
        if ended != "done":
            (FOLDER / f"finding-{number}.keras").write_bytes(data)
        print(number, ended, flush=True)
        keras.utils.clear_session()
        if time.monotonic() > end:
            return


def peak_bytes() -> int:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_seeds() -> list[bytes]:
    """Return small saved models: dense and compiled, with branches, recurrent, with masks."""
    seeds = sorted(FOLDER.glob("seed-*.keras"))
    if not seeds:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras

        import tfprune

        layers = keras.layers
        dense = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(2, "softmax")])
        dense.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        image = keras.Input((8, 8, 3))
        x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(image))
        branches = keras.Model(image, layers.Dense(3)(layers.Flatten()(layers.Add()([x, layers.Conv2D(4, 1)(x)]))))
        words = [keras.Input((5,)), layers.Embedding(11, 4), layers.LSTM(4), layers.Dense(2)]
        models = [dense, branches, keras.Sequential(words), tfprune.wrap(dense)]
        for number, model in enumerate(models):
            model.save(FOLDER / f"seed-{number}.keras")
        seeds = sorted(FOLDER.glob("seed-*.keras"))
    return [path.read_bytes() for path in seeds]


def mutant(data: bytes, random: Random) -> bytes:
    """Change the configuration, the weights, or the archive itself."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    kind = random.choice(["config", "config", "config", "weights", "archive", "members"])
    if kind == "archive":
        return damaged(data, random)
    if kind == "weights":
        parts[WEIGHTS] = damaged(parts[WEIGHTS], random)
    elif kind == "members":
        name = random.choice(list(parts))
        del parts[name]
        parts[random.choice([name, f"../{name}", "x"])] = b"" if random.random() < 0.5 else random.randbytes(50)
    else:
        config = json.loads(parts[CONFIG])
        for _ in range(random.randint(1, 2)):
            change(config, random)
        parts[CONFIG] = json.dumps(config).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return written.getvalue()


def change(config: Any, random: Random) -> None:
    """Give one place of a configuration another value, or none."""
    holder, key = random.choice([*places(config)])
    if isinstance(holder[key], (int, float)) and random.random() < 0.8:
        holder[key] = random.choice(NUMBERS)
    elif random.random() < 0.2:
        del holder[key]
    elif random.random() < 0.3:
        other, place = random.choice([*places(config)])
        holder[key] = json.loads(json.dumps(other[place]))
    else:
        holder[key] = random.choice(NUMBERS + OTHERS)


def damaged(data: bytes, random: Random) -> bytes:
    """Change some bytes, or cut the end off."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(len(changed))] = random.choice([0, 255, random.randrange(256)])
    return bytes(changed[: random.randrange(len(changed))] if random.random() < 0.1 else changed)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
