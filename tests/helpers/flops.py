"""FLOPs by TensorFlow's profiler, to compare plans with."""

from __future__ import annotations

import keras
import tensorflow as tf


def multiplications(model: keras.Model) -> int:
    """Return what TensorFlow's profiler counts for kernels: two for each multiplication, as the plan does."""
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    profile = tf.compat.v1.profiler.Profiler(graph).profile_operations(options)
    counts, todo = {}, [profile]
    for node in todo:
        counts[node.name] = node.float_ops
        todo += node.children
    return sum(counts.get(name, 0) for name in ("Conv2D", "DepthwiseConv2dNative", "MatMul"))
