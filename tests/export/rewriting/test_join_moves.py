"""Files with fewer moves of entries give the same outputs, bit for bit, as the runtime says."""

import itertools

import numpy as np
import pytest
from file_graphs import FileGraph, grown

from tfprune.export.device.runner import plain_interpreter
from tfprune.export.file.document import load_objects, operator_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.rewriting.frozen import join_moves
from tfprune.export.rewriting.rewrite import rewrite


def kinds(content):
    model = load_objects(content)
    return [operator_name(model, each) for each in model.subgraphs[0].operators]


def outputs(content, x):
    interpreter = plain_interpreter(content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def joined(graph, *tensors):
    """Return the operators of a file after its moves were joined; its outputs are compared."""
    content = graph.content(*tensors)
    file = ModelFile(content).after(join_moves)
    assert file.after(join_moves) is file
    x = np.random.default_rng(1).normal(size=graph.shape(graph.input)).astype(np.float32)
    for ours, theirs in zip(outputs(file.content, x), outputs(content, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before, after = kinds(content), kinds(file.content)
    assert after.count("TRANSPOSE") <= before.count("TRANSPOSE")
    return after


def moved(graph, x):
    """Move entries at random, also such that no axis of a shape is one of the shape before."""
    random, shape = graph.random, graph.shape(x)
    if random.random() < 0.6:
        return graph.transpose(x, *map(int, random.permutation(len(shape))))
    return graph.reshape(x, *split(random, random.permutation([2, 2, 3, 5, 1]), sizes=True))


def split(random, digits, *, sizes=False):
    """Split digits into axes at random."""
    ends = sorted(random.choice(range(1, len(digits)), size=int(random.integers(1, len(digits))), replace=False))
    parts = [list(part) for part in np.split(digits, ends)]
    return [int(np.prod(part)) for part in parts] if sizes else parts


@pytest.mark.parametrize("seed", range(24))
def test_a_chain_has_one_transpose_at_most(seed):
    """Where each axis holds the same digits of the input's entries all along."""
    graph = FileGraph(seed, shape=(1, 4, 3, 5))
    x, axes = graph.input, [[1], [2, 2], [3], [5]]
    for _ in range(4):
        axes = split(graph.random, np.concatenate(axes))
        x = graph.reshape(x, *(int(np.prod(axis)) for axis in axes))
        order = [int(axis) for axis in graph.random.permutation(len(axes))]
        x, axes = graph.transpose(x, *order), [axes[axis] for axis in order]
    after = joined(graph, x)
    assert after.count("TRANSPOSE") <= 1 and len(after) <= 3


def changed(graph, x, tensors):
    """Add an operator at random: some pass moves, some do not."""
    random, shape = graph.random, graph.shape(x)
    others = [each for each in tensors if graph.shape(each) == shape]
    draw = int(random.integers(8))
    if draw < 4:
        return moved(graph, x)
    if draw == 4:
        return graph.unary("RELU", x)
    if draw == 5:
        return graph.binary("ADD", x, others[int(random.integers(len(others)))])
    if draw == 6:
        return graph.binary("MUL", x, graph.weights(*shape[int(random.integers(len(shape) + 1)) :]))
    return graph.unary("TANH", x)


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_with_several_outputs(seed):
    graph = FileGraph(seed, shape=(1, 4, 3, 5))
    tensors = [graph.input]
    for _ in range(14):
        start = tensors[-1] if graph.random.random() < 0.7 else tensors[int(graph.random.integers(len(tensors)))]
        tensors.append(changed(graph, start, tensors))
    joined(graph, tensors[-1], *{int(each) for each in graph.random.choice(tensors[1:-1], size=2)})


TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # the channels


def shuffled(graph, x, groups=2):
    """Shuffle the channels as PyTorch does, which has them first."""
    count, height, width, depth = graph.shape(x)
    x = graph.reshape(graph.transpose(x, *TO_FIRST), count, groups, depth // groups, height, width)
    x = graph.reshape(graph.transpose(x, 0, 2, 1, 3, 4), count, depth, height, width)
    return graph.transpose(x, *TO_LAST)


def test_a_shuffle_has_one_transpose():
    graph = FileGraph(0)
    x = shuffled(graph, graph.convolution(graph.input, 8))
    after = joined(graph, graph.convolution(x, 4))
    assert after == ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE", "CONV_2D"]


def test_entries_that_return_to_their_places_are_not_moved():
    graph = FileGraph(0)
    x = graph.convolution(graph.input, 8)
    x = graph.transpose(graph.reshape(graph.transpose(x, *TO_FIRST), 1, 8, 64), 0, 2, 1)
    assert joined(graph, graph.projected(x, 4)) == ["CONV_2D", "RESHAPE", "FULLY_CONNECTED"]


def first(graph, channels=8):
    return graph.transpose(graph.convolution(graph.input, channels), *TO_FIRST)


def last(graph, x):
    return graph.convolution(graph.transpose(x, *TO_LAST), 4)


def added(graph):
    return graph.binary("ADD", first(graph), first(graph))


def rectified_and_padded(graph):
    x = graph.unary("RELU", first(graph))
    pads = graph.constant(np.array([[0, 0], [1, 2], [3, 4], [5, 6]], np.int32))
    return graph.operator("PAD", [x, pads], (1, 11, 15, 19), kind="PadOptions")


def joined_side_by_side(graph):
    parts = [first(graph, channels) for channels in (4, 6)]
    return graph.operator("CONCATENATION", parts, (1, 10, 8, 8), kind="ConcatenationOptions", axis=1)


def scaled(graph):
    """By a constant of channels, and by one number."""
    return graph.binary("MUL", graph.binary("MUL", first(graph), graph.weights(8, 1, 1)), graph.weights())


PASSED = [added, rectified_and_padded, joined_side_by_side, scaled]


@pytest.mark.parametrize("build", PASSED)
def test_transposes_pass_operators(build):
    graph = FileGraph(0)
    assert "TRANSPOSE" not in joined(graph, last(graph, build(graph)))


def test_a_split_takes_what_its_parts_would_be_moved_to():
    graph = FileGraph(0)
    x = first(graph)
    parts = [graph._tensor((1, 4, 8, 8)) for _ in range(2)]
    graph.add("SPLIT", [graph.integers(1), x], parts, kind="SplitOptions", numSplits=2)
    after = joined(graph, *(last(graph, part) for part in parts))
    assert after == ["CONV_2D", "SPLIT", "CONV_2D", "CONV_2D"]


def test_what_others_take_stays():
    """A tensor that is an output, and one that another operator takes."""
    for is_output, is_taken in itertools.product((False, True), repeat=2):
        graph = FileGraph(0)
        x = first(graph)
        outputs = [last(graph, x), *([x] if is_output else []), *([graph.unary("TANH", x)] if is_taken else [])]
        assert joined(graph, *outputs).count("TRANSPOSE") == int(is_output or is_taken)


def test_the_input_of_a_file_keeps_its_order():
    graph = FileGraph(0, shape=(1, 3, 8, 8))
    assert joined(graph, last(graph, graph.unary("RELU", graph.input))).count("TRANSPOSE") == 1


def test_open_sizes_are_left_alone():
    graph = FileGraph(0)
    x = graph.convolution(graph.input, 8)
    y = graph.transpose(graph.transpose(x, *TO_FIRST), *TO_LAST)
    for tensor in range(len(graph.graph.tensors)):
        if len(graph.shape(tensor)) == 4 and graph.shape(tensor)[0] == 1:
            graph.graph.tensors[tensor].shapeSignature = np.array([-1, *graph.shape(tensor)[1:]], np.int32)
    file = ModelFile(graph.content(y))
    assert file.after(join_moves) is file


@pytest.mark.parametrize("seed", range(4))
def test_networks_without_moves_stay_as_they_are(seed):
    graph = FileGraph(seed)
    file = ModelFile(graph.content(grown(graph, steps=4)))
    assert file.after(join_moves) is file


def test_rewrite_joins_moves(tmp_path):
    graph = FileGraph(0)
    x = graph.convolution(shuffled(graph, graph.convolution(graph.input, 8)), 8)
    content = graph.content(graph.dense(graph.mean(x), 4))
    report = rewrite(content, tmp_path / "new.tflite")
    assert report.max_abs_diff == 0
    assert kinds((tmp_path / "new.tflite").read_bytes()).count("TRANSPOSE") == 1
    assert [row.name for row in report.candidates] == ["fewer moves of entries"]
