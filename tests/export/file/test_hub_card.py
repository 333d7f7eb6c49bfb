"""The front matter of model cards, read by the Hub's own library and by a YAML parser."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

import tfprune  # noqa: E402
from tfprune.export import CompressReport, ExportReport, SparseInferenceReport, to_tflite  # noqa: E402
from tfprune.export.compressing.trials import MeasuredFile  # noqa: E402
from tfprune.export.file.report import HubEntry, _is_hub_id, model_card  # noqa: E402
from tfprune.export.rewriting.rewrite import AccuracyDrop, Candidate  # noqa: E402

NASTY = [
    "a: b",
    "- a",
    "#1",
    "no",
    "null",
    "1e5",
    "'it''s' \"x\"",
    "{a: [b]}",
    "&a *b !c %d @e `f`",
    "---",
    "a\n---\nlicense: mit",
    "back\\slash \\n",
    "\x1b[2J \x85 \u2028 \ufeff \ud800",
    "über 漢字 \U0001f600",
    " spaces ",
    "?",
    "",
]


def front(card):
    """Return the front matter as two readers read it, which must agree."""
    data = hub.ModelCard(card).data
    raw = yaml.safe_load(card.split("---\n", 2)[1])
    assert {key: value for key, value in data.to_dict().items() if key != "model-index"} == {
        key: value for key, value in raw.items() if key != "model-index"
    }
    return data, raw


def shown(name):
    """Return a name as a card writes it: in one line, with escapes for signs that do not print."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in name)


@pytest.mark.parametrize("name", NASTY)
def test_a_name_with_signs_of_yaml_is_read_as_it_is(name):
    entry = HubEntry(license="mit", base_model="google/vit", dataset=name)
    data, raw = front(model_card(name, [], results=[("test", name, 0.5)], entry=entry))
    assert raw["license"] == "mit" and raw["base_model"] == "google/vit"
    (result,) = data.eval_results
    assert data.model_name == raw["model-index"][0]["name"] == shown(name)
    assert result.metric_type == shown(name) and result.metric_value == 0.5 and result.dataset_split == "test"
    assert result.dataset_name == result.dataset_type == shown(name) or not name


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_any_number_come_back(name, value):
    data, _ = front(model_card(name, [], results=[("validation", name, value)]))
    (result,) = data.eval_results
    assert data.model_name == result.metric_type == shown(name)
    assert isinstance(result.metric_value, float) and result.metric_value == value


@pytest.fixture
def report():
    return ExportReport(
        path="digits.tflite",
        bytes=4000,
        tflite_bytes=5000,
        nnz=100,
        size=1000,
        sparsity=0.9,
        max_abs_diff=0.01,
        tolerance=0.1,
        ops={"SOFTMAX": 1},
        candidates=(Candidate("int8", 5000, 4000, True),),
        runtime="ai-edge-litert 2.3.0",
        sparse_inference=SparseInferenceReport(False, False, 0.0, 0.5, (), (), (), ""),
        source="digits: cnn",
        lost=(AccuracyDrop("accuracy", 0.98, 0.97, 0.01), AccuracyDrop("a: b", 1.0, 1e-5, 0.0)),
    )


def test_an_export_says_what_was_measured_and_what_the_user_said(report):
    card = report.card(
        license="apache-2.0", base_model="google/mobilenet_v2", task="image-classification", dataset="mnist"
    )
    data, raw = front(card)
    assert list(raw) == ["library_name", "license", "base_model", "pipeline_tag", "tags", "metrics", "model-index"]
    assert (data.license, data.base_model, data.pipeline_tag) == (
        "apache-2.0",
        "google/mobilenet_v2",
        "image-classification",
    )
    assert data.library_name == "litert" and data.tags == ["tflite", "litert", "tfprune"]
    assert data.metrics == ["accuracy"], "the Hub knows no other name of these"
    assert [(each.metric_type, each.metric_value) for each in data.eval_results] == [
        ("accuracy", 0.97),
        ("a: b", 1e-5),
    ]
    assert {(each.task_type, each.dataset_name) for each in data.eval_results} == {("image-classification", "mnist")}
    assert hub.ModelCard(card).text.startswith("\n# digits.tflite")


def test_a_card_has_nothing_that_nobody_measured_or_said(report):
    _, raw = front(replace(report, path="digits.TFZ", lost=()).card())
    assert raw == {"library_name": "tfprune", "tags": ["tflite", "litert", "tfprune"]}, "LiteRT cannot read the file"
    _, raw = front(replace(report, lost=(AccuracyDrop("mse", 1.0, math.nan, math.nan),)).card())
    assert "model-index" not in raw and "metrics" not in raw
    (result,) = front(replace(report, lost=report.lost[:1]).card())[0].eval_results
    assert (result.task_type, result.dataset_type, result.dataset_name) == ("other", "unknown", "evaluation data")
    assert result.dataset_split is None


def test_a_searched_file_has_a_result_of_the_validation_data_and_one_of_the_test_data():
    dense = MeasuredFile(None, None, 8000, 7000, score=0.9, drop=0.0, file="01: x.tflite", test_score=0.88)
    report = CompressReport("searched", "accuracy", 0.01, "size", None, dense, (dense,), 1, (), (dense,), 9.0, "cnn")
    data, _ = front(report.card(license="mit", pictures=["damage (1).svg"]))
    assert data.model_name == "01: x.tflite" and data.license == "mit"
    results = [(each.dataset_split, each.dataset_name, each.metric_value) for each in data.eval_results]
    assert results == [("validation", "validation data", 0.9), ("test", "test data", 0.88)]
    assert "![damage (1).svg](damage%20%281%29.svg)" in report.card(pictures="damage (1).svg")


IDS = ["gpt2", "google/vit-base.p16", "a/b/c", "a--b", "a..b", ".a", "a.git", "-a", "a b", "ü", "a\n", "", "x" * 97]
IDS += ["_a", "a_", "a-/b", "datasets/x", "a/", "/a", "a" * 96 + "/" + "b" * 96]


@pytest.mark.parametrize("text", IDS)
def test_an_id_is_one_where_the_library_of_the_hub_says_so(text):
    try:
        hub.utils.validate_repo_id(text)
        is_id = True
    except hub.errors.HFValidationError:
        is_id = False
    assert _is_hub_id(text) is is_id


REFUSED = [
    ({"license": "Apache License 2.0"}, ValueError, "`license` as the Hub writes it"),
    ({"license": None}, TypeError, "`license` as text. Received: license=None"),
    ({"base_model": "my model"}, ValueError, "`base_model` as the id of a model on the Hub"),
    ({"task": "Image classification"}, ValueError, "such as 'image-classification'"),
    ({"dataset": 3}, TypeError, "`dataset` as text"),
    ({"pictures": ["/tmp/x.svg"]}, ValueError, "`pictures` as paths from the card's folder on"),
    ({"pictures": ["../x.svg"]}, ValueError, "Write the picture beside the card"),
    ({"pictures": ["http://x.y/z.svg"]}, ValueError, "`pictures`"),
    ({"pictures": [3]}, TypeError, "`pictures` as text"),
    ({"pictures": 3}, TypeError, "`pictures`"),
]


@pytest.mark.parametrize("arguments, kind, message", REFUSED)
def test_what_the_hub_would_not_read_is_refused_by_name(report, arguments, kind, message):
    with pytest.raises(kind, match=message.replace("(", r"\(")):
        report.card(**arguments)


PAGE = Path(__file__).parents[3] / "docs" / "howto" / "export_a_file.md"


@pytest.mark.programs
def test_the_calls_of_the_page_fit_the_libraries_of_the_hubs(tmp_path, monkeypatch):
    keras = pytest.importorskip("keras")
    kaggle = pytest.importorskip("kagglehub", reason="kagglehub is not installed")
    section = PAGE.read_text(encoding="utf-8").partition("## Publish a file on a hub\n")[2].partition("\n## ")[0]
    upload, download, own = re.findall(r"```py\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    x = np.ones((2, 4), np.float32)
    to_tflite(model, tmp_path / "model.tflite")
    names = {"keras": keras, "tfprune": tfprune, "x": x, "pruned": tfprune.wrap(model)}
    for module, name in ((hub, "create_repo"), (hub, "upload_folder"), (kaggle, "model_upload")):
        monkeypatch.setattr(module, name, create_autospec(getattr(module, name)))
    monkeypatch.setattr(hub, "snapshot_download", create_autospec(hub.snapshot_download, return_value=str(tmp_path)))
    exec(upload + download, names)
    assert hub.upload_folder.called and kaggle.model_upload.called
    np.testing.assert_allclose(names["outputs"], keras.ops.convert_to_numpy(model(x)), atol=1e-5)

    uploaded = tmp_path / "uploaded"
    api = create_autospec(hub.HfApi, instance=True)
    api.upload_folder.side_effect = lambda folder_path, **_: shutil.copytree(folder_path, uploaded)
    monkeypatch.setattr(hub, "HfApi", lambda **_: api)
    hub.snapshot_download.return_value = str(uploaded)
    exec(own, names)
    assert (uploaded / "README.md").is_file(), "why the page says that save replaces the card"
    assert type(names["loaded"].layers[-1]) is keras.layers.Dense
    np.testing.assert_allclose(names["loaded"](x), model(x), atol=1e-6)


@pytest.mark.programs
def test_the_card_of_the_page_is_read_with_its_results_and_pictures(tmp_path, monkeypatch):
    pytest.importorskip("keras")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plot`)")
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    wanted = [blocks[0], "from pathlib import Path\n", *(block for block in blocks if "limit = " in block)]
    wanted += [block for block in blocks if "report.card(" in block]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(wanted), {})
    card = hub.ModelCard.load(tmp_path / "published" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.metrics == ["accuracy"]
    (result,) = card.data.eval_results
    assert result.dataset_name == "my test data" and result.metric_value == 1.0
    for name in re.findall(r"!\[.*?\]\((.*?)\)", card.text):
        assert "<svg" in (tmp_path / "published" / name).read_text(encoding="utf-8")
