"""Make the files that check.py runs where Keras and TensorFlow are not installed."""

import sys
from pathlib import Path

import keras
import numpy as np

import tfprune
from tfprune.export import to_tflite

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
keras.utils.set_random_seed(0)
model = tfprune.wrap(
    keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
)
tfprune.update_masks(model, 0.8)
x = np.random.default_rng(0).random((20, 8, 8, 1), dtype=np.float32)
to_tflite(model, folder / "float32.tflite", check_on=x)
to_tflite(model, folder / "int8.tflite.xz", quantize="int8", calibration=[x], compress="xz")
np.savez(folder / "samples.npz", x=x, y=model.predict(x, verbose=0))
