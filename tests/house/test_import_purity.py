"""What an import loads, asked in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from public_names import DOORS

HEAVY = ["keras", "tensorflow", "torch", "jax", "ai_edge_litert", "matplotlib", "sklearn", "scipy"]
PURE = ["schedules", "patterns", "criteria", "allocation", "report", "base.spec"]
EXPORT = Path(__file__).parents[2] / "export"
# What needs Keras when it is imported; of the command line only these, as its commands open what they need.
BEHIND_THE_WALL = {"compressing", "command_line/saved_models.py", "command_line/demo.py"}
BEHIND_THE_WALL |= {f"keras_side/{path.name}" for path in (EXPORT / "keras_side").glob("*.py")} - {
    "keras_side/loading.py",
    "keras_side/stablehlo.py",  # a child that converts imports it
}
BEHIND_THE_WALL -= {"keras_side/__init__.py"}


def device_half() -> list[str]:
    """Every module of the export half that does not need Keras."""
    paths = [path.relative_to(EXPORT) for path in EXPORT.rglob("*.py") if path.stem != "__init__"]
    behind = {path for path in paths for place in BEHIND_THE_WALL if path.is_relative_to(place)}
    assert all(any(path.is_relative_to(place) for path in behind) for place in BEHIND_THE_WALL)
    modules = [path for path in paths if path not in behind]
    assert len(modules) > 30
    return sorted(".".join(path.with_suffix("").parts) for path in modules)


def run(code: str) -> str:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def loaded(code: str) -> list[str]:
    """Return which heavy packages are loaded after some code."""
    return json.loads(run(f"import json, sys\n{code}\nprint(json.dumps([n for n in {HEAVY} if n in sys.modules]))"))


@pytest.mark.parametrize(
    "code",
    [
        "import tfprune; tfprune.__version__; dir(tfprune)",
        "import " + ", ".join(f"tfprune.{module}" for module in PURE),
        "import tfprune; tfprune.schedules.Constant(0.5), tfprune.patterns.NM(2, 4), tfprune.criteria.Random()",
        "import tfprune; tfprune.allocation.allocate([], 0.5, 'uniform'); tfprune.report.table([], [])",
        "import tfprune; dir(tfprune.federated), tfprune.federated.masked_average, tfprune.federated.Update",
        "from tfprune.federated import FedMask, LotteryFL, MaskedTrainer, PruneFL; FedMask(0.5)",
        "import tfprune; " + ", ".join(f"dir(tfprune.{door}), hasattr(tfprune.{door}, 'other')" for door in DOORS),
        "import tfprune.export; dir(tfprune.export)",
        "import " + ", ".join(f"tfprune.export.{module}" for module in device_half()),
    ],
    ids=[
        "tfprune",
        "pure modules",
        "specs",
        "allocation and report",
        "federated",
        "federated methods",
        "doors",
        "tfprune.export",
        "device half",
    ],
)
def test_light_imports(code):
    assert loaded(code) == []


def test_an_import_configures_no_logging_but_keeps_the_logger_of_the_package_quiet():
    seen = "import logging, tfprune, tfprune.export; root, ours = logging.root, logging.getLogger('tfprune')"
    assert run(f"{seen}; print(root.handlers, root.level == logging.WARNING)") == "[] True"
    assert run(f"{seen}; print(ours.handlers, ours.level, ours.propagate)") == "[<NullHandler (NOTSET)>] 0 True"


def test_advice_on_an_unknown_name_loads_no_keras():
    names = "prune", "to_tflite", "grow_depth", "SparsityReport"
    assert loaded(f"import tfprune; [hasattr(tfprune, name) for name in {names}]") == []


def test_names_of_the_export_half_are_there_after_importing_tfprune_alone():
    assert run("import tfprune; print(tfprune.export.Runner.__name__)") == "Runner"
    assert loaded("import tfprune; tfprune.export.Runner") == []  # the device has neither Keras nor TensorFlow


def test_every_public_name_is_there():
    import tfprune

    assert [name for name in tfprune.__all__ if getattr(tfprune, name, None) is None] == []


def test_an_unknown_name_is_an_attribute_error():
    import tfprune

    with pytest.raises(AttributeError, match="module 'tfprune' has no attribute 'prune'"):
        tfprune.prune  # noqa: B018
    assert not hasattr(tfprune, "spec_of")
    for home, name in [("tfmot", "strip_pruning"), ("tfmot", "prune_low_magnitude"), ("export", "to_tflite")]:
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'\. Use tfprune\.{home}\.{name}\.$"):
            getattr(tfprune, name)
    with pytest.raises(AttributeError, match=r"Use tfprune\.schedules\.Polynomial, or tfprune\.tfmot"):
        tfprune.schedules.PolynomialDecay  # noqa: B018
    assert dir(tfprune) == sorted({*tfprune.__all__} - {"__version__"})
