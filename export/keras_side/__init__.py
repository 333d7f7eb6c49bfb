"""Convert Keras models to files: the part of the export half that needs Keras and TensorFlow.

Conversion happens on the computer that trains, everything else also on the device. `prepare` prepares a model for
the converter, `convert` makes a dense file in a process of its own, and `to_tflite` rewrites, runs and compares it
before it is written. `to_generator` exports language models. Start at `to_tflite.to_tflite`.
"""
