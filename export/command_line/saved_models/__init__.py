"""Prune, shrink or compress a saved Keras model without writing code.

The work of `tfprune prune`, `tfprune shrink` and `tfprune compress`. The library does all of it; the modules here add
what a script would do around it. `job` reads the model and the samples, and refuses what does not fit before any work
starts. `saved_model` measures both models on the same samples, compiles the new one as the old one was, and writes it
whole or not at all. What Keras prints goes to standard error, because standard output is for the report. The commands
have few options; Python code can use all of the library.
"""
