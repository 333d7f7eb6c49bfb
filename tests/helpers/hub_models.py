"""A tiny model with random weights of every class of KerasHub: backbones, their inputs, and tasks with tokenizers."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import hub_image_backbones as image
import hub_text_backbones as text
import keras
import keras_hub
import numpy as np
import sentencepiece
from hub_image_backbones import IMAGE, VISION, VOCABULARY
from hub_text_backbones import GROUPED, HEADS, MIXER, TEXT
from keras_hub import models

TEXTS = ["the quick brown fox jumps over the lazy dog", "a green tree and a brown dog", "the fox runs to the tree"]
_SOUND = 1024  # samples, which three strided convolutions shorten to one
EXPERTS = {"num_experts": 4, "top_k": 2}


def _tiny(name: str, **arguments: Any) -> Callable[[], keras.Model]:
    return partial(getattr(models, f"{name}Backbone"), **arguments)


# By the name of the class. A class that cannot be built here would stand in the table with the reason, a string.
BACKBONES: dict[str, Callable[[], keras.Model]] = {
    "AlbertBackbone": _tiny("Albert", **HEADS, embedding_dim=8, max_sequence_length=16),
    "BASNetBackbone": image.basnet,
    "BLIP2Backbone": text.blip2,
    "BartBackbone": _tiny("Bart", **HEADS, max_sequence_length=16),
    "BertBackbone": _tiny("Bert", **HEADS, max_sequence_length=16),
    "BloomBackbone": _tiny("Bloom", **HEADS),
    "CLIPBackbone": partial(text.clip, "CLIP", projection_dim=8),
    "CSPNetBackbone": image.csp_net,
    "DFineBackbone": image.d_fine,
    "DINOV2Backbone": _tiny("DINOV2", **VISION, intermediate_dim=24, position_embedding_shape=IMAGE),
    "DINOV3Backbone": _tiny("DINOV3", **VISION, intermediate_dim=24),
    "DebertaV3Backbone": _tiny("DebertaV3", **HEADS, max_sequence_length=16, bucket_size=4),
    "DeepLabV3Backbone": image.deep_lab,
    "DeiTBackbone": _tiny("DeiT", **VISION, intermediate_dim=24),
    "DenseNetBackbone": _tiny("DenseNet", stackwise_num_repeats=[1, 2], growth_rate=8, image_shape=IMAGE),
    "DepthAnythingBackbone": image.depth_anything,
    "DistilBertBackbone": _tiny("DistilBert", **HEADS, max_sequence_length=16),
    "ESMBackbone": _tiny("ESM", **HEADS, max_sequence_length=16),
    "EdRecBackbone": text.ed_rec,
    "EfficientNetBackbone": image.efficient_net,
    "ElectraBackbone": text.electra,
    "FNetBackbone": _tiny("FNet", **TEXT, max_sequence_length=16),
    "FalconBackbone": _tiny("Falcon", **TEXT, num_attention_heads=4),
    "FluxBackbone": text.flux,
    "GPT2Backbone": _tiny("GPT2", **HEADS, max_sequence_length=16),
    "GPTNeoXBackbone": _tiny("GPTNeoX", **HEADS, rotary_percentage=0.5, max_sequence_length=16),
    "Gemma3Backbone": _tiny("Gemma3", **GROUPED, head_dim=4, image_size=None),
    "Gemma3nBackbone": text.gemma3n,
    "Gemma4Backbone": _tiny("Gemma4", **GROUPED, head_dim=4, image_size=None),
    "GemmaBackbone": _tiny("Gemma", **GROUPED, head_dim=4),
    "GptOssBackbone": _tiny("GptOss", **GROUPED, **EXPERTS),
    "HGNetV2Backbone": image.hg_net,
    "Llama3Backbone": _tiny("Llama3", **GROUPED),
    "LlamaBackbone": _tiny("Llama", **GROUPED),
    "MetaCLIP2Backbone": partial(text.clip, "MetaCLIP2", projection_dim=8),
    "MiTBackbone": image.mit,
    "MistralBackbone": _tiny("Mistral", **GROUPED),
    "MixtralBackbone": _tiny("Mixtral", **GROUPED, **EXPERTS),
    "MobileNetBackbone": image.mobile_net,
    "MobileNetV5Backbone": image.mobile_net_v5,
    "MoonshineBackbone": text.moonshine,
    "OPTBackbone": _tiny("OPT", **HEADS, max_sequence_length=16),
    "PARSeqBackbone": image.parseq,
    "PaliGemmaBackbone": text.pali_gemma,
    "Phi3Backbone": _tiny("Phi3", **GROUPED),
    "Qwen3Backbone": _tiny("Qwen3", **GROUPED, head_dim=4),
    "Qwen3MoeBackbone": _tiny("Qwen3Moe", **GROUPED, **EXPERTS, head_dim=4, moe_intermediate_dim=16),
    "Qwen3_5Backbone": _tiny("Qwen3_5", **GROUPED, **MIXER, head_dim=4),
    "Qwen3_5MoeBackbone": text.qwen3_5_moe,
    "QwenBackbone": _tiny("Qwen", **GROUPED),
    "QwenMoeBackbone": text.qwen_moe,
    "RWKV7Backbone": text.rwkv7,
    "ResNetBackbone": image.resnet,
    "RetinaNetBackbone": image.retina_net,
    "RobertaBackbone": _tiny("Roberta", **HEADS, max_sequence_length=16),
    "RoformerV2Backbone": _tiny("RoformerV2", **HEADS, head_size=4),
    "SAM3PromptableConceptBackbone": text.sam3,
    "SAMBackbone": text.sam,
    "SegFormerBackbone": image.seg_former,
    "SigLIPBackbone": partial(text.clip, "SigLIP", text_length=6),
    "SmolLM3Backbone": text.smollm3,
    "StableDiffusion3Backbone": text.stable_diffusion3,
    "SwinTransformerBackbone": image.swin,
    "T5Backbone": _tiny("T5", **HEADS),
    "T5Gemma2Backbone": partial(text.t5gemma, models.T5Gemma2Backbone),
    "T5GemmaBackbone": partial(text.t5gemma, models.T5GemmaBackbone),
    "VAEBackbone": text.vae,
    "VGGBackbone": _tiny("VGG", stackwise_num_repeats=[1, 1], stackwise_num_filters=[8, 16], image_shape=IMAGE),
    "ViTBackbone": image.vit,
    "ViTDetBackbone": image.vit_det,
    "VideoPrismBackbone": text.video_prism,
    "WhisperBackbone": text.whisper,
    "XLMRobertaBackbone": _tiny("XLMRoberta", **HEADS, max_sequence_length=16),
    "XLNetBackbone": _tiny("XLNet", **HEADS),
    "XceptionBackbone": image.xception,
}


def inputs_for(model: keras.Model, *, batch: int = 2, length: int = 6, seed: int = 0) -> Any:
    """Return random inputs for a model of KerasHub: token ids of its vocabulary, padding last, anything else floats.

    Dimensions that the model leaves open have `length` entries, those of images and sounds as many as they need.
    """
    random = np.random.default_rng(seed)
    names = {tensor.name for tensor in keras.tree.flatten(model.input)}
    sounds = {"encoder_input_values", "encoder_padding_mask"} if "encoder_input_values" in names else set()

    def values(tensor: keras.KerasTensor) -> np.ndarray:
        open_size = _SOUND if tensor.name in sounds else length
        if len(tensor.shape) == 4:
            open_size = IMAGE[0]
        if tensor.name.startswith("box"):
            open_size = 1  # SAM3's mask of box prompts fits one box of two samples only
        return _values(tensor, (batch, *(size or open_size for size in tensor.shape[1:])), random)

    return keras.tree.map_structure(values, model.input)


def _values(tensor: keras.KerasTensor, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if tensor.name.endswith("mask"):
        mask = np.ones(shape, tensor.dtype)
        mask[-1, ..., -1] = 0  # the last position of the last sample is padding
        return mask
    if "int" not in tensor.dtype:
        return random.uniform(size=shape).astype(tensor.dtype)
    below = VOCABULARY if "token_ids" in tensor.name else 2  # segments and labels are few
    return random.integers(0, below, shape).astype(tensor.dtype)


def randomized(name: str) -> keras.Model:
    """Return a backbone whose kernels and tables are random, scaled by their last axis."""
    keras.utils.set_random_seed(0)
    model = BACKBONES[name]()
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(generator.normal(size=weight.shape) / np.sqrt(weight.shape[-1]))
    return model


def bert_tokenizer() -> keras.layers.Layer:
    """Return a tokenizer of whole words; the vocabulary is a list."""
    words = sorted({word for text in TEXTS for word in text.split()})
    return models.BertTokenizer(vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words], lowercase=True)


MERGES = ("h e", "t he", "Ġ the", "o x", "f ox", "Ġ fox", "o g", "d og", "Ġ dog", "r e", "e e", "Ġ a", "o w", "i c")


def byte_pair_tokenizer(family: str, special: tuple[str, ...]) -> keras.layers.Layer:
    """Return a family's tokenizer of special tokens, letters and merged pairs; the vocabulary is a dictionary."""
    pairs = [merge.replace(" ", "") for merge in MERGES]
    letters = [*"abcdefghijklmnopqrstuvwxyzĠ!?.,-:01"][: VOCABULARY - len(special) - len(pairs)]
    vocabulary = {token: number for number, token in enumerate((*special, *letters, *pairs))}
    return getattr(models, f"{family}Tokenizer")(
        vocabulary=vocabulary, merges=[*MERGES], unsplittable_tokens=[*special]
    )


def gpt2_tokenizer() -> keras.layers.Layer:
    """Return a tokenizer of letters and merged pairs."""
    return byte_pair_tokenizer("GPT2", ("<|endoftext|>",))


def sentencepiece_tokenizer(family: str, **pieces: Any) -> keras.layers.Layer:
    """Return a family's tokenizer with pairs of letters learned from a few sentences."""
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=proto, model_type="bpe", vocab_size=VOCABULARY, **pieces
    )
    return getattr(models, f"{family}Tokenizer")(proto=proto.getvalue())


def _causal_lm(family: str, tokenizer: Callable[[], keras.layers.Layer], **arguments: Any) -> keras.Model:
    preprocessor = getattr(models, f"{family}CausalLMPreprocessor")(tokenizer(), sequence_length=12)
    backbone = BACKBONES[f"{family}Backbone"](**arguments)
    return getattr(models, f"{family}CausalLM")(backbone=backbone, preprocessor=preprocessor)


def _text_classifier() -> keras.Model:
    preprocessor = models.BertTextClassifierPreprocessor(bert_tokenizer(), sequence_length=12)
    return models.BertTextClassifier(BACKBONES["BertBackbone"](), num_classes=2, preprocessor=preprocessor)


def _image_classifier() -> keras.Model:
    converter = keras_hub.layers.ViTImageConverter(image_size=IMAGE[:2], scale=1 / 255)
    preprocessor = models.ViTImageClassifierPreprocessor(image_converter=converter)
    return models.ViTImageClassifier(BACKBONES["ViTBackbone"](), num_classes=3, preprocessor=preprocessor)


GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
GEMMA |= {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "unk_piece": "<unk>"}
GEMMA3 = {**GEMMA, "user_defined_symbols": ["<start_of_image>", "<end_of_image>", "<img>"]}
LLAMA = {"unk_id": 0, "bos_id": 1, "eos_id": 2}

# Whole tasks, preprocessor included: they take the strings in TEXTS, and the image classifier takes images.
TASKS: dict[str, Callable[[], keras.Model]] = {
    "BertTextClassifier": _text_classifier,
    "GPT2CausalLM": partial(_causal_lm, "GPT2", gpt2_tokenizer),
    "GemmaCausalLM": partial(_causal_lm, "Gemma", partial(sentencepiece_tokenizer, "Gemma", **GEMMA)),
    "Gemma3CausalLM": partial(_causal_lm, "Gemma3", partial(sentencepiece_tokenizer, "Gemma3", **GEMMA3)),
    "LlamaCausalLM": partial(_causal_lm, "Llama", partial(sentencepiece_tokenizer, "Llama", **LLAMA)),
    "MixtralCausalLM": partial(_causal_lm, "Mixtral", partial(sentencepiece_tokenizer, "Mixtral", **LLAMA)),
    "ViTImageClassifier": _image_classifier,
}
