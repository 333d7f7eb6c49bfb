"""One dense network, and a smaller one for each criterion: remove, train, repeat."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import tfprune
from sample_apps.data.lines import Line
from sample_apps.screening.networks import Network
from sample_apps.study.digits import Data
from tfprune.criteria import FStatistic, Magnitude, Random

DENSE, CONNECTIONS, CHANNELS = "dense", "connections", "channels"
UNIT = {CONNECTIONS: "input", CHANNELS: "output"}  # whose F counts
CRITERIA = ("F times weight", "F and weight, ranks", "magnitude", "random")
EVIDENCE = 2000  # samples that F is computed of


def criterion_of(name: str, kind: str, seed: int) -> Any:
    """Return the criterion of a name, for connections or channels."""
    return {
        "F times weight": FStatistic(unit=UNIT[kind]),
        "F and weight, ranks": FStatistic(unit=UNIT[kind], mix=0.5),
        "magnitude": Magnitude(),
        "random": Random(seed),
    }[name]


@functools.lru_cache(maxsize=1)  # all that is pruned with a seed starts from one network
def start_of(network: Network, seed: int) -> tuple[keras.Model, Data]:
    """Return the trained dense network of a seed, and its data."""
    data = network.load(seed)
    keras.utils.set_random_seed(seed)
    model = network.build()
    train(model, data, network, epochs=network.epochs[0])
    return model, data


def dense(network: Network, seed: int, sparsities: list[float]) -> Iterator[Line]:
    """Yield what the dense network has after as much training as the pruned ones have had by then."""
    start, data = start_of(network, seed)
    model = keras.models.clone_model(start)
    model.set_weights(start.get_weights())
    keras.utils.set_random_seed(seed)
    for sparsity in sparsities:
        before = accuracy(model, data)
        train(model, data, network, epochs=network.epochs[1])
        found = {"removed": before, "accuracy": accuracy(model, data), "parameters": start.count_params()}
        yield {"sparsity": sparsity, **found}


def pruned(network: Network, seed: int, sparsities: list[float], *, kind: str, criterion: str) -> Iterator[Line]:
    """Yield the accuracy right after each removal and after the training that follows it.

    Args:
        network: The network.
        seed: Of the first weights, the split or the order of the data, and the random criterion.
        sparsities: Fractions of the parameters to remove, each on top of the one before.
        kind: Whether single connections or whole channels go.
        criterion: One of `CRITERIA`.
    """
    start, data = start_of(network, seed)
    keras.utils.set_random_seed(seed)
    chosen = criterion_of(criterion, kind, seed)
    evidence = {"data": batches(data)} if chosen.needs else {}
    steps = {CONNECTIONS: connections, CHANNELS: channels}[kind]
    for sparsity, model in zip(sparsities, steps(start, chosen, sparsities, evidence), strict=True):
        removed = accuracy(model, data)
        train(model, data, network, epochs=network.epochs[1])
        found = {"removed": removed, "accuracy": accuracy(model, data), "parameters": nonzeros(model)}
        yield {"sparsity": sparsity, **found}


def connections(start: keras.Model, criterion: Any, targets: list[float], evidence: Any) -> Iterator[keras.Model]:
    """Yield a masked model at one sparsity after the other, to be trained in between."""
    model = tfprune.wrap(start, criterion=criterion)
    for target in targets:
        # Not "uniform": at 95 %, the 288 weights of the first convolution would keep 14.
        tfprune.update_masks(model, target, allocation="erk", **evidence)
        yield model


def channels(start: keras.Model, criterion: Any, targets: list[float], evidence: Any) -> Iterator[keras.Model]:
    """Yield a smaller model after the other, to be trained in between."""
    model = start
    for target in targets:
        budget = tfprune.budget(parameters=int((1 - target) * start.count_params()))
        model = tfprune.shrink(model, tfprune.plan_shrink(model, budget, criterion=criterion, **evidence))
        yield model


def train(model: keras.Model, data: Data, network: Network, *, epochs: int) -> None:
    if not model.compiled:  # a masked model goes on with its optimizer, a smaller one begins anew
        model.compile(keras.optimizers.Adam(network.rate), "sparse_categorical_crossentropy")
    model.fit(data.x, data.y, batch_size=network.batch, epochs=epochs, verbose=0)


def batches(data: Data) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the samples that F is computed of."""
    rows = range(0, min(len(data.y), EVIDENCE), 500)
    return [(data.x[row : row + 500], data.y[row : row + 500]) for row in rows]


def accuracy(model: keras.Model, data: Data) -> float:
    parts = [model(part, training=False).numpy().argmax(axis=-1) for part in np.array_split(data.test_x, 10)]
    return float(np.mean(np.concatenate(parts) == data.test_y))


def nonzeros(model: keras.Model) -> int:
    """Return how many parameters are not zero, biases included."""
    return sum(int(np.count_nonzero(weight)) for weight in tfprune.strip(model).get_weights())
