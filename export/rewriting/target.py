"""The runtime that a file is for, and the form, the batch and the kernels that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfprune.base.spec import check_choice, check_count
from tfprune.export.micro.micro import Micro, read_micro
from tfprune.export.rewriting.forms import OPTIMIZE, FileForm
from tfprune.export.rewriting.weights.sparse_eligible import has_hybrid_layers

WEB = "web"
FASTEST = ("size", "latency")  # what `optimize` may be for the web: the default, or the same said again


@dataclass(frozen=True)
class Target:
    """What the arguments of an export ask for.

    Attributes:
        optimize: The form to take, as `choose` takes it.
        micro: The microcontroller; None for another runtime.
        is_web: Whether the file is for LiteRT.js.
        batch: The batch that the file has to have; None for any.
    """

    optimize: str
    micro: Micro | None
    is_web: bool
    batch: int | None

    @property
    def fixed_batch(self) -> int | None:
        """The batch where the model leaves it open; None leaves it open in the file, too."""
        return 1 if self.batch is None and (self.is_web or self.micro) else self.batch

    def forms(self, forms: Sequence[FileForm], *, source: str) -> list[FileForm]:
        """Return the forms that the runtime is fast with.

        Args:
            forms: The forms of the file.
            source: What the file is made from, for the message.

        Raises:
            ValueError: If there is none.
        """
        suitable = [form for form in forms if not (self.is_web and has_hybrid_layers(form.file.graph))]
        if not suitable:
            raise ValueError(
                f"Expected weights with zeros enough for a sparse form. Received: target='web' and {source}, whose "
                "dense form computes in float32 with 8-bit weights, at about a third of the speed of float32 in a "
                "browser. Use quantize='float16', 'int8' or None, or prune the model first."
            )
        return suitable


def read_target(target: Any, *, optimize: Any, compress: Any, batch: Any) -> Target:
    """Read the arguments that say which file to write.

    Raises:
        TypeError: If one has another type.
        ValueError: If one is out of range, or does not go with the others; or (also an ImportError) if the
            interpreter for microcontrollers is needed and not installed.
    """
    check_choice(optimize, "optimize", choices=OPTIMIZE)
    size = None if batch is None else check_count(batch, "batch", least=1)
    micro = read_micro(target, others=(WEB,), optimize=optimize, compress=compress)
    is_web = micro is None and target is not None
    if is_web and optimize not in FASTEST:
        raise ValueError(
            "Expected optimize='size' or 'latency' with target='web', for which the form with the fastest kernels is "
            f"written, the smallest of equally fast ones. Received: optimize={optimize!r}. For another form, leave "
            "`target` out and give batch=1."
        )
    if micro is not None and size not in (None, 1):
        raise ValueError(f"Expected batch=1 or None with target='micro'. Received: batch={size}. Leave it out.")
    return Target("latency" if is_web else optimize, micro, is_web, size)
