"""Fashion-MNIST: keep the units that the concepts of a footwear product need, with a reason for each.

python sample_apps/concept_requirements.py --seeds 3      # a quarter of an hour on two cores
python sample_apps/concept_requirements.py --smoke        # a minute, on made-up images
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy
sys.path.insert(0, str(Path(__file__).parents[1]))  # finds the modules of the app when run as a file

from sample_apps.concepts import clothes, report, runs
from sample_apps.data import fashion_mnist
from sample_apps.data.lines import gathered


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    data = clothes.synthetic() if options.smoke else fashion_mnist.load(options.samples + options.mined)
    if options.smoke:
        print("--smoke: made-up images instead of Fashion-MNIST; the accuracy means nothing")
        options.units, options.mined, options.epochs, options.fine_tuning = 64, 1000, 12, 1
        options.precision, options.recall, options.keep = 0.4, 0.2, [8]
    wanted = {seed: partial(runs.one_seed, seed, data, options) for seed in range(options.seeds)}
    path = options.output / "results.jsonl"
    lines = gathered(path, wanted, resume=options.resume, key=lambda line: line["seed"])
    (options.output / "table.md").write_text(report.text(lines), encoding="utf-8")
    report.draw(lines, options.output / "accuracy.png")
    print(f"\n{report.text(lines)}\nFiles: {options.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Keep the units that a product for footwear needs, by concept rules, and compare other "
        "choices of as many units."
    )
    parser.add_argument("--smoke", action="store_true", help="try the program in seconds, on made-up images")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue from the existing results")
    parser.add_argument("--samples", type=int, default=10_000, help="images to train on (default: %(default)s)")
    parser.add_argument("--mined", type=int, default=12_000, help="further images, for rules (default: %(default)s)")
    parser.add_argument(
        "--keep",
        type=int,
        nargs="+",
        default=[8, 16, 32, 64],
        help="the least units of a layer, one after the other until the file meets the requirements",
    )
    parser.add_argument("--units", type=int, default=1024, help="units of a dense layer (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the first training (default: %(default)s)")
    parser.add_argument("--fine-tuning", type=int, default=2, help="epochs after the removal (default: %(default)s)")
    parser.add_argument("--precision", type=float, default=0.85, help="of rules, at least (default: %(default)s)")
    parser.add_argument("--recall", type=float, default=0.75, help="of rules together (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("concept-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
