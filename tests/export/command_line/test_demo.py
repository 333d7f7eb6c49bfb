"""What the demo prints, without running it: `make release-check` does."""

import pytest

from tfprune.export import CompressReport
from tfprune.export.compressing.trials import MeasuredFile, Recipe

pytest.importorskip("sklearn")


def test_both_tables_fit_a_terminal_of_100_columns():
    from tfprune.export.command_line.demo import DemoReport, DemoRow

    recipe = Recipe(0.49, 0.956, "unstructured", True, 1347, 1376, 1, 1e-3, 0)
    sizes = {"bytes": 344_192, "packed_bytes": 284_014, "score": 0.9711, "drop": 0.0089, "latency_ms": 0.022}
    dense, best = MeasuredFile(None, None, **sizes), MeasuredFile(recipe, "int8", **sizes)
    best = MeasuredFile(recipe, "float32", **sizes, file=f"01_{best.name.replace('int8', 'float32')}.tflite")
    goal = ("accuracy", 0.01, "size", None)
    search = CompressReport("demo-output/demo-search", *goal, dense, (best,), 8, (), (best,), 61.0)
    row = DemoRow("pruned, float32", 0.962, 84_896, 344_192, 284_014, 0.021)
    lines = str(DemoReport((row,), "ai-edge-litert 2.3.0", "demo-output", search)).splitlines()
    assert best.file.removesuffix(".tflite") in "".join(lines)
    assert "In a browser: cd demo-output && tfprune web dense-web.tfz pruned-web.tfz page" in lines
    assert max(map(len, lines)) <= 100, max(lines, key=len)
