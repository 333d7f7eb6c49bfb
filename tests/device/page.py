"""Follow docs/howto/raspberry_pi.md on the emulated Raspberry Pi, from an empty folder: python page.py FOLDER."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import root
from run import make_wheel

PAGE = Path(__file__).parents[2] / "docs/howto/raspberry_pi.md"
MODEL = "recurrent_float32.tfz"  # a window of readings in, classes out: what the page's loop takes
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps(text: str) -> list[tuple[str, str]]:
    """Return language and content of the blocks that are for the Pi, in their order."""
    section = text.partition("\n## On the Pi\n")[2].partition("\n## ")[0]
    return BLOCK.findall(section)


def follow(folder: Path) -> int:
    """Do what the page says, with the real pip and the package index, and print what the commands print."""
    home = folder.parent
    python = root.build(home / "aarch64")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(make_wheel(home / "page-wheel"), name)
        shutil.copy(folder / MODEL, Path(name, "model.tfz"))
        for language, content in steps(PAGE.read_text(encoding="utf-8")):
            if language == "python":
                Path(name, "stream.py").write_text(content, encoding="utf-8")
            elif code := subprocess.run(
                ["sh", "-ex", "-c", content], cwd=name, env=environment, check=False
            ).returncode:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(root.obstacle() or follow(Path(sys.argv[1]).resolve()))
