"""Compare a model before and after pruning: what it lost for each class, group and sample.

Why: an average hides a class or a speaker that lost everything. Files, recorded outputs and Keras models are compared
by the same NumPy code, on a device as well. `outputs` runs each side once, `labels` and `groups` check what the user
gives, `paired_tests` and `calibration` hold the statistics, and `damage` puts them into a report and a page.
Start at `damage.damage`.
"""
