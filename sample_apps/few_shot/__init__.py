"""The pieces of sample_apps/few_shot_glyphs.py.

`glyphs` draws characters in the fonts of a folder, `networks` builds the embedding and the heads that train it,
`training` meta-trains by ProtoNet and MAML, `pruning` makes the smaller model, `judging` measures it, `results` keeps
lines of JSON and draws the table and the picture. Start at `glyphs.read_glyphs` and `training.train_prototypes`.
"""
