"""The cost of a Keras model on an Arm Ethos-U NPU, as an int8 file: for budgets."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import keras

from tfprune.base.spec import check_choice
from tfprune.export.file.files.source import Source
from tfprune.export.keras_side.converting.micro_support import dense_int8
from tfprune.export.keras_side.converting.model_or_file import is_file
from tfprune.export.micro.vela_report import VelaReport, check_accelerator, compile_file

_log = logging.getLogger(__name__)
COUNTS = ("cycles", "sram", "weight_bytes", "storage")


@dataclass(frozen=True)
class Vela:
    """The cost of models on an NPU; made by `vela`.

    Attributes:
        accelerator: The NPU.
        counts: What a call returns.
        system: The clock and the memories that are assumed; None for the compiler's own choice.
        memory: What lies in which of them; None for the compiler's own choice.

    Example:
        >>> vela("ethos-u85-256", counts="weight_bytes").counts
        'weight_bytes'
    """

    accelerator: str
    counts: str = "cycles"
    system: str | None = None
    memory: str | None = None

    def __call__(self, model: keras.Model) -> float:
        """Measure the cost of a plain or wrapped model as a dense int8 file."""
        report = self.report(model)
        if report.on_cpu:
            _log.info("%s are left to the processor, and not counted: %s", len(report.on_cpu), report.on_cpu)
        return float(getattr(report, self.counts))

    def report(self, model_or_source: keras.Model | Source) -> VelaReport:
        """Say what a model costs, which is converted as a dense int8 file, or a file: a path, or its content.

        Raises:
            TypeError: If it is neither a model nor a path nor bytes.
            ValueError: If a model cannot be converted, a file cannot be read or holds nothing for the NPU, or the
                compiler refuses it.
        """
        content = model_or_source if is_file(model_or_source) else dense_int8(model_or_source)
        return compile_file(content, self.accelerator, system=self.system, memory=self.memory)


def vela(accelerator: str, *, counts: str = "cycles", system: str | None = None, memory: str | None = None) -> Vela:
    """Measure models on an Arm Ethos-U NPU by its compiler's estimate, for budgets.

    A call converts a model as a dense int8 file and compiles it with Vela, in a process of its own. The compiler
    packs the weights itself, so zeros cost fewer bytes. Use it as the `measure` of a budget:
    `budget(latency=0.5, measure=vela("ethos-u55-128"))` halves the cycles, and an int is a number of them.
    `vela(...).report(model)` says all that is counted, of a model or a file. As the `target` of `compress` it lets a
    search minimize or limit the cycles.

    Args:
        accelerator: `"ethos-u55-"` and 32, 64, 128 or 256, for so many multiplications in a cycle; `"ethos-u65-"` and
            256 or 512; `"ethos-u85-"` and 128, 256, 512, 1024 or 2048.
        counts: What a call returns, and a budget limits: `"cycles"` (the default) of one inference, or the bytes of
            `"sram"`, `"weight_bytes"` or `"storage"`, as in `VelaReport`.
        system: The clock and the memories, by a name of the compiler's configuration, such as
            `"Ethos_U55_Deep_Embedded"`. None (the default) takes what the compiler does.
        memory: What lies in which memory, such as `"Sram_Only"`; None (the default) takes what the compiler does.

    Returns:
        A function of a model. Needs the extra `vela`.

    Raises:
        TypeError: If an argument is not a string.
        ValueError: If there is no such NPU or count; or (also an ImportError) if ethos-u-vela is not installed.

    Example:
        >>> tfprune.budget(latency=0.5, measure=vela("ethos-u55-128")).limits
        (('latency', 0.5),)
    """
    check_accelerator(accelerator)
    check_choice(counts, "counts", choices=COUNTS)
    for name, value in (("system", system), ("memory", memory)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"Expected a name in `{name}`, or None. Received: {name}={value!r}.")
    return Vela(accelerator, counts, system, memory)
