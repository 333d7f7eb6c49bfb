"""The modules of sample_apps/grow_language_model.py.

`books` cuts the Bible into pieces of words, `networks` builds the model, `compute` counts what training costs,
`training` spends it, `runs` grows and prunes, and `report` writes the table and the picture. Start at `runs.run`.
"""
