"""Search for the smallest or fastest file whose accuracy drops by no more than a limit.

`policy` chooses the recipe of the next trial from what was measured, `trials` applies it, `evaluate` exports and
measures the files, and `report` writes the best ones. Start at `compress.compress`.
"""
