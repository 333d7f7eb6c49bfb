"""`bench --on` a real sshd on loopback against the same file measured directly, in turn; and what is left there."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Row, at_most

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests/helpers")]
ROUNDS = 7


def measure() -> list[Row]:
    import keras
    from loopback import Loopback, device_python, missing

    import tfprune.export

    if missing():
        sys.stderr.write(f"skipped: {missing()}\n")
        return []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keras.utils.set_random_seed(0)
        file = folder / "net.tflite"
        tfprune.export.to_tflite(_net(keras), file)
        python, server = device_python(folder / "board"), Loopback(folder)
        settings = {"runs": 200, "warmup": 20, "processes": 1}
        times: dict[str, list[float]] = {"local": [], "remote": []}
        with tfprune.export.Remote(server.address, python=str(python), options=server.options()) as remote:
            for _ in range(ROUNDS):  # in turn, so that a slow spell of the machine meets both
                times["local"].append(tfprune.export.benchmark(file, **settings).median_ms)
                times["remote"].append(tfprune.export.benchmark(file, on=remote, **settings).median_ms)
        server.close()
        left = [path.name for path in (folder / "board/tmp").iterdir()]
        running = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False).stdout
    local, there = (statistics.median(values) for values in times.values())
    what = f"bench --on, loopback {there:.3f} ms, directly {local:.3f} ms: apart by"
    return [
        at_most(what, 100 * abs(there / local - 1), 10, unit=" %", digits=1),
        at_most("files and processes left there", len([*left, *running.split()]), 0, unit="", digits=0),
    ]


def _net(keras):
    layers = keras.layers
    body = [layer for _ in range(6) for layer in (layers.Conv2D(32, 3, padding="same"), layers.ReLU())]
    return keras.Sequential([keras.Input((48, 48, 3)), *body, layers.GlobalAveragePooling2D(), layers.Dense(10)])


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
