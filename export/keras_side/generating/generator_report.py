"""Report of a language model's file: its size, and how its text compares with Keras'."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table

QUARTER = 0.25


@dataclass(frozen=True)
class GeneratorReport(Report):
    """The file that `to_generator` wrote, and how its text compares with that of the Keras model.

    Attributes:
        path: Where it was written.
        bytes: Its size.
        parameters: Of the Keras model.
        shares: The shares of the file's bytes, and of the weights that one token reads, by part: "vocabulary",
            "blocks", and "units" of the blocks. The time of a token is nearly that of reading its weights.
        blocks: How many blocks keep a cache.
        length: How many tokens a prompt and its continuation may have together.
        quantize: The number format; None for float32.
        tokenizer: The kind of the tokenizer in the file, empty if there is none.
        written: How many tokens the file wrote.
        equal: How many of them Keras would have chosen, too, after the same tokens.
        difference: The largest difference of the scores, as a fraction of Keras' largest score.
        tolerance: The difference that is allowed.
        perplexity: Of the file on `check_on`; NaN if the texts are too short.
        keras_perplexity: Of the Keras model on the same texts.
        prefill_speed: Tokens of a prompt in a second of processor time, by one thread of this machine.
        decode_speed: Tokens written in a second of processor time.
        runtime: The interpreter, with its version.

    Example:
        >>> report = tfprune.export.to_generator(causal_lm, "writer.tflite", length=16)
        >>> report.equal == report.written
        True
    """

    path: str
    bytes: int
    parameters: int
    shares: dict[str, tuple[float, float]]
    blocks: int
    length: int
    quantize: str | None
    tokenizer: str
    written: int
    equal: int
    difference: float
    tolerance: float
    perplexity: float
    keras_perplexity: float
    prefill_speed: float
    decode_speed: float
    runtime: str

    def __str__(self) -> str:
        rows = [
            ["bytes", f"{self.bytes:,} ({self.shares['vocabulary'][0]:.0%} in the vocabulary)"],
            ["parameters", f"{self.parameters:,}"],
            ["number format", self.quantize or "float32"],
            ["caches", f"{self.length:,} tokens in {self.blocks} blocks"],
            ["tokenizer", self.tokenizer or "none"],
            ["equal tokens", f"{self.equal} of {self.written}"],
            ["difference", f"{self.difference:.3g} of the largest score (allowed: {self.tolerance:g})"],
            ["perplexity", f"{self.perplexity:.4g} (Keras: {self.keras_perplexity:.4g})"],
            ["prefill", f"{self.prefill_speed:,.0f} tokens per processor second"],
            ["decode", f"{self.decode_speed:,.0f} tokens per processor second"],
            ["runtime", self.runtime],
            *([f"a quarter of the {part}", _saved(*self.shares[part])] for part in ("units", "blocks", "vocabulary")),
        ]
        return table(["exported", self.path], rows, left=2)


def _saved(size: float, time: float) -> str:
    """Return what a quarter of a part takes."""
    return f"{QUARTER * size:.1%} of the bytes, about {QUARTER * time:.1%} of a token's time"
