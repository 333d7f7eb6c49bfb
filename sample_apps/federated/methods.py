"""The training round of a watch: one function for each way of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message

from sample_apps.federated.clients import Trainer, trainer
from sample_apps.federated.people import BATCH, Person, whole_batches
from tfprune.federated import (
    FedMask,
    FedMaskClient,
    HeteroFL,
    LotteryFL,
    MaskedClient,
    PruneFL,
    measure_statistics,
)

FED_MASK = FedMask(sparsity=0.5, learning_rate=3000.0)
SMALL = 0.5  # the rate of every second watch in HeteroFL
# The seconds of a weight: computed at each place where a kernel is applied, and sent; after the paper's figures.
PLACES = {"conv_1": 48, "conv_2": 22, "conv_3": 20, "exercise": 1}
Trained = tuple[Message, Trainer, int]  # the answer, the model of the watch, and the round


def prune_fl(watch: Trainer, *, sparsity: float) -> PruneFL:
    """Return the settings of PruneFL for the model: at most as dense as the other ways, masks every 5 rounds."""
    seconds = [
        2e-7 * PLACES[variable.path.split("/")[0]] + 5.6e-6 if variable.path.endswith("kernel") else None
        for variable in watch.model.variables
    ]
    return PruneFL(tuple(seconds), constant=0.1, density=1 - sparsity, halving=50, every=5)


class Round:
    """One message to a watch, and the data for its answer.

    Args:
        message: The message.
        context: Flower's context.
        person: The data.
        number: The number of the person, from 0.
    """

    def __init__(self, message: Message, context: Context, *, person: Person, number: int) -> None:
        self.message, self.context, self.person, self.number = message, context, person, number
        self.config: Any = message.content["config"]
        self.seed = int(self.config["seed"])

    def watch(self, rate: float = 1.0) -> Trainer:
        """Return the model of the watch, without masks."""
        watch = trainer(self.seed, rate)
        watch.open_masks()
        return watch

    def epochs(self, turn: int) -> dict[str, Any]:
        """Return the arguments of training in a round."""
        return {"epochs": int(self.config["epochs"]), "seed": (self.seed, self.number, turn)}

    def metrics(self, watch: Trainer, *, examples: int | None = None) -> dict[str, Any]:
        """Return the values that the watch sends with its update."""
        count = len(self.person.x) if examples is None else examples
        return {"num-examples": count, "person": self.number + 1, "accuracy": watch.accuracy(self.person)}


def plain(turn: Round) -> Trained:
    """Train under no masks, or under those of the server."""
    watch = turn.watch()
    client = MaskedClient(turn.message, turn.context, watch.model)
    watch.fit(turn.person, **turn.epochs(client.round))
    return client.trained(turn.metrics(watch)), watch, client.round


def personal(turn: Round) -> Trained:
    """Prune to personal masks before the first round."""
    watch = turn.watch()
    client = MaskedClient(turn.message, turn.context, watch.model)
    if client.is_new:
        epochs, sparsity = int(turn.config["first-epochs"]), float(turn.config["sparsity"])
        watch.prune(turn.person, sparsity=sparsity, epochs=epochs, seed=(turn.seed, turn.number, 0))
    watch.fit(turn.person, **turn.epochs(client.round))
    return client.trained(turn.metrics(watch)), watch, client.round


def lottery(turn: Round) -> Trained:
    """Prune a part of the remaining weights whenever the model is accurate on the watch's data, and rewind."""
    watch = turn.watch()
    client = MaskedClient(turn.message, turn.context, watch.model)
    method = LotteryFL(sparsity=float(turn.config["sparsity"]), prune_rate=0.2, min_accuracy=0.5)
    arrays = watch.model.weights
    masks = [
        array == array if mask is None and array.ndim > 1 else mask
        for array, mask in zip(arrays, watch.model.masks, strict=True)
    ]
    accuracy = watch.training_accuracy(turn.person)
    weights, masks = method.prune(arrays, masks, initial_weights=watch.initial, accuracy=accuracy)
    watch.model.set_masks(masks)
    watch.model.set_weights(weights)
    watch.fit(turn.person, **turn.epochs(client.round))
    return client.trained(turn.metrics(watch)), watch, client.round


def fed_mask(turn: Round) -> Trained:
    """Learn masks of the initial weights, and send one bit for each weight."""
    watch = turn.watch()
    client = FedMaskClient(turn.message, turn.context, watch.model, FED_MASK)
    client.fit(whole_batches(turn.person, **turn.epochs(client.round)), loss=watch.loss)
    measure_statistics(watch.model, turn.person.x, batch_size=BATCH)
    return client.trained(turn.metrics(watch)), watch, client.round


def prune_fl_client(turn: Round) -> Trained:
    """Train under the masks of the server, and sum up gradients at all entries."""
    watch = turn.watch()
    client = MaskedClient(turn.message, turn.context, watch.model)
    watch.reset_optimizer()
    data = whole_batches(turn.person, **turn.epochs(client.round))
    gradients = PruneFL.fit(watch.model, data, optimizer=watch.optimizer, loss=watch.loss)
    measure_statistics(watch.model, turn.person.x, batch_size=BATCH)
    return client.trained(turn.metrics(watch), gradients=gradients), watch, client.round


def hetero_fl(turn: Round) -> Trained:
    """Train the first channels: half of them on every second watch. All watches have equal weights."""
    rate = SMALL if turn.number % 2 else 1.0
    watch = turn.watch(rate)
    client = MaskedClient(turn.message, turn.context, watch.model)
    if client.is_new:
        arrays = watch.model.weights
        watch.model.set_masks(HeteroFL(rate).masks(watch.model.model))
        watch.model.set_weights(arrays)
    watch.fit(turn.person, **turn.epochs(client.round))
    return client.trained(turn.metrics(watch, examples=1)), watch, client.round


CLIENTS: dict[str, Callable[[Round], Trained]] = {
    "dense": plain,
    "common mask": plain,
    "personal masks": personal,
    "LotteryFL": lottery,
    "FedMask": fed_mask,
    "PruneFL": prune_fl_client,
    "HeteroFL": hetero_fl,
}
