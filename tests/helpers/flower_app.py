"""A small Flower app on clients with personal masks, and the same without Flower: a plain loop.

Run as a program, it starts Flower's simulation with two clients and two rounds, and prints what came out as JSON.
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["FLWR_TELEMETRY_ENABLED"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import keras
import numpy as np
import tensorflow as tf
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

import tfprune
from tfprune.federated import MaskedClient, MaskedFedAvg, MaskedModel, masked_average, merge_masks

CLIENTS, ROUNDS = 2, 2


def make_model(pattern="unstructured"):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(6, "tanh", name="hidden"), keras.layers.Dense(1, name="out")]
    return MaskedModel(tfprune.wrap(keras.Sequential(layers), pattern=pattern))


def prune(model, number):
    """Give a client masks of its own: half of each kernel, by its number."""
    random = np.random.default_rng(number)
    model.set_masks([random.random(array.shape) < 0.5 if array.ndim > 1 else None for array in model.weights])


def fit(model, number, turn):
    """Train on the data of a client, and return how many samples there are."""
    random = np.random.default_rng((number, turn))
    x = random.normal(size=(8 + 4 * number, 4)).astype("float32")
    optimizer, variables = keras.optimizers.SGD(0.1), model.model.trainable_variables
    for batch in np.split(x, len(x) // 4):  # without `fit`, which takes longer to start than this takes to train
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((model.model(batch, training=True) - batch[:, :1] * (number + 1)) ** 2)
        optimizer.apply(tape.gradient(loss, variables), variables)
    return len(x)


client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train(message, context):
    model, number = make_model(), context.node_config["partition-id"]
    client = MaskedClient(message, context, model)
    if client.is_new:
        prune(model, number)
    return client.trained({"num-examples": fit(model, number, client.round), "number": float(number)})


@client_app.evaluate()
def evaluate(message, context):
    model = make_model()
    client = MaskedClient(message, context, model)
    nonzero = sum(int(np.count_nonzero(array)) for array in model.weights)
    return client.evaluated({"num-examples": 1, "kept": nonzero, "round": client.round})


@server_app.main()
def serve(grid, context):
    strategy = MaskedFedAvg(check_masks=make_model().check_masks)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(make_model().weights), num_rounds=ROUNDS)
    metrics = [dict(result.evaluate_metrics_clientapp[turn]) for turn in range(1, ROUNDS + 1)]
    arrays = [array.tolist() for array in result.arrays.to_numpy_ndarrays()]
    print("RESULT " + json.dumps({"arrays": arrays, "metrics": metrics, "traffic": strategy.traffic.as_dict()}))


def plain_loop():
    """Return what the app returns, by a loop over clients without Flower."""
    server, models = make_model().weights, [make_model() for _ in range(CLIENTS)]
    for turn in range(1, ROUNDS + 1):
        samples = []
        for number, model in enumerate(models):
            model.set_weights(server)
            if turn == 1:
                prune(model, number)
            samples.append(fit(model, number, turn))
        updates, masks = [model.weights for model in models], [model.masks for model in models]
        server = masked_average(updates, masks, client_weights=samples, server=server)
    union = merge_masks(masks, votes=1)
    return [np.where(mask, array, 0) if array.ndim > 1 else array for array, mask in zip(server, union, strict=True)]


if __name__ == "__main__":
    from flwr.simulation import run_simulation

    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": CLIENTS, "include_dashboard": False}}
    run_simulation(server_app, client_app, num_supernodes=CLIENTS, backend_config=resources)
