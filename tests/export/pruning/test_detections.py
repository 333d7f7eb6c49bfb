"""Boxes of two files, matched. The truth is counted by hand on boxes whose overlaps are known."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from tfprune.export.device.runner import Runner
from tfprune.export.file.document import save_objects
from tfprune.export.pruning.samples import compare_outputs, find_detections, matched_boxes

# Corners, score, class. Squares of side 10, moved by 2 (8 / 12 of the union in common) or by 5 (5 / 15).
DENSE = [[0, 0, 10, 10, 0.9, 1], [20, 0, 30, 10, 0.8, 2], [40, 0, 50, 10, 0.7, 1], [60, 0, 70, 10, 0.1, 3]]
SAME = [DENSE[1], DENSE[0], DENSE[2], [0, 0, 0, 0, 0.05, 0]]
MOVED = [[2, 0, 12, 10, 0.9, 1], [25, 0, 35, 10, 0.8, 2], [40, 0, 50, 10, 0.7, 0], [60, 0, 70, 10, 0.6, 3]]


def rows(*samples):
    return np.array(samples, np.float32)


def of_operator(values, count=4):
    """Return the outputs of TFLite_Detection_PostProcess, in which boxes are sorted by their scores."""
    values = np.stack([sample[np.argsort(-sample[:, 4])] for sample in values])
    counts = np.full(len(values), count, np.float32)
    return {"b": values[..., :4], "c": values[..., 5], "s": values[..., 4], "n": counts}


@pytest.mark.parametrize(
    ("other", "fraction"),
    [
        ([SAME], 1.0),  # three boxes each, in another order; the fourth is not sure enough
        ([MOVED], 2 / 7),  # the first only: one is moved too far, one has another class, one has a new score
        ([[DENSE[0]] * 4], 2 / 7),  # four boxes, and one partner for them
        ([[[0, 0, 1, 1, 0.01, 0]] * 4], 0.0),
    ],
)
@pytest.mark.parametrize("form", [lambda values: {"boxes": values}, of_operator])
def test_boxes_of_a_sample_are_matched(other, fraction, form):
    ours, theirs = (find_detections(form(rows(*values))) for values in ([DENSE], other))
    assert matched_boxes(ours, theirs) == pytest.approx(fraction)
    assert matched_boxes(theirs, ours) == pytest.approx(fraction)


def test_a_sample_matches_with_itself_only():
    pair = (rows(DENSE, SAME[::-1]), rows([[0, 0, 1, 1, 0.3, 1]] * 4, DENSE))
    ours, theirs = (find_detections({"boxes": values}) for values in pair)
    assert matched_boxes(ours, theirs) == pytest.approx(6 / 13)


def test_boxes_beyond_the_count_do_not_exist():
    found = find_detections(of_operator(rows(DENSE), count=1))
    assert (found.scores > 0).sum() == 1
    assert matched_boxes(found, find_detections(of_operator(rows(DENSE)))) == pytest.approx(2 / 4)


def test_the_report_has_the_fraction_beside_the_boxes_only():
    dense, other = of_operator(rows(*[DENSE] * 8, SAME, SAME)), of_operator(rows(MOVED, MOVED))
    errors = {row.name: row.agreement for row in compare_outputs(dense, other, held=2)}
    assert errors.pop("b") == pytest.approx(2 / 7)
    assert set(errors.values()) == {None}  # scores that are sorted always have the largest entry in front
    (row,) = compare_outputs({"y": rows(*[DENSE] * 4)}, {"y": rows(SAME)}, held=1)
    assert row.agreement == 1.0


def test_what_lies_behind_the_count_is_no_error():
    """The operator leaves other memory there, which may be no number at all."""
    samples = [DENSE, [[each + (at < 4) for at, each in enumerate(box)] for box in DENSE]]
    dense, other = of_operator(rows(*samples), count=2), of_operator(rows(samples[1]), count=2)
    for values in (other[name] for name in "bcs"):
        values[:, 2:] = np.nan
    errors = {row.name: row for row in compare_outputs(dense, other, held=1)}
    assert (errors["b"].error, errors["b"].agreement) == (0, 1)
    other["b"][:, 0] += 1  # of a standard deviation of 0.5, in four of sixteen entries
    deviation = 0.5 * np.sqrt(1 / 2)
    (row,) = (row for row in compare_outputs(dense, other, held=1) if row.name == "b")
    assert row.error == pytest.approx(np.sqrt(1 / 4) / deviation)


def test_boxes_that_the_second_file_lost_are_counted():
    dense = of_operator(rows(*[DENSE] * 3))
    nothing = {name: np.zeros_like(values[:1]) for name, values in dense.items()}
    errors = {row.name: row.agreement for row in compare_outputs(dense, nothing, held=1)}
    assert errors["b"] == 0


@pytest.mark.parametrize(
    "outputs",
    [
        {"x": rows(DENSE)[..., ::-1]},
        {"x": rows(DENSE)[..., [2, 1, 0, 3, 4, 5]]},
        {"x": rows(DENSE)[..., :4]},
        {"x": np.random.default_rng(0).normal(size=(2, 5, 6))},
        {"x": np.ones((3, 10))},
        of_operator(rows(DENSE)) | {"more": np.ones(1)},
    ],
)
def test_other_outputs_are_not_boxes(outputs):
    assert find_detections(outputs) is None


def test_without_boxes_there_is_no_fraction():
    values = rows([[0, 0, 1, 1, 0.1, 0]])
    nothing = find_detections({"x": values})
    assert matched_boxes(nothing, nothing) is None


def post_processing(anchors):
    """Return a file whose only operator is the one that detectors of TensorFlow end with."""
    options = {"max_detections": 4, "max_classes_per_detection": 1, "num_classes": 2}
    options |= {"nms_score_threshold": 0.01, "nms_iou_threshold": 0.5}
    options |= {"y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0}
    shapes = {"codes": (1, 3, 4), "scores": (1, 3, 3), "anchors": (3, 4)}
    shapes |= {"boxes": (1, 4, 4), "classes": (1, 4), "sure": (1, 4), "count": (1,)}
    buffers = [schema.BufferT(), schema.BufferT(data=np.float32(anchors).reshape(-1).view(np.uint8))]
    tensors = [
        schema.TensorT(name=name.encode(), shape=np.int32(shape), buffer=int(name == "anchors"))
        for name, shape in shapes.items()
    ]
    step = schema.OperatorT(inputs=np.int32([0, 1, 2]), outputs=np.int32([3, 4, 5, 6]))
    step.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)
    graph = schema.SubGraphT(tensors=tensors, inputs=np.int32([0, 1]), outputs=step.outputs, operators=[step])
    number = schema.BuiltinOperator.CUSTOM
    code = schema.OperatorCodeT(number, b"TFLite_Detection_PostProcess", builtinCode=number)
    return save_objects(schema.ModelT(version=3, operatorCodes=[code], subgraphs=[graph], buffers=buffers))


def test_the_operator_of_tensorflows_detectors_is_recognized():
    """Anchors by center and size. Of three, one is of another class in the second file, and one is moved away."""
    anchors = [[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]
    scores = np.float32([[[0, 0.9, 0.1], [0, 0.1, 0.8], [0, 0.7, 0.2]]])
    others = np.float32([[[0, 0.9, 0.1], [0, 0.6, 0.3], [0, 0.7, 0.2]]])
    codes, moved = np.zeros((1, 3, 4), np.float32), np.zeros((1, 3, 4), np.float32)
    moved[0, 2] = [10, 0, 0, 0]  # by the height of its anchor
    runner = Runner(post_processing(anchors))
    pairs = [{"codes": codes, "scores": scores}, {"codes": moved, "scores": others}]
    outputs = [runner.predict(pair) for pair in pairs]
    ours, theirs = map(find_detections, outputs)
    assert np.sort(ours.boxes[0, :3, 0]) == pytest.approx([0.1, 0.4, 0.7])
    assert (ours.scores[0, 3], ours.layout.corners) == (0, "boxes")  # three of four places are taken
    assert matched_boxes(ours, theirs) == pytest.approx(2 / 6)
    assert matched_boxes(ours, ours) == 1
