"""A language model's file in the form of LiteRT-LM, the runtime of Android, iOS and desktops: `.litertlm`.

Source: https://github.com/google-ai-edge/LiteRT-LM, whose package litert-lm-builder writes the form.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tfprune.export.device.generating.text_form import SENTENCEPIECE, TextForm
from tfprune.export.file.tflite.schema import MissingPackage

SUFFIX = ".litertlm"


def require_builder() -> Any:
    """Return the package that writes the form.

    Raises:
        ValueError: If it is not installed (also an ImportError).
    """
    try:
        import litert_lm_builder
    except ImportError as error:
        raise MissingPackage(
            f"Expected the package litert-lm-builder, which writes {SUFFIX} files. Received: it is not installed. "
            f'Run pip install "tfprune[litertlm]", or write a .tflite file.'
        ) from error
    return litert_lm_builder


def litertlm_content(content: bytes, form: TextForm, *, tokenizer: bytes, length: int) -> bytes:
    """Return a file of LiteRT-LM.

    Args:
        content: A plain .tflite file with the signatures of a language model.
        form: What is known about its text.
        tokenizer: The tokenizer's content.
        length: How many tokens a prompt and its continuation may have together.

    Raises:
        ValueError: If litert-lm-builder is not installed (also an ImportError).
    """
    package = require_builder()
    with tempfile.TemporaryDirectory(prefix="tfprune-") as name:
        folder = Path(name)
        builder = package.LitertLmFileBuilder()
        text = package.Metadata(key="Authors", value="tfprune", dtype=package.DType.STRING)
        builder.add_system_metadata(text)
        builder.add_llm_metadata(_written(folder / "metadata.pb", _metadata(form, length)))
        if form.tokenizer == SENTENCEPIECE:
            builder.add_sentencepiece_tokenizer(_written(folder / "tokenizer.spm", tokenizer))
        else:
            builder.add_hf_tokenizer(_written(folder / "tokenizer.json", tokenizer))
        model = _written(folder / "model.tflite", content)
        builder.add_tflite_model(model, package.TfLiteModelType.PREFILL_DECODE)
        with (folder / f"model{SUFFIX}").open("wb") as stream:
            builder.build(stream, validate_metadata=True)
        return (folder / f"model{SUFFIX}").read_bytes()


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def _metadata(form: TextForm, length: int) -> bytes:
    """Return the runtime's settings of a model: its ids, its turns, and greedy sampling."""
    from litert_lm_builder.runtime.proto import llm_metadata_pb2, sampler_params_pb2

    settings = llm_metadata_pb2.LlmMetadata(max_num_tokens=length)
    settings.supports_thinking = settings.supports_function_calling = False
    settings.llm_model_type.generic_model.SetInParent()
    settings.sampler_params.type = sampler_params_pb2.SamplerParameters.TOP_P
    settings.sampler_params.k, settings.sampler_params.p, settings.sampler_params.temperature = 1, 1.0, 1.0
    if form.start:
        settings.start_token.token_ids.ids.extend(form.start)
    for number in form.stop:
        settings.stop_tokens.add().token_ids.ids.append(number)
    for role, (prefix, suffix) in form.turns.items():
        affixes = getattr(settings.prompt_templates, role)
        affixes.prefix, affixes.suffix = prefix, suffix
    return settings.SerializeToString()
