"""Text of LiteRT-LM's engine against `Generator`'s: tiny models of KerasHub with tokenizers, dense and pruned.

python bench/litertlm.py [FAMILY ...]   # such as Gemma3 Llama; all without
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

import hub_writers
from generate import pruned
from lite_lm import LENGTH, engine_text

from tfprune.export import Generator, to_generator
from tfprune.report import table

FAMILIES = (
    *("Bloom", "Falcon", "GPT2", "Gemma", "Gemma3", "Llama", "Llama3", "Mistral", "Mixtral", "OPT", "Phi3"),
    *("Qwen", "Qwen3", "SmolLM3"),
)
PROMPTS, COUNT = ("the fox", "a dog", "he"), 8


def measured(model, folder: Path) -> list:
    """Return how many texts are equal, how many but for a space before them, and the texts; or why there is no file.

    The engine decodes a continuation alone, where most tokenizers of SentencePiece drop the space before a word.
    """
    path = folder / "writer.litertlm"
    try:
        report = to_generator(model, path, length=LENGTH, prefill=(4,), max_tokens=2, verbose=0)
    except ValueError as error:
        return [f"{error}"[:160], "", "", ""]
    generator = Generator(path, threads=1)
    texts = [generator.generate(prompt, max_tokens=COUNT) for prompt in PROMPTS]
    engine = [engine_text(path, prompt, count=COUNT) for prompt in PROMPTS]
    equal = sum(text == other for text, other in zip(texts, engine, strict=True))
    but_space = sum(text == f" {other}" for text, other in zip(texts, engine, strict=True))
    return [f"{equal} of {len(PROMPTS)}", but_space, report.tokenizer, repr(texts)]


def main() -> None:
    logging.disable(logging.WARNING)
    rows = []
    for family in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            model = hub_writers.with_tokenizer(family)
            rows.append([family, "dense", *measured(model, Path(folder)), ""])
            print(*rows[-1], flush=True)
            try:
                smaller, kept = pruned(model)
            except ValueError as error:
                rows.append([family, "pruned", str(error)[:160], "", "", "", ""])
            else:
                smaller.preprocessor = model.preprocessor
                rows.append([family, "pruned", *measured(smaller, Path(folder)), str(kept["heads"])])
            print(*rows[-1], flush=True)
    print(table(["class", "", "equal texts", "but for a space", "tokenizer", "texts", "kept"], rows, left=2))


if __name__ == "__main__":
    main()
