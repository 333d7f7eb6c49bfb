"""Tiny language models of KerasHub with random weights, as large as they must be to write more than one token."""

from __future__ import annotations

import keras
import numpy as np
from hub_models import BACKBONES, GEMMA, GEMMA3, LLAMA, TASKS, byte_pair_tokenizer, sentencepiece_tokenizer
from keras_hub import models

# How the tokenizers of classes without a task in `TASKS` are made: the pieces of SentencePiece, or special tokens.
PIECES = {"Llama": LLAMA, "Mistral": LLAMA, "Mixtral": LLAMA}
AS_IT_IS = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}  # as in Gemma's own
PIECES |= {"Gemma": {**GEMMA, **AS_IT_IS}, "Gemma3": {**GEMMA3, **AS_IT_IS}}
PIECES["Phi3"] = {**LLAMA, "eos_piece": "<|endoftext|>"}
SPECIAL = {
    "Bloom": ("<s>", "</s>", "<pad>"),
    "Falcon": ("<|endoftext|>",),
    "GPT2": ("<|endoftext|>",),
    "Llama3": ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "OPT": ("</s>", "<pad>"),
    "Qwen": ("<|endoftext|>",),
    "Qwen3": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "SmolLM3": ("<|begin_of_text|>", "<|end_of_text|>", "<think>", "</think>", "<|im_start|>", "<|im_end|>"),
}


# Kinds of models that share a class with others.
GEMMA2 = {"use_post_ffw_norm": True, "use_post_attention_norm": True, "final_logit_soft_cap": 30.0}
GEMMA2 |= {"attention_logit_soft_cap": 50.0, "use_sliding_window_attention": True, "sliding_window_size": 4}
VARIANTS = {"Gemma2": ("Gemma", GEMMA2), "TiedLlama3": ("Llama3", {"tie_word_embeddings": True})}


def writer_task(name: str = "GPT2CausalLM", *, seed: int = 0) -> keras.Model:
    """Return a task with its tokenizer."""
    keras.utils.set_random_seed(seed)
    return _spread(TASKS[name](), seed)


def writer(family: str, *, seed: int = 0) -> keras.Model:
    """Return a task without a preprocessor."""
    keras.utils.set_random_seed(seed)
    family, settings = VARIANTS.get(family, (family, {}))
    backbone = BACKBONES[f"{family}Backbone"](**settings)
    task = getattr(models, f"{family}CausalLM")(backbone=backbone, preprocessor=None)
    return _spread(task, seed)


def with_tokenizer(family: str, *, seed: int = 0) -> keras.Model:
    """Return a task with a tokenizer of its family, trained on a few sentences or made of letters."""
    task = writer(family, seed=seed)
    is_pieces = family in PIECES
    make = sentencepiece_tokenizer if is_pieces else byte_pair_tokenizer
    tokenizer = make(family, **PIECES[family]) if is_pieces else make(family, SPECIAL[family])
    task.preprocessor = getattr(models, f"{family}CausalLMPreprocessor")(tokenizer, sequence_length=12)
    return task


def _spread(task: keras.Model, seed: int) -> keras.Model:
    """Add noise to all weights, those of norms and biases included: scores then differ from token to token."""
    random = np.random.default_rng(seed)
    for weight in task.trainable_variables:
        weight.assign(weight + 0.3 * random.normal(size=weight.shape))
    return task
