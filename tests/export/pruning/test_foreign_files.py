"""Files with more than a plain network: states, operators that nobody has, open sizes."""

import numpy as np
import pytest

from tfprune.export.file import schema
from tfprune.export.file.document import add_operator, load_objects, operator_name, save_objects
from tfprune.export.pruning.layers import _linear_operators
from tfprune.export.pruning.pieces import Pieces
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.pruning.shrink import shrink_tflite


def test_hash_tables_are_refused(cases):
    model = load_objects(cases["dense"].data)
    for name in ("HASHTABLE", "HASHTABLE_FIND"):
        add_operator(model, model.subgraphs[0], name=name, inputs=[], outputs=[])
    with pytest.raises(ValueError, match="one with HASHTABLE, HASHTABLE_FIND, whose values"):
        Pieces(model)


def test_an_operator_that_the_interpreter_lacks_is_named(cases, tmp_path):
    model = load_objects(cases["dense"].data)
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"Mine"
    with pytest.raises(ValueError, match="lacks the custom operator Mine\\. Export the part.*Nothing was written"):
        prune_tflite(save_objects(model), tmp_path / "none.tflite", cases["dense"].inputs, sparsity=0.5)
    assert not list(tmp_path.iterdir())


def test_a_flex_operator_is_named(tmp_path):
    """A determinant, which the converter leaves to TensorFlow's own kernels."""
    import tensorflow as tf

    class Determinant(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 9), tf.float32)])
        def __call__(self, x):
            return tf.linalg.det(tf.reshape(x @ tf.reshape(tf.range(81.0), (9, 9)), (1, 3, 3)))

    model = Determinant()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([model.__call__.get_concrete_function()], model)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    content, samples = converter.convert(), np.random.default_rng(0).normal(size=(16, 9)).astype(np.float32)
    for change, limit in ((prune_tflite, {"sparsity": 0.5}), (shrink_tflite, {"flops": 0.5})):
        with pytest.raises(
            ValueError, match="lacks the operator FlexMatrixDeterminant, which is TensorFlow's .*own operators only"
        ):
            change(content, tmp_path / "none.tflite", samples, **limit)
    assert not list(tmp_path.iterdir())


def test_a_transposed_convolution_of_open_size_is_left_alone(exports):
    """Which inputs an output adds up depends on the size."""
    model = load_objects(exports("unpruned", "float32").data)
    graph = model.subgraphs[0]
    (step,) = [each for each in graph.operators if operator_name(model, each) == "TRANSPOSE_CONV"]
    assert "TRANSPOSE_CONV" in {each.kind for each in _linear_operators(Pieces(model))[0]}
    graph.tensors[step.outputs[0]].shapeSignature = np.array([-1, -1, -1, 8], np.int32)
    operators, skipped = _linear_operators(Pieces(model))
    assert "TRANSPOSE_CONV" not in {each.kind for each in operators}
    assert [
        reason for _, reason in skipped if reason == "TRANSPOSE_CONV: the file leaves the size of its output open"
    ]
