"""Runner: run a .tflite file with NumPy and the interpreter that is installed, on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, check_count, warn_user
from tfprune.export.device.processes import read_job, write_job
from tfprune.export.file.container import Source, read_model, source_name
from tfprune.export.file.reader import in_order
from tfprune.export.file.report import TensorInfo, reason_of, shape_text
from tfprune.export.file.schema import MissingPackage
from tfprune.report import install, shortened

# The machine that this runs on: its name, how its clock is governed, and how warm it is.

_PROCESSOR = (Path("/proc/device-tree/model"), Path("/proc/cpuinfo"))
_SYSTEM = Path("/sys")
X86 = ("x86_64", "amd64", "i386", "i686", "x86")  # names of the architecture, in small letters


def board_name() -> str:
    """Return the architecture and, where known, the board or processor."""
    return ", ".join(part for part in (platform.machine(), _processor()) if part)


def has_avx() -> bool:
    """Tell whether this is an x86 processor with AVX, as far as the system says: nearly all have it."""
    if platform.machine().lower() not in X86:
        return False
    flags = [line for line in _text(_PROCESSOR[1]).splitlines() if line.startswith("flags")]
    return not flags or "avx" in flags[0].split()


def governor() -> str | None:
    """Name the governor of the first core's clock, such as "ondemand"; None if the system does not say."""
    return _text(_SYSTEM / "devices/system/cpu/cpu0/cpufreq/scaling_governor") or None


def temperature() -> float | None:
    """Return the temperature of the warmest sensor in degrees Celsius; None if there is none."""
    texts = [_text(path) for path in _SYSTEM.glob("class/thermal/thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in texts if text.lstrip("-").isdigit()]
    return max(degrees, default=None)


def _processor() -> str:
    board, processors = _PROCESSOR
    if board.exists():
        return _text(board)
    for line in _text(processors).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor().replace(platform.machine(), "")


def _text(path: Path) -> str:
    """Read a file of the system; an empty text if it cannot be read, as that of a sensor that sleeps."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


# The interpreter of TFLite files that is installed.

# The maintained one first; TensorFlow last, because it takes seconds and hundreds of megabytes to load.
_INTERPRETERS = (
    ("ai_edge_litert", "interpreter", "ai-edge-litert"),
    ("tflite_runtime", "interpreter", "tflite-runtime"),
    ("tensorflow", "lite", "tensorflow"),
)
MAX_THREADS = 1024  # an interpreter starts as many as it is asked for, and takes no number beyond 32 bits


def interpreter_module() -> str | None:
    """Return the module of the interpreter that is installed, without importing it; None if there is none."""
    for package, module, _ in _INTERPRETERS:
        if importlib.util.find_spec(package) is not None:
            return package if package == "tensorflow" else f"{package}.{module}"
    return None


def find_interpreter() -> tuple[Any, str]:
    """Return the class of the interpreter that is installed, and its name and version.

    Raises:
        ValueError: If there is none (that one is an ImportError, too).
    """
    for package, module, name in _INTERPRETERS:
        try:
            root = importlib.import_module(package)
            # TensorFlow's `lite` is an attribute; the module of that name is another thing.
            home = getattr(root, module, None) or importlib.import_module(f"{package}.{module}")
            return home.Interpreter, f"{name} {root.__version__}"
        except ImportError:
            continue
    raise MissingPackage(
        "Expected an interpreter for TFLite files. Received: none of "
        f"{', '.join(name for *_, name in _INTERPRETERS)} is installed. Run {install('device')}."
    )


# One input or output of an interpreter, and the way of its numbers into the file and out of it.


_MOST_CLIPPED = 0.5  # the part of integers that may lie outside of what the input can hold


@dataclass(frozen=True)
class IOTensor:
    """An input or output of a file.

    Attributes:
        info: What the user sees of it.
        index: How the interpreter calls it.
        dtype: Type of the values that the interpreter takes and gives.
        scale: x = (q - zero_point) * scale for real numbers held as integers; 0 for all others.
        zero_point: The integer that means zero.
    """

    info: TensorInfo
    index: int
    dtype: np.dtype
    scale: float
    zero_point: int

    @classmethod
    def of(cls, name: str, detail: Mapping[str, Any]) -> IOTensor:
        """Read the interpreter's description of a tensor."""
        dtype = np.dtype(detail["dtype"])
        signature = detail.get("shape_signature", ())
        lengths = signature if len(signature) else detail["shape"]
        shape = tuple(None if length < 0 else int(length) for length in lengths)
        quantization = detail["quantization_parameters"]
        per_tensor = len(quantization["scales"]) == len(quantization["zero_points"]) == 1
        quantized = dtype.kind in "iu" and per_tensor
        return cls(
            info=TensorInfo(name, shape, dtype.name),
            index=int(detail["index"]),
            dtype=dtype,
            scale=float(quantization["scales"][0]) if quantized else 0.0,
            zero_point=int(quantization["zero_points"][0]) if quantized else 0,
        )

    @property
    def batch(self) -> int | None:
        """The fixed length of the first dimension, None when it is free or there is none."""
        return self.info.shape[0] if self.info.shape else None

    def takes(self, array: np.ndarray) -> bool:
        """Return True if an array has entries, the right rank, and the right lengths after the first dimension."""
        wanted, shape = self.info.shape, array.shape
        if not array.size or len(shape) != len(wanted):
            return False
        return all(w in (None, g) for w, g in zip(wanted[1:], shape[1:], strict=True))

    def encode(self, value: Any) -> np.ndarray:
        """Turn numbers into the type of the file, without changing what they mean.

        Raises:
            TypeError: If `value` holds no numbers, or the file wants something else.
            ValueError: If a number cannot be held.
        """
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" or self.dtype.kind not in "biuf":
            raise TypeError(
                f"Expected numbers of type {self.dtype.name} for input {self.info.name!r}. "
                f"Received: values of type {array.dtype}. Only files that take real or whole numbers are run."
            )
        if self.scale:
            return self._quantize(array)
        if self.dtype.kind == "f":
            warn_of_bytes(array, self.info.name)
        with np.errstate(invalid="ignore", over="ignore"):
            converted = array.astype(self.dtype, copy=False)
        if self.dtype.kind != "f" and not np.array_equal(converted, array):
            raise ValueError(
                f"Expected whole numbers that {self.dtype.name} can hold for input {self.info.name!r}. "
                f"Received: values of type {array.dtype} that it cannot hold. Round or clip them first."
            )
        return converted

    def decode(self, array: np.ndarray) -> np.ndarray:
        """Turn what the file gave into float32 where it means real numbers; leave whole numbers alone."""
        if self.scale:
            return (array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def _quantize(self, array: np.ndarray) -> np.ndarray:
        real = array.astype(np.float32)
        if np.isnan(real).any():
            raise ValueError(
                f"Expected numbers for input {self.info.name!r}, which the file holds as {self.dtype.name}. "
                "Received: NaN. Replace such values first."
            )
        limits = np.iinfo(self.dtype)
        quantized = np.rint(real / np.float32(self.scale)) + self.zero_point
        clipped = np.clip(quantized, limits.min, limits.max)
        if array.dtype.kind in "iu" and np.mean(clipped != quantized) > _MOST_CLIPPED:
            low, high = ((limit - self.zero_point) * self.scale for limit in (limits.min, limits.max))
            raise ValueError(
                f"Expected real numbers between {low:.4g} and {high:.4g} for input {self.info.name!r}, which are "
                f"quantized here. Received: {array.dtype} from {array.min()} to {array.max()}, most of which would "
                f"be clipped. Scale them as for training, and do not quantize them yourself."
            )
        return clipped.astype(self.dtype)


def warn_of_bytes(array: np.ndarray, name: str) -> None:
    """Warn of pixels for an input of floats: most models were trained on scaled ones."""
    if array.dtype == np.uint8 and array.size and array.max() > 1:
        warn_user(
            f"Input {name!r} takes floats, and gets uint8 from {array.min()} to {array.max()}, as they are. If the "
            f"model was trained on scaled numbers, scale these in the same way; if not, pass them as float32."
        )


# Run a .tflite file, plain or packed, with NumPy and an interpreter and nothing else.

BATCH_ROWS = 32  # in one invocation of a file that leaves the batch open: bounds memory, as Keras' predict does
_OF_LACKING_OPERATORS = ("custom op", "Select TensorFlow op")  # in what interpreters say of such files
_FLEX = "Flex"  # in the names of TensorFlow's own operators
_LACKING_NAME = re.compile(r"custom op: ([^\s.]+)|\((Flex\w+)\)")
_OF_NEWER_FILES = ("Didn't find op for builtin", "builtin_code out of range", "Unsupported data type")  # the same
_MAX_MESSAGE_CHARACTERS = (
    500  # characters of what an interpreter says; where it dislikes an argument it repeats the whole file
)


def _only_file(folder: str | os.PathLike[str]) -> Path:
    """Return the one model file of a folder, or say what to do if there are none or several."""
    if not isinstance(folder, (str, os.PathLike)):
        received = f"{folder!r} of type {type(folder).__name__}"
        raise ArgumentTypeError("folder", "`folder` as the path of a folder", received)
    path, expected = Path(folder), "`folder` as a folder with one .tflite or .tfz file"
    try:
        names = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        received = f"{str(path)!r}, which cannot be listed ({reason_of(error)})"
        raise ArgumentError("folder", expected, received, advice="To run a file, pass it to Runner.") from error
    models = [name for name in names if name.lower().endswith((".tflite", ".tfz"))]
    if len(models) == 1:
        return path / models[0]
    shown = shortened(", ".join(map(repr, models or names)), _MAX_MESSAGE_CHARACTERS)
    content = f"{'several' if models else 'none of them, but'} {shown}" if names else "no files"
    advice = "Pass the path of one of them to Runner." if models else "Pass the folder that the model file is in."
    raise ArgumentError("folder", expected, f"{str(path)!r} with {content}", advice=advice)


class Runner:
    """Load a TFLite file once and run it on NumPy arrays.

    The interpreter is native code in this process. It gets files that are whole, whose sparse tensors stay within
    bounds, and whose operators have as many outputs as they say; a malicious or damaged file can still crash it, and
    your process with it. `verify` and `benchmark` run a file in a process of its own, and report a crash. Threads may
    share a runner, and take turns; for runs at the same time, make one runner for each thread.

    Args:
        source: A path, or the bytes of a .tflite file: plain, gzip, xz or packed.
        signature: The name of the signature to run, for a file with several, such as `"decode"`. None (the default)
            runs the first graph of the file, whichever signature starts there.
        threads: Threads of the interpreter, 1 to 1024. Default 1.

    Attributes:
        runtime: The interpreter in use, with its version, such as `ai-edge-litert 2.3.0`.
        signatures: The names of the file's signatures, often `serving_default` alone.
        inputs: The inputs, in the order in which a list is taken.
        outputs: The outputs, in the order in which a list is returned.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or `threads` is not an integer.
        ValueError: If the file cannot be read or the interpreter refuses it, it has no such signature, or no
            interpreter is installed (that one is an ImportError, too).

    Example:
        >>> Runner("digits.tflite").predict(images).shape
        (100, 10)
    """

    runtime: str
    signatures: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    _name: str
    _load: Callable[[], Any]
    _lock: threading.Lock
    _interpreter: Any
    _signature: str | None
    _inputs: list[IOTensor]
    _outputs: list[IOTensor]
    _shapes: list[tuple[int, ...]] | None  # of the inputs that memory is allocated for

    def __init__(self, source: Source, *, signature: str | None = None, threads: int = 1) -> None:
        threads = check_count(threads, "threads", least=1, most=MAX_THREADS)
        data = read_model(source)
        self._name = source_name(source)
        self._lock = threading.Lock()
        interpreter, self.runtime = find_interpreter()
        with self._loading():
            self._load = partial(interpreter, model_content=data, num_threads=threads)
            self._interpreter = self._load()
            self.signatures = tuple(self._interpreter.get_signature_list())
        check_choice(signature, "signature", choices=(*self.signatures, None))
        self._signature = signature
        self._name = f"{signature!r} of {self._name}" if signature else self._name
        with self._loading():
            self._inputs, self._outputs, declared = _io_tensors(self._interpreter, signature)
            is_allocated = signature is None and self._allocate()
        self.inputs = tuple(tensor.info for tensor in self._inputs)
        self.outputs = tuple(tensor.info for tensor in self._outputs)
        self._check_batches(declared)
        self._shapes = declared if is_allocated else None

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], *, signature: str | None = None, threads: int = 1) -> Runner:
        """Load the one .tflite or .tfz file of a folder, such as a repository that was downloaded from a hub.

        Folders inside it are not searched.

        Args:
            folder: The folder.
            signature: As for a `Runner`.
            threads: As for a `Runner`. Default 1.

        Raises:
            TypeError: As a `Runner` does, or if `folder` is not a path.
            ValueError: As a `Runner` does, or if it is not a folder, or has no or several such files.

        Example:
            >>> folder = Path("downloaded")
            >>> folder.mkdir()
            >>> size = (folder / "digits.tflite").write_bytes(Path("digits.tflite").read_bytes())
            >>> Runner.from_folder(folder).predict(images).shape
            (100, 10)
        """
        return cls(_only_file(folder), signature=signature, threads=threads)

    def predict(self, samples: Any) -> Any:
        """Run the model on any number of samples.

        A file that holds real numbers as integers takes and gives float32 all the same:
        q = round(x / scale) + zero_point on the way in, x = (q - zero_point) * scale on the way out.

        Args:
            samples: An array for one input; for several a list in the order of `inputs`, or a dict by name. Batch
                first. A file with a fixed batch is run as often as needed.

        Returns:
            An array for one output; for several a list in the order of `outputs`, or a dict by name if `samples` is a
            dict.

        Raises:
            TypeError: If an input does not hold numbers.
            ValueError: If number, names, shapes or values of the inputs do not fit the file, or it fails to run.
        """
        values = self._values(samples)
        arrays = [tensor.encode(value) for tensor, value in zip(self._inputs, values, strict=True)]
        step = self._rows_per_run(arrays)
        results = self._invoke(arrays) if step is None else self._in_chunks(arrays, step)
        if len(results) == 1:
            return results[0]
        if isinstance(samples, Mapping):
            return {info.name: result for info, result in zip(self.outputs, results, strict=True)}
        return results

    @contextmanager
    def _loading(self) -> Iterator[None]:
        try:
            yield
        # A TypeError comes from a signature that names a tensor by a number too large for the interpreter.
        except (MemoryError, RuntimeError, TypeError, ValueError) as error:
            if _lacks_operator(error):
                reason, advice = _lacking_operator(str(error))
            else:
                is_newer = any(text in str(error) for text in _OF_NEWER_FILES)
                advice = "Install the newest ai-edge-litert." if is_newer else "Export the model again."
                reason = _one_line(error)
            raise ValueError(
                f"Expected a TFLite file that runs. Received: {self._name}, which {self.runtime} cannot load: "
                f"{reason}. {advice}"
            ) from error

    def _allocate(self) -> bool:
        """Allocate memory for the declared shapes; where dimensions are free, it may take those of real inputs."""
        try:
            self._interpreter.allocate_tensors()
        except RuntimeError as error:
            if _lacks_operator(error) or not any(None in tensor.info.shape for tensor in self._inputs):
                raise
            return False
        return True

    def _check_batches(self, allocated: Sequence[tuple[int, ...]]) -> None:
        """Refuse a fixed batch that is not what the interpreter takes: filling it up could take all the memory."""
        for info, shape in zip(self.inputs, allocated, strict=True):
            if info.shape and info.shape[0] not in (None, *shape[:1]):
                raise ValueError(
                    f"Expected a TFLite file with one shape per input. Received: {self._name}, whose input "
                    f"{info.name!r} has the shape {shape_text(info.shape)} in its signature and "
                    f"{shape_text(shape)} in its graph. Export the model again."
                )

    def _values(self, inputs: Any) -> list[Any]:
        names = [info.name for info in self.inputs]
        if isinstance(inputs, Mapping):
            if set(inputs) != set(names):
                raise ValueError(f"Expected inputs named {names} for {self._name}. Received: names {list(inputs)}.")
            return [inputs[name] for name in names]
        values = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(values) != len(names):
            hint = " Pass numbers as one NumPy array." if len(names) == 1 else ""
            raise ValueError(
                f"Expected {len(names)} input(s) for {self._name}: {self._wanted()}. Received: {len(values)}.{hint}"
            )
        return values

    def _rows_per_run(self, arrays: Sequence[np.ndarray]) -> int | None:
        """Return how many rows one invocation takes; None if it takes the arrays exactly as they are."""
        pairs = list(zip(self._inputs, arrays, strict=True))
        if not all(tensor.takes(array) for tensor, array in pairs):
            raise self._misfit(arrays)
        fixed = {tensor.batch for tensor in self._inputs} - {None}
        rows = {array.shape[0] for array in arrays if array.ndim}
        as_declared = all(tensor.batch in (None, *array.shape[:1]) for tensor, array in pairs)
        if as_declared and (fixed or not rows):
            return None
        if len(rows) != 1 or len(fixed) > 1:
            raise self._misfit(arrays)
        return fixed.pop() if fixed else min(*rows, BATCH_ROWS)

    def _in_chunks(self, arrays: Sequence[np.ndarray], step: int) -> list[np.ndarray]:
        rows = max(array.shape[0] for array in arrays if array.ndim)
        padded = any(tensor.batch for tensor in self._inputs)
        chunks = []
        for start in range(0, rows, step):
            part = [array[start : start + step] if array.ndim else array for array in arrays]
            size = min(step, rows - start)
            if padded and size < step:
                part = [_repeat_last(array, step) for array in part]
            chunks.append([result[:size] for result in self._by_rows(part, step if padded else size)])
        return chunks[0] if len(chunks) == 1 else [np.concatenate(parts) for parts in zip(*chunks, strict=True)]

    def _by_rows(self, arrays: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        results = self._invoke(arrays)
        for info, result in zip(self.outputs, results, strict=True):
            if result.ndim == 0 or result.shape[0] != rows:
                raise ValueError(
                    f"Expected outputs with one row per row of the input from {self._name}. Received: output "
                    f"{info.name!r} of shape {shape_text(result.shape)} for {rows} row(s). "
                    f"Pass inputs of exactly these shapes: {self._wanted()}."
                )
        return results

    def _invoke(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            with self._lock:  # the interpreter holds the inputs and outputs of one run only
                return self._run(arrays)
        except (MemoryError, RuntimeError, ValueError) as error:
            open_lengths = any(None in info.shape[1:] for info in self.inputs)
            hint = f" Try other lengths for the dimensions marked ?: {self._wanted()}." if open_lengths else ""
            raise ValueError(
                f"Expected inputs that {self._name} can run on. {self.runtime} says: {_one_line(error)}. "
                f"Received: {self._received(arrays)}.{hint}"
            ) from error

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self._signature is not None:
            signed = self._interpreter.get_signature_runner(self._signature)
            results = signed(**{info.name: array for info, array in zip(self.inputs, arrays, strict=True)})
            return [tensor.decode(results[tensor.info.name]) for tensor in self._outputs]
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            self._shapes = None  # stays so if the interpreter refuses: the next call starts afresh
            # Resized before memory is allocated: later, tflite-runtime 2.14 crashes on sparse float16 weights.
            self._interpreter = self._load()
            for tensor, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(tensor.index, shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for tensor, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.set_tensor(tensor.index, array)
        self._interpreter.invoke()
        return [tensor.decode(self._interpreter.get_tensor(tensor.index)) for tensor in self._outputs]

    def _misfit(self, arrays: Sequence[np.ndarray]) -> ValueError:
        is_one_sample = all(array.shape == info.shape[1:] for info, array in zip(self.inputs, arrays, strict=True))
        advice = " Pass x[None] for a single sample x." if is_one_sample else ""
        return ValueError(
            f"Expected inputs of these shapes for {self._name}, with the same number of rows, at least one: "
            f"{self._wanted()}. Received: {self._received(arrays)}.{advice}"
        )

    def _wanted(self) -> str:
        return ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in self.inputs)

    def _received(self, arrays: Sequence[np.ndarray]) -> str:
        pairs = zip(self.inputs, arrays, strict=True)
        return ", ".join(f"{info.name!r} {shape_text(array.shape)}" for info, array in pairs)


def _io_tensors(
    interpreter: Any, signature: str | None
) -> tuple[list[IOTensor], list[IOTensor], list[tuple[int, ...]]]:
    """Return the inputs and outputs of a signature, and the inputs' shapes in its graph; None is the first graph."""
    signatures = interpreter.get_signature_list()
    key = "serving_default" if "serving_default" in signatures else next(iter(signatures), None)
    key = signature or key
    signed = interpreter.get_signature_runner(key) if key else None
    names = [signed.get_input_details(), signed.get_output_details()] if signed else [{}, {}]
    details = [interpreter.get_input_details(), interpreter.get_output_details()]
    if signature:
        details = [[*by_name.values()] for by_name in names]
    inputs, outputs = map(_side, details, names)
    shapes = {detail["index"]: tuple(detail["shape"]) for detail in details[0]}
    return inputs, outputs, [shapes[tensor.index] for tensor in inputs]


def _side(details: Sequence[Mapping[str, Any]], by_name: Mapping[str, Mapping[str, Any]]) -> list[IOTensor]:
    tensors = [(int(detail["index"]), detail["name"]) for detail in details]
    signature = {name: (int(detail["index"]), detail["name"]) for name, detail in by_name.items()}
    by_index = {int(detail["index"]): detail for detail in details}
    return [IOTensor.of(name, by_index[index]) for name, index in in_order(tensors, signature).items()]


def _repeat_last(array: np.ndarray, rows: int) -> np.ndarray:
    """Fill up a batch with a row that the model is known to take."""
    if array.ndim == 0:
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _lacks_operator(error: Exception) -> bool:
    return any(text in str(error) for text in _OF_LACKING_OPERATORS)


def _lacking_operator(message: str) -> tuple[str, str]:
    """Return which operator an interpreter lacks, and what to do about it."""
    match = _LACKING_NAME.search(message)
    name = shortened(match[1] or match[2], _MAX_MESSAGE_CHARACTERS) if match else "one of them"
    if _FLEX in message:
        advice = "Convert the network with TFLite's own operators only, or export the part before that operator."
        return f"it lacks the operator {name}, which is TensorFlow's (Flex)", advice
    advice = "Export the part of the network before that operator, and run the rest in your own code."
    return f"it lacks the custom operator {name}", advice


def _one_line(error: Exception) -> str:
    return shortened(" ".join(str(error).split()).rstrip("."), _MAX_MESSAGE_CHARACTERS)


# What a file is run on: arrays of the caller, on their way to another process, or random numbers.

_MAX_RANDOM_NUMBERS = 2**26  # numbers of a random input: 256 MiB
_OPEN_DIMENSION_LENGTH = 8  # length drawn for a dimension, other than the batch, that a file leaves open


def random_inputs(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], *, rows: int) -> list[np.ndarray]:
    """Draw the same numbers in [0, 1) every time, integers from {0, 1}.

    Args:
        inputs: The inputs of the file.
        outputs: Its outputs, which show whether a fixed first dimension is a batch.
        rows: Length of the first dimension where it is a batch; other free dimensions get a length of 8.

    Raises:
        ValueError: If one would have more than 2^26 numbers: what a file says of its inputs may be a lie.
    """
    batched = zip(inputs, batch_inputs(inputs, outputs), strict=True)
    return [_random_input(info, rows if has_batch else None) for info, has_batch in batched]


def batch_inputs(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> list[bool]:
    """Tell for each input whether its first dimension is a batch: free, or alike in all inputs and outputs."""
    lengths = {info.shape[0] for info in (*inputs, *outputs) if info.shape}
    return [bool(info.shape) and (info.shape[0] is None or len(lengths) == 1) for info in inputs]


def _random_input(info: TensorInfo, rows: int | None) -> np.ndarray:
    generator = np.random.default_rng(0)
    shape = [_OPEN_DIMENSION_LENGTH if length is None else length for length in info.shape]
    if rows is not None:
        shape[0] = rows
    if math.prod(shape) > _MAX_RANDOM_NUMBERS:
        raise ValueError(
            f"Expected an input {info.name!r} of at most {_MAX_RANDOM_NUMBERS:,} numbers to draw at random. "
            f"Received: the shape {tuple(shape)}. Give inputs of your own, if the file is sound."
        )
    if info.dtype in ("int32", "int64", "uint32", "uint64", "bool"):
        return generator.integers(0, 2, shape)  # rows of a table of unknown length: two it has
    return generator.random(shape, np.float32)


def arrays_of(inputs: Any, *, names: Sequence[str]) -> list[np.ndarray]:
    """Return an array for each input of a file, in the order of their names.

    Raises:
        ValueError: If there is another number of arrays, or they have other names.
    """
    if isinstance(inputs, Mapping):
        received = [*inputs]
        values = [inputs[name] for name in names] if set(received) == set(names) else []
    else:
        values = [*inputs] if isinstance(inputs, (list, tuple)) else [inputs]
        received = [f"{len(values)} arrays"]
    if len(values) != len(names):
        raise ValueError(
            f"Expected an array for each of the inputs {[*names]}. Received: "
            f"{', '.join(map(str, received)) or 'none'}."
        )
    return [np.asarray(value) for value in values]


def is_by_signature(values: Any) -> bool:
    """Return True if inputs or outputs are given by signature, as a dict of dicts by name."""
    return isinstance(values, Mapping) and any(isinstance(value, Mapping) for value in values.values())


def by_output(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return inputs or outputs that are given by signature as one dict, by `signature/name`.

    Raises:
        TypeError: If one of them is not given by name.
    """
    wrong = [signature for signature, named in values.items() if not isinstance(named, Mapping)]
    if wrong:
        raise TypeError(
            f"Expected arrays by signature and name, such as {{'decode': {{'tokens': tokens}}}}. Received: "
            f"{type(values[wrong[0]]).__name__} for {wrong[0]!r}."
        )
    return {f"{signature}/{name}": array for signature, named in values.items() for name, array in named.items()}


def plain_interpreter(content: bytes, **options: Any) -> Any:
    """Load a plain file into an interpreter without XNNPACK."""
    interpreter, _ = find_interpreter()
    kernels = sys.modules[interpreter.__module__].OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return interpreter(model_content=content, experimental_op_resolver_type=kernels, **options)


class WatchedRunner(Runner):
    """A runner that keeps all tensors."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._load = partial(plain_interpreter, read_model(source), experimental_preserve_all_tensors=True)
        self._shapes = None  # the interpreter is loaded anew with these options

    @property
    def rows(self) -> int:
        """The number of rows in one invocation."""
        fixed = [info.shape[0] for info in self.inputs if info.shape and info.shape[0] is not None]
        return fixed[0] if fixed else BATCH_ROWS

    @property
    def given(self) -> list[np.ndarray]:
        """The inputs of the last invocation, in the order of the graph."""
        return [self.integers(detail["index"]) for detail in self._interpreter.get_input_details()]

    def integers(self, index: int) -> np.ndarray:
        """Return a tensor of the last invocation as the file holds it."""
        return self._interpreter.get_tensor(index)

    def tensors(self, names: set[str] | None = None) -> dict[str, tuple[np.ndarray, IOTensor]]:
        """Return tensors of the last invocation as real numbers, and what describes each; None for all."""
        details = {detail["name"]: detail for detail in self._interpreter.get_tensor_details()}
        ends = {name: IOTensor.of(name, details[name]) for name in details if names is None or name in names}
        return {name: (end.decode(self._interpreter.get_tensor(end.index)), end) for name, end in ends.items()}


def ranges_of(source: Source, samples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest value of each tensor of floats on samples, by the names of the tensors."""
    runner, ranges = WatchedRunner(source), dict[str, tuple[float, float]]()
    for sample in samples:
        runner.predict({**sample})
        for name, (array, tensor) in runner.tensors().items():
            if tensor.dtype == np.float32 and array.size:
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    return ranges


def inputs_to_job(inputs: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a form and arrays that `write_job` can write, and from which `inputs_from_job` makes the inputs again.

    Args:
        inputs: What `Runner.predict` takes, a dict of dicts by signature and name, or None for random numbers.
    """
    if inputs is None:
        return "random", {}
    if is_by_signature(inputs):
        return {signature: [*named] for signature, named in inputs.items()}, by_output(inputs)
    if isinstance(inputs, Mapping):
        return "dict", {str(name): array for name, array in inputs.items()}
    form, arrays = ("list", inputs) if isinstance(inputs, (list, tuple)) else ("array", [inputs])
    return form, {str(index): array for index, array in enumerate(arrays)}


def inputs_from_job(form: Any, arrays: dict[str, np.ndarray], *, draw: Callable[[], Any]) -> Any:
    """Return the inputs that `inputs_to_job` took apart; where there were none, those that are drawn."""
    if isinstance(form, dict):
        return {key: {name: arrays[f"{key}/{name}"] for name in names} for key, names in form.items()}
    if form == "random":
        return draw()
    values = list(arrays.values())
    return {"dict": arrays, "list": values, "array": values[0] if values else None}[form]


# The device side of the demo: run in a process of its own, it makes sure that TensorFlow cannot help.


def run_on_device(folder: Path) -> None:
    """Run the files of the job on its samples, where any import of Keras or TensorFlow fails."""
    sys.modules["tensorflow"] = sys.modules["keras"] = None  # type: ignore[assignment]
    settings, arrays = read_job(folder, "job")
    runners = [Runner(path) for path in settings["files"]]
    accuracies = [float(np.mean(runner.predict(arrays["x"]).argmax(axis=1) == arrays["y"])) for runner in runners]
    write_job(folder, "result", settings={"accuracies": accuracies, "runtime": runners[0].runtime})
