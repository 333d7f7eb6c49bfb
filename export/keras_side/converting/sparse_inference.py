"""Whether zeros make a model faster, asked of a Keras model or of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.export.file.files.source import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.xnnpack.sparse_inference_report import (
    Layers,
    SparseInferenceReport,
    describe,
)
from tfprune.export.keras_side.converting.model_or_file import is_file
from tfprune.export.rewriting.shapes.explicit_padding import spell_out_padding
from tfprune.keras_models.models.anatomy import Anatomy

if TYPE_CHECKING:
    import keras


def sparse_inference(model_or_source: keras.Model | Source) -> SparseInferenceReport:
    """Say which layers XNNPACK, the runtime's library for float models, runs with sparse kernels, and why not others.

    These kernels skip zeros of 1x1 convolutions in networks for images, and make them several times faster on ARM and
    in WebAssembly, not in a native program on x86. All operators from the first convolution to the global pool have
    to fit. If one does not, all of them run dense.

    Args:
        model_or_source: A built Keras model, wrapped or plain, trained or not, which is converted as float32 and
            taken to be exported with sparse weights; or a .tflite file: a path, or its content.

    Returns:
        A report that prints as a table. Of a model without zeros it says what its structure allows (`eligible`)
        and how many zeros it takes.

    Raises:
        TypeError: If it is neither a model nor a path nor bytes.
        ValueError: If a model cannot be converted, or a file is damaged or not a TFLite file; or (also
            an ImportError) if ai-edge-litert is not installed.

    Example:
        >>> print(sparse_inference("digits.tflite"))
        can run sparse   NO
        ---------------  ---...
        runs sparse now  NO
        zeros            0.0% (more than 66.7% needed)
        because          it has no 1x1 convolution behind a 3x3 convolution with stride 2 on 3 channels
        ...

    Reference:
        E. Elsen, M. Dukhan, T. Gale, K. Simonyan, "Fast Sparse ConvNets", CVPR 2020.
    """
    if is_file(model_or_source):
        return ModelFile.open(model_or_source).inference
    return _of_model(model_or_source)


def _of_model(model: keras.Model) -> SparseInferenceReport:
    from tfprune.export.keras_side.converting.convert import convert
    from tfprune.masking.wrapping.strip import plain_copy

    plain = plain_copy(Anatomy.of(model))
    file = ModelFile.open(convert(plain)).after(spell_out_padding)
    return describe(file.analyses, layers=_layers(plain))


def _layers(model: keras.Model) -> Layers:
    from tfprune.keras_models.models.layers import walk

    parts = [(layer, path) for path, layer in walk(model) if path]
    kernels = {layer.name: path for layer, path in parts if any(len(weight.shape) > 1 for weight in layer.weights)}
    return kernels, {layer.name: path for layer, path in parts}
