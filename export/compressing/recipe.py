"""What is done to a model: which part of it goes, how exact its numbers are, how long it trains."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report

PATTERNS = ("unstructured", "2:4")
END = 0.6  # the part of training after which there are no more zeros to come
UPDATES = 50  # of the masks, at most


@dataclass(frozen=True)
class Recipe(Report):
    """How a smaller model is made from a trained one.

    Attributes:
        flops: The part of the multiply-adds that stays when channels are removed; 1 removes none.
        sparsity: The fraction of zeros among the weights that are left; 0 makes none.
        pattern: `"unstructured"`, or `"2:4"`: two zeros at least in each four entries.
        quantize_aware: Whether it trains on, rounding as its int8 file will.
        samples: Of the training data, so that a whole number of rounds goes through them.
        steps: Training steps in a round.
        rounds: How many of them there are; with `quantize_aware`, half as many more.
        learning_rate: Of the first step; it falls to 0 along a cosine.
        seed: Of the order of samples and all else that is drawn.
    """

    flops: float
    sparsity: float
    pattern: str
    quantize_aware: bool
    samples: int
    steps: int
    rounds: int
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """What it does in a few letters, for names of files."""
        parts = [f"flops{self.flops:.2f}"] if self.flops < 1 else []
        if self.sparsity:
            parts.append(f"zeros{self.sparsity:.2f}" if self.pattern == "unstructured" else "zeros2of4")
        parts += ["qat"] if self.quantize_aware else []
        return "_".join([*parts, f"{self.steps * self.rounds}steps"]).replace("0.", "")

    @property
    def extra_rounds(self) -> int:
        """Rounds of quantization-aware training."""
        return max(1, self.rounds // 2) if self.quantize_aware else 0

    @property
    def all_steps(self) -> int:
        """Training steps in all."""
        return self.steps * (self.rounds + self.extra_rounds)

    @property
    def every(self) -> int:
        """Steps between updates of the masks."""
        return max(1, int(self.steps * self.rounds * END / UPDATES))

    @property
    def allocation(self) -> str:
        """How zeros are split over the layers."""
        return "lamp" if self.pattern == "unstructured" else "uniform"
