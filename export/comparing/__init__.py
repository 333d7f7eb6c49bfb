"""Compare a model before and after pruning: what it lost for each class, group and sample.

An average hides a class or a speaker that lost everything. Files, recorded outputs and Keras models are compared by
the same NumPy code, on a device as well. Start at `damage.damage`.
"""
