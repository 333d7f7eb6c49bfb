"""The interpreter in a process of its own: what it counts, what it gives, and what it refuses."""

import importlib.util

import numpy as np
import pytest

from tfprune.export.device.runner import Runner
from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.schema import MissingPackage
from tfprune.export.micro.interpreter import KNOWN_OPERATORS, missing, registrations, run_files
from tfprune.export.micro.micro import _Candidates


def test_it_gives_what_the_interpreter_of_phones_gives(network):
    for kind, tolerance in (("float32", 1e-5), ("int8", 0.02)):
        expected = Runner(network.files[kind]).predict(network.samples)
        (run,) = run_files([network.files[kind]], [network.samples])
        assert run.reason == ""
        assert np.abs(run.outputs[0] - expected).max() <= tolerance * np.abs(expected).max()
        assert run.raw[0].dtype == kind


def test_the_arena_holds_at_least_what_is_live_at_once(network):
    (run,) = run_files([network.files["int8"]], [network.samples])
    # Between the two convolutions: 8x8x24 in, 6x6x24 out.
    assert 8 * 8 * 24 + 6 * 6 * 24 < run.arena < 8 * 8 * 24 + 6 * 6 * 24 + 4096


def test_a_refusal_and_a_crash_are_reasons_and_the_others_run(network, sparse):
    refused, right = run_files([sparse, network.files["float32"]], [network.samples])
    assert "DENSIFY" in refused.reason
    assert right.reason == ""


def test_damaged_constants_of_decode_are_reasons_too(network, monkeypatch):
    """The reader refuses most of these files, and is bypassed here: the interpreter gets them all."""
    candidates = _Candidates(ModelFile(network.files["int8"]))
    file = candidates.write((1,) * candidates.layers).file
    whole, graph = file.content, file.graph
    random, files = np.random.default_rng(0), []
    places = [
        tensor.buffer for tensor in load_objects(whole).subgraphs[0].tensors if tensor.type == schema.TensorType.UINT8
    ]
    for place in places:
        for damage in DAMAGES:
            model = load_objects(whole)
            model.buffers[place].data = damage(np.array(model.buffers[place].data), random)
            files.append(save_objects(model))
    monkeypatch.setattr(ModelFile, "graph", property(lambda _: graph))
    *runs, right, expected = run_files([*files, whole, network.files["int8"]], [network.samples])
    assert len(runs) == len(DAMAGES) * len(places) >= 20
    assert all(bool(run.reason) != bool(run.raw) for run in runs)
    assert right.equals(expected)


DAMAGES = [
    lambda raw, random: np.concatenate([random.integers(0, 256, 8).astype(np.uint8), raw[8:]]),  # a header that lies
    lambda raw, random: raw[: len(raw) // 2],
    lambda raw, random: np.full_like(raw, 255),  # bits for more values than there are
]


def test_options_that_lie_outside_of_the_file_are_a_reason(network):
    """The reader looks only at the options that it needs."""
    data = bytearray(network.files["float32"])
    operator = schema.Model.GetRootAs(data, 0).Subgraphs(0).Operators(0)
    assert operator.BuiltinOptionsType() == schema.BuiltinOptions.Conv2DOptions
    place = operator.BuiltinOptions().Pos
    slots = place - int.from_bytes(data[place : place + 4], "little", signed=True)
    data[slots + 4 : slots + 6] = b"\xf0\xff"
    damaged, right = run_files([bytes(data), network.files["float32"]], [network.samples])
    assert damaged.reason.startswith("the file is damaged") and right.reason == ""


def test_samples_that_do_not_fit_are_a_reason(network):
    (run,) = run_files([network.files["float32"]], [network.samples[:, 1:]])
    assert "(1, 10, 10, 3)" in run.reason


def test_without_the_package_it_says_what_to_install(network, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"tfprune\[micro\]"):
        run_files([network.files["float32"]], [network.samples])


def test_the_operators_that_are_missing():
    assert missing(["CONV_2D", "TFLM_DECODE", "GELU", "DENSIFY"]) == ["DENSIFY", "GELU"]


def test_how_operators_are_registered():
    """Compared with the resolver of tflite-micro, in its own spelling."""
    spelled = {
        "AVERAGE_POOL_2D": "AddAveragePool2D",
        "BATCH_MATMUL": "AddBatchMatMul",
        "FULLY_CONNECTED": "AddFullyConnected",
        "L2_POOL_2D": "AddL2Pool2D",
        "PADV2": "AddPadV2",
        "RELU6": "AddRelu6",
        "SELECT_V2": "AddSelectV2",
        "SPACE_TO_BATCH_ND": "AddSpaceToBatchNd",
        "TFLM_DECODE": "AddDecode",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    }
    assert {name: registrations([name])[0] for name in spelled} == spelled
    assert len(registrations(KNOWN_OPERATORS)) == len(KNOWN_OPERATORS)
