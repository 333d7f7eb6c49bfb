"""Report of a language model's file: its size, and how its text compares with Keras'."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table


@dataclass(frozen=True)
class GeneratorReport(Report):
    """The file that `to_generator` wrote, and how its text compares with that of the Keras model.

    Attributes:
        path: Where it was written.
        bytes: Its size.
        parameters: Of the Keras model.
        vocabulary: The share of the parameters that the tables of tokens take.
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
    vocabulary: float
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
            ["bytes", f"{self.bytes:,}"],
            ["parameters", f"{self.parameters:,} ({self.vocabulary:.0%} in the vocabulary)"],
            ["number format", self.quantize or "float32"],
            ["caches", f"{self.length:,} tokens in {self.blocks} blocks"],
            ["tokenizer", self.tokenizer or "none"],
            ["equal tokens", f"{self.equal} of {self.written}"],
            ["difference", f"{self.difference:.3g} of the largest score (allowed: {self.tolerance:g})"],
            ["perplexity", f"{self.perplexity:.4g} (Keras: {self.keras_perplexity:.4g})"],
            ["prefill", f"{self.prefill_speed:,.0f} tokens per processor second"],
            ["decode", f"{self.decode_speed:,.0f} tokens per processor second"],
            ["runtime", self.runtime],
        ]
        return table(["exported", self.path], rows, left=2)
