"""The network: an embedding for prototypes, or with a classifier behind it for MAML."""

from __future__ import annotations

import keras

SIZE = 28
WAYS, SHOTS = 5, 5  # in training


def build(*, width: int, seed: int, has_classifier: bool = False) -> keras.Model:
    """Return an untrained network: the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    layers, found = keras.layers, []
    for number in range(4):  # four blocks, as ProtoNet and MAML use them
        # With the default momentum of 0.99, averages would lag behind in short fine-tuning.
        found += [
            layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv_{number}"),
            layers.BatchNormalization(momentum=0.9, name=f"norm_{number}"),
            layers.ReLU(name=f"relu_{number}"),
            layers.MaxPooling2D(name=f"pool_{number}"),
        ]
    found += [layers.Flatten(name="embedding")]
    found += [layers.Dense(WAYS, name="class")] if has_classifier else []
    return keras.Sequential([keras.Input((SIZE, SIZE, 1), name="image"), *found])
