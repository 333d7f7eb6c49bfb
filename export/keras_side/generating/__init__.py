"""Export a language model of KerasHub as a file that writes: with its caches, checked, and with its tokenizer.

Why: one call of a model is not a text. A file that writes keeps keys and values of the positions before, each block
with its own heads, and shares its weights between the signatures for prompts and for single tokens.
In goes a CausalLM, dense or smaller; out comes a file for `Generator`. `cached_blocks` finds the caches of a class,
`signatures` writes the SavedModel, whose weights are inputs, and `bind_weights` puts them into the converted file:
the converter would need eight times their memory. `text_content` brings the tokenizer into a form for devices.
`litertlm_content` puts all of it into a file for LiteRT-LM.
`check_written` compares what the file writes in a process of its own with Keras.
Start at `to_generator.to_generator`.
"""
