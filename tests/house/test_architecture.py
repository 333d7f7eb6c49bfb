"""Who may import whom, by wings and rooms, and the house rules that a syntax tree can show; each rule is one test."""

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
from public_names import DOORS

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = {"tfprune": ROOT / "tfprune", "tfprune.export": ROOT / "export"}

# A module imports from its own wing and from the wings before it; not across `|`, and nothing of Keras before `‖`.
WINGS = {
    "tfprune": (
        "report base · schedules patterns allocation criteria · solving ‖ keras_models · masking · quantizing | "
        "compact · methods | tfmot"
    ),
    "tfprune.export": (
        "file · device · comparing · micro · rewriting · pruning ‖ keras_side · compressing · command_line"
    ),
}
# The same of the rooms and modules in a wing.
ROOMS = {
    "tfprune.base": (
        "warn_user spec classes groups limit axes top_k lazy streams coders untrusted run_folder html progress"
    ),
    "tfprune.keras_models": "models · tasks · copying · tracing · evidence | channels",
    "tfprune.masking": "wrapping · training | permuting",
    "tfprune.compact": "same_class · reconstruction · shrinking · fine_tuning · vocabulary narrowing",
    "tfprune.methods": (
        "rule_mining · growth | concepts | experts | moments | few_shot · one_shot | federated · federated_masks · "
        "federated_flower"
    ),
    "tfprune.export.file": "report model_card trailing_archive · tflite · files · xnnpack · inspecting",
    "tfprune.export.device": (
        "board interpreter · processes · generating · running · embedder | remote demo_device web"
    ),
    "tfprune.export.rewriting": (
        "shapes · weights · add_metadata share_weights sparsify · export_report file_form · forms · target · rewrite"
    ),
    "tfprune.export.pruning": (
        "layers · sampling pruning_goal prune_tflite_report · compare_outputs · apart "
        "prune_in_order · pruning_job · prune_tflite | shrinking"
    ),
    "tfprune.export.keras_side": "sparse_ready | preparing · converting · generating · loading",
    "tfprune.export.compressing": "trials · goal search_policy search_loop · results · search search_limit compress",
    "tfprune.export.command_line": "saved_models demo · commands · cli",
}
# What the device half uses of the other half.
OF_BASE = (
    *("spec", "classes", "groups", "limit", "lazy", "html", "streams", "coders", "untrusted"),
    "progress",
)
OF_SOLVING = (
    *(
        "alps",
        "brain_surgery",
        "dependency_graph",
        "least_squares",
        "rounding",
        "split_by_error",
        "weight_masks",
        "zero_solver",
    ),
)
OF_BOTH = {
    "tfprune.report",
    "tfprune.patterns",
    *(f"tfprune.base.{name}" for name in OF_BASE),
    *(f"tfprune.solving.{name}" for name in OF_SOLVING),
}

# What of other people's may be imported inside functions, by the start of the module's name.
INSIDE = {
    "tfprune.report": {"matplotlib"},
    "tfprune.methods.federated_flower.masked_client": {"flwr"},
    "tfprune.keras_models.evidence.hessian_gradients": {"tensorflow", "jax", "torch"},
    "tfprune.methods.few_shot.maml": {"tensorflow"},
    "tfprune.masking.training": {"matplotlib"},
    "tfprune.export.file.tflite": {"ai_edge_litert", "flatbuffers"},
    "tfprune.export.file.files.metadata_format": {"flatbuffers"},
    "tfprune.export.compressing.results.optuna_study": {"optuna"},
    "tfprune.export.device.generating": {"sentencepiece", "tokenizers"},
    "tfprune.export.keras_side.generating": {"tensorflow", "litert_lm_builder"},
    "tfprune.export.micro": {"tflite_micro", "ethosu"},
    "tfprune.export.pruning": {"PIL"},
    "tfprune.export.keras_side.preparing": {"tensorflow"},
    "tfprune.export.keras_side.converting": {"tensorflow"},
    "tfprune.export.keras_side.loading": {"keras"},
    "tfprune.export.command_line.demo": {"tensorflow"},
    "tfprune.export.command_line.commands": {"rich", "shtab"},
}
AT_IMPORT = {
    "tfprune.export.command_line.demo": {"sklearn", "matplotlib"},
    "tfprune.methods.federated_flower.masked_fed_avg": {"flwr"},
}
MOST_WINGS, MOST_BOXES, MOST_ROOMS, MOST_MODULES = 9, {"tfprune": 14, "tfprune.export": 9}, 10, 15
MOST_FILES, LONGER = 15, {"PruningCallback": 16, "sensitivity": 17, "to_tflite": 19, "inspect": 22}
LONGER["prune_to"] = 32  # it goes through all rooms of its wing, round by round
LONGER["plan_transformer"] = 29  # it tries what four other public functions remove
LONGER["compress"] = 17  # a goal, a loop, trials, blocks and the page of what was found
LONGER["to_embedder"] = LONGER["to_tflite"] + 3  # which it calls, with the tokenizer
LONGER["TrainingCost"] = LONGER["PruningCallback"] + 1  # which it reads
MOST_LINES_OF_A_MODULE, MOST_LINES_OF_A_FUNCTION = 300, 60


def module_names() -> dict[str, Path]:
    modules = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            modules[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return modules


MODULES = module_names()
FACADES = {"tfprune", "tfprune.export", *(f"tfprune.{door}" for door in DOORS)}  # names of what stands elsewhere
OFFERING = {"tfprune.criteria", "tfprune.tfmot"}  # folders whose names are public
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def half_of(name: str) -> str:
    return "tfprune.export" if name.split(".")[:2] == ["tfprune", "export"] else "tfprune"


def wing_of(name: str) -> str:
    """Return the wing of a module: a folder or module at the top of its half; empty for the half itself."""
    return name.removeprefix(half_of(name)).lstrip(".").partition(".")[0]


def room_of(name: str) -> str:
    """Return the room of a module in its wing: a folder or module; empty for the wing itself."""
    return name.removeprefix(f"{half_of(name)}.{wing_of(name)}").lstrip(".").partition(".")[0]


def places(line: str) -> list[str]:
    return re.findall(r"\w+", line)


def strangers(line: str) -> set[frozenset[str]]:
    """Return the pairs that stand side by side on a line, and do not know each other."""
    apart = [places(step) for step in re.split("[·‖]", line) if "|" in step]
    return {frozenset([left, right]) for step in apart for left in step for right in step if left != right}


def is_pure(name: str) -> bool:
    """Tell whether a module stands before the wall, behind which Keras may be imported."""
    return wing_of(name) in ["", *places(WINGS[half_of(name)].partition("‖")[0])]


def is_command(name: str) -> bool:
    """Tell whether a module opens what it needs only when a command is called."""
    return name.startswith("tfprune.export.") and (
        name == "tfprune.export.keras_side.loading"
        or (wing_of(name) == "command_line" and room_of(name) in ("", "commands", "cli"))
    )


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


OURS = {name: {other for other, _ in imports(tree) if other in MODULES} for name, tree in TREES.items()}


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


def _folder(half_or_wing: str) -> Path:
    path = MODULES[half_or_wing]
    assert path.stem == "__init__", f"{half_or_wing} is not a folder"
    return path.parent


def _inside(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")} | {
        path.stem for path in folder.glob("*.py") if path.stem not in ("__init__",)
    }


@pytest.mark.parametrize("half", WINGS)
def test_the_wings_of_the_line_are_those_of_the_folder(half):
    facades = {wing_of(name) for name in FACADES}
    assert _inside(_folder(half)) - facades == set(places(WINGS[half])), "a new wing takes its place on the line"


def test_the_rooms_of_the_lines_are_those_of_the_folders():
    wrong = {wing: _inside(_folder(wing)) ^ set(places(line)) for wing, line in ROOMS.items()}
    assert not {wing: names for wing, names in wrong.items() if names}, "a new room takes its place on its line"


def test_contributing_prints_the_lines():
    text = " ".join(CONTRIBUTING.split())
    assert [line for line in [*WINGS.values(), *ROOMS.values()] if " ".join(line.split()) not in text] == []


def _refusal(name: str, other: str) -> str:
    """Return why a module may not import another one of this project; empty if it may."""
    half, wing, room = half_of(name), wing_of(name), room_of(name)
    if name in FACADES:
        return ""
    if half_of(other) != half:
        if half == "tfprune":
            return "which is of the export half"
        return "" if other in OF_BOTH or not is_pure(name) else f"the device half uses {sorted(OF_BOTH)} alone"
    if wing_of(other) != wing:
        return _not_before(WINGS[half], wing_of(other), wing)
    line = ROOMS.get(f"{half}.{wing}", "")
    return "" if not line or room_of(other) in (room, "") else _not_before(line, room_of(other), room)


def _not_before(line: str, other: str, own: str) -> str:
    order = ["", *places(line)]
    if other in order and own in order and order.index(other) < order.index(own):
        return f"{other} and {own} stand apart" if frozenset([other, own]) in strangers(line) else ""
    return f"{other} does not stand before {own}"


def test_imports_point_down():
    wrong = [
        f"{name} imports {other}: {reason}"
        for name in MODULES
        for other in sorted(OURS[name])
        if (reason := _refusal(name, other))
    ]
    assert wrong == []


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
        inside = set().union(*(packages for start, packages in INSIDE.items() if name.startswith(start)))
        for package, lazy in foreign(name).items():
            if package not in always | (inside if lazy else set()):
                wrong.append(f"{name} imports {package} {'inside a function' if lazy else 'when it is imported'}")
    assert wrong == []


def test_no_cycles():
    assert len(list(TopologicalSorter(OURS).static_order())) == len(MODULES)


@pytest.mark.parametrize("half", WINGS)
def test_few_boxes_in_a_half(half):
    folder = _folder(half)
    assert len(list(folder.glob("*/__init__.py"))) <= MOST_WINGS
    assert len(_inside(folder)) <= MOST_BOXES[half], sorted(_inside(folder))


def test_few_rooms_in_a_wing_and_few_modules_in_a_room():
    wrong = {}
    for name, path in MODULES.items():
        if path.stem == "__init__" and name not in FACADES:
            has_rooms = any(path.parent.glob("*/__init__.py"))
            count, most = len(_inside(path.parent)), MOST_ROOMS if has_rooms else MOST_MODULES
            wrong |= {name: count} if count > most else {}
    assert wrong == {}


def test_a_wing_and_a_room_say_what_they_are():
    wrong = []
    for name, path in MODULES.items():
        if path.stem == "__init__" and name not in FACADES:
            text = ast.get_docstring(TREES[name]) or ""
            if not 4 <= len(text.splitlines()) <= 16:
                wrong.append(f"{name}/__init__.py says {len(text.splitlines())} lines")
            if len(TREES[name].body) != 1 and name not in OFFERING:
                wrong.append(f"{name}/__init__.py holds more than what it is")
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


@pytest.mark.parametrize("package", ["tfprune", "tfprune.export"])
def test_a_public_name_lives_in_the_module_of_its_name(package):
    from tfprune.base.lazy import module_of

    home = importlib.import_module(package)
    for name in home.__all__:
        thing = getattr(home, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert thing.__module__.rpartition(".")[2] == module_of(name), f"{name} lives in {thing.__module__}"
            assert thing.__name__ == name


@pytest.mark.parametrize("package", [*sorted(FACADES), "tfprune.tfmot"])
def test_type_checkers_see_the_names_that_are_offered(package):
    (block,) = [node for node in TREES[package].body if isinstance(node, ast.If) and _is_for_types(node)]
    seen = {alias.asname for node in block.body for alias in getattr(node, "names", ())}
    paths = {"clustering", "experimental", "quantization", "sparsity"}  # of tfmot's names
    assert seen - paths == set(importlib.import_module(package).__all__) - {"__version__"}


def test_contributing_prints_the_tree():
    """A newcomer finds from the tree alone where something is done."""
    tree = textwrap.dedent("\n".join(tree_lines()))
    assert tree in CONTRIBUTING, f"CONTRIBUTING should print this tree:\n{tree}"


def tree_lines() -> Iterator[str]:
    """Yield the tree as CONTRIBUTING prints it: python tests/house/test_architecture.py writes it there."""
    for half, line in WINGS.items():
        yield "tfprune/" if half == "tfprune" else "export/  (installed as tfprune.export)"
        for wing in places(line):
            yield from _entry(f"{half}.{wing}", indent=2)
            for room in places(ROOMS.get(f"{half}.{wing}", "")):
                yield from _entry(f"{half}.{wing}.{room}", indent=4)


def _entry(name: str, *, indent: int) -> Iterator[str]:
    path = MODULES[name]
    is_folder = path.stem == "__init__"
    label = f"{path.parent.name}/" if is_folder else path.name
    yield f"{' ' * indent + label:<22}{ast.get_docstring(TREES[name]).splitlines()[0]}"
    if is_folder and name not in ROOMS:
        modules = sorted(module.stem for module in path.parent.glob("*.py") if module.stem != "__init__")
        yield from (f"{'':<24}{line}" for line in textwrap.wrap(" ".join(modules), 92))


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


QUIET_FOR_A_WHILE = {"tfprune.export.keras_side.preparing.saved_model"}  # TensorFlow tells of a folder that is ours


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
        if "allow_pickle=True" in ast.unparse(tree):
            wrong.append(name)
    assert wrong == []


def test_modules_and_functions_stay_small():
    wrong = []
    for name, tree in TREES.items():
        lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
        wrong += [f"{name} holds two ideas: {lines} lines"] if lines > MOST_LINES_OF_A_MODULE else []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                code = node.body[1:] if ast.get_docstring(node) else node.body
                lines = code[-1].end_lineno - code[0].lineno + 1 if code else 0
                wrong += [f"{name}.{node.name}: {lines} lines"] if lines > MOST_LINES_OF_A_FUNCTION else []
    assert wrong == []


@pytest.mark.parametrize("half", WINGS)
def test_no_name_has_two_homes(half):
    homes: dict[str, list[str]] = {}
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and half_of(name) == half:
                homes.setdefault(node.name, []).append(name)
    shared = {name: places for name, places in homes.items() if len(places) > 1 and not name.startswith("_")}
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


def _names_used(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


DEFINED = {
    name: {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for name, tree in TREES.items()
}
IMPORTED = {
    name: {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES
        for alias in node.names
    }
    for name, tree in TREES.items()
}


def own_path(module: str, function: str) -> set[str]:
    """Return the modules of its own wing that a public function leads through; the other wings are doors."""
    wing = f"{half_of(module)}.{wing_of(module)}."
    passed, ahead = set(), [(module, function)]
    while ahead:
        place = ahead.pop()
        if place in passed or place[1] not in DEFINED.get(place[0], {}):
            continue
        passed.add(place)
        for name in _names_used(DEFINED[place[0]][place[1]]):
            there = IMPORTED[place[0]].get(name, (place[0], name))
            ahead += [there] if f"{there[0]}.".startswith(wing) else []
    return {module for module, _ in passed}


@pytest.mark.parametrize("package", ["tfprune", "tfprune.export"])
def test_few_files_have_to_be_opened_to_read_a_public_function(package):
    from tfprune.base.lazy import module_of

    home, paths = importlib.import_module(package), {}
    for name in home.__all__:
        for module in (module for module in MODULES if module.rpartition(".")[2] == module_of(name)):
            if name in DEFINED[module]:
                paths[name] = len(own_path(module, name))
    assert len(paths) > 30
    assert {name: count for name, count in paths.items() if count > LONGER.get(name, MOST_FILES)} == {}


def test_public_functions_take_two_positional_arguments_at_most():
    wrong = []
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                positional = [argument.arg for argument in node.args.posonlyargs + node.args.args]
                if len(positional) > 2 and f"{name}.{node.name}" not in MORE:
                    wrong.append(f"{name}.{node.name}({', '.join(positional)})")
    assert wrong == []


# Inside the library, where every caller passes all of them; and what has to take the arguments that tfmot takes.
MORE = {
    "tfprune.solving.dependency_graph.check_fits",
    "tfprune.solving.dependency_graph.placed",
    "tfprune.keras_models.models.filters.selector",
    "tfprune.base.spec.resolve",
    "tfprune.allocation.allocate",
    "tfprune.masking.training.sensitivity.sensitivity",
    "tfprune.masking.training.learn_allocation.learn_allocation",
    "tfprune.compact.fine_tuning.prune_to.prune_to",
    "tfprune.export.comparing.damage.damage",
    "tfprune.export.compressing.compress.compress",
    "tfprune.export.pruning.prune_tflite.prune_tflite",
    "tfprune.export.pruning.shrinking.shrink_tflite.shrink_tflite",
    "tfprune.export.device.running.correct_biases.correct_biases",
    "tfprune.export.device.running.quantization_error.quantization_error",
    "tfprune.export.device.running.verify.verify",
    "tfprune.methods.concepts.concept_rules.concept_rules",
    "tfprune.compact.reconstruction.reconstruct.reconstruct",
    "tfprune.compact.fine_tuning.distilled.distilled",
    "tfprune.methods.one_shot.prune_units.prune_units",
    "tfprune.methods.one_shot.prune_weights.prune_weights",
    "tfprune.tfmot.wrapper.pattern_of",
    "tfprune.tfmot.cluster.cluster_weights",
    "tfprune.tfmot.prune.prune_low_magnitude",
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
