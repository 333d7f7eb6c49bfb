"""Write text with a language model's file: tokens in, tokens out, with NumPy and an interpreter.

Why: a device has no Keras, and a language model is not one call. Its caches of keys and values go from call to call.
In go a file of `to_generator` and a text, or token ids; out comes more text, whole or piece by piece. `signatures`
calls the file's signatures, a `tokenizer` in the file turns texts into ids and back, and `sampling` chooses each
token from its scores. `write_job` does the same in a process of its own, to compare a file with Keras.
Start at `generator.Generator`.
"""
