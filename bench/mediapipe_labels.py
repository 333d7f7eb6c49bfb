"""Whether MediaPipe's image classifier reads the labels and the normalization of `add_metadata`.

A small classifier of RGB images, in float32 and int8, runs in the newest MediaPipe, in an environment of its own
under build/. The truth is Runner, on images that were normalized here. Without a network it is skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Row, at_most

BUILD = Path(__file__).parents[1] / "build/mediapipe"
SIZE, PICTURES, MEAN, STD = 32, 20, 127.5, 63.75
CLOSE = {"float32": 1e-5, "int8": 0.004}  # int8: one step of the scores, 1 / 256
NAMES = [f"class {index}, é" for index in range(10)]


def measure() -> list[Row]:
    python = BUILD / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(BUILD)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--upgrade", "mediapipe"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"skipped: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}\n")
        return []
    with tempfile.TemporaryDirectory() as folder:
        return [row for name in _write_files(Path(folder)) for row in _rows(python, Path(folder), name)]


def _write_files(folder: Path) -> list[str]:
    import keras
    from keras import layers

    from tfprune.export import add_metadata, to_tflite

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    maps = layers.Conv2D(16, 3, strides=2, activation="relu")(image)
    scores = layers.Dense(10, "softmax", kernel_initializer="he_normal")(layers.Flatten()(maps))
    model = keras.Model(image, scores)
    pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, SIZE, SIZE, 3), np.uint8)
    inputs = ((pictures - MEAN) / STD).astype(np.float32)
    np.savez(folder / "pictures.npz", pictures=pictures, inputs=inputs)
    for name, quantize in (("float32", None), ("int8", "int8")):
        path = folder / f"{name}.tflite"
        to_tflite(model, path, quantize=quantize, calibration=inputs if quantize else None, check_on=inputs)
        add_metadata(path, path, class_names=NAMES, mean=MEAN, std=STD)
    return [*CLOSE]


def _rows(python: Path, folder: Path, name: str) -> list[Row]:
    from tfprune.export import Runner

    command = [str(python), __file__, str(folder / f"{name}.tflite"), str(folder / "pictures.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
        return [Row(f"{name}: MediaPipe reads it", f"exit code {done.returncode}", "0", holds=False)]
    result = json.loads(done.stdout.splitlines()[-1])
    with np.load(folder / "pictures.npz") as archive:
        expected = Runner(folder / f"{name}.tflite").predict(archive["inputs"])
    scores = np.array([[picture[label] for label in NAMES] for picture in result["scores"]])
    numbers = {"mean": [MEAN], "std": [STD], "labels": "labels.txt"}
    return [
        Row(f"{name}: the schema's classes read mean, std, labels", "yes", "yes", result["metadata"] == numbers),
        at_most(
            f"{name}: scores by label in MediaPipe {result['version']} from Runner's, largest difference",
            float(np.abs(scores - expected).max()),
            CLOSE[name],
            unit="",
            digits=5,
        ),
    ]


def classify(path: str, pictures: str) -> dict[str, object]:
    """Classify pictures in MediaPipe, and read the metadata by the classes of its schema."""
    from importlib.metadata import version

    import mediapipe
    from mediapipe.tasks.metadata import metadata_schema_py_generated, schema_py_generated
    from mediapipe.tasks.python import BaseOptions, vision

    model = schema_py_generated.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    content = bytes(model.buffers[entry.buffer].data)
    graph = metadata_schema_py_generated.ModelMetadataT.InitFromPackedBuf(content, 0).subgraphMetadata[0]
    options = graph.inputTensorMetadata[0].processUnits[0].options
    labels = graph.outputTensorMetadata[0].associatedFiles[0].name.decode()
    metadata = {"mean": [*map(float, options.mean)], "std": [*map(float, options.std)], "labels": labels}
    settings = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=path))
    with vision.ImageClassifier.create_from_options(settings) as classifier, np.load(pictures) as archive:
        images = [mediapipe.Image(mediapipe.ImageFormat.SRGB, picture) for picture in archive["pictures"]]
        results = [classifier.classify(image).classifications[0].categories for image in images]
    scores = [{each.category_name: each.score for each in categories} for categories in results]
    return {"version": version("mediapipe"), "metadata": metadata, "scores": scores}


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(classify(*sys.argv[1:])))
        sys.exit()
    for row in measure():
        print("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]))
