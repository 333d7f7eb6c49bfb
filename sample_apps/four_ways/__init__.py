"""The modules of sample_apps/int8_four_ways.py.

`networks` builds the two networks, `runs` prunes one and exports it in four ways, `report` makes the table and the
picture of what that found.
"""
