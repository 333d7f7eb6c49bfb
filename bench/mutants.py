"""Make small mistakes in the library, one at a time, and see whether the tests that run them notice.

    python bench/mutants.py tfprune/solving --count 30                     # rooms or modules; their tests by default
    python bench/mutants.py tfprune export --tests tests --count 300       # everything, for a night
    python bench/mutants.py tfprune export --tests tests --range 100:200   # a part; a run that ended is continued
    python bench/mutants.py tfprune export --like OTHER/build/mutants    # the same ones as in another tree
    python bench/mutants.py --compare OTHER/build/mutants build/mutants
    python bench/mutants.py tfprune/solving --own tests/solving/test_alps.py

A mutant is a changed operator, constant or condition in a function. `--seed` draws `--count` of them by the name of
the function and the text of the statement, without leading underscores, so that the same ones are drawn after modules
were merged or renamed. Everything happens in a copy of the working tree in `--folder`: the first run finds out there
which test runs which line (`--fresh` does it again for the tree as it is now, `--add` runs more tests). Later runs
add to `results.jsonl`. A mutant dies if a test fails or takes too long; before one survives, all tests of the files
in question have run; `--most` leaves out those that do not run the line, which a cache may have run before, and of
the others all but the fastest.

`--own` prints the lines of the library that no test runs except those of the files, folders or ids that follow.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# No mutants inside of these: texts of errors, names of types, positions that Python 3.11 does not know.
SKIPPED = (ast.Raise, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.JoinedStr)
SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


@dataclass(frozen=True)
class Mutant:
    """One change of a module: what it is called, and where it is."""

    function: str
    before: str
    after: str
    number: int  # among those that are equal otherwise
    path: Path
    lines: range
    segment: tuple[int, int]  # bytes of the module
    text: str

    @property
    def name(self) -> str:
        return f"{self.function}: {self.before} -> {self.after}" + (f" ({self.number})" if self.number else "")

    def applied(self, source: bytes) -> bytes:
        begin, end = self.segment
        return source[:begin] + self.text.encode() + source[end:]


def mutants(paths: Iterable[Path]) -> list[Mutant]:
    """Return all mutants of the modules."""
    found, seen = [], Counter[tuple[str, str, str]]()
    for path in paths:
        source = path.read_bytes()
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for function, statement in _statements(ast.parse(source), ()):
            before = _text(statement)
            for node, new, after in _changed(statement):
                begin = starts[node.lineno - 1] + node.col_offset
                end = starts[node.end_lineno - 1] + node.end_col_offset
                text = ast.unparse(new)
                key = (function, before, after)
                lines = range(statement.lineno, node.end_lineno + 1)
                text = text if isinstance(new, ast.stmt) else f"({text})"
                found.append(Mutant(*key, seen[key], path, lines, (begin, end), text))
                seen[key] += 1
    return found


def drawn(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return the same mutants for a seed, also if others come or go."""
    return sorted(found, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).digest())[:count]


def _statements(node: ast.AST, inside: tuple[str, ...], in_function: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield each statement of a function with the function's name."""
    for child in ast.iter_child_nodes(node):
        is_scope = isinstance(child, (*FUNCTIONS, ast.ClassDef))
        name = (*inside, child.name) if is_scope else inside
        if (
            isinstance(child, ast.stmt)
            and in_function
            and not isinstance(child, (*SKIPPED, *FUNCTIONS, ast.ClassDef))
        ):
            yield _public(".".join(inside)), child
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from _statements(child, name, isinstance(child, FUNCTIONS) if is_scope else in_function)


def _public(text: str) -> str:
    return re.sub(r"\b_+(?=[A-Za-z])", "", text)


def _text(statement: ast.stmt) -> str:
    """Return a statement without the statements inside of it."""
    kept = {name: value for name, value in ast.iter_fields(statement) if name not in ("body", "orelse", "finalbody")}
    if isinstance(statement, (ast.If, ast.While, ast.For, ast.With, ast.Try, ast.Match)):
        nodes = [each for value in kept.values() for each in (value if isinstance(value, list) else [value])]
        parts = [ast.unparse(node) for node in nodes if isinstance(node, (ast.expr, ast.withitem))]
        return _public(" ".join([type(statement).__name__.lower(), *parts]))
    return _public(ast.unparse(statement))


def _changed(statement: ast.stmt) -> Iterator[tuple[Any, ast.AST, str]]:
    """Yield a node, what it becomes, and the text of the statement then."""
    for parent, field, index, node in _expressions(statement):
        is_condition = field == "test" or (field == "ifs" and isinstance(parent, ast.comprehension))
        for new in _changes(node, is_condition and not isinstance(parent, ast.While)):
            _put(parent, field, index, new)
            yield node, new, _text(statement)
            _put(parent, field, index, node)
    if isinstance(statement, ast.AugAssign) and type(statement.op) in SWAPPED:
        new = ast.AugAssign(statement.target, SWAPPED[type(statement.op)](), statement.value)
        yield statement, new, _text(new)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _expressions(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, Any]]:
    """Yield what is inside of a statement, but not in the statements inside of it, and where it is."""
    for field, value in ast.iter_fields(node):
        if field == "annotation":
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.stmt, ast.ExceptHandler, *SKIPPED)):
                continue
            if isinstance(child, ast.expr):
                yield node, field, index, child
            yield from _expressions(child)


def _changes(node: ast.expr, is_condition: bool) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(left, [operator, *others], right):
            yield ast.Compare(left, [SWAPPED[type(operator)](), *others], right)
        case ast.BinOp(left, operator, right) if type(operator) in SWAPPED:
            yield ast.BinOp(left, SWAPPED[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(SWAPPED[type(operator)](), values)
            for index in range(len(values)):
                left = [value for at, value in enumerate(values) if at != index]
                yield ast.BoolOp(operator, left) if len(left) > 1 else left[0]
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(float() as value):
            yield ast.Constant(2 * value or 1.0)
    if is_condition:
        yield ast.Constant(True)
        yield ast.Constant(False)


class Recorder:
    """A plugin of pytest: which test runs which line, which ones pass, and after how many seconds."""

    def __init__(self, data: Path, folder: Path) -> None:
        from coverage import Coverage

        include = [f"{folder}/{name}/*" for name in ("tfprune", "export")]
        self.coverage = Coverage(data_file=str(data), include=include, config_file=False)
        self.coverage.load()
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.coverage.start()

    def pytest_runtest_setup(self, item: Any) -> None:
        self.coverage.switch_context(f"{item.nodeid}|setup")

    def pytest_runtest_call(self, item: Any) -> None:
        self.coverage.switch_context(f"{item.nodeid}|run")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def save(self, path: Path) -> None:
        self.coverage.stop()
        self.coverage.save()
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        passed = {name: seconds for name, seconds in self.seconds.items() if name not in self.failed}
        path.write_text(json.dumps(before | passed), encoding="utf-8")


class FirstFailure:
    """A plugin of pytest: writes the name of the test that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.path.write_text(report.nodeid, encoding="utf-8")


class Tree:
    """A copy of the working tree, and what its tests run.

    Args:
        folder: Where it is, or is made.
        tests: Options of pytest for the first run.
        is_fresh: If True, copy again.
        adds: If True, run `tests` also if others ran before.
    """

    def __init__(self, folder: Path, tests: list[str], *, is_fresh: bool, adds: bool) -> None:
        self.folder, self.root = folder, folder / "tree"
        self.data, self._passed = folder / "coverage", folder / "passed.json"
        if is_fresh:
            for path in (self.root, self.data, self._passed, folder / "results.jsonl"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if not self._passed.exists():
            if not self.root.exists():
                self._copy()
            self.record(tests)
        elif adds:
            self.record(tests)
        self.seconds: dict[str, float] = json.loads(self._passed.read_text(encoding="utf-8"))
        self._by_file: dict[str, list[str]] = defaultdict(list)
        for test in self.seconds:
            self._by_file[test.partition("::")[0]].append(test)

    def _copy(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        (self.root / "tfprune/export").symlink_to("../export")  # before the one that an editable installation finds

    def record(self, tests: list[str]) -> None:
        """Find out which lines some tests run, besides those that ran before."""
        print(f"running {' '.join(tests)} once", flush=True)
        code = self.forked(lambda: self._record(tests), timeout=6 * 3600)
        if not self._passed.exists():
            sys.exit(f"The tests did not run: pytest ended with {code}. See {self.folder / 'printed.txt'}.")

    def _record(self, tests: list[str]) -> int:
        recorder = Recorder(self.data, self.root)
        code = self._pytest(tests, recorder)
        recorder.save(self._passed)
        return code

    def _pytest(self, arguments: list[str], plugin: object) -> int:
        import pytest

        options = ["--rootdir", str(self.root), "-c", "setup.cfg", "-q", "-p", "no:cacheprovider"]
        return int(pytest.main([*options, *arguments], plugins=[plugin]))

    def forked(self, work: Callable[[], int], timeout: float) -> int:
        """Do it in a fork that finds the library in the copy; return its exit code, or minus a signal."""
        child = os.fork()
        if not child:
            self._become(work)
        end = time.monotonic() + timeout
        while True:
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)

    def _become(self, work: Callable[[], int]) -> None:
        code = 3
        try:
            os.setsid()  # with all that the tests start
            printed = os.open(self.folder / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(printed, 1), os.dup2(printed, 2)
            os.chdir(self.root)
            sys.path[0] = str(self.root)
            sys.dont_write_bytecode = True  # a file is mutated more than once in a second
            os.environ.update(PYTHONPATH=str(self.root), PYTHONDONTWRITEBYTECODE="1")
            code = work()
        except (Exception, SystemExit):  # noqa: BLE001 - whatever it is, the fork ends here
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def lines(self, path: Path) -> dict[int, list[str]]:
        """Return the contexts of each line of a module."""
        from coverage import CoverageData

        data = CoverageData(basename=str(self.data))
        data.read()
        return data.contexts_by_lineno(str(path))

    def tests(self, contexts: Iterable[str]) -> list[str]:
        """Return the tests that run a line; of a fixture that several may share, all tests of the file."""
        found: dict[str, None] = {}
        for context in contexts:
            test, _, phase = context.partition("|")
            found.update(dict.fromkeys([test] if phase == "run" else self.files([test])))
        return [test for test in found if test in self.seconds]

    def files(self, tests: Iterable[str]) -> list[str]:
        """Return all tests of their files."""
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        return [test for file in files for test in self._by_file[file]]

    def try_tests(self, tests: list[str]) -> tuple[str, str]:
        """Run tests, the fastest first; return how it ended, and the test that failed."""
        failed, listed = self.folder / "failed.txt", self.folder / "tests.txt"
        failed.unlink(missing_ok=True)
        listed.write_text("\n".join(sorted(tests, key=self.seconds.__getitem__)), encoding="utf-8")
        timeout = 60 + 4 * sum(self.seconds[test] for test in tests)
        code = self.forked(lambda: self._pytest(["-x", f"@{listed}"], FirstFailure(failed)), timeout)
        printed = self.folder / "printed.txt"
        is_broken = "ERROR collecting" in printed.read_text(encoding="utf-8", errors="replace")  # at an import
        if code in (3, 5) or (code == 4 and not is_broken):
            sys.exit(f"pytest ended with {code}. See {printed}.")
        by = "it took too long" if code == -signal.SIGKILL else f"exit code {code}"
        if failed.exists():
            by = failed.read_text(encoding="utf-8")
        return ("died", by) if code else ("survived", "")


def ended(tree: Tree, mutant: Mutant, *, most: int | None) -> dict[str, Any]:
    """Return how a mutant ended."""
    contexts = tree.lines(mutant.path)
    names = {name for line in mutant.lines for name in contexts.get(line, ()) if name}
    tests, source, status = tree.tests(sorted(names)), mutant.path.read_bytes(), mutant.path.stat()
    if not tests:
        return {"mutant": mutant.name, "end": "survived", "by": "no test runs it", "tests": 0}
    try:
        mutant.path.write_bytes(mutant.applied(source))
        end, by = tree.try_tests(sorted(tests, key=tree.seconds.__getitem__)[:most])
        others = [test for test in tree.files(tests) if test not in tests] if most is None else []
        if end == "survived" and others:
            end, by = tree.try_tests(others)
    finally:
        mutant.path.write_bytes(source)
        os.utime(mutant.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return {"mutant": mutant.name, "end": end, "by": by, "tests": len(tests)}


def results(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["mutant"]: row for row in map(json.loads, lines)}


def compare(before: Path, after: Path) -> int:
    """Print the mutants of both folders that one of them notices."""
    rows, others = results(before), results(after)
    common = [name for name in rows if name in others]
    for words, first, second in (("no longer dies", rows, others), ("dies now", others, rows)):
        for name in common:
            if first[name]["end"] == "died" and second[name]["end"] == "survived":
                print(f"{words}: {name}")
    for folder, each in ((before, rows), (after, others)):
        print(f"{folder}: {sum(each[name]['end'] == 'survived' for name in common)} of {len(common)} survived")
    return 0


def print_own(tree: Tree, modules: list[Path], prefixes: list[str]) -> int:
    """Print the lines of modules that only tests of these files, folders or ids run."""
    total = 0
    for path in modules:
        source = path.read_text(encoding="utf-8").splitlines()
        for line, contexts in sorted(tree.lines(path).items()):
            tests = {context.partition("|")[0] for context in contexts}
            if "" not in tests and all(test.startswith(tuple(prefixes)) for test in tests):
                print(
                    f"{path.relative_to(tree.root)}:{line}: {source[line - 1].strip()}  [{min(tests)}, {len(tests)}]"
                )
                total += 1
    print(f"{total} lines")
    return 0


def modules_of(root: Path, rooms: list[str]) -> list[Path]:
    paths = [root / room for room in rooms]
    found = [each for path in paths for each in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return [path for path in found if path.name != "__init__.py" and "tfprune/export" not in str(path)]


def tests_of(room: str) -> str:
    """Return the folder of a room's tests, or the nearest around it."""
    path = ROOT / "tests" / room.removeprefix("tfprune").strip("/")
    path = path.with_suffix("")
    while not path.is_dir():
        path = path.parent
    return str(path.relative_to(ROOT))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", help="folders or modules, such as tfprune/solving")
    parser.add_argument("--tests", nargs="+", help="what is run to find out which test runs which line")
    parser.add_argument("--marks", default="not programs and not slow", help="which of those, as pytest -m")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--range", default=":", help="which of them, such as 100:200")
    parser.add_argument("--like", type=Path, metavar="FOLDER", help="draw them from the tree in this one instead")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/mutants")
    parser.add_argument("--most", type=int, help="run at most so many tests, of those that run the line")
    parser.add_argument("--fresh", action="store_true", help="begin again with the tree as it is now")
    parser.add_argument("--add", action="store_true", help="run --tests besides those that ran before")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--own", nargs="+", metavar="TESTS", help="print the lines that only these tests run")
    return parser.parse_args()


def main() -> int:
    options = read_arguments()
    if options.compare:
        return compare(*options.compare)
    import keras  # noqa: F401  # once for all forks
    import numpy  # noqa: F401
    import pytest  # noqa: F401

    tests = options.tests or sorted({tests_of(room) for room in options.rooms})
    tree = Tree(options.folder.resolve(), [*tests, "-m", options.marks], is_fresh=options.fresh, adds=options.add)
    modules = modules_of(tree.root, options.rooms)
    if options.own:
        return print_own(tree, modules, options.own)
    begin, end = (int(number) if number else None for number in options.range.split(":"))
    here = {mutant.name: mutant for mutant in mutants(modules)}
    others = mutants(modules_of(options.like.resolve() / "tree", options.rooms)) if options.like else here.values()
    names = [mutant.name for mutant in drawn(list(others), options.count, options.seed)[begin:end]]
    chosen = [here[name] for name in names if name in here]
    before, ends = results(tree.folder), Counter[str]()
    for mutant in chosen:
        row = before.get(mutant.name)
        if row is None:
            row = ended(tree, mutant, most=options.most)
            with (tree.folder / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        ends[row["end"]] += 1
        print(f"{row['end']}\t{mutant.name}\t{row['by']}\t{row['tests']} tests", flush=True)
    print(f"{ends['survived']} of {ends.total()} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
