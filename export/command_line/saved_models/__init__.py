"""A saved Keras model into a smaller saved Keras model, for those who write no code.

The work of `tfprune prune` and `tfprune shrink`. All of it is in the library already: what is added here is what a
script would do around it. `trained` reads the model and the samples and refuses what does not fit, before any work
is done. `saved` measures both models on the same samples, compiles the new one as the old one was, and writes it
whole or not at all. What Keras prints on the way goes to standard error, because standard output is for the
report. Anything that a user wants beyond these commands is better done in Python: they have few options, and the
library has many.
"""
