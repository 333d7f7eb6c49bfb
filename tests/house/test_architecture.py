"""The house: the order of modules, who may import whom, and rules that a syntax tree can show; one test each."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = {"tfprune": ROOT / "tfprune", "tfprune.export": ROOT / "export"}

# Modules and folders in the order in which they may import: what stands earlier, and nothing of Keras before `‖`.
HALVES = {
    "tfprune": (
        "report base schedules patterns allocation facts criteria solving ‖ models gradients evidence channels "
        "masking quantizing compact methods tfmot"
    ),
    "tfprune.export": "file device micro comparing rewriting pruning ‖ keras_side compressing command_line",
}
ORDER = {
    "tfprune.base": "arrays spec folders limit output",
    "tfprune.solving": "least_squares surgery zeros dependency_graph",
    "tfprune.models": "anatomy graph training by_attributes twin in_place tracing tasks",
    "tfprune.channels": "graph rules groups",
    "tfprune.masking": "pruned strip wrap permute_channels grow update_masks callback sensitivity",
    "tfprune.quantizing": "quantized quantize_aware",
    "tfprune.compact": ("linear_map smaller shrink rank plan reconstruct trainer prune_to vocabulary narrow"),
    "tfprune.methods": "moments rule_mining growth concepts experts few_shot one_shot federated",
    "tfprune.methods.growth": "blocks change",
    "tfprune.methods.concepts": "rules plan",
    "tfprune.methods.experts": "experts change",
    "tfprune.methods.few_shot": "learners prune",
    "tfprune.methods.one_shot": "removal prune_weights prune_units plan_transformer",
    "tfprune.methods.federated": "averages update masked_model masks flower",
    "tfprune.tfmot": "prune quantize",
    "tfprune.export.file": ("schema report sparse_tensors reader document container xnnpack model_file inspect"),
    "tfprune.export.device": (
        "processes runner writer_file verify benchmark quantization_error generator web remote"
    ),
    "tfprune.export.comparing": "damage_report damage gate",
    "tfprune.export.micro": "interpreter memory reports micro",
    "tfprune.export.rewriting": (
        "edge_quantizer_child shapes frozen phases planner sparse_convolutions sparsify weights share_weights "
        "rewrite trainer"
    ),
    "tfprune.export.pruning": "pieces layers samples prune channels shrink",
    "tfprune.export.keras_side": (
        "sparse_ready prepare stablehlo convert to_tflite ask language_model to_generator trainable_forms to_trainer "
        "loading"
    ),
    "tfprune.export.compressing": "trials evaluate policy report compress",
    "tfprune.export.command_line": "options saved_models demo commands file_commands cli",
}
APART = "growth concepts experts few_shot one_shot federated"  # methods, which do not know each other
SHARED_METHODS = {("one_shot", "growth"), ("one_shot", "experts")}  # a plan that tries what both remove

# What of other people's may be imported, inside functions and when a module is imported.
INSIDE = {
    "tfprune.report": {"matplotlib"},
    "tfprune.gradients": {"tensorflow", "jax", "torch"},
    "tfprune.masking.sensitivity": {"matplotlib"},
    "tfprune.methods.few_shot.learners": {"tensorflow"},
    "tfprune.export.file.schema": {"ai_edge_litert"},
    "tfprune.export.file.document": {"flatbuffers"},
    "tfprune.export.device.writer_file": {"sentencepiece", "tokenizers"},
    "tfprune.export.comparing.gate": {"tomli"},
    "tfprune.export.micro.interpreter": {"tflite_micro"},
    "tfprune.export.micro.reports": {"ethosu"},
    "tfprune.export.pruning.samples": {"PIL"},
    "tfprune.export.keras_side.prepare": {"tensorflow"},
    "tfprune.export.keras_side.stablehlo": {"jax", "litert_converter"},
    "tfprune.export.keras_side.convert": {"tensorflow"},
    "tfprune.export.keras_side.to_tflite": {"tensorflow", "jax"},
    "tfprune.export.keras_side.to_generator": {"tensorflow"},
    "tfprune.export.keras_side.to_trainer": {"tensorflow"},
    "tfprune.export.keras_side.language_model": {"litert_lm_builder"},
    "tfprune.export.keras_side.loading": {"keras"},
    "tfprune.export.compressing.report": {"optuna"},
    "tfprune.export.command_line.options": {"shtab"},
    "tfprune.export.command_line.file_commands": {"rich"},
}
AT_IMPORT = {
    "tfprune.export.command_line.demo": {"sklearn", "matplotlib"},
    "tfprune.methods.federated.flower": {"flwr"},
}
# What the device half uses of the other half.
OF_BOTH = ("report", "patterns", "base", "solving")

MOST_MODULES, LEAST_SHARE = 140, 0.75
MOST_LINES, MOST_LINES_OF_A_FUNCTION, FEW_LINES = 1000, 60, 150


class ByModule(Mapping):
    """What is read from each module, when it is first asked for: workers that run other tests read nothing."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = cache(read)

    def __getitem__(self, name: str) -> Any:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


def module_names() -> dict[str, Path]:
    modules = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            modules[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return modules


MODULES = module_names()
DOORS = ("concepts", "experts", "federated", "few_shot", "growth", "research", "transformers")
FACADES = {"tfprune", "tfprune.export", "tfprune.tfmot", *(f"tfprune.{name}" for name in DOORS)} & MODULES.keys()
TREES = ByModule(lambda name: ast.parse(MODULES[name].read_text(encoding="utf-8")))


def half_of(name: str) -> str:
    return "tfprune.export" if name.split(".")[:2] == ["tfprune", "export"] else "tfprune"


def places(line: str) -> list[str]:
    return re.findall(r"\w+", line)


def top_of(name: str) -> str:
    return name.removeprefix(half_of(name)).lstrip(".").partition(".")[0]


def is_pure(name: str) -> bool:
    """Tell whether a module stands before the wall, behind which Keras may be imported."""
    return top_of(name) in ["", *places(HALVES[half_of(name)].partition("‖")[0])]


def is_command(name: str) -> bool:
    """Tell whether a module imports what it needs only when a command is called."""
    commands = ("command_line", "command_line.cli", "command_line.options")
    commands += ("command_line.commands", "command_line.file_commands", "keras_side.loading")
    return name.removeprefix("tfprune.export.") in commands


def imports(tree: ast.AST, *, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield each imported module, and whether it is imported inside a function only; types alone do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((name, lazy) for name in _imported(node))
        elif isinstance(node, ast.If) and _is_for_types(node):
            yield from imports(ast.Module(node.orelse, []), lazy=lazy)
        else:
            yield from imports(node, lazy=lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    # `from tfprune import criteria` imports a module, `from tfprune import Pruned` a name of the package.
    base = node.module or ""
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]


def _is_for_types(node: ast.If) -> bool:
    return ast.unparse(node.test) == "TYPE_CHECKING"


OURS = ByModule(lambda name: {other for other, _ in imports(TREES[name]) if other in MODULES} - {name})


@cache
def foreign(name: str) -> dict[str, bool]:
    """Return the packages of others that a module imports, and whether only inside functions."""
    is_lazy: dict[str, bool] = {}
    for other, lazy in imports(TREES[name]):
        package = other.partition(".")[0]
        if package not in sys.stdlib_module_names and package != "tfprune":
            is_lazy[package] = is_lazy.get(package, True) and lazy
    return is_lazy


def calls(name: str) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]


def inside(folder: str) -> set[str]:
    """Return the modules and folders in a folder, but for facades."""
    path = MODULES[folder].parent
    names = {file.parent.name for file in path.glob("*/__init__.py")} | {file.stem for file in path.glob("*.py")}
    return {name for name in names - {"__init__"} if f"{folder}.{name}" not in FACADES or name == "tfmot"}


def test_the_orders_are_those_of_the_folders():
    wrong = {folder: inside(folder) ^ set(places(line)) for folder, line in {**HALVES, **ORDER}.items()}
    assert not {folder: names for folder, names in wrong.items() if names}, "a new module takes its place on its line"


def test_imports_point_to_what_stands_earlier():
    """In the tree of CONTRIBUTING, a module imports from the lines above it."""
    wrong = [f"{name} imports {other}" for name in MODULES for other in sorted(OURS[name]) if not _may(name, other)]
    assert wrong == []


def _may(name: str, other: str) -> bool:
    if name in FACADES or other in ("tfprune", "tfprune.export"):
        return True
    if half_of(other) != half_of(name):
        return half_of(name) == "tfprune.export" and (not is_pure(name) or top_of(other) in OF_BOTH)
    mine, theirs = (each.removeprefix(f"{half_of(each)}.").split(".") for each in (name, other))
    folder = half_of(name)
    while mine[0] == theirs[0] and len(mine) > 1 and len(theirs) > 1:
        folder, mine, theirs = f"{folder}.{mine[0]}", mine[1:], theirs[1:]
    order = places({**HALVES, **ORDER}[folder])
    if folder == "tfprune.methods" and {mine[0], theirs[0]} <= set(APART.split()):
        return (mine[0], theirs[0]) in SHARED_METHODS
    return mine[0] in order and theirs[0] in order and order.index(theirs[0]) < order.index(mine[0])


def test_what_is_imported_of_this_project_is_there():
    assert [
        f"{name} imports {other}"
        for name, tree in TREES.items()
        for other, _ in imports(tree)
        if other.partition(".")[0] == "tfprune" and other not in MODULES
    ] == []


def test_commands_load_when_they_are_called():
    wrong = [
        f"{name} loads {other} when it is imported"
        for name in filter(is_command, MODULES)
        for other, lazy in imports(TREES[name])
        if other in MODULES and not lazy and not is_command(other) and not is_pure(other)
    ]
    assert wrong == []


def test_packages_of_others():
    wrong = []
    for name in MODULES:
        pure = name in FACADES or is_command(name) or is_pure(name)
        always = {"numpy"} | (set() if pure else {"keras"}) | AT_IMPORT.get(name, set())
        for package, lazy in foreign(name).items():
            if package not in always | (INSIDE.get(name, set()) if lazy else set()):
                wrong.append(f"{name} imports {package} {'inside a function' if lazy else 'when it is imported'}")
    assert wrong == []


def test_the_device_half_reaches_neither_keras_nor_tensorflow():
    wrong = []
    for name in MODULES:
        if half_of(name) == "tfprune.export" and is_pure(name):
            reached, ahead = set(), [name]
            while ahead:
                module = ahead.pop()
                if module not in reached:
                    reached.add(module)
                    ahead += OURS[module]
            packages = {package for module in reached for package in foreign(module)}
            wrong += [name] if packages & {"keras", "tensorflow"} else []
    assert wrong == []


def test_the_budget_of_modules():
    """Who wants one more says which one goes. Folders' own files hold a docstring only, and do not count."""
    modules = [name for name, path in MODULES.items() if path.stem != "__init__"]
    assert len(modules) <= MOST_MODULES, f"{len(modules)} modules"


def test_a_folder_says_what_it_is():
    wrong = []
    for name, path in MODULES.items():
        if path.stem == "__init__" and name not in FACADES:
            text = ast.get_docstring(TREES[name]) or ""
            if not 3 <= len(text.splitlines()) <= 16:
                wrong.append(f"{name}/__init__.py says {len(text.splitlines())} lines")
            if len(TREES[name].body) != 1:
                wrong.append(f"{name}/__init__.py holds more than what it is")
    assert wrong == []


def _public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


PUBLIC = ByModule(lambda name: [each for each in _public_names(TREES[name]) if not each.startswith("_")])


def used_from_outside(*, by_folder: bool = False) -> set[tuple[str, str]]:
    """Return module and name of what another module, or a module of another folder, imports, or a facade offers."""
    used = set()
    for name, tree in TREES.items():
        modules = {}  # by the names that they have here
        for node in ast.walk(tree):
            for alias in node.names if isinstance(node, ast.ImportFrom) and node.module in MODULES else ():
                path = f"{node.module}.{alias.name}"
                if by_folder and name not in FACADES and MODULES[node.module].parent == MODULES[name].parent:
                    continue
                if path in MODULES:
                    modules[alias.asname or alias.name] = path
                else:
                    used.add((node.module, alias.name))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                used.add((modules[node.value.id], node.attr))
    return used


# Whose names are public as they stand: `tfprune.schedules.Polynomial`, and the rows of reports.
OFFERING = {"schedules", "patterns", "allocation", "report", "criteria", "facts"}


def is_offered(module: str, name: str) -> bool:
    if (half_of(module) == "tfprune" and top_of(module) in OFFERING) or name == "main":  # of setup.cfg
        return True
    node = next((node for node in TREES[module].body if getattr(node, "name", "") == name), None)
    bases = {ast.unparse(base) for base in node.bases} if isinstance(node, ast.ClassDef) else set()
    return bool(bases & {"Report", "Criterion"}) or any(
        "register_keras_serializable" in ast.unparse(each) for each in getattr(node, "decorator_list", ())
    )


def test_names_without_an_underscore_are_used_outside_of_their_module():
    used, rooms = used_from_outside(), defaultdict(list)
    for module, names in PUBLIC.items():
        if module not in FACADES:
            needed = [((module, name) in used) or is_offered(module, name) for name in names]
            rooms[module] += list(zip(names, needed, strict=True))
    wrong = {}
    for module, rows in rooms.items():
        idle = [name for name, is_needed in rows if not is_needed]
        if len(idle) > (1 - LEAST_SHARE) * len(rows):
            wrong[module] = idle
    assert wrong == {}


def test_no_small_module_with_a_single_user():
    users = defaultdict(set)
    for name, others in OURS.items():
        for other in others:
            users[other].add(name)
    wrong = [
        f"{name}, which {next(iter(users[name]))} uses"
        for name, path in MODULES.items()
        if path.stem != "__init__" and name not in FACADES | ALONE
        if len(users[name]) == 1 and len(path.read_text(encoding="utf-8").splitlines()) < FEW_LINES
    ]
    assert wrong == []


ALONE = {"tfprune.export.rewriting.edge_quantizer_child"}  # a program for the environment of another package


@pytest.mark.parametrize("package", sorted(FACADES))
def test_type_checkers_see_the_names_that_are_offered(package):
    (block,) = [node for node in TREES[package].body if isinstance(node, ast.If) and _is_for_types(node)]
    seen = {alias.asname for node in block.body for alias in getattr(node, "names", ())}
    paths = {"clustering", "experimental", "quantization", "sparsity", "keras", "combine"}  # of tfmot's names
    assert seen - paths == set(importlib.import_module(package).__all__) - {"__version__"}


def test_contributing_prints_the_tree():
    """A newcomer finds from the tree alone where something is done."""
    tree = textwrap.dedent("\n".join(tree_lines()))
    assert tree in CONTRIBUTING, f"CONTRIBUTING should print this tree:\n{tree}"


def tree_lines() -> Iterator[str]:
    """Yield the tree as CONTRIBUTING prints it: python tests/house/test_architecture.py writes it there."""
    for half, line in HALVES.items():
        yield "tfprune/" if half == "tfprune" else "export/  (installed as tfprune.export)"
        for top in places(line):
            yield from _entry(f"{half}.{top}", indent=2)


def _entry(name: str, *, indent: int) -> Iterator[str]:
    path = MODULES[name]
    label = f"{path.parent.name}/" if path.stem == "__init__" else path.name
    first = ast.get_docstring(TREES[name]).splitlines()[0]
    yield f"{' ' * indent}{label:<{24 - indent}} {first}"
    for inner in places(ORDER.get(name, "")):
        yield from _entry(f"{name}.{inner}", indent=indent + 2)


def test_every_sub_package_is_installed():
    listed = re.search(r"^packages =\n((?:    .*\n)+)", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.M)
    packages = {name for name, path in MODULES.items() if path.stem == "__init__"}
    assert set(listed[1].split()) == packages, "a sub-package that setup.cfg does not name is missing in the wheel"


def test_no_private_names_of_keras():
    assert [name for name, path in MODULES.items() if "keras.src" in path.read_text(encoding="utf-8")] == []


def test_no_private_names_of_other_modules():
    assert [
        f"{name}, line {node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfprune")
        if any(alias.name.startswith("_") for alias in node.names)
    ] == []


def test_only_the_command_line_prints():
    assert [name for name in MODULES if "print" in calls(name)] == ["tfprune.export.command_line.cli"]


QUIET_FOR_A_WHILE = {"tfprune.export.keras_side.prepare"}  # TensorFlow tells of a folder that is ours


def test_a_logger_has_the_name_of_its_module_and_the_user_alone_sets_levels_and_handlers():
    wrong = []
    for name in MODULES.keys() - QUIET_FOR_A_WHILE:
        called = calls(name)
        wanted = {"logging.getLogger"} | ({"logging.NullHandler"} if name == "tfprune" else set())
        others = {call for call in called if call.startswith("logging.") and call.count(".") == 1} - wanted
        misnamed = "getLogger" in str(called) and "logging.getLogger(__name__)" not in ast.unparse(TREES[name])
        sets = {call for call in called if call.endswith((".setLevel", ".addHandler"))} and name != "tfprune"
        wrong += [name] if others or misnamed or sets else []
    assert wrong == []


def test_errors_are_caught_by_name():
    assert [
        f"{name}, line {node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
    ] == []


def test_no_code_is_run_from_a_file():
    unsafe = {"pickle", "marshal", "shelve", "dill"}
    wrong = []
    for name, tree in TREES.items():
        packages = {other.partition(".")[0] for other, _ in imports(tree)}
        if {"eval", "exec", "compile"} & set(calls(name)) or unsafe & packages:
            wrong.append(name)
        if "allow_pickle=True" in MODULES[name].read_text(encoding="utf-8"):
            wrong.append(name)
    assert wrong == []


def test_modules_and_functions_have_a_bounded_length():
    wrong = []
    for name, tree in TREES.items():
        lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
        wrong += [f"{name} has {lines} lines"] if lines > MOST_LINES else []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                code = node.body[1:] if ast.get_docstring(node) else node.body
                lines = code[-1].end_lineno - code[0].lineno + 1 if code else 0
                wrong += [f"{name}.{node.name}: {lines} lines"] if lines > MOST_LINES_OF_A_FUNCTION else []
    assert wrong == []


@pytest.mark.parametrize("half", HALVES)
def test_no_name_has_two_homes(half):
    homes = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and half_of(name) == half:
                homes[node.name].append(name)
    shared = {name: where for name, where in homes.items() if len(where) > 1 and not name.startswith("_")}
    assert shared == {}


def test_no_dict_is_splatted_into_a_function_of_ours():
    """Such a call is checked neither by mypy nor by a reader; what travels together is a value with a name."""
    wrong = []
    for name, tree in TREES.items():
        ours = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        ours |= {alias.asname or alias.name for node in ast.walk(tree) for alias in _from_us(node)}
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            names = {target for node in ast.walk(function) for target in _names_of_dicts(node)}
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                splatted = {ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None}
                if splatted & names and ast.unparse(call.func).partition(".")[0] in ours:
                    wrong.append(f"{name}, line {call.lineno}: {ast.unparse(call.func)}(**{', **'.join(splatted)})")
    assert sorted(set(wrong)) == []


def _from_us(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfprune") else []


def _names_of_dicts(node: ast.AST) -> list[str]:
    """Return the names that a statement gives to a dict written on the spot."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
        return []
    is_dict = isinstance(node.value, ast.Dict) or ast.unparse(node.value).startswith("dict(")
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if is_dict and isinstance(target, ast.Name)]


def test_public_functions_take_two_positional_arguments_at_most():
    wrong = []
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                positional = [argument.arg for argument in node.args.posonlyargs + node.args.args]
                if len(positional) > 2 and node.name not in MORE:
                    wrong.append(f"{name}.{node.name}({', '.join(positional)})")
    assert wrong == []


# Inside the library, where every caller passes all of them; and what has to take the arguments that tfmot takes.
MORE = {
    *("keep_best", "selector", "resolve", "allocate", "sensitivity", "learn_allocation", "prune_to", "damage"),
    *("compress", "prune_tflite", "shrink_tflite", "correct_biases", "quantization_error", "verify", "concept_rules"),
    *("reconstruct", "distilled", "prune_units", "prune_weights", "pattern_of", "cluster_weights", "fill", "placed"),
    *("prune_low_magnitude", "check_fits"),
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
    result = dict(imports(ast.parse(source)))
    assert result == {"a": False, "typing": False, "c": False, "d": False, "e": True, "f": False, "g": False}


if __name__ == "__main__":
    start = CONTRIBUTING.index("```\ntfprune/\n") + 4
    end = CONTRIBUTING.index("\n```", start)
    text = CONTRIBUTING[:start] + "\n".join(tree_lines()) + CONTRIBUTING[end:]
    (ROOT / "CONTRIBUTING.md").write_text(text, encoding="utf-8")
