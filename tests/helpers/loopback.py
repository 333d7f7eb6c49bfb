"""An ssh server on this machine, with keys and settings of its own, and a Python behind it as a device has it."""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

NEEDED = ("numpy", "numpy.libs", "ai_edge_litert", "flatbuffers")
SETTINGS = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication {password}
KbdInteractiveAuthentication no
"""


def missing() -> str:
    """Say why no server can be started here; an empty string when one can."""
    if not sshd():
        return "no sshd here (Debian: apt-get install openssh-server)"
    return "" if shutil.which("ssh") and shutil.which("ssh-keygen") else "no ssh here (Debian: openssh-client)"


def sshd() -> str | None:
    return shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


class Loopback:
    """A server that runs until it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host_key", "client_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it locks its unprivileged half in
        settings = folder / "sshd_config"
        settings.write_text(SETTINGS.format(port=self.port, folder=folder, password="yes"))
        log = (folder / "log").open("wb")
        self._process = subprocess.Popen([sshd(), "-D", "-e", "-f", str(settings)], stdout=log, stderr=log)
        self._wait()
        self.know("host_key")

    @property
    def address(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1"

    def options(self, key: str = "client_key") -> list[str]:
        words = ["-F", "none", "-p", str(self.port), "-i", str(self.folder / key)]
        for setting in (f"UserKnownHostsFile={self.folder / 'known_hosts'}", "IdentitiesOnly=yes"):
            words += ["-o", setting]
        return words

    def know(self, key: str | None) -> None:
        """Let the client know the server by a key, or not at all."""
        line = ""
        if key:
            kind, content, *_ = (self.folder / f"{key}.pub").read_text().split()
            line = f"[127.0.0.1]:{self.port} {kind} {content}\n"
        (self.folder / "known_hosts").write_text(line)

    def _wait(self) -> None:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def device_python(folder: Path, *, packages: tuple[str, ...] = NEEDED, first: str = "") -> Path:
    """Return a Python that has some packages and nothing else, and keeps temporary files in a folder of its own.

    Args:
        folder: Where it is made; its temporary files go to `tmp` in it.
        packages: What it can import besides the standard library.
        first: A line of shell that runs before it.
    """
    site, script = folder / "site", folder / "python"
    for part in (site, folder / "tmp"):
        part.mkdir(parents=True)
    origin = Path(importlib.util.find_spec("numpy").origin).parents[1]
    for name in packages:
        if (origin / name).exists():
            (site / name).symlink_to(origin / name)
    environment = f"TMPDIR={folder / 'tmp'} PYTHONPATH={site}:$PYTHONPATH"
    script.write_text(f'#!/bin/sh\n{first}\n{environment} exec {os.path.realpath(sys.executable)} -S "$@"\n')
    script.chmod(0o755)
    return script
