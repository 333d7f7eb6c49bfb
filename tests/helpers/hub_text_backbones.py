"""Tiny KerasHub backbones of text, sound and several kinds of input whose configurations are longer than a line."""

from __future__ import annotations

import keras
import keras_hub
from hub_image_backbones import IMAGE, VISION, VOCABULARY, WIDTH, vit_det
from keras_hub import models
from keras_hub.src.models.vae.vae_backbone import VAEBackbone  # has no public name: only other models hold it

TEXT = {"vocabulary_size": VOCABULARY, "num_layers": 2, **WIDTH}
HEADS = {**TEXT, "num_heads": 4}
GROUPED = {**TEXT, "num_query_heads": 4, "num_key_value_heads": 2}
MIXER = {  # of the layers without a softmax in Qwen3.5
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "partial_rotary_factor": 0.5,
}


def smollm3() -> keras.Model:
    return models.SmolLM3Backbone(
        **TEXT,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, False],
        layer_types=["full_attention", "full_attention"],
        mlp_bias=False,
        layer_norm_epsilon=1e-6,
        max_position_embeddings=64,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
    )


def gemma3n() -> keras.Model:
    return models.Gemma3nBackbone(
        text_vocab_size=VOCABULARY,
        text_hidden_size=16,
        num_hidden_layers=2,
        pad_token_id=0,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        intermediate_size=[24, 24],
        hidden_activation="gelu_approximate",
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=4,
        rope_theta=10000.0,
        max_position_embeddings=64,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=4,
        altup_num_inputs=2,
        laurel_rank=2,
    )


def t5gemma(cls: type[keras.Model]) -> keras.Model:
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            **WIDTH,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 4,
            "layer_types": ["full_attention", "full_attention"],
        }.items()
    }
    return cls(vocabulary_size=VOCABULARY, query_pre_attn_scalar=4.0, cross_attention_hidden_size=16, **sides)


def moonshine() -> keras.Model:
    return models.MoonshineBackbone(
        vocabulary_size=VOCABULARY,
        filter_dim=16,
        encoder_num_layers=2,
        decoder_num_layers=2,
        encoder_num_heads=4,
        decoder_num_heads=4,
        partial_rotary_factor=0.5,
        **WIDTH,
    )


def video_prism() -> keras.Model:
    return models.VideoPrismBackbone(
        num_frames=2,
        patch_size=8,
        num_heads=4,
        num_spatial_layers=2,
        num_temporal_layers=1,
        num_auxiliary_layers=1,
        num_text_layers=1,
        vocabulary_size=VOCABULARY,
        image_shape=IMAGE,
        **WIDTH,
    )


def flux() -> keras.Model:
    return models.FluxBackbone(
        input_channels=8,
        hidden_size=16,
        mlp_ratio=1.5,
        num_heads=2,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[2, 2, 4],
        theta=10000,
        use_bias=True,
        image_shape=(4, 8),
        text_shape=(6, 8),
        image_ids_shape=(4, 3),
        text_ids_shape=(6, 3),
        y_shape=(8,),
    )


def clip(family: str, *, text_length: int = 16, **arguments: int) -> keras.Model:
    vision, text = (getattr(models, f"{family}{side}Encoder") for side in ("Vision", "Text"))
    return getattr(models, f"{family}Backbone")(
        vision_encoder=vision(**VISION, intermediate_dim=24),
        text_encoder=text(**HEADS, embedding_dim=16, max_sequence_length=text_length),
        **arguments,
    )


def stable_diffusion3() -> keras.Model:
    towers = {
        name: models.CLIPTextEncoder(
            **HEADS, embedding_dim=16, intermediate_output_index=-2, max_sequence_length=16, name=name
        )
        for name in ("clip_l", "clip_g")
    }
    return models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=16,
        mmdit_num_layers=2,
        mmdit_num_heads=4,
        mmdit_position_size=16,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=vae(),
        image_shape=IMAGE,
        **towers,
    )


def vae() -> keras.Model:
    return VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4, sampler_method="mode", name="vae")


def blip2() -> keras.Model:
    width = {**WIDTH, "num_layers": 2, "num_heads": 4, "layer_norm_epsilon": 1e-6}
    vision = models.BLIP2VisionEncoder(
        image_size=32,
        patch_size=8,
        use_patch_bias=True,
        use_class_token=True,
        use_mha_bias=True,
        use_mlp_bias=True,
        dropout_rate=0.0,
        initializer_range=0.02,
        **width,
    )
    former = models.BLIP2QFormer(num_query_tokens=2, vision_dim=16, cross_attention_frequency=1, dropout=0.0, **width)
    language = models.BLIP2CustomOPT(
        vocabulary_size=VOCABULARY,
        num_query_tokens=2,
        qformer_hidden_dim=16,
        max_sequence_length=32,
        dropout=0.0,
        **width,
    )
    return models.BLIP2Backbone(vision_encoder=vision, qformer=former, language_model=language)


def pali_gemma() -> keras.Model:
    return models.PaliGemmaBackbone(
        **GROUPED,
        image_size=32,
        head_dim=4,
        vit_patch_size=8,
        vit_num_heads=4,
        vit_hidden_dim=16,
        vit_num_layers=2,
        vit_intermediate_dim=24,
    )


def sam() -> keras.Model:
    decoder = keras_hub.layers.SAMMaskDecoder(
        num_layers=2,
        hidden_size=16,
        intermediate_dim=24,
        num_heads=4,
        embedding_dim=16,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=16,
    )
    prompts = keras_hub.layers.SAMPromptEncoder(
        hidden_size=16, image_embedding_size=(4, 4), input_image_size=(32, 32), mask_in_channels=16
    )
    return models.SAMBackbone(image_encoder=vit_det(), prompt_encoder=prompts, mask_decoder=decoder)


def sam3() -> keras.Model:
    layers = keras_hub.layers
    image = {"image_shape": (56, 56, 3), "patch_size": 14}
    width = {**WIDTH, "num_layers": 2, "num_heads": 4}
    return models.SAM3PromptableConceptBackbone(
        vision_encoder=layers.SAM3VisionEncoder(
            **image,
            **width,
            fpn_hidden_dim=16,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5],
            pretrain_image_shape=(28, 28, 3),
            window_size=2,
            global_attn_indexes=[1],
        ),
        text_encoder=layers.SAM3TextEncoder(vocabulary_size=VOCABULARY, embedding_dim=16, **width),
        geometry_encoder=layers.SAM3GeometryEncoder(roi_size=3, **width),
        detr_encoder=layers.SAM3DetrEncoder(**width),
        detr_decoder=layers.SAM3DetrDecoder(num_queries=5, **image, **width),
        mask_decoder=layers.SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=16, num_heads=4),
    )


def electra() -> keras.Model:
    sizes = {name: value for name, value in HEADS.items() if name != "vocabulary_size"}
    return models.ElectraBackbone(vocab_size=VOCABULARY, embedding_dim=8, max_sequence_length=16, **sizes)


def ed_rec() -> keras.Model:
    return models.EdRecBackbone(vocab_size=VOCABULARY, num_layers_enc=2, num_layers_dec=2, num_heads=4, **WIDTH)


def qwen_moe() -> keras.Model:
    return models.QwenMoeBackbone(
        **GROUPED, moe_intermediate_dim=16, shared_expert_intermediate_dim=16, num_experts=4, top_k=2
    )


def qwen3_5_moe() -> keras.Model:
    sizes = {name: value for name, value in GROUPED.items() if name != "intermediate_dim"}
    experts = {"moe_intermediate_dim": 16, "shared_expert_intermediate_size": 16, "num_experts": 4, "top_k": 2}
    return models.Qwen3_5MoeBackbone(**sizes, **MIXER, **experts, head_dim=4)


def rwkv7() -> keras.Model:
    return models.RWKV7Backbone(
        hidden_size=16,
        head_size=4,
        num_layers=2,
        vocabulary_size=VOCABULARY,
        intermediate_dim=24,
        gate_lora=4,
        mv_lora=4,
        aaa_lora=4,
        decay_lora=4,
    )


def whisper() -> keras.Model:
    return models.WhisperBackbone(**HEADS, num_mels=8, max_encoder_sequence_length=16, max_decoder_sequence_length=16)
