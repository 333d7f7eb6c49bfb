"""The page about a file: what it says, that names cannot break out of it, and how a real browser lays it out."""

import functools
import http.server
import json
import re
import threading
from dataclasses import replace
from html import unescape

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from pages import WIDTHS, Elements, browse, luminances, measured_at, needs_browser

from tfprune.base.output import text
from tfprune.export.command_line.cli import main
from tfprune.export.file.inspect import _MAX_LISTED, _MAX_PICTURES, _size_text, inspect, page
from tfprune.export.file.xnnpack import OperatorRow, RewritingReport, SparseInferenceReport
from tfprune.export.keras_side.ask import sparse_inference


def file_of(names, shape=(8, 4)):
    """Pack a file with a weight of each name; every other entry is zero."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    graph.name, graph.inputs, graph.outputs, graph.tensors, graph.operators = b"main", [], [], [], []
    for place, name in enumerate(names):
        tensor, buffer = schema.TensorT(), schema.BufferT()
        values = np.arange(np.prod(shape), dtype=np.int8) % 2 * (place % 100 + 1)
        tensor.name, tensor.shape, tensor.type = name.encode(), list(shape), schema.TensorType.INT8
        buffer.data, tensor.buffer = values.astype(np.int8).view(np.uint8), len(model.buffers)
        model.buffers.append(buffer)
        graph.tensors.append(tensor)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_the_page_says_what_runs_sparse_and_why_the_rest_does_not():
    data = file_of(["kernel"])
    rows = (
        OperatorRow("conv", "CONV_2D", 0.9, sparse=True),
        OperatorRow("pool", "MAX_POOL_2D", None, False, "it leaks"),
    )
    whole = SparseInferenceReport(True, True, 0.9, 2 / 3, (), (), rows, "ARM")
    assert (
        "Runs sparse. 90.0% of the kernels that count are zero; more than 66.7%"
        in Elements(page(data, inference=whole)).text
    )
    idle = Elements(page(data, inference=replace(whole, active=False, reasons=("too few zeros",))))
    assert "Can run sparse, but does not yet." in idle.text
    assert "too few zeros" in idle.text
    wrong = Elements(page(data, inference=replace(whole, eligible=False, active=False, hazards=("pool: it leaks",))))
    assert "Runs dense." in wrong.text
    assert "Wrong outputs on ARM: pool: it leaks" in wrong.text
    assert "MAX_POOL_2D: it leaks" in wrong.text
    spread = RewritingReport(
        True, 2.4, {0.9: 2.4}, ("fix the batch",), (OperatorRow("c", "CONV_2D", 0.9, sparse=True),)
    )
    faster = replace(whole, eligible=False, active=False, reasons=("it pads one side",), rewriting=spread)
    found = Elements(page(data, inference=faster)).text
    assert "rewritten by optimize=latency: yes: about 2.4 times as fast" in found
    assert "change: fix the batch" in found and "pads one side" not in found and "MAX_POOL_2D" not in found
    assert "Sparse kernels" not in Elements(page(data)).text


@pytest.mark.parametrize("name", ["dense", "int8", "int8_float_io", "two", "tokens"])
def test_the_page_says_what_inspect_says(cases, name):
    report, elements = inspect(cases[name].path), Elements(page(cases[name].path))
    assert f"{name}.tflite" in elements.text
    assert f"{report.size:,}" in elements.text
    for row in report.rows:
        assert unescape(text(row.name)) in elements.text
        assert f"{row.sparsity:.1%} zeros" in elements.text
        for coding in row.codings:
            assert _size_text(coding.bytes) in elements.text
    for info in (*report.inputs, *report.outputs):
        assert info.name in elements.text
    assert all(name in elements.text for name in report.ops)
    assert len(elements.all("details")) == len(report.rows)


def test_the_page_needs_nothing_besides_itself(cases):
    content = page(cases["int8"].path)
    elements = Elements(content)
    addresses = [
        value for _, attributes in elements.found for key, value in attributes.items() if key in ("src", "href")
    ]
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "http" not in content.replace("http-equiv", "")
    assert "url(" not in content
    assert not elements.all("script")
    assert "default-src 'none'" in next(tag["content"] for tag in elements.all("meta") if "http-equiv" in tag)


def test_pictures_and_tables_can_be_heard(cases):
    elements = Elements(page(cases["dense"].path))
    assert all(attributes["alt"].strip() for attributes in elements.all("img"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in elements.all("th"))
    bars = [attributes for attributes in elements.all("span") if attributes.get("class") == "bar"]
    assert bars
    assert all(attributes.get("aria-hidden") == "true" for attributes in bars)
    assert elements.all("html") == [{"lang": "en"}]


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</style></details></main><h1>gone</h1>",
    "<!-- ",
    "&lt;b&gt;",
    "back\u202ewards\x00\x07",
    "<" * 5000,
]


def inference_of(names):
    rows = tuple(OperatorRow(name, name, 0.5, sparse=False, reason=f"because of {name}") for name in names)
    return SparseInferenceReport(False, False, 0.5, 2 / 3, tuple(names), tuple(names), rows, "ARM")


def test_names_stay_text():
    plain, hostile = (
        Elements(page(file_of(names), inference=inference_of(names))) for names in (["w"] * len(HOSTILE), HOSTILE)
    )
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert {key for _, attributes in hostile.found for key in attributes} == {
        key for _, attributes in plain.found for key in attributes
    }
    assert "<script>alert(1)</script>" in hostile.text
    assert "&lt;b&gt;" in hostile.text
    assert "\u202e" not in hostile.text
    assert len(page(file_of(HOSTILE))) < len(page(file_of(["w"] * len(HOSTILE)))) + 20_000


def test_a_file_with_many_weights_has_a_page_of_bounded_size():
    names = [f"layer_{place}/" + "name" * 40 for place in range(_MAX_LISTED + 300)]
    content = page(file_of(names, shape=(32, 32)))
    elements = Elements(content)
    assert len(elements.all("details")) == _MAX_LISTED
    assert len(elements.all("figure")) == _MAX_PICTURES
    assert "And 300 smaller ones" in elements.text
    assert len(content) < 2.5e6


def test_a_file_without_weights_has_a_page():
    assert "holds no weights" in page(file_of([]))


def test_the_command_writes_the_page_whole_or_not_at_all(cases, tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["inspect", str(cases["dense"].path), "--html", str(target), "--json"]) == 0
    right = page(cases["dense"].path, inference=sparse_inference(cases["dense"].path))
    assert target.read_text(encoding="utf-8") == right
    assert json.loads(capsys.readouterr().out) == inspect(cases["dense"].path).as_dict()
    assert main(["inspect", str(cases["dense"].path), "--html", str(tmp_path / "missing" / "page.html")]) == 2
    assert main(["inspect", str(tmp_path / "none.tflite"), "--html", str(target)]) == 2
    assert target.read_text(encoding="utf-8") == right


def test_sizes_have_three_digits():
    sizes = {0: "0 B", 999: "999 B", 1000: "1.00 kB", 9_996: "10.0 kB", 99_960: "100 kB", 999_600: "1.00 MB"}
    assert {count: _size_text(count) for count in sizes} == sizes
    assert _size_text(16_863_552) == "16.9 MB"


@needs_browser
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nothing_sticks_out_of_the_window(tmp_path, width):
    names = ["conv/kernel", "no_place_to_break_" * 9, "\u00e4\u4e2d" * 60, *HOSTILE]
    content = page(file_of(names, shape=(300, 1, 1, 70)), inference=inference_of(names))
    measured = measured_at(width, content, tmp_path)
    assert measured["wide"] == []
    assert measured["needed"] <= measured["seen"] <= width
    assert measured["pictures"]
    assert measured["letters"] >= 13


class Asked(http.server.BaseHTTPRequestHandler):
    """Notes what a browser asks for."""

    def __init__(self, asked, *arguments):
        self.asked = asked
        super().__init__(*arguments)

    def do_GET(self):
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *arguments):
        pass


@needs_browser
def test_no_request_leaves_the_page_even_if_a_name_broke_out(tmp_path):
    asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Asked, asked)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        bait = f'<img src="{address}/image"><link rel="stylesheet" href="{address}/style">'
        bait += f'<script src="{address}/code"></script>'
        content = page(file_of([bait]))
        broken = content.replace("<main>", f"<main>{bait}")
        browse(tmp_path, content, "--dump-dom")
        browse(tmp_path, broken, "--dump-dom")
        assert asked == []
        browse(tmp_path, re.sub("<meta http-equiv[^>]*>", "", broken), "--dump-dom")
        server.shutdown()
    assert set(asked) >= {"/image", "/style", "/code"}  # so the silence above means something


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_in_dark(tmp_path, scheme):
    content = page(file_of(["kernel"]))
    texts, paper = luminances(content, tmp_path, scheme=scheme)
    assert (paper < 0.5) == (scheme == "dark")
    assert all((max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5 for ink in texts)
