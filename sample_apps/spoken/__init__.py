"""The modules of sample_apps/spoken_language.py.

`recordings` reads the speech and splits it, `log_mel` makes pictures of it, `network` builds the model, `runs` prunes
and exports it, `listen` runs a file in the interpreter for microcontrollers, and `report` makes the tables and the
picture of what that found.
"""
