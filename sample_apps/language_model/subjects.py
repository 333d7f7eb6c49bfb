"""The models to prune, each with its calibration and test texts."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import keras_hub
import numpy as np

from sample_apps.language_model import measures, recovery, speed, texts, weights

Row = dict[str, Any]
SPECIAL = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}  # tokens of Gemma
DOMAINS = ("documentation", "bible")  # what there is to calibrate on; the second is the other one
THIRD = "jargon"  # never calibrated on, so that nothing was chosen by it


_read = functools.cache(texts.load)


class Subject(Protocol):
    """A dense model, and how smaller ones are judged."""

    model: keras.Model

    def calibration(self, row: Row) -> dict[str, np.ndarray]:
        """Return the inputs to calibrate on."""
        ...

    def measure(self, model: keras.Model) -> dict[str, Any]:
        """Return the figures of a model."""
        ...

    def speed(self, model: keras.Model) -> Iterator[dict[str, Any]]:
        """Yield the size and the speed of a model, in each form in which it runs."""
        ...


class Gemma:
    """A causal language model, judged by its perplexity."""

    calibrate, evaluate = 40, 6  # windows: of all domains together, and of each
    choose = 3  # of each domain
    read = staticmethod(_read)

    def __init__(self, backbone: keras.Model, tokenizer: Any) -> None:
        self.model, self.tokenizer = backbone, tokenizer
        self.embedding = backbone.get_layer("token_embedding")  # the same in each model: only hidden units go

    def calibration(self, row: Row) -> dict[str, np.ndarray]:
        domains = _domains(row)
        count = self.calibrate // len(domains)
        parts = [measures.windows(self.read(name).calibration, self.tokenizer, count) for name in domains]
        return measures.inputs(np.stack(parts, axis=1).reshape(-1, measures.WINDOW))  # one of each in turn

    @functools.cached_property
    def evaluation(self) -> dict[str, np.ndarray]:
        return {
            name: measures.windows(self.read(name).evaluation, self.tokenizer, self.evaluate)
            for name in (*DOMAINS, THIRD)
        }

    @functools.cached_property
    def choice(self) -> np.ndarray:
        parts = [measures.windows(self.read(name).choice, self.tokenizer, self.choose) for name in DOMAINS]
        return np.concatenate(parts)

    def measure(self, model: keras.Model) -> dict[str, Any]:
        return {
            "choice": measures.perplexity(model, self.choice, self.embedding),
            "perplexity": {
                name: measures.perplexity(model, tokens, self.embedding) for name, tokens in self.evaluation.items()
            },
        }

    def speed(self, model: keras.Model) -> Iterator[dict[str, Any]]:
        return speed.of_gemma(model, self.evaluation["bible"])


class MiniLM:
    """A model of sentences, judged by how near its vectors are to the dense model's, and by what they find."""

    def __init__(self, backbone: keras.Model, tokenizer: Any) -> None:
        self.model, self.tokenizer = backbone, tokenizer

    def calibration(self, row: Row) -> dict[str, np.ndarray]:
        domains = _domains(row)
        drawn = [[section.text for section in _read(name).calibration[: 384 // len(domains)]] for name in domains]
        return measures.encode([text for together in zip(*drawn, strict=True) for text in together], self.tokenizer)

    @functools.cached_property
    def evaluation(self) -> dict[str, dict[str, np.ndarray]]:
        drawn: dict[str, Sequence[str]] = {
            name: measures.sentences(_read(name).evaluation, 200) for name in (*DOMAINS, THIRD)
        }
        drawn["choice"] = [text for name in DOMAINS for text in measures.sentences(_read(name).choice, 100)]
        drawn |= measures.pairs(_read("documentation").evaluation, 500)._asdict()
        return {name: measures.encode(content, self.tokenizer) for name, content in drawn.items()}

    @functools.cached_property
    def lesson(self) -> recovery.Lesson:
        """Sentences of the calibration texts to train on, one of each domain in turn, and the validation ones."""
        count = recovery.STEPS * recovery.BATCH // len(DOMAINS)
        drawn = [measures.sentences(_read(name).calibration, count) for name in DOMAINS]
        texts = [text for together in zip(*drawn, strict=True) for text in together]
        return recovery.lesson(self.model, measures.encode(texts, self.tokenizer), held_out=self.evaluation["choice"])

    @functools.cached_property
    def dense(self) -> dict[str, np.ndarray]:
        return self._vectors(self.model)

    def _vectors(self, backbone: keras.Model) -> dict[str, np.ndarray]:
        model = measures.embedder(backbone)
        return {name: model.predict(tokens, verbose=0) for name, tokens in self.evaluation.items()}

    def measure(self, model: keras.Model) -> dict[str, Any]:
        found = self._vectors(model)
        return {
            "choice": measures.cosine(found["choice"], self.dense["choice"]),
            "cosine": {name: measures.cosine(found[name], self.dense[name]) for name in (*DOMAINS, THIRD)},
            "recall": measures.recall(found["titles"], found["passages"]),
        }

    def speed(self, model: keras.Model) -> Iterator[dict[str, Any]]:
        return speed.of_minilm(model, self.evaluation["documentation"], self.dense["documentation"])


def load(name: str, preset: str | None, cache: Path) -> Subject:
    """Return a model with its weights: of a preset, or of packages where none is named.

    Raises:
        ConnectionError: If the preset or the packages cannot be had.
    """
    backbone, tokenizer, subject = {
        "gemma": (keras_hub.models.Gemma3Backbone, keras_hub.models.Gemma3Tokenizer, Gemma),
        "minilm": (keras_hub.models.BertBackbone, keras_hub.models.BertTokenizer, MiniLM),
    }[name]
    source = preset or str(weights.preset(name, cache))
    try:
        return subject(backbone.from_preset(source), tokenizer.from_preset(source))
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"Expected a preset with weights. Received: {source!r}, and this error: {error}\nPass a preset's name or "
            f"folder. Presets of Gemma ask for consent to its terms and for an account, and all but folders for the "
            f"network. Or leave --preset out: then packages are used."
        ) from error


class Tiny(Gemma):
    """A tiny Gemma with random weights, and made-up text of which each byte is a token, for --smoke."""

    calibrate, evaluate, choose = 4, 2, 1
    start_token_id = 0

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        sizes = {"vocabulary_size": 256, "num_layers": 2, "hidden_dim": 32, "intermediate_dim": 64, "head_dim": 8}
        super().__init__(keras_hub.models.Gemma3Backbone(**{**weights.GEMMA, **sizes}), self)

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())

    def read(self, name: str) -> texts.Text:
        sections = list(texts.made_up())
        return texts.Text(sections[:8], sections[8:10], sections[10:])


class TinyWriter(Tiny):
    """The tiny Gemma with a SentencePiece tokenizer of made-up text, so that it writes words."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = keras_hub.models.Gemma3Tokenizer(proto=_trained(texts.made_up()), has_vision_tokens=False)


def _trained(sections: Iterable[texts.Section]) -> bytes:
    """Return a SentencePiece model of 256 pieces."""
    import sentencepiece

    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(section.text for section in sections),
        model_writer=content,
        vocab_size=256,
        hard_vocab_limit=False,
        model_type="bpe",
        byte_fallback=False,
        **{f"{name}_id": number for name, number in SPECIAL.items()},
        **{f"{name}_piece": f"<{name}>" for name in SPECIAL},
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
        minloglevel=2,
    )
    return content.getvalue()


def _domains(row: Row) -> tuple[str, ...]:
    return DOMAINS if row["calibration"] == "both" else (row["calibration"],)
