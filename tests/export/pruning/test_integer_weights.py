"""Weights of 8 bits between activations of 16, and weights of 4 bits: two layers, made by hand."""

import numpy as np
import pytest

from tfprune.export.device.runner import Runner
from tfprune.export.file import schema
from tfprune.export.file.document import add_operator, add_values, save_objects
from tfprune.export.file.reader import read
from tfprune.export.pruning.prune import prune_tflite
from tfprune.export.rewriting.weights import packed

INPUTS, LIMIT = 32, 6.0
UNITS = (48, 16)


class TwoLayers:
    """A file of two layers, "int16x8" or "int4"."""

    def __init__(self, kind):
        self.is_wide = kind == "int16x8"
        self.random = np.random.default_rng(0)
        self.model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()])
        self.graph = schema.SubGraphT(tensors=[], operators=[])
        self.model.subgraphs = [self.graph]
        self.step = LIMIT / 32767
        ends = [self.tensor((1, INPUTS), self.activation, scales=self.step)]
        for units in UNITS:
            ends.append(self.layer(ends[-1], units))
        self.graph.inputs, self.graph.outputs = (np.array([end], np.int32) for end in (ends[0], ends[-1]))
        for code in self.model.operatorCodes:
            code.version = 12

    @property
    def activation(self):
        return "INT16" if self.is_wide else "FLOAT32"

    def tensor(self, shape, kind, *, values=None, scales=None):
        tensor = schema.TensorT(name=b"t%d" % len(self.graph.tensors), shape=np.array(shape, np.int32), buffer=0)
        tensor.type = getattr(schema.TensorType, kind)
        tensor.buffer = 0 if values is None else add_values(self.model, values)
        if scales is not None and kind != "FLOAT32":
            steps = np.atleast_1d(np.float32(scales))
            tensor.quantization = schema.QuantizationParametersT(
                scale=steps, zeroPoint=np.zeros(len(steps), np.int64)
            )
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def layer(self, entry, units):
        inputs = int(self.graph.tensors[entry].shape[1])
        weights = self.random.normal(size=(units, inputs)) / np.sqrt(inputs)
        scales = np.abs(weights).max(axis=1) / (127 if self.is_wide else 7)
        integers = np.rint(weights / scales[:, None]).astype(np.int8)
        bias = self.random.normal(size=units) * 0.1
        if self.is_wide:
            weight = self.tensor(weights.shape, "INT8", values=integers, scales=scales)
            steps = np.rint(bias / (self.step * scales)).astype(np.int64)
            added = self.tensor((units,), "INT64", values=steps, scales=self.step * scales)
        else:
            weight = self.tensor(weights.shape, "INT4", values=packed(integers), scales=scales)
            added = self.tensor((units,), "FLOAT32", values=bias.astype(np.float32))
        output = self.tensor((1, units), self.activation, scales=self.step)
        options = schema.FullyConnectedOptionsT()
        inputs = [entry, weight, added]
        add_operator(self.model, self.graph, name="FULLY_CONNECTED", inputs=inputs, outputs=[output], options=options)
        return output


@pytest.mark.parametrize("kind", ["int16x8", "int4"])
def test_integer_weights_get_zeros_and_outputs_stay_near(tmp_path, kind):
    content = save_objects(TwoLayers(kind).model)
    random = np.random.default_rng(1)
    samples = random.normal(size=(128, 6)) @ random.normal(size=(6, INPUTS)) / 2
    samples = np.clip(samples, -LIMIT, LIMIT).astype(np.float32)
    report = prune_tflite(content, tmp_path / "sparse.tflite", samples, sparsity=0.5, optimize="dense")
    assert report.sparsity == pytest.approx(0.5, abs=0.02) and not report.skipped
    types = [weight.values.dtype for weight in read((tmp_path / "sparse.tflite").read_bytes()).weights]
    assert types.count("int8" if kind == "int16x8" else "int4") == len(report.layers) == 2
    sparse, dense = (Runner(file).predict(samples) for file in (tmp_path / "sparse.tflite", content))
    assert np.sqrt(np.square(sparse - dense).mean() / dense.var(axis=0).mean()) < 0.25
