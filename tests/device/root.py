"""Build a root folder for 64-bit ARM and an emulator that runs its Python: python root.py build/aarch64.

Packages are downloaded and unpacked, none is installed: this system stays as it is, and no rights are needed. They
come from the sources that apt and pip are set up with; the root's parent folder keeps what apt downloaded.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGES = [
    "python3.13-minimal",
    "libpython3.13-minimal",
    "libpython3.13-stdlib",
    "python3.13-venv",
    "python3-pip-whl",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "libexpat1",
    "libssl3t64",
    "libffi8",
    "libbz2-1.0",
    "liblzma5",
    "libuuid1",
    "libzstd1",
]
WHEELS = ("ai-edge-litert", "numpy")
TAGS = [f"manylinux{tag}_aarch64" for tag in ("_2_28", "_2_27", "_2_17", "2014")]
EMULATOR = "./usr/bin/qemu-aarch64"  # static, so that it runs from any place
PYTHON = "usr/bin/python3"
# Named as Python's own command (-0), the script is what Python starts its children by, and what a venv links to.
SCRIPT = """#!/bin/sh
QEMU_CPU="${{QEMU_CPU:-cortex-a72}}" exec {root}/qemu-aarch64 -L {root} -0 "$0" {root}/usr/bin/python3.13 "$@"
"""


def obstacle() -> str:
    """Say why the root cannot be built here; an empty string when it can."""
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found: the emulator and its Python come as Debian packages"
    if platform.machine() != "x86_64":
        return f"this machine is {platform.machine()}: the emulator is taken for x86_64"
    return ""


def build(root: Path) -> Path:
    """Return the Python of a whole root; what the same script built before is kept."""
    stamp = hashlib.sha256(repr((PACKAGES, WHEELS, SCRIPT, str(root))).encode()).hexdigest()
    ready = root / "READY"
    if not (ready.exists() and ready.read_text(encoding="utf-8") == stamp):
        shutil.rmtree(root, ignore_errors=True)
        _unpack(_download(root.with_name(f"{root.name}-debs")), root)
        _install_wheels(root)
        ready.write_text(stamp, encoding="utf-8")
    return root / PYTHON


def _download(folder: Path) -> list[Path]:
    """Download with lists and an architecture of our own; what is there already is not fetched again."""
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    configuration = folder / "apt.conf"
    configuration.write_text(
        f'Dir::State "{folder}";\nDir::State::status "{folder}/status";\nDir::Cache "{folder}";\n'
        'APT::Architectures { "amd64"; "arm64"; };\nAPT::Sandbox::User "root";\n',
        encoding="utf-8",
    )
    names = [f"{package}:arm64" for package in PACKAGES if not package.endswith("-whl")]
    names += [package for package in PACKAGES if package.endswith("-whl")] + ["qemu-user:amd64"]
    for command in (["update"], ["download", *names]):
        _run(["apt-get", "-qq", *command], cwd=folder, env={"APT_CONFIG": str(configuration)})
    return [
        max(folder.glob(f"{name.partition(':')[0]}_*.deb"), key=lambda path: path.stat().st_mtime) for name in names
    ]


def _unpack(archives: list[Path], root: Path) -> None:
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    *packages, emulator = archives
    for archive in packages:
        _run(["dpkg-deb", "--extract", str(archive), str(root)])
    _take(emulator, EMULATOR, root / "qemu-aarch64")
    script = root / PYTHON
    script.write_text(SCRIPT.format(root=root), encoding="utf-8")
    script.chmod(0o755)


def _take(archive: Path, member: str, target: Path) -> None:
    """Take one file: the package holds half a gigabyte of emulators."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as stream:
            member_info = next(entry for entry in stream if entry.name == member)
            target.write_bytes(stream.extractfile(member_info).read())
        process.terminate()
    target.chmod(0o755)


def _install_wheels(root: Path) -> None:
    target = root / "usr/lib/python3/dist-packages"
    platforms = [f"--platform={tag}" for tag in TAGS]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--python-version=3.13"]
    _run([*pip, *platforms, f"--target={target}", *WHEELS])
    (root / "site").symlink_to("usr/lib/python3/dist-packages")


def _run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed: {done.stderr[-2000:]}")


if __name__ == "__main__":
    if obstacle():
        sys.exit(obstacle())
    print(build(Path(sys.argv[1]).resolve()))
