"""What a search on made-up trials says of itself: its page, its standard errors, its study of Optuna."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from pages import WIDTHS, measured_at, needs_browser
from stub_trials import DATA

from tfprune.export.compressing.report import _compress_page


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], ""

    @classmethod
    def of(cls, folder):
        page = cls()
        page.feed((folder / "report.html").read_text())
        return page

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data


def test_the_page_shows_all_files_and_runs_nothing(found):
    report, folder = found
    page = Page.of(folder)
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2
    assert page.tags.count("circle") == len(report.tried) + 2 * len(report.front)
    for file in report.front:
        assert file.file in page.words
        assert file.code in page.words
        assert f"{file.drop:+.4f}{file.test_score:.4f}" in page.words.replace("\n", "")
    assert json.loads((folder / "report.json").read_text()) == report.as_dict()


def test_the_page_shows_what_led_to_the_best_file_and_all_trials_as_a_tree(found):
    report, folder = found
    steps = report.lineage()
    assert (steps[0].recipe, steps[-1]) == (None, report.best)
    assert [step.recipe for step in steps[1:]] == list(report.best.recipe.chain)
    words = (folder / "report.html").read_text()
    tree = words.partition("All trials, each below")[2].partition("</details>")[0]
    assert tree.count("<li>") == tree.count("</li>") == 1 + report.trials
    assert tree.count("<strong>") == len(steps)
    assert all(f"{step.name}: " in tree for step in steps)


def test_the_standard_error_of_a_score_is_that_of_a_share(found):
    report, folder = found
    assert report.samples == len(DATA[0]) == 1280
    assert report.standard_error(report.dense) == pytest.approx((0.9 * 0.1 / 1280) ** 0.5)
    assert replace(report, metric="mae").standard_error(report.dense) is None
    lines = (folder / "report.html").read_text().count("stroke:var(--values);stroke-width:2")
    assert lines == 2 * len(report.front), "in the picture of bytes and in that of latency"


def test_a_search_is_a_study_of_optuna(found, tmp_path):
    optuna = pytest.importorskip("optuna")
    report, _ = found
    storage = f"sqlite:///{tmp_path}/search.db"
    report.study(storage)
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert [trial.values for trial in study.trials] == [[file.bytes, file.drop] for file in report.tried]
    assert {trial.user_attrs["file"] for trial in study.best_trials} >= {file.file for file in report.front}
    with pytest.raises(ValueError, match="without a study named"):
        report.study(storage)


@needs_browser
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_fits_a_phone_and_a_desktop(found, tmp_path, width):
    _, folder = found
    measured = measured_at(width, (folder / "report.html").read_text(), tmp_path)
    assert measured["wide"] == []
    assert measured["needed"] <= measured["seen"]
    assert measured["touching"] == []
    assert set(measured["signs"]) == {'"\u2212"'}, "what is folded has a sign, here unfolded"


@needs_browser
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("sizes", [(30_000, 30_100), (900, 8_000_000)], ids=["near", "far"])
def test_labels_of_the_page_do_not_lie_on_one_another(found, tmp_path, width, sizes):
    report = found[0]
    better = replace(report.best, bytes=sizes[0], score=0.95, drop=-0.05, latency_ms=0.5)  # far above the limit
    dense = replace(report.dense, bytes=sizes[1], latency_ms=0.501)
    report = replace(report, dense=dense, front=(better, dense), tried=(dense, better))
    page = _compress_page(report)
    assert measured_at(width, page, tmp_path)["touching"] == []
    assert "Grey:" not in page and page.count("Dashed: 0.01 lost, which is allowed.") == 2
