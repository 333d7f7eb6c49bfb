"""Every example in a docstring does what it says."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import pkgutil
import shutil
from pathlib import Path

import keras
import pytest
from once import filled_once
from public_names import documented_names
from sklearn.datasets import load_digits
from tiers import in_test_all, in_test_ci

import tfprune
import tfprune.export

MODULES = ["tfprune", "tfprune.export"] + [
    module.name
    for package in (tfprune, tfprune.export)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]

# More than a second of one processor, or KerasHub's import.
LONG = {"tfprune.export", "tfprune.export.command_line"}
LONG |= {f"tfprune.compact.{name}" for name in ("prune_to", "rank", "narrow")}
LONG |= {"tfprune.masking.sensitivity", "tfprune.methods.experts.change"}
LONG |= {"tfprune.export.micro.reports", "tfprune.export.rewriting.rewrite", "tfprune.export.keras_side.ask"}
LONG |= {f"tfprune.export.{name}" for name in ("keras_side.to_tflite", "pruning.prune", "pruning.shrink")}
LONG |= {f"tfprune.methods.{name}" for name in ("few_shot.prune", "moments", "federated.update")}
LONG |= {
    name
    for name in MODULES
    if name.endswith((".generator", ".writer_file", ".to_generator", ".language_model", "trainer"))
}
SEARCH = "tfprune.export.compressing.compress"  # half a minute; so do docs/howto/commands.md and release/trials.py


def marked(name):
    return in_test_all(name) if name == SEARCH else in_test_ci(name) if name in LONG else name


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """What examples of files start from, as docs/reference/files.md says, and a folder with these files."""
    keras.utils.set_random_seed(0)
    images = load_digits().data[:100].astype("float32") / 16
    dense = keras.layers.Dense
    layers = [keras.Input((64,)), dense(200, "relu", name="hidden"), dense(10, name="head")]
    wrapped = tfprune.wrap(keras.Sequential(layers))
    tfprune.update_masks(wrapped, 0.9)
    model = tfprune.strip(wrapped)

    def export(folder):
        tfprune.export.to_tflite(model, folder / "digits.tflite", optimize="dense")
        tfprune.export.to_tflite(model, folder / "digits_web.tflite", optimize="dense", batch=1)
        tfprune.export.to_tflite(model, folder / "digits_int8.tflite", quantize="int8", calibration=images)

    folder = filled_once(tmp_path_factory, "doctest-digits", export)
    return folder, {"model": model, "images": images, "Path": Path, "tfprune": tfprune}


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """What examples of language models start from: a tiny one with its tokenizer, and the folder of its file."""
    hub_models = pytest.importorskip("hub_models", reason="keras-hub is not installed (extra `hub`)")
    keras.utils.set_random_seed(0)
    causal_lm = hub_models.TASKS["GPT2CausalLM"]()
    folder = tmp_path_factory.mktemp("writer")
    tfprune.export.to_generator(causal_lm, folder / "writer.tflite", length=16, prefill=(4,), max_tokens=4)
    generator = tfprune.export.Generator(folder / "writer.tflite")
    turns = {"user": ["v", "w"], "model": ["y", "z"]}  # the tiny tokenizer has letters only
    generator._form = dataclasses.replace(generator._form, turns=turns)
    return folder, {"tfprune": tfprune, "causal_lm": causal_lm, "generator": generator}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """What examples of encoders start from: a tiny one with its tokenizer, and the folder of its file."""
    hub_models = pytest.importorskip("hub_models", reason="keras-hub is not installed (extra `hub`)")
    keras.utils.set_random_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fox", "dog", "where", "do", "foxes", "live", "?"]
    tokenizer = hub_models.models.BertTokenizer(vocabulary=words, lowercase=True)
    backbone, folder = hub_models.BACKBONES["BertBackbone"](), tmp_path_factory.mktemp("encoder")
    tfprune.export.to_embedder(backbone, folder / "encoder.tflite", tokenizer=tokenizer, length=16)
    embedder = tfprune.export.Embedder(folder / "encoder.tflite")
    return folder, {"tfprune": tfprune, "backbone": backbone, "tokenizer": tokenizer, "embedder": embedder}


@pytest.fixture(scope="module")
def learner(digits, tmp_path_factory):
    """What examples of training on a device start from: a file, what it learned, and digits."""
    model, folder = digits[1]["model"], tmp_path_factory.mktemp("learner")
    x, y = digits[1]["images"], load_digits().target[:100]
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tfprune.export.to_trainer(model, folder / "digits_trainer.tfz", compress="packed")
    trainer = tfprune.export.Trainer(folder / "digits_trainer.tfz")
    trainer.save(folder / "learned.npz")
    return folder, {"tfprune": tfprune, "model": model, "x": x, "y": y, "trainer": trainer}


@pytest.mark.parametrize("name", map(marked, MODULES))
def test_examples(name, tmp_path, monkeypatch, request):
    if name.startswith("tfprune.methods.federated."):
        pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
    if "micro" in name:
        pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    if "vela" in name:
        pytest.importorskip("ethosu", reason="ethos-u-vela is not installed (extra `vela`)")
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL | doctest.ELLIPSIS)
    for number, test in enumerate(doctest.DocTestFinder().find(importlib.import_module(name))):
        if not test.examples:
            continue
        here = tmp_path / str(number)  # an example may write files
        here.mkdir()
        if name.startswith("tfprune.export") or "digits_trainer.tfz" in test.docstring:
            folder, names = request.getfixturevalue(_files_of(test))
            shutil.copytree(folder, here, dirs_exist_ok=True)
            test.globs.update(names)
        monkeypatch.chdir(here)
        keras.utils.set_random_seed(0)  # a small network of random weights may be dead
        runner.run(test)
    assert runner.failures == 0, f"run python -m doctest on {name}"


def _files_of(test):
    """Return the fixture with the files and names that an example starts from."""
    source = "".join(example.source for example in test.examples)
    if "trainer" in source.lower():
        return "learner"
    if any(word in source for word in ("mbedder", "encoder.tflite")):
        return "encoder"
    return "writer" if any(word in source for word in ("enerator", "causal_lm", "writer.tflite")) else "digits"


@pytest.mark.parametrize("name", documented_names())
def test_the_public_names_have_examples(name):
    examples = doctest.DocTestFinder().find(documented_names()[name], name)[0].examples
    assert examples
    assert not [example.source for example in examples if doctest.SKIP in example.options], "it is not run"
