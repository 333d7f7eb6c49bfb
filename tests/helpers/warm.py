"""The imports of sample apps, in the process that `programs` forks.

Nothing may be computed here: TensorFlow's threads do not survive a fork.
"""

import keras
import matplotlib.pyplot
import sklearn.datasets

import tfprune.export

__all__ = ["keras", "matplotlib", "sklearn", "tfprune"]
