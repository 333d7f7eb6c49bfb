"""Fashion-MNIST: a pruned network as a float file, in int8 after training, and trained for int8 (PQAT, PCQAT).

python sample_apps/int8_four_ways.py --seeds 3                  # an hour and a half on two cores
python sample_apps/int8_four_ways.py --seeds 3 --networks ViT   # only the vision transformer
python sample_apps/int8_four_ways.py --smoke                    # a minute, on made-up images
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

from sample_apps.concepts import clothes
from sample_apps.data import fashion_mnist
from sample_apps.data.lines import gathered
from sample_apps.four_ways import networks, report, runs, transformers

RUNS = {name: partial(runs.one_network, name) for name in networks.NETWORKS}
RUNS[transformers.NAME] = transformers.one_network


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    names = [name for name in RUNS if name in options.networks]
    if options.smoke:
        print("--smoke: made-up images instead of Fashion-MNIST; the accuracy means nothing")
        options.width, options.epochs, options.fine_tuning, names = 4, 1, 1, names[-2:]
    data = clothes.synthetic() if options.smoke else fashion_mnist.load(options.samples)
    wanted = {
        (seed, name): partial(RUNS[name], seed, data, options) for seed in range(options.seeds) for name in names
    }
    path = options.output / "results.jsonl"
    lines = gathered(path, wanted, resume=options.resume, key=lambda line: (line["seed"], line["network"]))
    lines.sort(key=lambda line: names.index(line["network"]))
    (options.output / "table.md").write_text(report.text(lines), encoding="utf-8")
    report.draw(lines, options.output / "accuracy.png")
    print(f"\n{report.text(lines)}\nFiles: {options.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prune a network, and compare four kinds of files: in float, in 8 bits after "
        "training, trained for 8 bits, and trained for 8 bits with few values for each weight."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in seconds, on made-up images")
    parser.add_argument(
        "--networks", nargs="+", choices=RUNS, default=[*RUNS], metavar="NAME", help=f"which of: {', '.join(RUNS)}"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument("--samples", type=int, default=20_000, help="images to train on (default: %(default)s)")
    parser.add_argument("--width", type=int, default=16, help="filters of the first layer (default: %(default)s)")
    parser.add_argument("--sparsity", type=float, default=0.9, help="fraction of zeros (default: %(default)s)")
    parser.add_argument("--levels", type=int, default=16, help="values of a weight, for PCQAT (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of pruning (default: %(default)s)")
    parser.add_argument("--fine-tuning", type=int, default=2, help="epochs of each way (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("four-ways-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
