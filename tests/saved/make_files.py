"""Write the saved files of tests/saved, once: python tests/saved/make_files.py NAME. None is ever made anew.

A new kind of model gets new files; those that are there were written by versions that users have files of.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))


def main(name: str) -> None:
    import keras
    import numpy as np
    import saved_models

    import tfprune
    from tfprune.export import Runner, to_tflite

    keras.utils.set_random_seed(7)
    model = saved_models.build(name)
    x = saved_models.inputs_of(model)
    if name.endswith("specs"):  # some of its criteria need data: the masks are set by hand
        rng = np.random.default_rng(1)
        for layer in model.layers:
            kernel = np.asarray(layer.kernels["kernel"].variable)
            layer.set_mask("kernel", layer.pattern(rng.random(kernel.T.shape), 0.5).T)
    elif name == "tfmot":
        model.compile("adam", "mse")
        callbacks = [tfprune.tfmot.UpdatePruningStep()]
        model.fit(x, np.zeros((4, 4)), batch_size=1, epochs=2, verbose=0, callbacks=callbacks)
    else:
        tfprune.update_masks(model, 0.5)
    model.save(HERE / f"{name}.keras")
    model.save_weights(HERE / f"{name}.weights.h5")
    outputs = np.asarray(model(x))
    np.savez_compressed(HERE / f"{name}.npz", x=x, outputs=outputs, **saved_models.masks_of(model))
    if name == "functional":
        to_tflite(model, HERE / "packed.tfz", compress="packed")
        np.savez_compressed(HERE / "packed.npz", x=x[:1], outputs=Runner(HERE / "packed.tfz").predict(x[:1]))


if __name__ == "__main__":
    main(sys.argv[1])
