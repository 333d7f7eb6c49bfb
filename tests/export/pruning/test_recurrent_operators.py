"""Recurrent operators are the matrices that they are read as, and the turns of a loop are those that it takes."""

import numpy as np
import pytest

from tfprune.export.file import schema
from tfprune.export.file.document import add_constant, add_operator, inputs_of, load_objects, operator_name
from tfprune.export.pruning.layers import Activations, _linear_operators, _LoopRunner, find_layers, weights_elsewhere
from tfprune.export.pruning.pieces import PieceRunner, Pieces, StoredWeight, read_bias
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.pruning.shrink import shrink_tflite
from tfprune.patterns import Unstructured
from tfprune.solving.zeros import relative_error

BATCH, TIME, INPUTS, UNITS = 2, 5, 3, 4
GATES = 4  # input, forget, cell, output


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Graph:
    """A file with one recurrent operator, made by hand: converters of today make loops of such layers."""

    def __init__(self, *, is_time_major):
        self.random = np.random.default_rng(0)
        self.model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()])
        self.graph = schema.SubGraphT(tensors=[], operators=[])
        self.model.subgraphs = [self.graph]
        self.lead = (TIME, BATCH) if is_time_major else (BATCH, TIME)
        self.x = self.tensor((*self.lead, INPUTS))

    def tensor(self, shape, **kind):
        tensor = schema.TensorT(name=b"", shape=np.array(shape, np.int32), type=schema.TensorType.FLOAT32, buffer=0)
        vars(tensor).update(kind)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def constant(self, *shape):
        values = self.random.normal(size=shape).astype(np.float32)
        return add_constant(self.model, self.graph, name=b"weight", values=values)

    def gates(self):
        """The weights and biases of an LSTM in one direction, peepholes and projections left out."""
        weights = [self.constant(UNITS, INPUTS) for _ in range(GATES)]
        weights += [self.constant(UNITS, UNITS) for _ in range(GATES)]
        return [*weights, -1, -1, -1, *(self.constant(UNITS) for _ in range(GATES)), -1, -1]

    def simple(self):
        """Those of a simple recurrent layer."""
        return [self.constant(UNITS, INPUTS), self.constant(UNITS, UNITS), self.constant(UNITS)]

    def states(self, count):
        return [self.tensor((BATCH, UNITS), isVariable=True) for _ in range(count)]

    def finish(self, name, inputs, options, *, outputs):
        tensors = [self.tensor((*self.lead, length)) for length in outputs]
        add_operator(self.model, self.graph, name=name, inputs=[self.x, *inputs], outputs=tensors, options=options)
        self.graph.inputs, self.graph.outputs = np.array([self.x], np.int32), np.array(tensors, np.int32)
        return Pieces(self.model)


TANH = schema.ActivationFunctionType.TANH


def lstm(*, is_time_major):
    graph = Graph(is_time_major=is_time_major)
    options = schema.UnidirectionalSequenceLSTMOptionsT(fusedActivationFunction=TANH, timeMajor=is_time_major)
    inputs = [*graph.gates(), *graph.states(2), -1, -1, -1, -1]
    return graph.finish("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, options, outputs=[UNITS])


def two_lstms(*, is_merged):
    graph = Graph(is_time_major=True)
    options = schema.BidirectionalSequenceLSTMOptionsT(fusedActivationFunction=TANH, timeMajor=True)
    options.mergeOutputs = is_merged
    inputs = [*graph.gates(), *graph.gates(), *graph.states(4), *[-1] * 9]
    outputs = [2 * UNITS] if is_merged else [UNITS, UNITS]
    return graph.finish("BIDIRECTIONAL_SEQUENCE_LSTM", inputs, options, outputs=outputs)


def rnn():
    graph = Graph(is_time_major=False)
    options = schema.SequenceRNNOptionsT(fusedActivationFunction=TANH, timeMajor=False)
    return graph.finish("UNIDIRECTIONAL_SEQUENCE_RNN", [*graph.simple(), *graph.states(1)], options, outputs=[UNITS])


def two_rnns():
    graph = Graph(is_time_major=False)
    options = schema.BidirectionalSequenceRNNOptionsT(fusedActivationFunction=TANH, timeMajor=False)
    inputs = [*graph.simple(), *graph.states(1), *graph.simple(), *graph.states(1), -1, -1, -1]
    return graph.finish("BIDIRECTIONAL_SEQUENCE_RNN", inputs, options, outputs=[UNITS, UNITS])


CASES = {
    "lstm": lambda: lstm(is_time_major=False),
    "time major": lambda: lstm(is_time_major=True),
    "both directions": lambda: two_lstms(is_merged=False),
    "merged": lambda: two_lstms(is_merged=True),
    "rnn": rnn,
    "rnn in both directions": two_rnns,
}


def every(count):
    return np.arange(count)


def products(pieces, operator, live):
    """What one weight adds to its gate, and its bias, batch first."""
    tensor = pieces.graph.tensors[operator.weight]
    (matrix,) = operator.to_matrix(StoredWeight.of(tensor).read(pieces.model.buffers[tensor.buffer]))
    (made,) = operator.rows(live[operator.activation], every) @ matrix.T
    if operator.bias_place >= 0:
        bias = inputs_of(pieces.steps[0])[operator.bias_place]
        made = made + read_bias(pieces.model, pieces.graph.tensors[bias])
    return made.reshape(*live[pieces.inputs[0]].shape[:2], UNITS)


@pytest.mark.parametrize("name", CASES)
def test_rows_times_the_matrices_make_the_outputs_of_the_operator(name):
    pieces = CASES[name]()
    x = np.random.default_rng(1).normal(size=pieces.graph.tensors[pieces.inputs[0]].shape).astype(np.float32)
    (entry,) = pieces.inputs
    live = {entry: x, **PieceRunner(pieces.cut(0, 1)).run({entry: x})}
    operators, skipped = _linear_operators(pieces)
    parts = [products(pieces, operator, live) for operator in operators]
    expected = np.concatenate([live[index] for index in pieces.outputs], axis=-1)
    count = 2 * GATES if "LSTM" in operators[0].kind else 2
    assert len(parts) == count * expected.shape[-1] // UNITS and not skipped
    for number, start in enumerate(range(0, len(parts), count)):
        inputs, states = np.split(np.array(parts[start : start + count]), 2)
        gates = inputs + states
        is_time_major = gates.shape[1] == TIME
        gates = gates.swapaxes(1, 2) if is_time_major else gates
        order = range(TIME)[:: -1 if number else 1]
        outputs, cell = np.empty((BATCH, TIME, UNITS)), np.zeros((BATCH, UNITS))
        for time in order:
            if count == 2:
                outputs[:, time] = np.tanh(gates[0][:, time])
                continue
            take, keep, new, give = (gate[:, time] for gate in gates)
            cell = sigmoid(keep) * cell + sigmoid(take) * np.tanh(new)
            outputs[:, time] = sigmoid(give) * np.tanh(cell)
        right = expected[..., number * UNITS : (number + 1) * UNITS]
        np.testing.assert_allclose(outputs, right.swapaxes(0, 1) if is_time_major else right, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def steps(exports):
    return exports("steps", "float32")


def test_the_turns_of_a_loop_end_where_it_ends(steps, tmp_path):
    pieces = Pieces(load_objects(steps.data))
    live = Activations(pieces, [{pieces.inputs[0]: np.asarray(steps.inputs)[:1]}], folder=tmp_path)
    assert len(pieces.bodies) == 3
    for step, body in pieces.bodies.items():
        first = next(operator for operator in _linear_operators(pieces)[0] if operator.loop == step)
        list(live.of(first))
        *_, last = _LoopRunner(pieces, step).turns(live.all(0))
        assert len(last) == len(body.inputs)
        values = {**last, **PieceRunner(body.cut(0, len(body.steps))).run(last)}
        whole = PieceRunner(pieces.cut(step, step + 1)).run(live.all(0))
        for inner, outer in zip(body.outputs, pieces.steps[step].outputs, strict=True):
            if int(outer) in whole:
                np.testing.assert_array_equal(values[inner], whole[int(outer)])


def test_layers_in_loops_get_zeros(steps, tmp_path):
    samples = np.cumsum(np.random.default_rng(0).normal(size=(24, 5, 40)), axis=1).astype(np.float32)
    report = prune_tflite(steps.data, tmp_path / "sparse.tflite", samples, sparsity=0.93, optimize="dense")
    assert not report.skipped and len(report.layers) == 7  # two for each loop, and the last layer
    assert report.sparsity == pytest.approx(0.93, abs=0.02)
    assert all(row.error < 1 for row in report.errors)


def test_the_states_of_loops_lose_channels(steps, tmp_path):
    """The file of the old size, with zeros in place of what is gone, is run beside the smaller one."""
    samples = np.cumsum(np.random.default_rng(0).normal(size=(24, 5, 40)), axis=1).astype(np.float32)
    report = shrink_tflite(steps.data, tmp_path / "small.tflite", samples, flops=0.6)
    assert report.flops_kept <= 0.6 * report.flops and report.file.max_abs_diff < 1e-5
    small, old = (Pieces(load_objects(each)) for each in ((tmp_path / "small.tflite").read_bytes(), steps.data))
    for step, body in old.bodies.items():
        sizes = [
            sum(np.prod(pieces.graph.tensors[tensor].shape) for tensor in pieces.inputs)
            for pieces in (small.bodies[step], body)
        ]
        assert sizes[0] < sizes[1]


def test_weights_of_other_graphs_are_named(steps):
    model = load_objects(steps.data)
    loops = [operator for operator in model.subgraphs[0].operators if operator_name(model, operator) == "WHILE"]
    loops[1].builtinOptions.bodySubgraphIndex = loops[0].builtinOptions.bodySubgraphIndex
    operators, others = _linear_operators(Pieces(model))[0], weights_elsewhere(Pieces(model), [0])
    reasons = ["FULLY_CONNECTED: it stands in another graph of the file"] * 4
    assert [weight.reason for weight in others] == reasons
    assert all(weight.name for weight in others) and len(operators) == 3


def test_variables_in_loops_are_refused(steps):
    model = load_objects(steps.data)
    (number, *_) = [body.number for body in Pieces(model).bodies.values()]
    add_operator(model, model.subgraphs[number], name="VAR_HANDLE", inputs=[], outputs=[])
    with pytest.raises(ValueError, match="one with VAR_HANDLE in a loop"):
        _linear_operators(Pieces(model))


def test_entries_of_frequent_rows_of_a_table_stay(exports):
    export = exports("words", "float32")
    layer = next(layer for layer in find_layers(Pieces(load_objects(export.data)))[0] if layer.kind == "GATHER")
    rows = np.zeros((40, 6), np.int64)
    rows[:, 3:] = 7
    moments = layer.moments()
    layer.add(moments, rows.reshape(-1))
    solver = layer.solver
    assert solver.refit(moments) is solver.weights
    masked = solver.masking(moments, layer.weights, pattern=Unstructured())
    table, counts = layer.weights[0], np.bincount(rows.reshape(-1), minlength=layer.weights.shape[1]) + 1
    costs, mask = counts[:, None] * table**2, masked(0.95)[0] != 0
    assert costs[mask].min() >= costs[~mask].max() and mask.mean() == pytest.approx(0.05, abs=0.001)
    assert (masked(0.95)[0][mask] == table[mask]).all()
    assert relative_error(moments, masked(0.95)) == pytest.approx(costs[~mask].sum() / costs.sum())
