"""How well a search chooses its trials, without training: policies.py [LANDSCAPES].

Landscapes are made up, or fitted to true searches (recorded_landscapes.json, which fit_landscapes.py prints).
Prints, for each policy, the hypervolume of (size, drop) in nats, how far it varies between searches of the same
landscape, the smallest file, and the number of trials.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
from landscapes import MAX_DROP, Landscape, Policy, search, worth

from tfprune.export.compressing.policy import Goal, SearchSettings, _next_recipe
from tfprune.export.compressing.trials import Recipe, Trial

LANDSCAPES, DRAWS = 40, 5
RECORDED = json.loads(Path(__file__).with_name("recorded_landscapes.json").read_text(encoding="utf-8"))
RECORDED_DRAWS = 50
RECORD = Path(__file__).with_name("policy_before.json")  # of the policy that this one replaced


@dataclass(frozen=True)
class Case:
    """What is searched for, how many trials run at once, and the network of a recorded landscape."""

    by: str = "bytes"
    workers: int = 1
    network: str = ""

    def __str__(self) -> str:
        return f"{'smallest' if self.by == 'bytes' else 'fastest'}, {self.network or f'{self.workers} at once'}"

    def landscapes(self, count: int) -> list[list[Landscape]]:
        """Return the landscapes, each as often as it is searched."""
        if self.network:
            constants = RECORDED[self.network]["constants"]
            return [[Landscape(0, draw, constants=constants) for draw in range(RECORDED_DRAWS)]]
        return [[Landscape(seed, draw) for draw in range(DRAWS)] for seed in range(count)]


CASES = (Case(), Case("latency_ms"), Case(workers=4), *(Case(network=network) for network in RECORDED))


def product(
    trials: Sequence[Trial],
    running: Sequence[Recipe],
    first: Recipe,
    may_be_long: bool,
    *,
    by: str,
    settings: SearchSettings | None = None,
) -> Recipe:
    """Choose as `compress` does."""
    return _next_recipe(
        trials,
        running,
        first=first,
        can_shrink=True,
        goal=Goal(by, MAX_DROP),
        settings=settings or SearchSettings(),
        may_be_long=may_be_long,
    )


def genetic(
    trials: Sequence[Trial], running: Sequence[Recipe], first: Recipe, may_be_long: bool, *, by: str
) -> Recipe:
    """Let Optuna's NSGA-II draw every recipe, which starts from the original model and trains for long."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    number = len(trials) + len(running)
    sampler = optuna.samplers.NSGAIISampler(population_size=8, seed=first.seed + number)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    space = {
        "flops": optuna.distributions.FloatDistribution(0.08, 1.0, log=True),
        "weights": optuna.distributions.FloatDistribution(0.02, 1.0, log=True),
        "quantize_aware": optuna.distributions.CategoricalDistribution((False, True)),
        "rate": optuna.distributions.FloatDistribution(0.5, 4.0, log=True),
    }
    for trial in trials[1:]:
        recipe, file = trial.recipe, min(trial.tried, key=lambda file: file.drop)
        parameters = dict(
            zip(space, (*recipe.remaining, recipe.quantize_aware, recipe.learning_rate / 1e-3), strict=True)
        )
        values = [float(np.log(getattr(file, by))), max(0.0, file.drop)]
        study.add_trial(optuna.create_trial(params=parameters, distributions=space, values=values))
    parameters = study.ask(space).params
    return replace(
        first,
        flops=parameters["flops"],
        sparsity=1 - parameters["weights"],
        quantize_aware=parameters["quantize_aware"],
        learning_rate=1e-3 * parameters["rate"],
        rounds=first.rounds * (4 if may_be_long else 1),
        seed=first.seed + number,
    )


def at_random(
    trials: Sequence[Trial], running: Sequence[Recipe], first: Recipe, may_be_long: bool, *, by: str
) -> Recipe:
    """Let every trial be a child of any trial within the limit, chosen at random."""
    draw = random.Random(first.seed + len(trials) + len(running))
    fit = [trial for trial in trials[1:] if min(file.drop for file in trial.tried) <= MAX_DROP]
    parent = draw.choice([trials[0], *fit])
    recipe = product([trials[0], *([parent] if parent.recipe else [])], [], first, False, by=by)
    return replace(recipe, seed=first.seed + len(trials) + len(running))


POLICIES = {
    "population, the front's hypervolume": product,
    "the same, zeros first": partial(product, settings=SearchSettings(channel_shares=(0.0, 1.0))),
    "the same, parents at random": at_random,
    "NSGA-II (Optuna), each from the original": genetic,
    "only short trials": partial(product, settings=SearchSettings(long_trial_every=10**6)),
    "steps half as long": partial(product, settings=SearchSettings(longest_step=0.35)),
    "steps twice as long": partial(product, settings=SearchSettings(longest_step=1.4)),
    "long trials half as long": partial(product, settings=SearchSettings(long_trial_factor=2)),
    "long trials twice as long": partial(product, settings=SearchSettings(long_trial_factor=8)),
    "training is to win nothing back": partial(product, settings=SearchSettings(loss_kept=1.0)),
    "training is to win back three quarters": partial(product, settings=SearchSettings(loss_kept=0.25)),
    "int8 training from an eighth of the limit": partial(product, settings=SearchSettings(quantize_aware_from=0.125)),
    "int8 training from half of it": partial(product, settings=SearchSettings(quantize_aware_from=0.5)),
}


def measure(policy: Policy, case: Case, landscapes: int) -> np.ndarray:
    """Return hypervolume, nats of the smallest file and trials of each search: (landscapes, draws, 3)."""

    def result(landscape: Landscape) -> tuple[float, float, int]:
        trials = search(landscape, policy, workers=case.workers)
        return (*worth(landscape, trials, by=case.by), len(trials) - 1)

    return np.array([[result(landscape) for landscape in draws] for draws in case.landscapes(landscapes)])


def row(name: str, results: np.ndarray) -> str:
    """Return a line of the table: means, and the standard deviations between searches of the same landscape."""
    (volume, smallest, trials), (between, of_smallest, _) = results.mean((0, 1)), results.std(1).mean(0)
    return (
        f"{name:42} {volume:11.3f} {between:7.3f} {smallest:9.3f} {of_smallest:7.3f} "
        f"{np.exp(smallest):6.1f}x {trials:7.1f}"
    )


def main(landscapes: int) -> None:
    warnings.filterwarnings("ignore")
    before = json.loads(RECORD.read_text(encoding="utf-8"))
    for case in CASES:
        head = f"{case}: {sum(map(len, case.landscapes(landscapes)))} searches"
        sys.stdout.write(f"\n{head:42} hypervolume     +/-  smallest     +/-         trials\n")
        if not case.network:
            sys.stdout.write(row("the policy before", np.array(before[str(case)])[:landscapes]) + "\n")
        for name, policy in POLICIES.items():
            if policy is genetic and case.workers > 1:  # Optuna's study takes seconds for so many trials
                continue
            sys.stdout.write(row(name, measure(partial(policy, by=case.by), case, landscapes)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else LANDSCAPES)
