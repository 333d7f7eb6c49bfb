"""Utilities that do not depend on pruning: checks of arguments, axes, streams, pages, progress.

Why: every wing needs them, and none of them needs a wing.
`spec` checks arguments and holds frozen values; `axes` and `top_k` work on arrays; `streams` and `coders` compress
them; `untrusted` reads what may be damaged; `run_folder` keeps the steps of a long run, and keeps other runs out;
`html` and `progress` show something; `lazy` loads public names.
Nothing here imports Keras when it is imported.
"""
