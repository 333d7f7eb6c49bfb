"""Spoken languages: a DS-CNN that recognizes ten of them, in a file for 256 kB of flash and 64 kB of RAM.

apt-get install tuxpaint-stamps-default                  # the recordings; and pip install '.[spoken]'
python sample_apps/spoken_language.py --seeds 3          # half an hour on two cores
python sample_apps/spoken_language.py --smoke            # a minute, on made-up sound
python -m sample_apps.spoken.listen spoken-output/spoken.tflite spoken-output/recording.npz
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

from sample_apps.data.cache import CACHE
from sample_apps.data.lines import gathered
from sample_apps.spoken import recordings, report, runs


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    for path in () if options.resume else options.output.glob("dense-*.keras"):
        path.unlink()  # of a run before
    if options.smoke:
        print("--smoke: made-up sound instead of recordings; the accuracy means nothing")
        options.width, options.epochs, options.fine_tuning = 16, 2, 2
        options.ways = (runs.DENSE, runs.ALL)
    speech = recordings.synthetic() if options.smoke else recordings.load(options.cache)
    wanted = {
        (seed, way): partial(runs.one_way, seed, way, speech, options)
        for seed in range(options.seeds)
        for way in options.ways
    }
    path = options.output / "results.jsonl"
    lines = gathered(path, wanted, resume=options.resume, key=runs.run_of)
    lines.sort(key=lambda line: runs.WAYS.index(runs.run_of(line)[1]))
    (options.output / "table.md").write_text(report.text(lines), encoding="utf-8")
    report.draw(lines, options.output / "spoken.png")
    print(f"\n{report.text(lines)}\nFiles: {options.output}")
    files = [options.output / name for name in ("spoken.tflite", "recording.npz")]
    print(f"Listen to it: python -m sample_apps.spoken.listen {files[0]} {files[1]}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a network that recognizes spoken languages, prune it by zeros and channels, train it for "
        "8 bits, and run it in the interpreter for microcontrollers on a stream.",
        epilog="The recordings: apt-get install tuxpaint-stamps-default",
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in a minute, on made-up sound")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument("--width", type=int, default=64, help="filters of each layer (default: %(default)s)")
    parser.add_argument("--sparsity", type=float, default=0.6, help="fraction of zeros (default: %(default)s)")
    parser.add_argument("--channels", type=float, default=0.5, help="of them, to remove (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the dense network (default: %(default)s)")
    parser.add_argument("--fine-tuning", type=int, default=8, help="epochs of each way (default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="folder of the frames (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("spoken-output"), metavar="DIR", help="folder for the files"
    )
    parser.set_defaults(ways=runs.WAYS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
