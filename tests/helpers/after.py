"""Passes over bytes: what a file is after some of them."""

from __future__ import annotations

from tfprune.export.file.model_file import ModelFile, Pass


def after(content: bytes, *passes: Pass) -> bytes:
    return ModelFile(content).after(*passes).content
