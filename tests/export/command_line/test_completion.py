"""The scripts of `tfprune completion`, read by the shells that are here."""

import shutil
import subprocess

import pytest
import shtab

from tfprune.export.command_line.cli import main
from tfprune.export.command_line.options import _FILES


def script_of(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish", "powershell"])
def test_each_shell_gets_a_script_with_the_commands(shell, capsys):
    script = script_of(shell, capsys)
    assert all(word in script for word in ("inspect", "shrink", "sparsity"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "expected"), [("tfprune sh", "shrink"), ("tfprune export --quantize dyn", "dynamic")]
)
def test_bash_completes_commands_and_choices(words, expected, capsys, tmp_path):
    (tmp_path / "script").write_text(script_of("bash", capsys))
    last = len(words.split()) - 1
    code = f'source ./script; COMP_WORDS=({words}); COMP_CWORD={last}; _shtab_tfprune; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected]


def test_files_are_completed_as_shtab_does():
    assert _FILES == shtab.FILE
