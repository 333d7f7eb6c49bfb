"""Who may import whom, as data, and the house rules that a syntax tree can show."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"tfprune": ROOT / "tfprune", "tfprune.export": ROOT / "export"}

# Each group of modules, and the groups below it, whose modules it may import besides those of its own.
PURE, LAYERS, WRAPPER, MODEL, FIT = "pure", "layers", "wrapper", "model", "fit"
RUN, FILE, CHECK, BUILD, COMMAND, NAMES = "run", "file", "check", "build", "command", "names"
BELOW = {
    PURE: set(),
    LAYERS: {PURE},
    WRAPPER: {PURE, LAYERS},
    MODEL: {PURE, LAYERS, WRAPPER},
    FIT: {PURE, LAYERS, WRAPPER, MODEL},
    RUN: {PURE},
    FILE: {PURE, RUN},
    CHECK: {PURE, RUN, FILE},
    BUILD: {PURE, LAYERS, WRAPPER, MODEL, FIT, RUN, FILE, CHECK, NAMES},
    COMMAND: {RUN, FILE, CHECK},
    NAMES: set(),  # the packages themselves: what they offer is loaded when it is first used
}
GROUP = {
    "tfprune": NAMES,
    "tfprune.spec": PURE,
    "tfprune.schedules": PURE,
    "tfprune.criteria": PURE,
    "tfprune.criteria_of_classes": PURE,
    "tfprune.criteria_of_data": PURE,
    "tfprune.facts": PURE,
    "tfprune.moments": PURE,
    "tfprune.patterns": PURE,
    "tfprune.allocation": PURE,
    "tfprune.report": PURE,
    "tfprune.least_squares": PURE,
    "tfprune.surgery": PURE,
    "tfprune.reconstruction_report": PURE,
    "tfprune.linear": LAYERS,
    "tfprune.layer_moments": WRAPPER,
    "tfprune.head_ranking": MODEL,
    "tfprune.channel_ranking": MODEL,
    "tfprune.transformer_shares": PURE,
    "tfprune.reconstruction": MODEL,
    "tfprune.prunable": LAYERS,
    "tfprune.rebuild": LAYERS,
    "tfprune.activations": LAYERS,
    "tfprune.batches": LAYERS,
    "tfprune.evidence": LAYERS,
    "tfprune.listening": LAYERS,
    "tfprune.loss_gradients": LAYERS,
    "tfprune.normalised": LAYERS,
    "tfprune.units": LAYERS,
    "tfprune.slots": LAYERS,
    "tfprune.gradients": LAYERS,
    "tfprune.subclassed": LAYERS,
    "tfprune.calls": LAYERS,
    "tfprune.channels": PURE,
    "tfprune.flow": LAYERS,
    "tfprune.rules": LAYERS,
    "tfprune.rules_kernels": LAYERS,
    "tfprune.rules_shapes": LAYERS,
    "tfprune.rules_sequences": LAYERS,
    "tfprune.network": LAYERS,
    "tfprune.ranking": LAYERS,
    "tfprune.wrapper": WRAPPER,
    "tfprune.model": MODEL,
    "tfprune.stripping": MODEL,
    "tfprune.selection": MODEL,
    "tfprune.masks": MODEL,
    "tfprune.counting": MODEL,
    "tfprune.plan": MODEL,
    "tfprune.choosing": MODEL,
    "tfprune.covering": MODEL,
    "tfprune.shrink_plan": MODEL,
    "tfprune.budgets": MODEL,
    "tfprune.shrinking": MODEL,
    "tfprune.structured": MODEL,
    "tfprune.ahead": FIT,
    "tfprune.callback": FIT,
    "tfprune.summaries": FIT,
    "tfprune.scan": FIT,
    "tfprune.rounds": FIT,
    "tfprune.compiled": LAYERS,
    "tfprune.scan_report": FIT,
    "tfprune.tfmot": FIT,
    "tfprune.tfmot_schedules": PURE,
    "tfprune.tfmot_policy": WRAPPER,
    "tfprune.tfmot_wrapper": WRAPPER,
    "tfprune.export": NAMES,
    "tfprune.export.codec": RUN,
    "tfprune.export.endpoint": RUN,
    "tfprune.export.entries": RUN,
    "tfprune.export.graph": RUN,
    "tfprune.export.levels": RUN,
    "tfprune.export.storage": RUN,
    "tfprune.export.sparse_check": RUN,
    "tfprune.export.operator_check": RUN,
    "tfprune.export.tables": RUN,
    "tfprune.export.heatmap": RUN,
    "tfprune.export.markup": RUN,
    "tfprune.export.page_style": RUN,
    "tfprune.export.page": CHECK,
    "tfprune.export.runtime": RUN,
    "tfprune.export.verification": CHECK,
    "tfprune.export.benchmarking": CHECK,
    "tfprune.export.inspection": CHECK,
    "tfprune.export.compression": RUN,
    "tfprune.export.report": RUN,
    "tfprune.export.process": RUN,
    "tfprune.export.demo_device": RUN,
    "tfprune.export.flatbuffer": FILE,
    "tfprune.export.structure": RUN,
    "tfprune.export.coders": RUN,
    "tfprune.export.streams": RUN,
    "tfprune.export.scales": RUN,
    "tfprune.export.packed": RUN,
    "tfprune.export.packing": RUN,
    "tfprune.export.sharing": FILE,
    "tfprune.export.editing": FILE,
    "tfprune.export.ordering": FILE,
    "tfprune.export.attachments": RUN,
    "tfprune.export.csr": RUN,
    "tfprune.export.placement": FILE,
    "tfprune.export.rewriting": FILE,
    "tfprune.export.sparse": FILE,
    "tfprune.export.steps": FILE,
    "tfprune.export.padding": FILE,
    "tfprune.export.islands": FILE,
    "tfprune.export.sequence": FILE,
    "tfprune.export.layouts": FILE,
    "tfprune.export.xnnpack": FILE,
    "tfprune.export.inference": CHECK,
    "tfprune.export.candidates": CHECK,
    "tfprune.export.existing": CHECK,
    "tfprune.export.calibration": BUILD,
    "tfprune.export.signature": BUILD,
    "tfprune.export.convert": BUILD,
    "tfprune.flat": LAYERS,
    "tfprune.export.window": BUILD,
    "tfprune.export.passing": BUILD,
    "tfprune.export.vectors": BUILD,
    "tfprune.export.facing": BUILD,
    "tfprune.export.mirror": BUILD,
    "tfprune.export.eligibility": BUILD,
    "tfprune.export.pipeline": BUILD,
    "tfprune.export.timing": BUILD,
    "tfprune.export.demo": BUILD,
    "tfprune.export.cli": COMMAND,
    "tfprune.export.loading": COMMAND,
}
# Planned modules may be missing; all others have to exist.
PLANNED = {"tfprune.export.compression"}

# What of other people's a group may import when it is imported, and what besides inside functions.
AT_IMPORT = {
    PURE: {"numpy"},
    LAYERS: {"numpy", "keras"},
    WRAPPER: {"numpy", "keras"},
    MODEL: {"numpy", "keras"},
    FIT: {"numpy", "keras"},
    RUN: {"numpy"},
    FILE: {"numpy"},
    CHECK: {"numpy"},
    BUILD: {"numpy", "keras", "sklearn", "matplotlib"},
    COMMAND: {"numpy"},
    NAMES: set(),
}
INSIDE = {
    MODEL: {"matplotlib"},
    FIT: {"matplotlib"},
    FILE: {"ai_edge_litert", "flatbuffers"},
    BUILD: {"tensorflow"},
    COMMAND: {"keras", "rich"},
}
# What runs where neither Keras nor TensorFlow is installed.
DEVICE_HALF = {PURE, RUN, FILE, CHECK}
# The command line opens every other module, each when its command is called.
INSIDE_GROUPS = {COMMAND: {BUILD, LAYERS, WRAPPER, NAMES}}


def module_names() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.glob("*.py")):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


MODULES = module_names()


def _imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    # `from tfprune import criteria` imports a module, `from tfprune import Pruned` a name of the package.
    base = node.module or ""
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]


def imports(tree: ast.AST, *, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield each imported module, and whether it is imported inside a function only; types alone do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((name, lazy) for name in _imported(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imports(ast.Module(node.orelse, []), lazy=lazy)
        else:
            yield from imports(node, lazy=lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
OURS = {name: {other for other, _ in imports(tree) if other in MODULES} for name, tree in TREES.items()}
EVERY = pytest.mark.parametrize("name", MODULES)


def _foreign(name: str) -> dict[str, bool]:
    """Return the packages of others that a module imports, and whether only inside functions."""
    found: dict[str, bool] = {}
    for other, lazy in imports(TREES[name]):
        package = other.partition(".")[0]
        if package not in sys.stdlib_module_names and package != "tfprune":
            found[package] = found.get(package, True) and lazy
    return found


@EVERY
def test_every_module_is_in_the_table(name):
    assert name in GROUP, (
        f"{name} is new: add it to GROUP in tests/test_architecture.py, to the group whose imports it needs, and to "
        f"the tree in CONTRIBUTING.md"
    )


def test_the_table_names_no_module_that_is_gone():
    gone = sorted(set(GROUP) - set(MODULES) - PLANNED)
    assert not gone, f"no longer there: take {', '.join(gone)} out of GROUP in tests/test_architecture.py"


@EVERY
def test_imports_point_down(name):
    group = GROUP[name]
    for other, lazy in imports(TREES[name]):
        if other.partition(".")[0] == "tfprune":
            assert other in MODULES, f"{name} imports {other}, which is no module of the package"
            allowed = {group} | BELOW[group] | (INSIDE_GROUPS.get(group, set()) if lazy else set())
            assert GROUP[other] in allowed, f"{name} ({group}) may not import {other} ({GROUP[other]})"


@EVERY
def test_packages_of_others(name):
    group = GROUP[name]
    for package, lazy in _foreign(name).items():
        allowed = AT_IMPORT[group] | (INSIDE.get(group, set()) if lazy else set())
        where = "inside a function" if lazy else "when it is imported"
        assert package in allowed, f"{name} ({group}) may not import {package} {where}"


def test_no_cycles():
    assert len(list(TopologicalSorter(OURS).static_order())) == len(MODULES)


@EVERY
def test_the_training_half_never_imports_the_export_half(name):
    if not name.startswith("tfprune.export"):
        assert not [other for other in OURS[name] if other.startswith("tfprune.export")]


@pytest.mark.parametrize("name", [name for name in MODULES if GROUP.get(name) in DEVICE_HALF])
def test_the_device_half_reaches_neither_keras_nor_tensorflow(name):
    reached, ahead = set(), [name]
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            ahead += OURS[module]
    packages = {package for module in reached for package in _foreign(module)}
    assert not packages & {"keras", "tensorflow"}


def _calls(name: str) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]


@EVERY
def test_no_private_names_of_keras(name):
    assert "keras.src" not in MODULES[name].read_text(encoding="utf-8")


@EVERY
def test_only_the_command_line_prints(name):
    assert GROUP[name] == COMMAND or "print" not in _calls(name)


@EVERY
def test_errors_are_caught_by_name(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            assert caught not in ("", "Exception", "BaseException"), f"{name}, line {node.lineno}: except {caught}:"


@EVERY
def test_no_code_is_run_from_a_file(name):
    assert not {"eval", "exec", "compile"} & set(_calls(name))
    assert not {"pickle", "marshal", "shelve", "dill"} & {
        other.partition(".")[0] for other, _ in imports(TREES[name])
    }
    assert "allow_pickle=True" not in ast.unparse(TREES[name])


@EVERY
def test_modules_and_functions_stay_small(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 350, f"{name} holds two ideas: split it"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            code = node.body[1:] if ast.get_docstring(node) else node.body
            lines = code[-1].end_lineno - code[0].lineno + 1 if code else 0
            assert lines <= 40, f"{name}.{node.name} fits no screen: {lines} lines"


@EVERY
def test_public_functions_take_two_positional_arguments_at_most(name):
    for node in TREES[name].body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            positional = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            assert len(positional) <= 2 or (name, node.name) in MORE, f"{name}.{node.name}({', '.join(positional)})"


# Inside the library, where every caller passes all of them; and what has to take the arguments that tfmot takes.
MORE = {
    ("tfprune.flow", "placed"),
    ("tfprune.ranking", "keep_best"),
    ("tfprune.selection", "selector"),
    ("tfprune.spec", "resolve"),
    ("tfprune.allocation", "allocate"),
    ("tfprune.scan", "sensitivity"),
    ("tfprune.rounds", "prune_to"),
    ("tfprune.reconstruction", "reconstruct"),
    ("tfprune.tfmot_wrapper", "pattern_of"),
    ("tfprune.tfmot", "prune_low_magnitude"),
}


def test_a_lazy_import_and_a_type_are_told_apart():
    source = """
import a
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import b
else:
    import c
class Thing:
    import d
    def method(self):
        import e
try:
    import f
except ImportError:
    import g
"""
    found = dict(imports(ast.parse(source)))
    assert found == {"a": False, "typing": False, "c": False, "d": False, "e": True, "f": False, "g": False}
