"""The tiny models of KerasHub that the tests here are about: every class is there, and tasks read and write."""

from __future__ import annotations

import numpy as np
import pytest
from tiers import first

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")


def test_every_public_backbone_has_a_tiny_one():
    classes = {getattr(keras_hub.models, name) for name in dir(keras_hub.models) if name.endswith("Backbone")}
    classes -= {keras_hub.models.Backbone, keras_hub.models.FeaturePyramidBackbone}  # the classes of all others
    assert {cls.__name__ for cls in classes} <= set(hub_models.BACKBONES)


@pytest.mark.parametrize("name", first(*[name for name in hub_models.TASKS if name.endswith("CausalLM")]))
def test_causal_lm_reads_and_writes_text(name):
    task = hub_models.TASKS[name]()
    task.compile(sampler="greedy")
    prompt, *_ = hub_models.TEXTS
    assert isinstance(task.generate(prompt, max_length=12), str)
    assert task.preprocessor.tokenizer.vocabulary_size() == hub_models.VOCABULARY
    assert task.preprocessor.tokenizer.detokenize(task.preprocessor.tokenizer(prompt)) == prompt


@pytest.mark.parametrize(
    "name, samples",
    [("BertTextClassifier", hub_models.TEXTS), ("ViTImageClassifier", np.full((3, 40, 40, 3), 128, "uint8"))],
)
def test_classifier_takes_raw_samples(name, samples):
    task = hub_models.TASKS[name]()
    assert len(task.predict(samples, verbose=0)) == 3
