"""Where pip may install what, asked of setup.cfg's markers, against the wheels that PyPI holds."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
# ai-edge-litert 2.3.0 has a wheel for each of these, for each of the Pythons above.
LITERT = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64")]


def installed(extra: str, system: tuple[str, str], python: str) -> set[str]:
    """Return what pip installs for an extra, as `name` or `name<version`."""
    platform, machine = system
    environment = {"sys_platform": platform, "platform_machine": machine, "python_version": python}
    lines = re.sub("#.*", "", SETUP["options.extras_require"][extra]).split("\n")
    lines_of_wheel = [Requirement(line) for line in lines if line.strip()]
    requirements = [each for each in lines_of_wheel if not each.marker or each.marker.evaluate(environment)]
    return {f"{each.name}{each.specifier}" for each in requirements}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", LITERT, ids="-".join)
def test_the_device_half_gets_its_interpreter_wherever_there_is_a_wheel(system, python):
    assert installed("device", system, python) == {"ai-edge-litert", *(["tomli"] if python == "3.10" else [])}
    assert "ai-edge-litert" in installed("train", system, python)


def test_32_bit_arm_gets_tflite_runtime_where_that_has_a_wheel():
    pi = ("linux", "armv7l")
    assert installed("device", pi, "3.11") == {"tflite-runtime", "numpy<2"}
    assert installed("device", pi, "3.13") == set()
    assert "ai-edge-litert" not in installed("train", pi, "3.11")


def test_every_python_with_wheels_is_named_and_none_of_them_refused():
    named = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    allowed = SpecifierSet(SETUP["options"]["python_requires"])
    assert named == PYTHONS
    assert all(allowed.contains(f"{python}.1") for python in PYTHONS)
    assert not allowed.contains("3.9.20")


def test_make_and_the_readme_name_the_pythons_that_tensorflow_has_releases_for():
    makefile, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "README.md"))
    first, last = re.search(r"\((3, \d+)\) <= sys.version_info\[:2\] <= \((3, \d+)\)", makefile).groups()
    assert (first, last) == ("3, 11", "3, 13")  # Keras 3.13 begins with 3.11; TensorFlow 2.21 ends with 3.13
    assert "Python 3.11 to 3.13" in readme
    assert "keras>=3.13" in installed("train", ("linux", "x86_64"), "3.11")


def test_every_extra_that_a_text_names_is_defined_in_that_spelling():
    defined = set(SETUP["options.extras_require"])
    assert not [
        extra for extra in defined if "_" in extra
    ]  # the metadata has -, which pip 23.2 takes for another name
    folders = ("docs", "sample_apps", "tfprune", "export", "bench", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py")]
    named = {
        (path.name, extra.strip())
        for path in (*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / ".ci" / "run", *files)
        for match in re.findall(
            r"pip install[^`\n]*?\[([\w, -]+)\]|\(extra `([\w-]+)`\)|\binstall\('([\w-]+)'\)",
            path.read_text(encoding="utf-8"),
        )
        for extra in "".join(match).split(",")
    }
    assert {"README.md", "Makefile", "prune_language_model.md", "interpreter.py"} <= {name for name, _ in named}
    assert not [(name, extra) for name, extra in named if extra not in defined]


def test_one_function_composes_how_a_message_installs_an_extra():
    """Nothing is released: each message says how to install it from a checkout, too."""
    files = [path for folder in ("tfprune", "export") for path in (ROOT / folder).rglob("*.py")]
    command = re.compile(r"(?<!`)pip install [\"']\.?\w*\[")
    composed = [path for path in files if command.search(path.read_text(encoding="utf-8"))]
    assert composed == [ROOT / "tfprune/report.py"]


def test_no_text_recommends_an_installation_that_editors_and_mypy_do_not_follow():
    folders = ("docs", "sample_apps", "tfprune", "export")
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    files = [path for path in paths if path.suffix in (".md", ".py", ".toml")]
    lines = [line for path in (*ROOT.glob("*.md"), *files) for line in path.read_text(encoding="utf-8").splitlines()]
    editable = [line for line in lines if re.search(r"pip install .*(-e|--editable) ", line)]
    assert editable and all("editable_mode=strict" in line for line in editable), editable


def test_python_that_runs_in_a_checkout_finds_both_halves_there():
    code = "import tfprune.export.file as module; print(module.__file__)"
    command = [sys.executable, "-S", "-c", code]  # -S: no installed package, and no finder of an editable one
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert Path(done.stdout.strip()) == ROOT / "export/file/__init__.py", done.stderr


def test_the_version_is_the_same_wherever_it_is_written():
    code = (ROOT / "tfprune/__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', code, re.M)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"tfprune-{version}-py3" in (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1] in (
        version,
        "Unreleased",
    )


def test_every_extra_has_a_trial():
    trials = re.findall(r"^def (\w+)\(\) -> None:", (ROOT / "release/trials.py").read_text(encoding="utf-8"), re.M)
    extras = {extra.replace("-", "_") for extra in SETUP["options.extras_require"]}
    assert set(trials) == extras - {"dev", "backends", "fuzz"} | {"nothing"}
