"""The modules of sample_apps/f_statistic.py.

`networks` holds the data and the dense networks, `runs` prunes them by one criterion and trains in between, `report`
draws the tables and the picture from lines of JSON. Start at `runs.pruned`.
"""
