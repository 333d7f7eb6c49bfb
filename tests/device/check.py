"""Run the device half of tfprune where neither Keras nor TensorFlow is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tfprune.export import Runner, benchmark, inspect, verify

folder = Path(sys.argv[1])
for name in ("keras", "tensorflow", "tf_keras"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed here, so this check proves nothing"

samples = np.load(folder / "samples.npz")
for name, tolerance in (("float32.tflite", 1e-4), ("int8.tflite.xz", 0.05)):
    path = folder / name
    difference = np.abs(Runner(path).predict(samples["x"]) - samples["y"]).max()
    assert difference <= tolerance * np.abs(samples["y"]).max(), (name, difference)
    assert verify(path, inputs=samples["x"], expected=samples["y"], tolerance=tolerance).passed
    assert benchmark(path, runs=20).median_ms > 0
    assert inspect(path).sparsity > 0.7
    command = [Path(sys.executable).with_name("tfprune"), "inspect", path, "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed)["nnz"] == inspect(path).nnz
    print(f"{name}: largest difference from Keras {difference:.2g}, run by {Runner(path).runtime}")
