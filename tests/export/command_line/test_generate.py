"""tfprune generate: a text, or a conversation by lines."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import pytest
from programs import started

from tfprune.export import Generator
from tfprune.export.command_line.cli import main
from tfprune.export.device.writer_file import read_text_form
from tfprune.export.file.document import TOKENIZER, read_metadata, with_metadata


@pytest.fixture(scope="module")
def talker(writer, tmp_path_factory):
    """Return a file whose turns are separated by letters of the tiny vocabulary."""
    content = writer.read_bytes()
    metadata = read_metadata(content)
    turns = {"system": ["v", "u"], "user": ["x", "y"], "model": ["z", "w"]}
    form = dataclasses.replace(read_text_form(metadata)[0], turns=turns)
    path = tmp_path_factory.mktemp("talker") / "talker.tflite"
    path.write_bytes(with_metadata(content, form.as_metadata(metadata[TOKENIZER])))
    return path


@pytest.mark.parametrize("instructions", [[], ["c"]])
def test_each_line_of_a_conversation_is_answered(talker, monkeypatch, capsys, instructions):
    talk = Generator(talker, threads=1).chat(instructions="".join(instructions))
    answers = [talk.send(text, max_tokens=1) for text in ("a", "b")]
    command = ["generate", str(talker), *instructions, "--chat", "--max-tokens", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n\nb\n"))
    assert main(command) == 0
    assert capsys.readouterr().out.rstrip("\n").split("\n") == answers
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb"))
    assert main([*command, "--json"]) == 0
    assert [turn["text"] for turn in json.loads(capsys.readouterr().out)["turns"]] == answers


@pytest.mark.parametrize(
    ("arguments", "error"),
    [([], "a text to continue, or --chat"), (["--chat", "--stop", "a"], "--chat without --stop")],
)
def test_refused_options(talker, capsys, arguments, error):
    assert main(["generate", str(talker), *arguments]) != 0
    assert error in capsys.readouterr().err


@pytest.mark.programs
@pytest.mark.parametrize(("text", "lines"), [("the fox", 0), ("fox" * 16, 1)])
def test_nothing_of_the_runtime_is_printed_and_errors_are(writer, tmp_path, text, lines):
    ended = started("-m", "tfprune.export.command_line.cli", "generate", str(writer), text, folder=tmp_path)
    assert ended.stdout.strip() == (Generator(writer).generate(text).strip() if not lines else "")
    assert len(ended.stderr.splitlines()) == lines and ended.code == (2 if lines else 0), ended.stderr
