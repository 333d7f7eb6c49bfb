"""Write text with a language model's file: tokens in, tokens out, with NumPy and an interpreter.

Why: a device has no Keras, and a language model is not one call. Its caches of keys and values go from call to call.
In go a file of `to_generator` and a text, or token ids; out comes more text, whole or piece by piece. `signatures`
calls the file's signatures in the fastest runtime that works here, which `prepare_file` finds: `compiled_file`, or
`interpreted_file`. `text_form` reads the tokenizer in the file, `sampling` chooses each token from its scores, and
`chat` keeps the turns of a conversation. `write_job` lets a file write in a process of its own, to compare it with
Keras.
Start at `generator.Generator`.
"""
