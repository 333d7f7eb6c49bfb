"""The program `tfprune`: its commands, the demo, and how they read and write saved models.

Why: those who write no Python prune, compress and check saved models, too.
`cli` is the entry point, `commands` has a module for each command, and `saved_models` reads and writes
`.keras` files.
"""
