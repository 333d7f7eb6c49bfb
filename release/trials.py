"""What an extra has to make possible, in an environment that holds nothing else: python trials.py EXTRA."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

SAVED = Path(__file__).parents[1] / "tests" / "saved"


def nothing() -> None:
    import tfprune
    import tfprune.export

    assert tfprune.schedules.Polynomial(0.9, begin=0, end=10).sparsity_at(10) == 0.9
    assert not is_installed("keras")
    assert f"tfprune {tfprune.__version__}" in command("--version")
    assert 'pip install "tfprune[device]"' in command("inspect", str(SAVED / "packed.tfz"), code=2)


def device() -> None:
    import numpy as np

    from tfprune.export import Runner

    saved = np.load(SAVED / "packed.npz")
    assert np.allclose(Runner(SAVED / "packed.tfz").predict(saved["x"]), saved["outputs"], atol=1e-5)
    assert '"passed": true' in command("verify", str(SAVED / "packed.tfz"), "--json")
    assert not is_installed("tensorflow")


def train() -> None:
    import keras
    import numpy as np

    import tfprune
    import tfprune.export

    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(2)]))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    pruning = tfprune.PruningCallback(tfprune.schedules.Polynomial(0.5, end=0.7))
    model.fit(x, x[:, :2], callbacks=[pruning], epochs=4, verbose=0)
    report = tfprune.export.to_tflite(model, "model.tflite", check_on=x)
    assert abs(report.sparsity - 0.5) < 0.01
    model.save("model.keras")
    np.save("x.npy", x)
    assert "Written" in command("prune", "model.keras", "sparse.keras", "--sparsity", "0.8", "--data", "x.npy")
    assert (
        "True"
        in command("verify", "model.tflite", "--against", "model.keras", "--samples", "x.npy", "--json").title()
    )


def jax() -> None:
    os.environ["KERAS_BACKEND"] = "jax"
    train()

    import keras
    import numpy as np

    from tfprune.export import to_tflite

    samples, model = np.load("x.npy"), keras.saving.load_model("sparse.keras")
    report = to_tflite(model, "int8.tflite", quantize="int8", calibration=samples)
    assert report.converter.startswith("litert-converter")
    assert not is_installed("tensorflow")


def federated() -> None:
    import keras
    from flwr.serverapp.strategy import FedAvg

    import tfprune
    from tfprune.federated import MaskedClient, MaskedFedAvg, MaskedModel, Update

    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)]))
    tfprune.update_masks(model, 0.8)
    masked = MaskedModel(model)
    assert isinstance(MaskedFedAvg(check_masks=masked.check_masks), FedAvg)
    assert len(Update(masked.weights, masked.masks).encode(known_masks=masked.masks)) < 8 * 16 * 4 / 2
    assert MaskedClient.__doc__
    assert is_installed("ray")


def plot() -> None:
    import keras

    import tfprune

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x = keras.random.normal((32, 8), seed=0)
    tfprune.sensitivity(model, (x, x[:, :2]), metric="loss").plot("sensitivity.png")
    assert Path("sensitivity.png").stat().st_size


def tensorboard() -> None:
    import keras

    import tfprune

    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]))
    model.compile("sgd", "mse")
    x = keras.random.normal((32, 8), seed=0)
    pruning = tfprune.PruningCallback(tfprune.schedules.Constant(0.5, begin=0))
    model.fit(x, x[:, :2], callbacks=[pruning, tfprune.PruningSummaries("logs")], verbose=0)
    assert list(Path("logs").rglob("events*"))


def micro() -> None:
    from tfprune.export import rewrite

    assert "bit for bit" in str(rewrite(SAVED / "packed.tfz", "micro.tflite", target="micro"))
    assert not is_installed("tensorflow")


def vela() -> None:
    import keras

    from tfprune.export import vela

    report = vela("ethos-u55-128").report(keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)]))
    assert report.weights == 8 * 16 and report.cycles > 0


def search() -> None:
    import keras
    import numpy as np

    from tfprune.export import Search, compress

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).normal(size=(640, 8)).astype("float32")
    data = (x, (x[:, 0] > 0).astype(int))
    model.fit(*data, epochs=2, verbose=0)
    report = compress(model, data, data, folder="searched", search=Search(trials=1))
    assert len(report.study().trials) == len(report.tried) >= 2


def completion() -> None:
    assert "shrink" in command("completion", "bash")


def generate() -> None:
    import io

    import sentencepiece

    from tfprune.export.device.writer_file import TextForm, Tokenizer

    model, texts = io.BytesIO(), iter(["the quick brown fox", "the lazy dog"])
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=texts, model_writer=model, vocab_size=26)
    tokenizer = Tokenizer(TextForm("sentencepiece", [1], [2]), model.getvalue())
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"
    assert is_installed("tokenizers") and is_installed("ai_edge_litert")


def litertlm() -> None:
    from tfprune.export.device.writer_file import TextForm
    from tfprune.export.keras_side.language_model import litertlm_content

    content = litertlm_content(b"", TextForm("sentencepiece", [1], [2]), tokenizer=b"", length=16)
    assert content.startswith(b"LITERTLM") and is_installed("keras_hub")


def demo() -> None:
    from tfprune.export.command_line import cli
    from tfprune.export.command_line import demo as program

    program._SEARCH_SECONDS = 5.0  # in `make demo`, a minute
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert cli.main(["demo", "--output", "demo"]) == 0
    printed = told.getvalue()
    assert all(row in printed for row in ("dense, float32", "dense, int8", "pruned, float32", "pruned, int8"))
    assert list(Path("demo").glob("*.png"))


def hub() -> None:
    import keras_hub

    import tfprune

    sizes = {"vocabulary_size": 50, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    model = tfprune.wrap(keras_hub.models.BertBackbone(**sizes, max_sequence_length=8))
    assert tfprune.update_masks(model, 0.5).sparsity == 0.5
    assert type(tfprune.strip(model)) is keras_hub.models.BertBackbone


def tfmot() -> None:
    import os

    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow_model_optimization

    assert tensorflow_model_optimization.sparsity.keras.prune_low_magnitude


def study() -> None:
    assert all(map(is_installed, ["sacrebleu", "sentencepiece", "sklearn", "matplotlib", "keras"]))


def few_shot() -> None:
    assert all(map(is_installed, ["fontTools", "PIL", "matplotlib", "keras"]))


def spoken() -> None:
    assert all(map(is_installed, ["soundfile", "tflite_micro", "matplotlib", "keras"]))


def language_model() -> None:
    assert all(map(is_installed, ["gguf", "safetensors", "keras_hub", "matplotlib"]))


def docs() -> None:
    assert all(map(is_installed, ["furo", "myst_parser", "sphinx", "sphinx_copybutton"]))


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def command(*arguments: str, code: int = 0) -> str:
    """Return what the command `tfprune` prints."""
    done = subprocess.run(["tfprune", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


if __name__ == "__main__":
    globals()[sys.argv[1]]()
