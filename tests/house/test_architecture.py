"""Who may import whom, as two lines, and the house rules that a syntax tree can show."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = {"tfprune": ROOT / "tfprune", "tfprune.export": ROOT / "export"}

# A module imports from its own room and from the rooms before it; not across `|`, and nothing of Keras before `‖`.
STAIRS = {
    "tfprune": (
        "spec axes top_k report lazy page_style html streams coders · schedules patterns allocation criteria ‖ "
        "progress · models · run_folder · copying · opening · evidence | channels · wrapping · quantizing · "
        "resizing · reconstruction · shrinking · one_shot · concepts · experts blocks · growth · training · "
        "fine_tuning · federated · tfmot"
    ),
    "tfprune.export": (
        "report board · tflite · files · processes · running | xnnpack | inspecting · micro · rewriting · remote · "
        "demo_device ‖ "
        "sparse_ready · preparing · converting · loading · compressing · saved_models demo · commands · cli"
    ),
}
# What the device's rooms use of tfprune.
OF_BOTH = {f"tfprune.{name}" for name in ("spec", "report", "lazy", "html", "streams", "coders")}

# What of other people's may be imported inside functions, by the start of the module's name.
INSIDE = {
    "tfprune.report": {"matplotlib"},
    "tfprune.concepts": {"sklearn"},
    "tfprune.federated.masked_client": {"flwr"},
    "tfprune.training": {"matplotlib"},
    "tfprune.export.tflite": {"ai_edge_litert", "flatbuffers"},
    "tfprune.export.compressing": {"optuna"},
    "tfprune.export.micro": {"tflite_micro", "ethosu"},
    "tfprune.export.preparing": {"tensorflow"},
    "tfprune.export.converting": {"tensorflow"},
    "tfprune.export.demo": {"tensorflow"},
    "tfprune.export.commands": {"rich", "shtab"},
    "tfprune.export.loading": {"keras"},
}
AT_IMPORT = {"tfprune.export.demo": {"sklearn", "matplotlib"}, "tfprune.federated.masked_fed_avg": {"flwr"}}


def _steps(line: str) -> list[list[str]]:
    """Return the rooms of each step."""
    return [step.split() for step in re.split("[·‖]", line.replace("|", " "))]


def _rooms(half: str) -> list[str]:
    return [room for step in _steps(STAIRS[half]) for room in step]


def _pure(half: str) -> list[str]:
    return [room for step in _steps(STAIRS[half].partition("‖")[0]) for room in step]


def _strangers(half: str) -> set[frozenset[str]]:
    """Return the pairs of rooms that stand on one step and do not know each other."""
    steps = re.split("[·‖]", STAIRS[half])
    apart = [step.replace("|", " ").split() for step in steps if "|" in step]
    return {frozenset([one, other]) for step in apart for one in step for other in step if one != other}


def module_names() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = module_names()


def half_of(name: str) -> str:
    return "tfprune.export" if name.split(".")[:2] == ["tfprune", "export"] else "tfprune"


def room_of(name: str) -> str:
    """Return the room of a module: its folder, or itself where it stands in none; empty for the package."""
    return name.removeprefix(half_of(name)).lstrip(".").partition(".")[0]


def _is_command(name: str) -> bool:
    return half_of(name) == "tfprune.export" and room_of(name) in ("commands", "loading", "cli")


COMMAND = {name for name in MODULES if _is_command(name)}  # open what they need when a command is called


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
FACADES = {"tfprune", "tfprune.export"}


def _foreign(name: str) -> dict[str, bool]:
    """Return the packages of others that a module imports, and whether only inside functions."""
    found: dict[str, bool] = {}
    for other, lazy in imports(TREES[name]):
        package = other.partition(".")[0]
        if package not in sys.stdlib_module_names and package != "tfprune":
            found[package] = found.get(package, True) and lazy
    return found


@pytest.mark.parametrize("half", STAIRS)
def test_the_rooms_of_the_line_are_those_of_the_folder(half):
    found = {room_of(name) for name in MODULES if half_of(name) == half and name != half}
    assert found == set(_rooms(half)), "a new room takes its place on the line in tests/house/test_architecture.py"


@pytest.mark.parametrize("half", STAIRS)
def test_contributing_prints_the_line(half):
    assert " ".join(STAIRS[half].split()) in " ".join(CONTRIBUTING.split())


@EVERY
def test_imports_point_down(name):
    half, room = half_of(name), room_of(name)
    order = ["", *_rooms(half)]
    for other, lazy in imports(TREES[name]):
        if other.partition(".")[0] != "tfprune":
            continue
        assert other in MODULES, f"{name} imports {other}, which is not a module of the package"
        if name in FACADES or room_of(other) == room and half_of(other) == half:
            continue
        if half_of(other) == half:
            assert order.index(room_of(other)) < order.index(room), (
                f"{name} may not import {other}, which stands above"
            )
            assert frozenset([room, room_of(other)]) not in _strangers(half), f"{name} may not import {other}"
        elif half == "tfprune.export" and room in _pure(half):
            assert other in OF_BOTH, f"{name} is of the device half, which uses {OF_BOTH} alone. It imports {other}"
        else:
            assert half == "tfprune.export" or name in FACADES, f"{name} may not import {other}"
        light = other in COMMAND or room_of(other) in _pure(half_of(other))
        assert lazy or name not in COMMAND or light, f"{name} loads {other} when it is imported"


@EVERY
def test_packages_of_others(name):
    half, room = half_of(name), room_of(name)
    pure = name in FACADES | COMMAND or room in _pure(half)
    always = {"numpy"} | (set() if pure else {"keras"}) | AT_IMPORT.get(name, set())
    inside = set().union(*(packages for start, packages in INSIDE.items() if name.startswith(start)))
    for package, lazy in _foreign(name).items():
        allowed = always | (inside if lazy else set())
        where = "inside a function" if lazy else "when it is imported"
        assert package in allowed, f"{name} may not import {package} {where}"


def test_no_cycles():
    assert len(list(TopologicalSorter(OURS).static_order())) == len(MODULES)


def _arrows(half: str) -> set[tuple[str, str]]:
    """Return the pairs of sub-packages of which one imports the other."""
    rooms = {room_of(name) for name, path in MODULES.items() if half_of(name) == half and path.stem == "__init__"}
    return {
        (room_of(name), room_of(other))
        for name in MODULES
        for other in OURS[name]
        if half_of(name) == half_of(other) == half and {room_of(name), room_of(other)} <= rooms - {""}
        if room_of(name) not in (room_of(other), "commands")  # which open every room
    }


@pytest.mark.parametrize(("half", "most"), [("tfprune", 71), ("tfprune.export", 38)])
def test_few_arrows_between_rooms(half, most):
    assert len(_arrows(half)) <= most, sorted(_arrows(half))


@pytest.mark.parametrize("half", STAIRS)
def test_a_room_has_4_to_14_modules_and_says_what_it_is(half):
    folders = [name for name, path in MODULES.items() if path.stem == "__init__" and half_of(name) == half]
    for name in set(folders) - {half}:
        inside = [other for other in MODULES if other.startswith(f"{name}.")]
        assert 4 <= len(inside) <= 14, f"{name} has {len(inside)} modules"
        text = ast.get_docstring(TREES[name])
        assert text, f"{name}/__init__.py says nothing"
        assert 8 <= len(text.splitlines()) <= 15, f"{name}/__init__.py: {len(text.splitlines())} lines"
        assert len(TREES[name].body) == 1 or name in OFFERING, f"{name}/__init__.py holds more than what the room is"


OFFERING = {"tfprune.criteria", "tfprune.federated", "tfprune.tfmot"}  # rooms whose names are public


@EVERY
def test_the_training_half_never_imports_the_export_half(name):
    if not name.startswith("tfprune.export"):
        assert not [other for other in OURS[name] if other.startswith("tfprune.export")]


DEVICE_HALF = [
    name for name in MODULES if half_of(name) == "tfprune.export" and room_of(name) in _pure(half_of(name))
]


@pytest.mark.parametrize("name", DEVICE_HALF)
def test_the_device_half_reaches_neither_keras_nor_tensorflow(name):
    reached, ahead = set(), [name]
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            ahead += OURS[module]
    packages = {package for module in reached for package in _foreign(module)}
    assert not packages & {"keras", "tensorflow"}


@pytest.mark.parametrize("package", ["tfprune", "tfprune.export"])
def test_a_public_name_lives_in_the_module_of_its_name(package):
    from tfprune.lazy import module_of

    home = importlib.import_module(package)
    for name in home.__all__:
        thing = getattr(home, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__module__.rpartition(".")[2] == module_of(name), f"{name} lives in {thing.__module__}"
            assert thing.__name__ == name


@pytest.mark.parametrize("package", ["tfprune", "tfprune.export", "tfprune.federated", "tfprune.tfmot"])
def test_type_checkers_see_the_names_that_are_offered(package):
    (block,) = [node for node in TREES[package].body if isinstance(node, ast.If) and _is_for_types(node)]
    seen = {alias.asname for node in block.body for alias in getattr(node, "names", ())}
    paths = {"clustering", "experimental", "quantization", "sparsity"}  # of tfmot's names
    assert seen - paths == set(importlib.import_module(package).__all__) - {"__version__"}


def _is_for_types(node: ast.If) -> bool:
    return ast.unparse(node.test) == "TYPE_CHECKING"


def test_contributing_prints_the_tree():
    """A newcomer finds from the tree alone where something is done: each room, why it exists, and its modules."""
    rooms = {name: path for name, path in MODULES.items() if path.stem == "__init__" and name not in FACADES}
    for name, path in rooms.items():
        purpose = ast.get_docstring(TREES[name]).splitlines()[0]
        modules = sorted(module.stem for module in path.parent.glob("*.py") if module.stem != "__init__")
        lines = textwrap.wrap(" ".join(modules), 100)
        entry = "".join(f"                  {line}\n" for line in lines)
        expected = f"  {path.parent.name + '/':<16}{purpose}\n{entry}"
        assert expected in CONTRIBUTING, f"CONTRIBUTING should print in its tree:\n{expected}"


def test_every_sub_package_is_installed():
    listed = re.search(r"^packages =\n((?:    .*\n)+)", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.M)
    packages = {name for name, path in MODULES.items() if path.stem == "__init__"}
    assert set(listed[1].split()) == packages, "a sub-package that setup.cfg does not name is missing in the wheel"


def _calls(name: str) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]


@EVERY
def test_no_private_names_of_keras(name):
    assert "keras.src" not in MODULES[name].read_text(encoding="utf-8")


@EVERY
def test_no_private_names_of_other_modules(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfprune"):
            assert not [alias.name for alias in node.names if alias.name.startswith("_")], f"{name}: {node.lineno}"


@EVERY
def test_only_the_command_line_prints(name):
    assert name == "tfprune.export.cli" or "print" not in _calls(name)


QUIET_FOR_A_WHILE = {"tfprune.export.preparing.saved_model"}  # TensorFlow tells of a folder that is ours


@EVERY
def test_a_logger_has_the_name_of_its_module_and_the_user_alone_sets_levels_and_handlers(name):
    if name in QUIET_FOR_A_WHILE:
        return
    wanted = {"logging.getLogger"} | ({"logging.NullHandler"} if name == "tfprune" else set())
    assert {call for call in _calls(name) if call.startswith("logging.") and call.count(".") == 1} <= wanted
    assert "getLogger" not in str(_calls(name)) or "logging.getLogger(__name__)" in ast.unparse(TREES[name])
    assert not {call for call in _calls(name) if call.endswith((".setLevel", ".addHandler"))} or name == "tfprune"


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
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 300, f"{name} holds two ideas: split it"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            code = node.body[1:] if ast.get_docstring(node) else node.body
            lines = code[-1].end_lineno - code[0].lineno + 1 if code else 0
            assert lines <= 40, f"{name}.{node.name} does not fit a screen: {lines} lines"


@EVERY
def test_public_functions_take_two_positional_arguments_at_most(name):
    for node in TREES[name].body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            positional = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            assert len(positional) <= 2 or (name, node.name) in MORE, f"{name}.{node.name}({', '.join(positional)})"


# Inside the library, where every caller passes all of them; and what has to take the arguments that tfmot takes.
MORE = {
    ("tfprune.channels.ranking", "keep_best"),
    ("tfprune.models.filters", "selector"),
    ("tfprune.spec", "resolve"),
    ("tfprune.allocation", "allocate"),
    ("tfprune.training.sensitivity", "sensitivity"),
    ("tfprune.fine_tuning.prune_to", "prune_to"),
    ("tfprune.export.compressing.compress", "compress"),
    ("tfprune.concepts.concept_rules", "concept_rules"),
    ("tfprune.reconstruction.reconstruct", "reconstruct"),
    ("tfprune.tfmot.wrapper", "pattern_of"),
    ("tfprune.tfmot.cluster", "cluster_weights"),
    ("tfprune.tfmot.prune", "prune_low_magnitude"),
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
