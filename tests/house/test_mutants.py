"""The mutants of `bench/mutants.py` change one thing each, and are the same ones after a module was merged."""

import ast
import sys
from pathlib import Path

import pytest

MODULE = '''"""A module."""
LIMIT = 3

def clip(values, low: int = 1):
    """Return -1 or 2 values."""
    if not values and low < 2:
        raise ValueError(f"Expected {1 + 2} values.")
    total = "a" + "é" * low
    total += low
    return [value for value in values if value > low], total
'''
MERGED = '"""Another module."""\n\nclass Others:\n    def first(self):\n        return 1\n\n\n' + MODULE.replace(
    "def clip", "def _clip"
)


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "bench")
        import mutants

        yield mutants
    del sys.modules["mutants"]


def found(bench, path, text):
    path.write_text(text, encoding="utf-8")
    return bench.mutants([path])


def test_each_changes_one_thing(bench, tmp_path):
    mutants = found(bench, tmp_path / "a.py", MODULE)
    assert sorted((mutant.before, mutant.after) for mutant in mutants) == sorted(
        {
            *((mutants[0].before, after) for after in ("if not values or low < 2", "if not values", "if low < 2")),
            *((mutants[0].before, after) for after in ("if values and low < 2", "if not values and low <= 2")),
            *((mutants[0].before, after) for after in ("if not values and low < 3", "if True", "if False")),
            *(("total = 'a' + 'é' * low", f"total = {after}") for after in ("'a' - 'é' * low", "'a' + 'é' / low")),
            ("total += low", "total -= low"),
            *(
                (mutants[-1].before, f"return ([value for value in values if {after}], total)")
                for after in ("value >= low", "True", "False")
            ),
        }
    )
    for mutant in mutants:
        changed = ast.unparse(ast.parse(mutant.applied(MODULE.encode())))
        assert changed != ast.unparse(ast.parse(MODULE)) and mutant.after in changed


def test_a_merged_module_has_the_same_ones(bench, tmp_path):
    before, after = found(bench, tmp_path / "a.py", MODULE), found(bench, tmp_path / "b.py", MERGED)
    assert {mutant.name for mutant in before} < {mutant.name for mutant in after}
    drawn = [mutant.name for mutant in bench.drawn(after, 8, seed=1) if mutant.function == "clip"]
    assert drawn == [mutant.name for mutant in bench.drawn(before, 8, seed=1)][: len(drawn)]
