"""The modules of sample_apps/int8_four_ways.py.

`networks` builds two networks of convolutions, `runs` prunes one and exports it in four ways, `transformers` does so
with a vision transformer, and `report` makes the tables and the picture of what that found.
"""
