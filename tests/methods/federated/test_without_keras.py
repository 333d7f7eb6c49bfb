"""Clients on a trainer, which has neither Keras nor TensorFlow, against the same clients on a wrapped Keras model."""

from __future__ import annotations

import json
import logging

import keras
import numpy as np
import pytest
from programs import WITHOUT_KERAS, printed_by, started

import tfprune
from tfprune.base.arrays import keep_largest
from tfprune.export import Trainer, to_trainer
from tfprune.federated import (
    FedMask,
    LotteryFL,
    MaskedModel,
    MaskedTrainer,
    PruneFL,
    Update,
    dense_gradients,
    masked_average,
    pack_masks,
)
from tfprune.solving.dependency_graph import StatisticsOwners

CLIENTS, ROUNDS, BATCH, CLASSES = 3, 4, 8, 3
RANDOM = np.random.default_rng(0)
SHAPES = [*[(6,)] * 4, (6, 16), *[(16,)] * 4, (16, CLASSES), (CLASSES,)]
X = RANDOM.normal(size=(CLIENTS, 40, 6)).astype("float32")
Y = X[..., :CLASSES].argmax(axis=-1)


def network():
    keras.utils.set_random_seed(1)
    scale, norm = keras.layers.BatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    hidden = keras.layers.Dense(16, "tanh", use_bias=False)  # a bias of a unit without entries would learn rounding
    layers = [keras.Input((6,)), scale, hidden, norm, keras.layers.Dense(CLASSES)]
    model = tfprune.wrap(keras.Sequential(layers))
    model.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("clients") / "client.tfz"
    to_trainer(network(), path, batch_size=BATCH, max_density=1.0, compress="packed", check_on=(X[0], Y[0]))
    return path


@pytest.fixture(scope="module")
def with_keras():
    return MaskedModel(network())


@pytest.fixture
def client(file):
    return MaskedTrainer(Trainer(file))


def batches(number, turn, epochs=2):
    """Yield the batches of `Trainer.fit` with this seed."""
    random = np.random.default_rng(10 * number + turn)
    for _ in range(epochs):
        order = random.permutation(len(X[number]))
        yield from ((X[number][rows], Y[number][rows]) for rows in np.split(order, range(BATCH, len(order), BATCH)))


def fit(model, number, turn):
    """Train as a client does in a round; the optimizer begins anew."""
    if isinstance(model, MaskedTrainer):
        model.trainer.fit(X[number], Y[number], epochs=2, seed=10 * number + turn, verbose=0)
        return
    for variable in model.model.optimizer.variables[2:]:  # behind the count of steps and the learning rate
        variable.assign(np.zeros(variable.shape))
    model.model.optimizer.iterations.assign(0)
    for x, y in batches(number, turn):
        model.model.train_on_batch(x, y)


def prune(model):
    weights = [np.abs(array) for array in model.weights]
    masks = [keep_largest(array, array.size // 5) if array.ndim > 1 else None for array in weights]
    model.set_masks(masks)


def loop(make, first):
    """Return what the server has after each round, and the masks of the clients."""
    server, masks, rounds = first, [None] * CLIENTS, []
    for turn in range(1, ROUNDS + 1):
        updates = []
        for number in range(CLIENTS):
            model = make()
            model.set_masks(masks[number] or [None] * len(server))
            model.set_weights(server)
            fit(model, number, turn)
            if turn == 1:
                prune(model)
            masks[number] = model.masks
            updates.append(model.weights)
        server = masked_average(updates, masks, client_weights=[1, 2, 3], server=server)
        rounds.append(server)
    return rounds, masks


@pytest.fixture(scope="module")
def first(file):
    return MaskedTrainer(Trainer(file)).weights


@pytest.fixture(scope="module")
def by_keras(with_keras, first):
    return loop(lambda: with_keras, first)


def same(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_arrays_and_gradients_are_those_of_the_keras_model(client, with_keras):
    assert [array.shape for array in client.weights] == [array.shape for array in with_keras.weights]
    masks = [RANDOM.random(array.shape) < 0.3 if array.ndim > 1 else None for array in client.weights]
    for model in (client, with_keras):
        model.set_masks(masks)
        model.set_weights([np.full_like(array, 0.1) for array in client.weights])
    same(client.weights, with_keras.weights)
    batch = X[0][:BATCH], Y[0][:BATCH]
    [found] = client.batch_gradients(batch)
    expected = dense_gradients(with_keras, batch)
    same(found, expected)
    assert np.count_nonzero(found[4][~masks[4]]) > 30  # entries under masks have a gradient, too


def test_rounds_give_the_weights_and_masks_of_clients_with_keras(file, first, by_keras):
    rounds, masks = loop(lambda: MaskedTrainer(Trainer(file)), first)
    for server, other in zip(rounds, by_keras[0], strict=True):
        same(server, other)
    for own, other in zip(masks, by_keras[1], strict=True):
        assert pack_masks(own) == pack_masks(other)
        assert [int(mask.sum()) for mask in own if mask is not None and mask.ndim > 1] == [19, 9]
        assert any(mask is not None for mask in own[7:9])  # units without entries


def test_fed_mask_learns_the_masks_that_it_learns_with_keras(file, with_keras, first):
    method, kept = FedMask(sparsity=0.6, learning_rate=60.0), []
    for model in (MaskedTrainer(Trainer(file)), with_keras):
        scores = [method.scores(first)] * CLIENTS
        for turn in range(ROUNDS):
            scores = [
                method.fit(model, batches(number, turn), scores=scores[number], weights=first)
                for number in range(CLIENTS)
            ]
            shared = method.average([method.masks(each) for each in scores], client_weights=[1] * CLIENTS)
            scores = [method.personal(each, shared) for each in scores]
        kept.append([method.masks(each) for each in scores])
    assert [pack_masks(masks) for masks in kept[0]] == [pack_masks(masks) for masks in kept[1]]
    came_back = kept[0][0][4] & ~method.masks(method.scores(first))[4]
    assert came_back.sum() > 5


def test_prune_fl_changes_the_masks_as_it_does_with_keras(file, with_keras, first):
    seconds = tuple(None if array.ndim < 2 else 2 / array.size for array in first)
    method = PruneFL(seconds, constant=1.0, change_rate=0.5, density=0.5, every=1)
    start = [keep_largest(np.abs(array), array.size // 3) if array.ndim > 1 else None for array in first]

    def with_trainer():
        return MaskedTrainer(Trainer(file)), None

    found = []
    for make in (with_trainer, lambda: (with_keras, keras.optimizers.Adam(0.02))):
        server, masks, squares = first, start, [np.zeros(array.shape) for array in first]
        for turn in range(1, ROUNDS + 1):
            model, optimizer = make()
            model.set_masks(masks)
            model.set_weights(server)
            total = PruneFL.fit(model, batches(0, turn), optimizer=optimizer)
            squares = [one + other**2 for one, other in zip(squares, total, strict=True)]
            server = model.weights
            masks = method.masks(server, masks, squares=squares, round=turn)
        found.append((server, masks))
    assert pack_masks(found[0][1]) == pack_masks(found[1][1])
    assert np.count_nonzero(found[0][1][4] & ~start[4]) > 5
    trained = [0, 1, 4, 5, 6, 9, 10]  # statistics of a trainer follow the batches, those of the model stay
    same(*([server[index] for index in trained] for server, _ in found))


def test_lottery_fl_prunes_and_rewinds_a_trainer(client):
    first = client.weights
    fit(client, 0, 1)
    ones = [np.ones(array.shape, bool) if array.ndim > 1 else None for array in first]
    method = LotteryFL(sparsity=0.5, prune_rate=0.5)
    weights, masks = method.prune(client.weights, ones, initial_weights=first, accuracy=0.9)
    client.set_masks(masks)
    client.set_weights(weights)
    same(client.weights, [array if mask is None else array * mask for array, mask in zip(first, masks, strict=True)])
    assert sum(int(mask.sum()) for mask in masks if mask is not None) == 48 + 24


def test_masks_of_biases_are_kept_beside_the_file(client):
    bias = np.arange(CLASSES) > 0
    client.set_masks([*[None] * 10, bias])
    np.testing.assert_array_equal(client.masks[10], bias)
    client.set_weights([np.ones(array.shape) for array in client.weights])
    np.testing.assert_array_equal(client.weights[10], bias)
    client.set_masks([None] * 11)
    assert client.masks == [None] * 11


def test_statistics_have_the_masks_that_they_have_with_keras(client, with_keras):
    """Those of the second normalization follow the units that the first kernel leaves."""
    masks = [None if array.ndim < 2 else np.ones(array.shape, bool) for array in client.weights]
    masks[4][:, [2, 5]] = False
    for model in (client, with_keras):
        model.set_masks(masks)
        for index in (7, 8):
            np.testing.assert_array_equal(np.flatnonzero(~model.masks[index]), [2, 5])
        assert [mask is None for mask in model.masks] == [index not in (4, 7, 8) for index in range(11)]


def test_channels_come_back_from_lists_and_those_of_other_shapes_are_refused():
    bundles = np.array([4, 5, 6, 2])
    owners = StatisticsOwners([("kernel", 1, bundles)], [("mean", 0, bundles)])
    lists, shapes = json.loads(json.dumps(owners.as_lists({"kernel": "kernel", "mean": "mean"}))), {"mean": (4,)}
    back = StatisticsOwners.from_lists(lists, {**shapes, "kernel": (3, 4)})
    mask = np.ones((3, 4), bool)
    mask[:, 1] = False
    for each in (owners, back):
        np.testing.assert_array_equal(each.masks({"kernel": mask})["mean"], [True, False, True, True])
    assert not StatisticsOwners.from_lists(lists, shapes).masks({})  # a kernel that is not trained has no mask
    with pytest.raises(ValueError, match="the channels of 'kernel'. Received: 4 along axis 1"):
        StatisticsOwners.from_lists(lists, {**shapes, "kernel": (3, 5)})


WRONG_MASKS = {
    "another shape": (
        lambda masks: [*masks[:4], masks[4][:3], *masks[5:]],
        r"the shape \(6, 16\) at index 4\. Received: \(3, 16",
    ),
    "fewer": (lambda masks: masks[:2], r"11 entries, one for each weight of the model\. Received: 2"),
    "numbers": (lambda masks: [2 * masks[0], *masks[1:]], "zeros and ones"),
}


@pytest.mark.parametrize("kind", WRONG_MASKS)
def test_masks_that_do_not_fit_are_refused_as_with_keras(kind, client, with_keras):
    change, message = WRONG_MASKS[kind]
    masks = [np.ones(array.shape, np.int8) for array in client.weights]
    for model in (client, with_keras):
        before = model.masks
        with pytest.raises(ValueError, match=message):
            model.set_masks(change(masks))
        assert pack_masks(model.masks) == pack_masks(before)


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (50, r"at most 50 entries of .*kernel', for which the file has room\. Received: .*96.*max_density=1\.0"),
        (None, r"all 96 entries of .*kernel', which the file holds without a mask\. Received: .*95"),
    ],
)
def test_masks_for_which_a_file_has_no_room_are_refused(room, message, client, monkeypatch):
    paths = [client.paths[4], client.paths[9]]
    monkeypatch.setattr(Trainer, "room", dict.fromkeys(paths, room) if room else {})
    masks = [np.arange(array.size).reshape(array.shape) >= (not room) for array in client.weights]
    with pytest.raises(ValueError, match=message):
        client.set_masks(masks)


def test_what_is_no_trainer_and_what_the_file_has_itself_are_refused(client, with_keras):
    data = X[0], Y[0]
    for model in (with_keras.model, with_keras, client):
        with pytest.raises(TypeError, match=rf"a tfprune\.export\.Trainer\. Received: {type(model).__name__}"):
            MaskedTrainer(model)
    for method in (PruneFL.fit, FedMask(0.5).fit):
        own = {"scores": [None] * 11, "weights": client.weights} if method != PruneFL.fit else {}
        with pytest.raises(TypeError, match="a MaskedModel or a MaskedTrainer. Received: Trainer"):
            method(client.trainer, data, **own)
    with pytest.raises(ValueError, match="`loss` to be None, as the file has SparseCategoricalCrossentropy"):
        list(client.batch_gradients(data, loss="mse"))
    with pytest.raises(ValueError, match="`optimizer` to be None, as the file has Adam"):
        PruneFL.fit(client, data, optimizer=keras.optimizers.Adam())
    with pytest.raises(ValueError, match="an optimizer of Keras for a MaskedModel"):
        PruneFL.fit(with_keras, data)
    with pytest.raises(TypeError, match=r"`data` to be \(x, y\)"):
        list(client.batch_gradients(X[0]))
    with pytest.raises(ValueError, match=r"a label for each sample\. Received: .*(40 and 30|30 and 40)"):
        PruneFL.fit(client, (X[0], Y[0][:30]))
    for nothing in (iter([]), (X[0][:0], Y[0][:0])):
        with pytest.raises(ValueError, match=r"at least one sample.*Is an iterator used up\?"):
            PruneFL.fit(client, nothing)


def test_weights_that_are_not_finite_leave_the_device_as_it_is(client):
    before = client.weights
    poisoned = [np.full_like(array, np.nan) for array in before]
    with pytest.raises(ValueError, match="finite numbers"):
        client.set_weights(poisoned)
    same(client.weights, before)


# Over Flower.

flwr = pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
from flower_here import Here  # noqa: E402
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

from tfprune.federated import MaskedClient, MaskedFedAvg  # noqa: E402

NODES = {11: 0, 22: 1, 33: 2}


@pytest.fixture
def a_server(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def rounds_on_flower(file, *, spoil=lambda reply, turn: reply, poison=None, rounds=ROUNDS, **options):
    """Train over Flower, where `poison` changes the model that the second client gets in round 2."""
    sent = []

    def train(message, context):
        number, model = context.node_config["partition-id"], MaskedTrainer(Trainer(file))
        client = MaskedClient(message, context, model)
        if poison and client.round == 2 and number == 1:
            poison(model)
        fit(model, number, client.round)
        if client.is_new:
            prune(model)
        sent.append(client.trained({"num-examples": number + 1}))
        return sent[-1]

    strategy = MaskedFedAvg(check_masks=MaskedTrainer(Trainer(file)).check_masks, fraction_evaluate=0.0, **options)
    first = ArrayRecord(MaskedTrainer(Trainer(file)).weights)
    result = strategy.start(grid=Here(spoil, nodes=NODES, train=train), initial_arrays=first, num_rounds=rounds)
    return strategy, result.arrays.to_numpy_ndarrays(), sent


def test_rounds_over_flower_give_the_weights_of_a_plain_loop_with_keras(a_server, file, by_keras):
    strategy, arrays, sent = rounds_on_flower(file)
    expected = [
        server if mask is None or server.ndim < 2 else np.where(mask, server, 0)
        for server, mask in zip(by_keras[0][-1], strategy.masks, strict=True)
    ]
    same(arrays, expected)
    kept = 4 * 6 + 19 + 4 * 16 + 9 + 3
    for message in sent:
        assert {name: set(record) for name, record in message.content.items()} == {
            "update": {"data", "client"},
            "metrics": {"num-examples"},
        }
        data, masks = message.content["update"]["data"], by_keras[1][message.content["update"]["client"]]
        is_first = sent.index(message) < CLIENTS
        size = len(pack_masks(masks)) if is_first else 0
        assert size < len(data) <= size + 4 * kept + 50  # a header, and no entry under a mask
        back = Update.decode(data, like=arrays, known_masks=None if is_first else masks)
        assert pack_masks(back.masks) == pack_masks(masks)


def dies(reply, turn):
    return Message(Error(0, "killed in a step"), reply_to=_asked(reply)) if turn == 2 else reply


def silent(reply, turn):
    return [] if turn == 2 else reply


def _asked(reply):
    return Message(RecordDict(), reply.metadata.src_node_id, "train")


def answers(change):
    """Return what answers in round 2 with another update."""

    def spoil(reply, turn):
        if turn != 2:
            return reply
        weights = [np.zeros(shape, "float32") for shape in SHAPES]
        content = {"update": ConfigRecord({"data": Update(*change(weights), turn).encode()})}
        return Message(RecordDict({**content, "metrics": MetricRecord({"num-examples": 2})}), reply_to=_asked(reply))

    return spoil


def full_of(value):
    return answers(lambda weights: ([array + value for array in weights], [array == 0 for array in weights]))


def huge(model):
    model.set_weights([np.full_like(array, 1e38) for array in model.weights])


LEFT_OUT = {
    "a process that dies": ({"spoil": dies}, "it failed: killed in a step"),
    "a process that is silent": ({"spoil": silent}, "it did not answer"),
    "a step without a finite loss": ({"poison": huge}, "it failed: Expected a finite loss"),
    "an update of infinity": ({"spoil": full_of(np.inf)}, "finite numbers"),
    "an update of NaN": ({"spoil": full_of(np.nan)}, "finite numbers"),
    "masks of another shape": (
        {"spoil": answers(lambda weights: (weights[4:6], [np.ones((6, 16)), None]))},
        "their shapes are those of another model",
    ),
}


@pytest.mark.programs
@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_round_goes_on_without_a_device_that_fails(kind, a_server, file, caplog):
    options, reason = LEFT_OUT[kind]
    with caplog.at_level(logging.WARNING, "tfprune"):
        strategy, arrays, _ = rounds_on_flower(file, rounds=3, **options)
    assert [row.received for row in strategy.traffic.rows] == [3, 2, 3]
    assert "round 2 goes on without node 22" in caplog.text and reason in caplog.text
    assert all(np.isfinite(array).all() for array in arrays)


PROGRAM = """
import sys
import numpy as np
from flwr.app import Context, ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from tfprune.export import Trainer
from tfprune.federated import FedMask, FedMaskClient, LotteryFL, MaskedClient, MaskedFedAvg, MaskedTrainer, Update

TaskIdentity._run_id = TaskIdentity._node_id = TaskIdentity._task_id = 1
model, x, y = MaskedTrainer(Trainer(sys.argv[1])), np.ones((8, 6)), np.arange(8) % 3
record = ConfigRecord({"data": Update(model.weights, None, 1).encode()})
message, context = Message(RecordDict({"update": record}), 11, "train"), Context(1, 11, {}, RecordDict(), {})
client = MaskedClient(message, context, model)
model.trainer.fit(x, y)
client.trained({"num-examples": 8})
context.state.clear()
client = FedMaskClient(message, context, model, FedMask(0.5))
client.fit((x, y))
client.trained({"num-examples": 8})
print(client.round, sorted({"keras", "tensorflow", "jax", "torch"} & set(sys.modules)))
"""


@pytest.mark.programs
def test_a_median_withstands_a_device_that_sends_huge_weights(a_server, file):
    strategy, arrays, _ = rounds_on_flower(file, spoil=full_of(1e30), rounds=2, average="median")
    assert [row.received for row in strategy.traffic.rows] == [3, 3]
    assert max(float(np.abs(array).max()) for array in arrays) < 100


def test_clients_answer_where_neither_keras_nor_tensorflow_can_be_imported(file, tmp_path):
    (tmp_path / "client.py").write_text(PROGRAM)
    printed = printed_by("-c", WITHOUT_KERAS, tmp_path / "client.py", file, folder=tmp_path, run=started)
    assert printed == "1 []\n"
