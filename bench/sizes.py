"""Packed size of MobileNet v1 with 1x1 convolutions and classifier at 90 % zeros, against gzip, xz and the entropy.

The bound is what a coder of single symbols cannot go below: for each weight the lesser of the entropy of its int8
values, and that of the zero runs and of the values between them; and the rest of the file under xz.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Row, at_least, at_most

WEIGHTS = [r"conv_pw_\d+/kernel", "conv_preds/kernel"]
SPARSITY = 0.9
STEPS, BATCH = 4, 8
# What a fresh process does to a file: nothing, or one of the two; seconds and peak memory in bytes come out.
CHILD = """
import sys, time
from pathlib import Path
from tfprune.export import pack, unpack
data, start = Path(sys.argv[2]).read_bytes() if sys.argv[1] != "import" else b"", time.perf_counter()
if data:
    {"pack": pack, "unpack": unpack}[sys.argv[1]](data)
seconds = time.perf_counter() - start
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(seconds, int(peak.split()[1]) * 1024)
"""


def measure() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, model in _models():
            files = _export(model)
            rows += _sizes(what, files)
        for what in ("dense", "pruned"):
            (folder / what).write_bytes(files[what])
            rows += _costs(f"{what} float32", folder / what)
    return rows


def _models():
    """Yield MobileNet with weights drawn from He's normal distribution, and after some steps of training."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(weights=None)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("kernel"):
            inputs = int(np.prod(weight.shape[:2] if "conv_dw" in weight.path else weight.shape[:-1]))
            weight.assign(random.normal(0, np.sqrt(2 / inputs), weight.shape))
    yield "He-normal", model
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    images = random.uniform(-1, 1, (STEPS * BATCH, 224, 224, 3)).astype(np.float32)
    model.fit(images, random.integers(0, 1000, len(images)), batch_size=BATCH, verbose=0)
    yield f"after {STEPS} steps", model


def _export(model) -> dict[str, bytes]:
    import tfprune
    from tfprune.export.keras_side.convert import convert

    calibration = [np.random.default_rng(1).uniform(-1, 1, (4, 224, 224, 3)).astype(np.float32)]
    pruned = tfprune.wrap(model, filters=WEIGHTS)
    tfprune.update_masks(pruned, SPARSITY)
    plain = tfprune.strip(pruned)
    return {
        "dense": convert(model),
        "pruned": convert(plain),
        "int8": convert(plain, quantize="int8", calibration=calibration),
    }


def _sizes(what: str, files: dict[str, bytes]) -> list[Row]:
    from tfprune.export import pack, unpack
    from tfprune.export.file.container import encode

    data = files["int8"]
    packed = pack(data)
    exact = unpack(packed) == data
    bound, zipped = _bound(data), len(encode(data, "gzip"))
    print(
        f"{what}: dense float32 {len(files['dense']):,}, int8 {len(data):,}, gzip {zipped:,}, xz "
        f"{len(encode(data, 'xz')):,}, bound {bound:,.0f}, packed {len(packed):,}"
    )
    name = f"MobileNet int8 at 90 %, {what}"
    return [
        Row(f"{name}: unpacked bit for bit", str(exact), "True", exact),
        at_most(f"{name}: packed / bound", len(packed) / bound, 1.03),
        at_least(f"{name}: gzip -9 / packed", zipped / len(packed), 1.2),
        at_least(f"{name}: dense float32 / packed", len(files["dense"]) / len(packed), 24),
    ]


def _bound(data: bytes) -> float:
    rest, bits = data, 0.0
    for values in int8_weights(data):
        rest = rest.replace(values.tobytes(), b"", 1)
        places = np.flatnonzero(values)
        runs = np.diff(places, prepend=-1) - 1
        bits += min(_entropy(values), _entropy(runs) + _entropy(values[places]))
    return bits / 8 + len(lzma.compress(rest, preset=9 | lzma.PRESET_EXTREME))


def int8_weights(data: bytes) -> list[np.ndarray]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    tensors = map(graph.Tensors, range(graph.TensorsLength()))
    kernels = {
        tensor.Buffer() for tensor in tensors if tensor.Type() == schema.TensorType.INT8 and tensor.ShapeLength() > 1
    }
    buffers = [model.Buffers(place) for place in sorted(kernels)]
    return [buffer.DataAsNumpy().view(np.int8) for buffer in buffers if not buffer.DataIsNone()]


def _entropy(symbols: np.ndarray) -> float:
    from scipy.stats import entropy

    _, counts = np.unique(symbols, return_counts=True)
    return len(symbols) * float(entropy(counts, base=2))


def _costs(what: str, path: Path) -> list[Row]:
    from tfprune.export import pack

    size = path.stat().st_size
    packed = path.with_suffix(".tfz")
    packed.write_bytes(pack(path.read_bytes()))
    _, idle = _child("import", path)
    rows = []
    for action, source in (("pack", path), ("unpack", packed)):
        seconds, peak = _child(action, source)
        name = f"{action} {what}, {size / 1e6:.0f} MB"
        rows.append(at_most(name, seconds, 10, unit=" s", digits=2))
        rows.append(at_most(f"{name}: memory / file", (peak - idle) / size, 4, digits=2))
    return rows


def _child(action: str, path: Path) -> tuple[float, int]:
    command = [sys.executable, "-c", CHILD, action, str(path)]
    seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), int(peak)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
