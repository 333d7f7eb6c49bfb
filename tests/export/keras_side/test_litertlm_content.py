"""Files of LiteRT-LM write what `Generator` writes."""

from __future__ import annotations

import importlib.util
import re
import uuid
from pathlib import Path

import pytest
from lite_lm import LENGTH, engine_text

from tfprune.export import Generator, to_generator
from tfprune.export.device.writer_file import SENTENCEPIECE, TextForm, read_text_form
from tfprune.export.file.container import read_model
from tfprune.export.file.document import TOKENIZER, read_litertlm, read_metadata, with_metadata
from tfprune.export.keras_side.language_model import litertlm_content

needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("litert_lm_builder") is None,
    reason="litert-lm-builder is not installed (extra `litertlm`)",
)
needs_engine = pytest.mark.skipif(
    importlib.util.find_spec("litert_lm") is None, reason="litert-lm-api is not installed (extra `litertlm`)"
)
TURNS = {"system": ["c", "d"], "user": ["a ", " b"], "model": [" the", "."]}


def sentencepiece_form(turns):
    from hub_models import GEMMA, sentencepiece_tokenizer

    return TextForm(SENTENCEPIECE, [2], [1], turns), sentencepiece_tokenizer("Gemma", **GEMMA).proto


@needs_builder
@needs_engine
@pytest.mark.programs
@pytest.mark.parametrize("kind", ["byte pairs", "SentencePiece"])
def test_the_engine_writes_what_the_generator_writes(kind, writer, tmp_path):
    content = writer.read_bytes()
    metadata = read_metadata(content)
    form, tokenizer = read_text_form(metadata)[0], metadata[TOKENIZER]
    form, tokenizer = (form, tokenizer) if kind == "byte pairs" else sentencepiece_form({})
    form = TextForm(form.tokenizer, form.start, form.stop, TURNS)
    plain = tmp_path / "writer.tflite"
    plain.write_bytes(with_metadata(content, form.as_metadata(tokenizer)))
    path = tmp_path / "writer.litertlm"
    without = with_metadata(content, form.as_metadata(b""))  # the tokenizer is in a section of the container
    path.write_bytes(litertlm_content(without, form, tokenizer=tokenizer, length=LENGTH))
    generator = Generator(plain, threads=1)
    assert Generator(path, threads=1).generate("a fox", max_tokens=5) == generator.generate("a fox", max_tokens=5)
    for prompt in ("the fox", "a dog"):
        assert engine_text(path, prompt, count=5) == generator.generate(prompt, max_tokens=5)
    turn = "a fox b the"  # the turn of the user, and the beginning of the model's
    answer = generator.generate(turn, max_tokens=5)
    assert engine_text(path, "fox", count=5, is_turn=True) == answer


@needs_builder
@needs_engine
@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["Bloom", "Falcon", "Gemma", "Gemma3", "Llama3", "Mistral", "OPT", "Phi3", "Qwen3"]
)
def test_other_classes_dense_and_pruned(family, tmp_path, monkeypatch):
    import hub_writers

    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "bench")
    from generate import pruned

    dense = hub_writers.with_tokenizer(family)
    smaller, _ = pruned(dense)
    smaller.preprocessor = dense.preprocessor
    path = tmp_path / "writer.litertlm"
    for model in (dense, smaller):
        to_generator(model, path, length=LENGTH, prefill=(4,), max_tokens=2, verbose=0)
        texts = {prompt: Generator(path, threads=1).generate(prompt, max_tokens=8) for prompt in ("the fox", "a dog")}
        # The engine decodes a continuation alone, where SentencePiece may drop the space before a word.
        space = " " if family in ("Mistral", "Phi3") else ""
        for prompt, text in texts.items():
            assert engine_text(path, prompt, count=8).removeprefix(space) == text.removeprefix(space), prompt


@needs_builder
def test_damaged_files_are_refused(writer, tmp_path):
    content, path = writer.read_bytes(), tmp_path / "writer.litertlm"
    metadata = read_metadata(content)
    form, tokenizer = read_text_form(metadata)[0], metadata[TOKENIZER]
    whole = litertlm_content(content, form, tokenizer=tokenizer, length=LENGTH)
    assert read_metadata(read_litertlm(whole)) == metadata
    with pytest.raises(ValueError, match="Only Generator reads files of LiteRT-LM"):
        read_model(whole)
    for size in (20, 40, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"Expected a whole \.litertlm file"):
            Generator(path)
    place = whole.index(len(tokenizer).to_bytes(8, "little"))  # more than the tokenizer unpacks to
    path.write_bytes(whole[:place] + (2**40).to_bytes(8, "little") + whole[place + 8 :])
    with pytest.raises(ValueError, match="Received: one of 1,099,511,627,776, as it says"):
        Generator(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name}


@needs_builder
def test_models_without_a_tokenizer_are_refused(tmp_path):
    import hub_writers

    with pytest.raises(ValueError, match="takes texts only.*which has none"):
        to_generator(hub_writers.writer("Llama"), tmp_path / "writer.litertlm", length=16)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    import sys

    import hub_writers

    monkeypatch.setitem(sys.modules, "litert_lm_builder", None)
    with pytest.raises(ValueError, match=r"tfprune\[litertlm\]"):
        to_generator(hub_writers.writer_task(), tmp_path / "writer.litertlm", length=16)


@needs_builder
def test_equal_models_are_equal_bytes_with_an_id_of_their_content(monkeypatch):
    """The package writes a random id and the time; nothing else of the file may change."""
    from litert_lm_builder import litertlm_builder

    ids = iter([uuid.UUID(int=1 << 100), uuid.UUID(int=2 << 100), uuid.UUID(int=3 << 100)])
    monkeypatch.setattr(litertlm_builder.uuid, "uuid4", lambda: next(ids))
    form, tokenizer = sentencepiece_form({})
    first, second = (litertlm_content(bytes(4096), form, tokenizer=tokenizer, length=LENGTH) for _ in range(2))
    assert first == second and str(uuid.UUID(int=1 << 100)).encode() not in first
    other = litertlm_content(bytes(4095) + b"1", form, tokenizer=tokenizer, length=LENGTH)
    pattern = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert len(re.findall(pattern, first)) == len(re.findall(pattern, other)) == 1
    assert re.findall(pattern, first) != re.findall(pattern, other)
    assert first.count(b"1980-01-01T00:00:00.000000+00:00") == 1
