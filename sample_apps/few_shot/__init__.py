"""The modules of sample_apps/few_shot_glyphs.py.

`glyphs` draws characters in the fonts of a folder, `networks` builds the network, `runs` calls `prune_few_shot` for
each way to choose channels, `judging` measures exported files, `report` draws the table and the picture. Start at
`glyphs.read_glyphs` and `runs.run`.
"""
