"""Every layer of Keras in six small models: sizes odd and even, strides, padding, dilation, groups, open lengths."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

layers, ops = keras.layers, keras.ops
CASES = 6
Shape = tuple[int | None, ...]

# Inputs without the batch, by how many axes are positions. The last model of each layer has a batch of 1.
POSITIONS: dict[int, list[Shape]] = {
    0: [(4,), (6,), (4,), (8,), (2,), (4,)],
    1: [(9, 4), (8, 4), (7, 4), (12, 4), (None, 4), (10, 4)],
    2: [(9, 7, 4), (8, 8, 4), (7, 10, 4), (12, 9, 4), (10, 10, 4), (6, 6, 4)],
    3: [(5, 5, 5, 4), (4, 6, 4, 4), (7, 4, 6, 4), (6, 6, 6, 4), (5, 6, 7, 4), (4, 4, 4, 4)],
}
ANY: list[Shape] = [(4,), (5, 4), (7, 6, 4), (8, 8, 4), (None, 4), (3, 4, 4, 4)]
IMAGES: list[Shape] = [(8, 8, 3), (9, 7, 3), (12, 10, 3), (7, 7, 3), (16, 8, 3), (8, 8, 3)]
Settings = list[dict[str, Any]]
PLAIN: Settings = [{}]
CONVOLUTION: Settings = [
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": "same", "strides": 2},
    {"kernel_size": 4, "padding": "same", "strides": 2, "activation": "relu"},
    {"kernel_size": 3, "strides": 3, "use_bias": False},
    {"kernel_size": 3, "padding": "same", "dilation_rate": 2},
    {"kernel_size": 2, "activation": "swish"},
]
GROUPED: Settings = [*CONVOLUTION[:4], {"kernel_size": 3, "padding": "same", "groups": 2}, CONVOLUTION[4]]
TRANSPOSED: Settings = [
    {"kernel_size": 3, "padding": "same", "strides": 2},
    {"kernel_size": 2, "strides": 2, "activation": "relu"},
    {"kernel_size": 4, "padding": "same", "strides": 2, "use_bias": False},
    {"kernel_size": 3, "strides": 3},
    {"kernel_size": 5, "strides": 2},
    {"kernel_size": 3, "padding": "same"},
]
POOLING: Settings = [
    {"pool_size": 2},
    {"pool_size": 3, "strides": 2, "padding": "same"},
    {"pool_size": 2, "strides": 2, "padding": "same"},
    {"pool_size": 3, "strides": 1},
    {"pool_size": 3, "strides": 1, "padding": "same"},
    {"pool_size": 2, "strides": 1},
]
RECURRENT: Settings = [
    {},
    {"return_sequences": True},
    {"go_backwards": True},
    {"activation": "relu", "use_bias": False},
    {"return_sequences": True, "go_backwards": True},
    {"return_sequences": True},
]
SEQUENCES: list[Shape] = [(5, 4), (6, 4), (3, 4), (7, 4), (4, 4), (5, 4)]
ADAPTIVE: Settings = [{"output_size": size} for size in (1, 2, 3, 3, 2, 4)]


def _of(first: Any, settings: Settings, name: str) -> Settings:
    return [{name: first, **each} for each in settings]


# Layers of one tensor: the inputs, and the arguments, both repeated up to six.
ONE: dict[str, tuple[list[Shape], Settings]] = {
    "Activation": (ANY, [{"activation": each} for each in ("gelu", "swish", "softmax", "mish", "elu", "hard_silu")]),
    "ActivityRegularization": (ANY, PLAIN),
    "AdaptiveAveragePooling1D": (SEQUENCES, ADAPTIVE),
    "AdaptiveMaxPooling1D": (SEQUENCES, ADAPTIVE),
    "AlphaDropout": (ANY, [{"rate": 0.5}]),
    "BatchNormalization": (ANY, [{}, {"axis": 1}, {"scale": False}, {"center": False}, {"epsilon": 0.1}, {}]),
    "Dense": (ANY, [{"units": 3}, {"units": 1, "activation": "relu"}, {"units": 5, "use_bias": False}]),
    "Discretization": (ANY, [{"bin_boundaries": [-1.0, 0.0, 0.5]}]),
    "Dropout": (ANY, [{"rate": 0.5}]),
    "ELU": (ANY, [{}, {"alpha": 0.3}]),
    "Flatten": ([shape for shape in ANY if None not in shape], PLAIN),
    "GaussianDropout": (ANY, [{"rate": 0.5}]),
    "GaussianNoise": (ANY, [{"stddev": 0.5}]),
    "GroupNormalization": (ANY, [{"groups": 2}, {"groups": 1}, {"groups": -1}]),
    "Identity": (ANY, PLAIN),
    "Lambda": (ANY, [{"function": lambda x: x * ops.sigmoid(2 * x)}]),
    "LayerNormalization": (ANY, [{}, {"axis": -1, "center": False}, {"axis": 1}, {"axis": (1, 2)}]),
    "LeakyReLU": (ANY, [{}, {"negative_slope": 0.1}]),
    "Masking": (POSITIONS[1], PLAIN),
    "Normalization": (
        ANY,
        [{"mean": 0.3, "variance": 2.0}, {"mean": [0.1, 0.2, 0.3, 0.4], "variance": [1.5, 0.5, 1.0, 2.0]}],
    ),
    "PReLU": ([shape for shape in ANY if None not in shape], PLAIN),
    "Permute": (POSITIONS[2], [{"dims": dims} for dims in ((2, 1, 3), (3, 1, 2), (1, 3, 2))]),
    "RMSNormalization": (ANY, [{}, {"epsilon": 0.1}]),
    "ReLU": (ANY, [{}, {"max_value": 6}, {"negative_slope": 0.2}, {"threshold": 0.5}, {"max_value": 2.0}, {}]),
    "RepeatVector": (POSITIONS[0], [{"n": 3}, {"n": 1}]),
    "Rescaling": (ANY, [{"scale": 0.5}, {"scale": 2.0, "offset": -1.0}]),
    "Reshape": (POSITIONS[2], [{"target_shape": shape} for shape in ((-1,), (-1, 4), (2, -1), (-1, 2, 2))]),
    "SpectralNormalization": (POSITIONS[2], [{"layer": lambda: layers.Conv2D(3, 3)}]),
    "Softmax": (ANY, [{}, {"axis": 1}]),
    "TimeDistributed": (
        SEQUENCES,
        [{"layer": lambda: layers.Dense(3)}, {"layer": lambda: layers.LayerNormalization()}],
    ),
    "UnitNormalization": (ANY, [{}, {"axis": 1}]),
    "Bidirectional": (
        SEQUENCES,
        [{"layer": lambda: layers.LSTM(3)}, {"layer": lambda: layers.GRU(3), "merge_mode": "sum"}],
    ),
    "RNN": (SEQUENCES, [{"cell": lambda: layers.LSTMCell(3)}, {"cell": lambda: layers.GRUCell(3)}]),
    "GRUCell": (SEQUENCES, [{"units": 3}, {"units": 2, "reset_after": False}]),
    "LSTMCell": (SEQUENCES, [{"units": 3}]),
    "SimpleRNNCell": (SEQUENCES, [{"units": 3}]),
    "StackedRNNCells": (SEQUENCES, [{"cells": lambda: [layers.LSTMCell(3), layers.GRUCell(2)]}]),
    "GRU": (SEQUENCES, [*_of(3, RECURRENT[:5], "units"), {"units": 3, "reset_after": False}]),
    "LSTM": (SEQUENCES, _of(3, RECURRENT, "units")),
    "SimpleRNN": (SEQUENCES, _of(3, RECURRENT, "units")),
    "EinsumDense": (
        [(4,), (5, 4), (6, 4), (7, 4), (5, 2, 4), (3, 4)],
        [
            {"equation": "ab,bc->ac", "output_shape": 3, "bias_axes": "c"},
            {"equation": "abc,cd->abd", "output_shape": (None, 3)},
            {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"},
            {"equation": "abc,bd->adc", "output_shape": (3, 4)},
            {"equation": "abcd,cde->abe", "output_shape": (5, 6), "bias_axes": "e"},
            {"equation": "abc,cd->adb", "output_shape": (5, 3)},
        ],
    ),
    "Resizing": (
        IMAGES,
        [
            {"height": 16, "width": 16},
            {"height": 5, "width": 6},
            {"height": 24, "width": 20, "interpolation": "nearest"},
            {"height": 10, "width": 14, "interpolation": "bicubic"},
            {"height": 8, "width": 8, "crop_to_aspect_ratio": True},
            {"height": 9, "width": 9, "pad_to_aspect_ratio": True},
        ],
    ),
    "MelSpectrogram": (
        [(64,), (100,)],
        [
            {
                "fft_length": 16,
                "sequence_stride": 8,
                "num_mel_bins": 4,
                "sampling_rate": 64,
                "min_freq": 1,
                "max_freq": 32,
            }
        ],
    ),
    "STFTSpectrogram": (
        [(64, 1), (100, 1), (65, 2)],
        [
            {"mode": mode, "frame_length": 16, "frame_step": 8, "fft_length": 16}
            for mode in ("log", "magnitude", "psd", "real", "stft", "angle")
        ],
    ),
    "CenterCrop": (IMAGES, [{"height": 5, "width": 6}, {"height": 12, "width": 12}]),
    "ContrastLimitedAdaptiveHistogramEqualization": (IMAGES, PLAIN),
    "JaxLayer": (ANY, [{"call_fn": lambda inputs: inputs * inputs + 1}]),
    "Pipeline": (IMAGES, [{"layers": lambda: [layers.Rescaling(0.5), layers.RandomFlip()]}]),
    "UpSampling1D": (POSITIONS[1], [{"size": 2}, {"size": 3}, {"size": 1}]),
    "UpSampling2D": (
        IMAGES,
        [
            {"size": 2},
            {"size": 2, "interpolation": "bilinear"},
            {"size": (3, 2)},
            {"size": (1, 3), "interpolation": "bilinear"},
            {"size": 2, "interpolation": "bicubic"},
            {"size": 4, "interpolation": "bilinear"},
        ],
    ),
    "UpSampling3D": (POSITIONS[3], [{"size": 2}, {"size": (1, 2, 3)}]),
}
for _rank in (1, 2, 3):
    _sizes, _d = POSITIONS[_rank], f"{_rank}D"
    ONE[f"Conv{_d}"] = (_sizes, _of(6, GROUPED, "filters"))
    ONE[f"Conv{_d}Transpose"] = (_sizes, _of(6, TRANSPOSED, "filters"))
    ONE[f"MaxPooling{_d}"] = ONE[f"AveragePooling{_d}"] = (_sizes, POOLING)
    for _kind in ("Average", "Max"):
        ONE[f"Global{_kind}Pooling{_d}"] = (_sizes, [{}, {"keepdims": True}])
        ONE.setdefault(f"Adaptive{_kind}Pooling{_d}", (_sizes, ADAPTIVE))
    ONE[f"Cropping{_d}"] = (_sizes, [{"cropping": 1}, {"cropping": ((1, 0),) * _rank if _rank > 1 else (1, 0)}])
    ONE[f"ZeroPadding{_d}"] = (_sizes, [{"padding": 1}, {"padding": ((2, 1),) * _rank if _rank > 1 else (2, 1)}])
    ONE[f"SpatialDropout{_d}"] = (_sizes, [{"rate": 0.5}])
    _series = [(3, *shape[:-1], 2) for shape in (_sizes if _rank > 1 else SEQUENCES)]
    _cells = [{"kernel_size": 3, "padding": "same"}, {"kernel_size": 2, "return_sequences": True}]
    ONE[f"ConvLSTM{_d}"] = (_series, _of(3, _cells, "filters"))
    if _rank < 3:
        ONE[f"DepthwiseConv{_d}"] = (_sizes, [*CONVOLUTION[:5], {"kernel_size": 3, "depth_multiplier": 2}])
        ONE[f"SeparableConv{_d}"] = (_sizes, _of(6, ONE[f"DepthwiseConv{_d}"][1], "filters"))

# Layers of images that change nothing unless they train, by their arguments.
AUGMENTING: dict[str, dict[str, Any]] = {
    "AugMix": {}, "AutoContrast": {}, "CutMix": {}, "MixUp": {}, "RandAugment": {}, "RandomGrayscale": {},
    "RandomBrightness": {"factor": 0.2}, "RandomColorDegeneration": {"factor": 0.2}, "RandomColorJitter": {},
    "RandomContrast": {"factor": 0.2}, "RandomCrop": {"height": 6, "width": 6}, "RandomElasticTransform": {},
    "RandomErasing": {}, "RandomFlip": {}, "RandomGaussianBlur": {}, "RandomHue": {"factor": 0.2},
    "RandomInvert": {}, "RandomPerspective": {}, "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.2}, "RandomSaturation": {"factor": 0.2}, "RandomSharpness": {"factor": 0.2},
    "RandomShear": {}, "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.2}, "Solarization": {},
}  # fmt: skip
ONE |= {name: (IMAGES, [settings]) for name, settings in AUGMENTING.items()}

MERGING = ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
ATTENDING: dict[str, Settings] = {
    "AdditiveAttention": [{}, {"use_scale": False}],
    "Attention": [{}, {"use_scale": True}, {"score_mode": "concat"}],
    "GroupQueryAttention": [
        {"head_dim": 4, "num_query_heads": 4, "num_key_value_heads": 2},
        {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1, "use_bias": False},
    ],
    "MultiHeadAttention": [
        {"num_heads": 2, "key_dim": 3},
        {"num_heads": 1, "key_dim": 4, "use_bias": False},
        {"num_heads": 3, "key_dim": 2, "output_shape": 7},
    ],
}
# Layers of integers: the inputs' upper bound, and the arguments.
COUNTING: dict[str, Settings] = {
    "CategoryEncoding": [{"num_tokens": 9, "output_mode": mode} for mode in ("multi_hot", "count", "one_hot")],
    "Embedding": [{"input_dim": 9, "output_dim": 4}, {"input_dim": 20, "output_dim": 3, "mask_zero": True}],
    "ReversibleEmbedding": [{"input_dim": 9, "output_dim": 4}],
}
LEFT_OUT = {
    "Equalization": "Keras cannot put it into a graph",
    "FlaxLayer": "needs Flax",
    "HashedCrossing": "strings",
    "Hashing": "strings",
    "InputLayer": "in each model",
    "InputSpec": "not a layer",
    "IntegerLookup": "only TensorFlow runs it",
    "Layer": "a base class",
    "MaxNumBoundingBoxes": "takes no tensor",
    "StringLookup": "strings",
    "TFSMLayer": "a SavedModel of TensorFlow",
    "TextVectorization": "strings",
    "TorchModuleWrapper": "needs PyTorch",
    "Wrapper": "a base class",
}


def names() -> list[str]:
    """Return the layers of Keras, each once, that there are models of."""
    classes = {name: each for name, each in vars(layers).items() if isinstance(each, type)}
    return sorted({_own_name(each, name) for name, each in classes.items() if name not in LEFT_OUT})


def _own_name(layer: type, name: str) -> str:
    """Return the name of a class, of which Keras knows some by others, too."""
    return layer.__name__ if hasattr(layers, layer.__name__) else name


def build(name: str, number: int) -> keras.Model:
    """Return a model of a layer, with random weights.

    Args:
        name: Of the layer.
        number: 0 to 5.
    """
    keras.utils.set_random_seed(number)
    model = _model(name, number)
    generator = np.random.default_rng(number)
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            values = generator.normal(0, 0.4, weight.shape)
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return model


def _model(name: str, number: int) -> keras.Model:
    batch = 1 if number == CASES - 1 else None
    if name in ONE:
        shapes, settings = ONE[name]
        x = keras.Input(shapes[number % len(shapes)], batch)
        return keras.Model(x, _layer(name, settings[number % len(settings)])(x))
    if name in MERGING or name == "Dot":
        shape = POSITIONS[1][number] if name == "Dot" else ANY[number]
        pair = [keras.Input(shape, batch, name="left"), keras.Input(shape, batch, name="right")]
        axes = ((2, 2), (1, 1), (2, 2))[number % 3]
        return keras.Model(pair, layers.Dot(axes)(pair) if name == "Dot" else getattr(layers, name)()(pair))
    if name in ATTENDING:
        x = keras.Input(POSITIONS[1][number], batch)
        layer, causal = _layer(name, ATTENDING[name][number % len(ATTENDING[name])]), number % 2 == 1
        takes_list = name in ("AdditiveAttention", "Attention")
        return keras.Model(
            x, layer([x, x] if takes_list else x, *([] if takes_list else [x]), use_causal_mask=causal)
        )
    length = (5, 6, 1, 9, None, 4)[number]
    tokens = keras.Input((length,), batch, dtype="int32", name="tokens")
    return keras.Model(tokens, _layer(name, COUNTING[name][number % len(COUNTING[name])])(tokens))


def _layer(name: str, settings: dict[str, Any]) -> Any:
    parts = ("layer", "cell", "cells", "layers")
    settings = {key: value() if key in parts else value for key, value in settings.items()}
    layer = getattr(layers, name)(**settings)
    return layers.RNN(layer) if name.endswith(("Cell", "Cells")) else layer
