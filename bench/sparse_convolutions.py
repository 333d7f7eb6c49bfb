"""CNNs of 3x3 convolutions with zeros: the file for the fewest milliseconds against the dense one, in turns.

    python bench/sparse_convolutions.py                          # every network at 90 %, in WebAssembly
    python bench/sparse_convolutions.py resnet18 --zeros 0.7 0.95
    python bench/sparse_convolutions.py resnet20 --emulated      # also on emulated ARM processors, minutes
    python bench/sparse_convolutions.py --zeros 0 0.5 --forced   # the rewritten file also where it does not pay
    python bench/sparse_convolutions.py resnet18 --sizes         # bytes, also of 8-bit weights and of what is packed
    python bench/sparse_convolutions.py resnet18 --memory        # the most that a process with the file takes
    python bench/sparse_convolutions.py resnet18 --int8          # against the int8 file, which computes in integers
    python bench/sparse_convolutions.py --applications           # 16 families of keras.applications, an hour
    python bench/sparse_convolutions.py --applications Xception  # one; files are kept in build/applications
    python bench/sparse_convolutions.py --random 30              # outputs of random networks, in WebAssembly
    python bench/sparse_convolutions.py --random 30 --emulated   # and on emulated ARM processors

Weights are random. The first convolution has no zeros. Ratios are of the processor's time, on one thread; those of an
emulator count the work that is done, without caches. `predicted` is the estimate of the report.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import kernels
import numpy as np
from common import Row, at_least, at_most
from keras import layers

from tfprune.export import make_sparse_ready, to_tflite
from tfprune.export.file import schema
from tfprune.export.file.container import encode
from tfprune.export.file.document import inputs_of, operator_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting import sparse_convolutions
from tfprune.export.rewriting.planner import Node, Reader
from tfprune.export.rewriting.rewrite import FileForm, Speed, candidate_files
from tfprune.export.rewriting.sparse_convolutions import spread_convolutions
from tfprune.export.rewriting.sparsify import sparsify

# By network: what a prototype gained in WebAssembly at 90 %, less a tenth.
BARS = {"resnet18": 3.3, "resnet20": 2.0, "vgg16": 4.2, "unet": 2.3, "yolo": 1.8}
BARS_BY_ZEROS = {("resnet18", 0.7): 1.5, ("resnet18", 0.8): 2.3, ("resnet18", 0.95): 4.3}
EMULATED_BARS = {"resnet18": 4.0}  # at 90 %
WITHIN = "0.70x to 1.30x"  # the estimate, by what is measured


def _conv(x, channels: int, *, stride: int = 1, size: int = 3):
    x = layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def _block(x, channels: int, *, stride: int):
    y = _conv(layers.ReLU()(_conv(x, channels, stride=stride)), channels)
    if stride > 1 or x.shape[-1] != channels:
        x = _conv(x, channels, stride=stride, size=1)
    return layers.ReLU()(layers.Add()([x, y]))


def _classified(image, x, classes: int) -> keras.Model:
    return keras.Model(image, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def resnet18() -> keras.Model:
    image = keras.Input((224, 224, 3), batch_size=1)
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.ReLU()(_conv(image, 64, stride=2, size=7)))
    for channels in (64, 128, 256, 512):
        for stride in (1 if channels == 64 else 2, 1):
            x = _block(x, channels, stride=stride)
    return _classified(image, x, 1000)


def resnet20() -> keras.Model:
    image = keras.Input((32, 32, 3), batch_size=1)
    x = layers.ReLU()(_conv(image, 16))
    for channels in (16, 32, 64):
        for stride in (1 if channels == 16 else 2, 1, 1):
            x = _block(x, channels, stride=stride)
    return _classified(image, x, 10)


def vgg16() -> keras.Model:
    image = x = keras.Input((32, 32, 3), batch_size=1)
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def unet() -> keras.Model:
    image = x = keras.Input((128, 128, 3), batch_size=1)
    skips = []
    for channels in (32, 64, 128):
        x = _twice(x, channels)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu")(x)
    for channels in (128, 64, 32):
        x = _twice(layers.Concatenate()([layers.UpSampling2D()(x), skips.pop()]), channels)
    return keras.Model(image, layers.Conv2D(2, 1)(x))


def _twice(x, channels: int):
    for _ in range(2):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
    return x


def yolo() -> keras.Model:
    image = x = keras.Input((224, 224, 3), batch_size=1)
    maps = []
    for channels in (32, 64, 128, 256):
        x = layers.Conv2D(channels, 3, 2, padding="same", activation="silu")(x)
        y = layers.Conv2D(channels // 2, 1, activation="silu")(x)
        y = layers.Conv2D(channels, 1, activation="silu")(_silu(y, channels // 2))
        x = layers.Add()([x, y])
        maps.append(layers.Conv2D(24, 1)(x))
    return keras.Model(image, maps[2:])


def _silu(x, channels: int):
    return layers.Conv2D(channels, 3, padding="same", activation="silu")(x)


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    each.__name__: each for each in (resnet18, resnet20, vgg16, unet, yolo)
}


def with_zeros(model: keras.Model, zeros: float) -> keras.Model:
    """Remove the smallest entries of all kernels but the first, and keep the size of what they give."""
    random = np.random.default_rng(0)
    kernels = [weight for weight in model.weights if weight.path.endswith("kernel") and len(weight.shape) == 4]
    for kernel in kernels[1:]:
        values = kernel.numpy()
        values[np.abs(values) < np.quantile(np.abs(values), zeros)] = 0
        kernel.assign(values / np.sqrt(1 - zeros))
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign(weight + 0.1 * random.normal(size=weight.shape))
    return model


def network_and_image(name: str, zeros: float) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    model = with_zeros(NETWORKS[name](), zeros)
    return model, np.random.default_rng(0).random(model.inputs[0].shape, dtype=np.float32)


def compared(gain: float, row: Row) -> Row:
    """Compare the estimate with a row of what was measured."""
    ratio = gain / float(row.measured.rstrip("x"))
    where = row.what.rpartition(": ")[0]
    return Row(f"{where}: predicted {gain:.2f}x, against measured", f"{ratio:.2f}x", WITHIN, abs(ratio - 1) <= 0.3)


def rows(name: str, zeros: float, *, is_emulated: bool) -> Iterator[Row]:
    model, image = network_and_image(name, zeros)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        image.tofile(home / "image.bin")
        samples = {"check_on": image}
        dense = to_tflite(model, home / "dense.tflite", optimize="dense", batch=1, **samples)
        sparse = to_tflite(model, home / "sparse.tflite", optimize="latency", batch=1, **samples)
        form = next(each.name for each in sparse.candidates if not each.reason)
        what = f"{name}, {zeros:.0%} zeros, {dense.bytes:,} -> {sparse.bytes:,} bytes ({form})"
        least = BARS[name] if zeros == 0.9 else BARS_BY_ZEROS.get((name, zeros), 0.95)
        ratios = kernels.in_node(home, pairs=9, least=least)
        if is_emulated:
            least = EMULATED_BARS.get(name, least) if zeros == 0.9 else least
            ratios += kernels.emulated(home, wheels=kernels.WHEELS[:1], pairs=1, least=least)
    gain = 1.0 if sparse.gain is None else sparse.gain
    ratios += [compared(gain, row) for row in ratios if row.measured.endswith("x")]
    yield from (replace(row, what=f"{what}: {row.what}") for row in ratios)


SIZES = {"sparse": 0.2, "sparse, 8-bit weights": 0.12}  # of the dense file's bytes
PACKED = 1.1  # of the packed file with the same zeros and the dense file's operators


def sizes(name: str, zeros: float) -> Iterator[Row]:
    """Compare the bytes of files with those of the dense one, and of what is packed."""
    model, image = network_and_image(name, zeros)
    formats = {
        "dense": {"optimize": "dense"},
        "sparse": {"optimize": "latency"},
        "sparse, 8-bit weights": {"optimize": "latency", "quantize": "dynamic"},
        "plain sparse": {"optimize": "sparse"},
    }
    contents, forms = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for each, options in formats.items():
            report = to_tflite(model, Path(folder) / "file.tflite", batch=1, check_on=image, **options)
            contents[each] = Path(report.path).read_bytes()
            forms[each] = next(form.name for form in report.candidates if not form.reason)
    for each, bar in SIZES.items():
        what = f"{name}, {zeros:.0%} zeros: {each} ({forms[each]}), {len(contents[each]):,} bytes / dense"
        yield at_most(what, len(contents[each]) / len(contents["dense"]), bar)
    packed, plain = (len(encode(contents[each], "packed")) for each in ("sparse", "plain sparse"))
    what = f"{name}, {zeros:.0%} zeros: packed sparse, {packed:,} bytes / packed plain sparse, {plain:,} bytes"
    yield at_most(what, packed / plain, PACKED)


MEMORY = 1.1  # of a process with the dense file


def memory(name: str, zeros: float) -> Iterator[Row]:
    """Compare the memory that a process takes with each file."""
    model, image = network_and_image(name, zeros)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        image.tofile(home / "image.bin")
        for form, optimize in {"dense": "dense", "sparse": "latency"}.items():
            to_tflite(model, home / f"{form}.tflite", optimize=optimize, batch=1, check_on=image)
        for row in kernels.memory_in_node(home, most=MEMORY):
            yield replace(row, what=f"{name}, {zeros:.0%} zeros: {row.what}")


LEAST_OF_INT8 = {"resnet18": 1.7}  # times as fast as the int8 file, in WebAssembly


def against_int8(name: str, zeros: float, *, is_emulated: bool) -> Iterator[Row]:
    """Compare the int8 file with the dense one, and the sparse one with the int8 file."""
    model, image = network_and_image(name, zeros)
    calibration = np.random.default_rng(1).random((16, *image.shape[1:]), dtype=np.float32)
    options = {"dense": {"optimize": "dense"}, "sparse": {"optimize": "latency"}}
    options["int8"] = {"optimize": "dense", "quantize": "int8", "calibration": calibration}
    contents = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, others in options.items():
            report = to_tflite(model, Path(folder) / "file.tflite", batch=1, check_on=image, **others)
            contents[form] = Path(report.path).read_bytes()
    for what, pair in {"int8 / dense": ("dense", "int8"), "sparse / int8": ("int8", "sparse")}.items():
        least = LEAST_OF_INT8.get(name, 0) if what == "sparse / int8" else 0
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            _write(home, dict(zip(("dense", "sparse"), map(contents.get, pair), strict=True)))
            times = kernels.in_node(home, pairs=9, least=least)[:1]
            if is_emulated:
                times += kernels.emulated(home, wheels=kernels.WHEELS[:1], pairs=1, least=least)[::2]
        for row in times:
            where = row.what.rpartition(": ")[0]
            bar = row.bar if least else "measured"
            yield replace(row, what=f"{name}, {zeros:.0%} zeros, times as fast, {what}: {where}", bar=bar)


APPLICATIONS = (
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0", "EfficientNetV2B0"),
    *("ResNet50", "ResNet101", "ResNet50V2", "DenseNet121", "VGG16 without its dense layers", "Xception"),
    *("InceptionV3", "InceptionResNetV2", "NASNetMobile", "ConvNeXtTiny"),
)
LEAST, ENOUGH, CLOSE = 1.5, 12, 1e-5  # times faster, of so many families; outputs, of the largest
READY = ("MobileNet", "Efficient")  # those with a form that sparse kernels run as it is


def applications(names: Sequence[str], *, home: Path) -> None:
    """Print for each family its form, how many times as fast it is by the estimate and measured, and what is dense.

    The files end in logits, whose largest difference comes last.
    """
    home.mkdir(parents=True, exist_ok=True)
    rows_by_family: list[list[Row]] = []
    for name in names:
        form, dense, reasons = _application(name, home)
        measured = []
        if form.speed is Speed.SPARSE:
            with tempfile.TemporaryDirectory() as folder:
                measured = _in_node(Path(folder), {"dense": dense, "sparse": form.file.content}, pairs=3)
        kind = form.name.partition(", about")[0].removeprefix(name).strip(", ") if not form.refusal else "dense"
        estimate = f"{form.estimate:.2f}x" if form.speed is Speed.SPARSE else form.refusal
        print("\t".join([name, kind, estimate, *(row.measured for row in measured)]), flush=True)
        for reason, count in reasons.most_common():
            print(f"    {count} {reason}", flush=True)
        rows_by_family.append(measured)
    times = [
        float(rows[0].measured.rstrip("x")) for rows in rows_by_family if rows and rows[0].measured.endswith("x")
    ]
    differences = [float(rows[1].measured) for rows in rows_by_family if rows[1:]]
    for row in (
        at_least(
            f"families that are {LEAST} times as fast at 90 % zeros", sum(map(LEAST.__le__, times)), ENOUGH, unit=""
        ),
        at_least("the slowest against dense", min(times, default=1.0), 0.95),
        at_most("largest difference of their outputs", max(differences, default=0.0), CLOSE, unit="", digits=7),
    ):
        print("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]))


def _application(name: str, home: Path) -> tuple[FileForm, bytes, Counter[str]]:
    """Return the form of a family for optimize='latency', its dense file, and why operators are dense."""
    plain = ModelFile.open(_converted(name, home / f"{name}.tflite", is_ready=False)).after(_end_in_logits)
    reader = Reader(plain.objects())
    running = {id(each) for node in reader.nodes if isinstance(node, Node) for each in node.operators}
    reasons = Counter(
        f"{reader.kind(operator)}: {node}"
        for operator, node in zip(reader.operators, reader.nodes, strict=True)
        if isinstance(node, str) and id(operator) not in running
    )
    forms = candidate_files(plain, name=name, optimize="latency")
    if name.startswith(READY):
        ready = ModelFile.open(_converted(name, home / "ready" / f"{name}.tflite", is_ready=True))
        forms += candidate_files(ready.after(_end_in_logits), name=f"{name}, sparse-ready", optimize="latency")
    refused = [form for form in forms if form.refusal]
    best = max(forms, key=lambda form: (form.speed, form.estimate))
    return refused[0] if refused and best.speed is not Speed.SPARSE else best, plain.content, reasons


def _end_in_logits(model: schema.ModelT) -> bool:
    """Leave the softmax out, behind which random networks have next to the same outputs."""
    graph = model.subgraphs[0]
    if operator_name(model, graph.operators[-1]) != "SOFTMAX":
        return False
    graph.outputs = np.array(inputs_of(graph.operators.pop()), np.int32)
    model.signatureDefs = None
    return True


def _converted(name: str, path: Path, *, is_ready: bool) -> bytes:
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        keras.utils.set_random_seed(0)
        image = keras.Input((224, 224, 3), batch_size=1)
        family, *cut = name.split()
        options = {"include_top": False, "pooling": "avg"} if cut else {}
        network = getattr(keras.applications, family)(weights=None, input_tensor=image, **options)
        model = with_zeros(network, 0.9)
        path.write_bytes(convert(make_sparse_ready(model) if is_ready else model, batch=1))
        keras.backend.clear_session()
    return path.read_bytes()


def _in_node(home: Path, pair: Mapping[str, bytes], *, pairs: int) -> list[Row]:
    _write(home, pair)
    return kernels.in_node(home, pairs=pairs, least=LEAST)


def _write(home: Path, pair: Mapping[str, bytes]) -> None:
    for name, content in pair.items():
        (home / f"{name}.tflite").write_bytes(content)
    shape = ModelFile.open(pair["dense"]).graph.inputs[0].shape
    np.random.default_rng(0).random(shape, dtype=np.float32).tofile(home / "image.bin")


def random_networks(count: int, *, is_emulated: bool) -> None:
    """Print how many random networks give the same outputs dense and sparse, in WebAssembly or on ARM as well."""
    sys.path += [str(kernels.ROOT / folder) for folder in ("tests/helpers", "tests/export/rewriting")]
    from test_sparse_convolutions import drawn

    sparse_convolutions.LEAST_GAIN = 0.0
    by_runtime: dict[str, dict[str, float]] = {"WebAssembly": {}}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1000, 1000 + count):
            content, home = drawn(seed, steps=7), Path(folder) / str(seed)
            file, gain = spread_convolutions(ModelFile.open(content))
            if gain == 1:
                continue
            home.mkdir()
            pair = {"dense": content, "sparse": sparsify(file.content).data}
            _, *rows = _in_node(home, pair, pairs=1)
            by_runtime["WebAssembly"][home.name] = float(rows[0].measured) if rows else float("inf")
        by_runtime |= kernels.differences(Path(folder)) if is_emulated else {}
    for where, differences in by_runtime.items():
        for seed, difference in differences.items():
            if not difference <= CLOSE:
                print(f"{where}, seed {seed}: {difference}", flush=True)
        right, worst = sum(each <= CLOSE for each in differences.values()), max(differences.values(), default=0.0)
        what = f"{where}: random networks that are right, of {len(differences)} rewritten"
        row = at_least(what, right, len(differences), unit="", digits=0)
        print("\t".join([row.what, row.measured, row.bar, f"{worst:.1e}", "yes" if row.holds else "NO"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=" ".join(NETWORKS))
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.9])
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--sizes", action="store_true", help="bytes instead of times; the bars are those of resnet18")
    parser.add_argument("--memory", action="store_true", help="memory instead of times")
    parser.add_argument("--int8", action="store_true", help="times against the int8 file of the same network")
    parser.add_argument("--forced", action="store_true")
    parser.add_argument("--applications", action="store_true")
    parser.add_argument("--folder", type=Path, default=kernels.ROOT / "build/applications", help="keeps their files")
    parser.add_argument("--random", type=int, default=0, metavar="N")
    options = parser.parse_args()
    if options.forced:
        sparse_convolutions.LEAST_GAIN = 0.0
    if options.applications:
        applications(options.networks or APPLICATIONS, home=options.folder)
        return
    if options.random:
        random_networks(options.random, is_emulated=options.emulated)
        return
    timed = against_int8 if options.int8 else rows
    measure: Callable[[str, float], Iterator[Row]] = partial(timed, is_emulated=options.emulated)
    measure = sizes if options.sizes else memory if options.memory else measure
    for name in options.networks or NETWORKS:
        for zeros in options.zeros:
            for row in measure(name, zeros):
                line = [row.what, row.measured, row.bar, "yes" if row.holds else "NO"]
                print("\t".join(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
