"""Draw docs/sensitivity.png: what each kernel of a small CNN on handwritten digits costs when it alone is pruned.

Run it from the root of the repository: python docs/make_sensitivity.py
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import tfprune

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
order = np.random.permutation(len(x))
x, y = x[order].reshape(-1, 8, 8, 1) / 16, y[order]
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
        layers.Conv2D(64, 3, padding="same", strides=2, activation="relu", name="conv_2"),
        layers.Flatten(),
        layers.Dense(64, activation="relu", name="hidden"),
        layers.Dense(10, activation="softmax", name="digit"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x[:1300], y[:1300], epochs=15, verbose=0)
report = tfprune.sensitivity(model, (x[1300:], y[1300:]), (0.25, 0.5, 0.75, 0.85, 0.9, 0.95, 0.98))
report.plot(Path(__file__).with_name("sensitivity.png"))
sys.stdout.write(f"{report}\n\n{report.suggest(max_drop=0.01)}\n")
