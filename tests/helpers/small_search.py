"""A small trained model, data for it, a runner of true trials, and a true search.

As a program it searches in a process of its own: small_search.py FOLDER TRIALS JOBS [SCHEDULER OF DASK]
"""

import functools
import sys
from unittest.mock import patch

import keras
import numpy as np

import tfprune.export.compressing.compress as compressing
from tfprune.export.compressing.compress import Search
from tfprune.export.compressing.evaluate import FileEvaluator, FileMetric, TrialRunner
from tfprune.export.compressing.policy import SearchLoop, SearchSettings

SHORT = SearchSettings(shortest_trial_fraction=0.0, long_trial_factor=2)


@functools.cache
def made():
    """Return a trained model, and data for training, for validation and for a test."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(900, 12)).astype("float32")
    y = (x[:, :6].sum(axis=1) + x[:, 6] * x[:, 7] > 0).astype(int)
    keras.utils.set_random_seed(0)
    # Named, as files hold the names, and Keras counts on through all the tests of a process.
    shapes = {"first": (24, "relu"), "second": (24, "relu"), "last": (2, "softmax")}
    layers = [keras.layers.Dense(*shape, name=name) for name, shape in shapes.items()]
    model = keras.Sequential([keras.Input((12,), name="sample"), *layers], name="small")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:600], y[:600], epochs=15, verbose=0)
    return model, (x[:600], y[:600]), (x[600:800], y[600:800]), (x[800:], y[800:])


def train_data():
    """Return the training data, as a worker may read them."""
    return made()[1]


def evaluator(kind=FileEvaluator, *, optimize="size", micro=None):
    """Return what measures files of the model."""
    model, (x, _), validation, _ = made()
    score = model.evaluate(*validation, verbose=0, return_dict=True)["accuracy"]
    return kind(x[:100], validation, FileMetric(), score, optimize, micro)


def runner(model=None, *, kind=FileEvaluator, reference=None):
    """Return a runner of true trials of the model, or of another one for the same data."""
    return TrialRunner(model or made()[0], made()[1], evaluator(kind), 32, reference)


def search(folder, *, data=None, **changes):
    """Search in a folder, which gets the files; changes are those of a `Search`."""
    model, train, validation, test = made()
    train = data or train
    settings = {"time": 600, "max_drop": 0.06, "test_data": test, "verbose": 0, "search": Search(**changes)}
    with (
        patch.object(compressing, "SearchLoop", functools.partial(SearchLoop, settings=SHORT)),
        patch.object(SearchLoop, "_seconds_per_step", lambda loop: 1.0),  # or recipes would depend on the clock
    ):
        return compressing.compress(model, train, validation, folder=folder, **settings)


if __name__ == "__main__":
    folder, trials, jobs, *scheduler = sys.argv[1:]
    if scheduler:
        from distributed import Client

        changes = {"executor": Client(scheduler[0]).get_executor()}
    else:
        changes = {}
    search(folder, trials=int(trials), jobs=int(jobs), **changes)
