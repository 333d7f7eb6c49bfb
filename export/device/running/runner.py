"""Run a .tflite file, plain or packed, with NumPy and an interpreter and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tfprune.base.spec import check_choice, check_count
from tfprune.export.device.interpreter import MAX_THREADS, find_interpreter
from tfprune.export.device.running.io_tensor import IOTensor
from tfprune.export.file.files.model_file import read_model
from tfprune.export.file.files.source import Source, source_name
from tfprune.export.file.report import TensorInfo, shape_text
from tfprune.export.file.tflite.signature_order import in_order
from tfprune.report import shortened

BATCH_ROWS = 32  # in one invocation of a file that leaves the batch open: bounds memory, as Keras' predict does
OF_LACKING_OPERATORS = ("custom op", "Select TensorFlow op")  # in what interpreters say of such files
LACKING_OPERATOR = (
    "The interpreter lacks an operator of the file, which is not one of TFLite's own. Use a form of the network "
    "without it, such as the part before the operator, exported as a file."
)
MAX_MESSAGE_CHARACTERS = (
    500  # characters of what an interpreter says; where it dislikes an argument it repeats the whole file
)


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
            reason = _one_line(error)
            advice = LACKING_OPERATOR if _lacks_operator(error) else "Export the model again."
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
    return any(text in str(error) for text in OF_LACKING_OPERATORS)


def _one_line(error: Exception) -> str:
    return shortened(" ".join(str(error).split()).rstrip("."), MAX_MESSAGE_CHARACTERS)
