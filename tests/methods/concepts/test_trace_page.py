"""The page about a trace: it says all that the trace says, names stay text, and a browser lays it out."""

from dataclasses import replace

import pytest
from pages import WIDTHS, Elements, luminances, measured_at, needs_browser

from tfprune.methods.concepts.plan import ConceptEvidence, ConceptTrace, KeptUnit, TracedLayer, _trace_page
from tfprune.methods.rule_mining import ConceptRule, Counts, Threshold


def made(*, name="R1: tell it", concept="dark", layer="hidden", rules=3, units=40):
    """Make a trace by hand."""
    bounds = tuple(Threshold(unit, unit % 2 == 0, unit / 7) for unit in range(12))
    counts = Counts(20, 19, 63)
    found = tuple(ConceptRule(concept, layer, bounds[: 3 + each], 100 - each, True, counts) for each in range(rules))
    evidence = (ConceptEvidence(concept, layer, tuple(range(rules)), 12, Counts(40, 38, 40), is_met=True),)
    kept = [KeptUnit(layer, unit, tuple(range(rules))) for unit in range(units - 2)]
    kept += [KeptUnit(layer, units - 2, (0,), ("conv[3]",)), KeptUnit(layer, units - 1, (), (), "so many stay")]
    layers = (TracedLayer(layer, layer, 256, units), TracedLayer("out", "out", 10, 10, "an output of the model"))
    return ConceptTrace({name: (concept,)}, 0.9, 0.8, found, layers, tuple(kept), evidence=evidence)


def test_the_page_says_what_the_trace_says(tmp_path):
    trace = made()
    trace.html(tmp_path / "trace.html")
    content = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert content == _trace_page(trace)
    elements = Elements(content)
    for rule in trace.rules:
        assert str(rule) in elements.text
    for each in trace.units:
        assert f"hidden[{each.unit}]" in elements.text
    for said in (
        "R1: tell it",
        "40 of 256",
        "so many stay",
        "tied to conv[3]",
        "an output of the model",
        "95.0% [83.1, 99.4]",
    ):
        assert said in elements.text
    anchors = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    links = [attributes["href"] for attributes in elements.all("a")]
    assert {link.removeprefix("#") for link in links} == anchors == {"rule-1", "rule-2", "rule-3"}


def test_the_page_needs_nothing_besides_itself():
    content = _trace_page(made())
    elements = Elements(content)
    assert "http" not in content.replace("http-equiv", "")
    assert "url(" not in content
    assert not elements.all("script") and not elements.all("img")
    assert "default-src 'none'" in next(tag["content"] for tag in elements.all("meta") if "http-equiv" in tag)
    assert all(attributes.get("scope") in ("row", "col") for attributes in elements.all("th"))


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</details></main><h1>gone</h1>",
    "a\u202eb\x07",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_text(name):
    plain, hostile = (Elements(_trace_page(made(name=n, concept=n, layer=n))) for n in ("plain", name))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in plain.found]
    assert "\u202e" not in hostile.text
    assert name in hostile.text or not name.isprintable()


def test_the_same_trace_is_the_same_page_and_an_empty_one_has_a_page():
    assert _trace_page(made()) == _trace_page(made())
    assert "of 0 where some may go" in Elements(_trace_page(replace(made(), layers=(), units=(), rules=()))).text


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Expected a file that can be written\. Received: .*trace\.html"):
        made().html(tmp_path / "missing" / "trace.html")


@needs_browser
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nothing_sticks_out_of_the_window(tmp_path, width):
    long = "no_place_to_break_" * 9
    content = _trace_page(made(name=long, concept=f"{long}2", layer=f"{long}3", rules=40))
    measured = measured_at(width, content, tmp_path)
    assert measured["wide"] == []
    assert measured["needed"] <= measured["seen"] <= width
    assert measured["letters"] >= 13


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_in_dark(tmp_path, scheme):
    texts, paper = luminances(_trace_page(made()), tmp_path, scheme=scheme)
    assert (paper < 0.5) == (scheme == "dark")
    assert all((max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5 for ink in texts)
