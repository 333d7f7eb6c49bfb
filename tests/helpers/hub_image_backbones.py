"""Tiny KerasHub backbones of images whose configurations are longer than a line; `hub_models` has all of them."""

from __future__ import annotations

import keras
from keras_hub import models

VOCABULARY = 50
IMAGE = (32, 32, 3)
WIDTH = {"hidden_dim": 16, "intermediate_dim": 24}
VISION = {"image_shape": IMAGE, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 16}


def resnet() -> keras.Model:
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 16, 24],
        stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        image_shape=IMAGE,
    )


def mit() -> keras.Model:
    return models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[2, 4],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.0,
        layerwise_patch_sizes=[3, 3],
        layerwise_strides=[2, 2],
        hidden_dims=[8, 16],
        image_shape=IMAGE,
    )


def basnet() -> keras.Model:
    encoder = models.ResNetBackbone(
        input_conv_filters=[8],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block",
    )
    return models.BASNetBackbone(image_encoder=encoder, num_classes=1, image_shape=IMAGE, projection_filters=8)


def csp_net() -> keras.Model:
    return models.CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 1],
        stackwise_strides=[2, 2],
        stackwise_num_filters=[8, 16],
        block_type="dark_block",
        stage_type="csp",
        bottle_ratio=[0.5],
        block_ratio=[0.5],
        image_shape=IMAGE,
    )


def hg_net(**arguments) -> keras.Model:
    return models.HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=8,
        hidden_sizes=[16, 24],
        stem_channels=[3, 8, 8],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=[[8, 8, 16, 1, 3, 3], [16, 8, 24, 1, 3, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        image_shape=IMAGE,
        **arguments,
    )


def d_fine() -> keras.Model:
    stages = ["stage1", "stage2"]
    return models.DFineBackbone(
        backbone=hg_net(out_features=stages),
        decoder_in_channels=[16, 16],
        encoder_hidden_dim=16,
        num_labels=3,
        num_denoising=0,
        learn_initial_query=False,
        num_queries=5,
        anchor_image_size=(32, 32),
        feat_strides=[4, 8],
        num_feature_levels=2,
        hidden_dim=16,
        encoder_in_channels=[16, 24],
        encode_proj_layers=[1],
        num_attention_heads=4,
        encoder_ffn_dim=24,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=24,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=8,
        num_lqe_layers=2,
        out_features=stages,
        image_shape=IMAGE,
        seed=0,
    )


def depth_anything() -> keras.Model:
    encoder = models.DINOV2Backbone(**VISION, intermediate_dim=24, position_embedding_shape=IMAGE)
    return models.DepthAnythingBackbone(
        image_encoder=encoder,
        reassemble_factors=[2, 1],
        neck_hidden_dims=[8, 16],
        fusion_hidden_dim=16,
        head_hidden_dim=8,
        head_in_index=-1,
        feature_keys=["stage1", "stage2"],
    )


def efficient_net() -> keras.Model:
    return models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 16],
        stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["fused", "unfused"],
        num_features=24,
        input_shape=IMAGE,
    )


def mobile_net() -> keras.Model:
    return models.MobileNetBackbone(
        stackwise_expansion=[[16], [32]],
        stackwise_num_blocks=[1, 1],
        stackwise_num_filters=[[8], [16]],
        stackwise_kernel_size=[[3], [5]],
        stackwise_num_strides=[[2], [1]],
        stackwise_se_ratio=[[None], [0.25]],
        stackwise_activation=[["relu"], ["hard_swish"]],
        stackwise_padding=[[1], [2]],
        output_num_filters=24,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=32,
        input_num_filters=8,
        image_shape=IMAGE,
    )


def mobile_net_v5() -> keras.Model:
    blocks = {  # a fused convolution, then an inverted bottleneck and a multi-query attention
        "block_types": ["er", "uir", "mqa"],
        "num_filters": [16, 16, 16],
        "strides": [2, 2, 1],
        "act_layers": ["relu", "relu", "relu"],
        "exp_ratios": [2.0, 2.0, 1.0],
        "se_ratios": [0.0, 0.0, 0.0],
        "dw_kernel_sizes": [0, 3, 3],
        "dw_start_kernel_sizes": [0, 0, 0],
        "dw_end_kernel_sizes": [0, 0, 0],
        "exp_kernel_sizes": [3, 0, 0],
        "pw_kernel_sizes": [1, 0, 0],
        "num_heads": [0, 0, 4],
        "key_dims": [0, 0, 4],
        "value_dims": [0, 0, 4],
        "kv_strides": [0, 0, 1],
        "use_cpe": [False, False, False],
    }
    stacks = {f"stackwise_{name}": [values[:1], values[1:]] for name, values in blocks.items()}
    return models.MobileNetV5Backbone(
        **stacks, stackwise_num_blocks=[1, 2], stem_size=8, use_msfa=False, image_shape=IMAGE
    )


def parseq() -> keras.Model:
    return models.PARSeqBackbone(
        image_encoder=vit(),
        vocabulary_size=VOCABULARY,
        max_label_length=6,
        decoder_hidden_dim=16,
        num_decoder_layers=1,
        num_decoder_heads=4,
        decoder_mlp_dim=24,
    )


def vit() -> keras.Model:
    return models.ViTBackbone(**VISION, mlp_dim=24)


def vit_det() -> keras.Model:
    return models.ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=24,
        num_heads=4,
        global_attention_layer_indices=[1],
        image_shape=IMAGE,
        patch_size=8,
        num_output_channels=16,
        window_size=2,
    )


def deep_lab() -> keras.Model:
    return models.DeepLabV3Backbone(
        image_encoder=resnet(),
        spatial_pyramid_pooling_key="P4",
        upsampling_size=4,
        dilation_rates=[1, 2],
        low_level_feature_key="P2",
        projection_filters=8,
        image_shape=IMAGE,
    )


def retina_net() -> keras.Model:
    return models.RetinaNetBackbone(image_encoder=resnet(), min_level=3, max_level=4, use_p5=False, image_shape=IMAGE)


def seg_former() -> keras.Model:
    return models.SegFormerBackbone(image_encoder=mit(), projection_filters=8)


def swin() -> keras.Model:
    return models.SwinTransformerBackbone(
        image_shape=IMAGE, embed_dim=8, depths=(2, 1), num_heads=(2, 4), window_size=2, patch_size=4
    )


def xception() -> keras.Model:
    return models.XceptionBackbone(
        stackwise_conv_filters=[[8, 8], [8, 16], [16, 24]], stackwise_pooling=[True, True, False], image_shape=IMAGE
    )
