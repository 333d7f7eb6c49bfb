"""Where the windows of a convolution or a pool lie along one axis, forwards and mirrored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Padding = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The windows that a kernel sees along one axis.

    Attributes:
        size: Length of the axis.
        kernel: Length of the kernel, the gaps of a dilation included.
        stride: Distance from one window to the next.
        padding: Entries added before and after; negative where entries are cropped.
    """

    size: int
    kernel: int
    stride: int
    padding: Padding

    @property
    def unused(self) -> int:
        """How many entries at the end no window reaches."""
        return (self.size + sum(self.padding) - self.kernel) % self.stride

    @property
    def half(self) -> int:
        """The padding on each side that puts the first window's center on the first entry."""
        return (self.kernel - 1) // 2

    def mirrored(self) -> Window:
        """Return the windows on the mirrored axis that see the same entries, in reverse order."""
        before, after = self.padding
        return Window(self.size, self.kernel, self.stride, (after - self.unused, before))

    @property
    def is_centered(self) -> bool:
        """Whether padding by half the kernel on both sides gives the same windows."""
        before, after = self.padding
        needed = after - self.unused  # up to a stride more adds no window
        return before == self.half and needed <= self.half < needed + self.stride

    def centered(self) -> Window:
        """Return the same windows with symmetric padding where that is possible."""
        return Window(self.size, self.kernel, self.stride, (self.half, self.half)) if self.is_centered else self

    @property
    def is_symmetric(self) -> bool:
        """Whether the mirrored windows are the same."""
        return self.unused == 0 and self.padding[0] == self.padding[1]


def same_padding(size: int, *, kernel: int, stride: int) -> Padding:
    """Compute the entries that TensorFlow adds before and after with `padding="same"`."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def window_of(layer: Any, size: int, *, axis: int, padded: Padding = (0, 0)) -> Window:
    """Return the windows of a convolution or pooling layer.

    Args:
        layer: The layer, channels last.
        size: Length of the axis, before the padding of a layer in front.
        axis: 1 (rows) or 2 (columns).
        padded: What a layer in front adds before and after; only where the layer itself adds nothing.
    """
    lengths = layer.kernel_size if hasattr(layer, "kernel_size") else layer.pool_size
    dilation = getattr(layer, "dilation_rate", (1, 1))
    dilation = dilation[axis - 1] if isinstance(dilation, tuple | list) else dilation
    kernel, stride = (lengths[axis - 1] - 1) * dilation + 1, layer.strides[axis - 1]
    padding = same_padding(size, kernel=kernel, stride=stride) if layer.padding == "same" else padded
    return Window(size, kernel, stride, padding)
