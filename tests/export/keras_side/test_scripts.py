"""Ten kinds of well-known scripts, made small: two added lines each (marked `+`) prune them, and the file runs.

Custom layers are written as such scripts write them: most have neither `**kwargs` nor `get_config`.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from tiers import first

import tfprune
from tfprune.export import to_tflite

pytestmark = pytest.mark.programs


def pruning() -> tfprune.PruningCallback:
    return tfprune.PruningCallback(tfprune.schedules.Constant(0.5))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def integers(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, high, shape).astype("int32")


class TokenAndPosition(layers.Layer):
    def __init__(self, length, vocabulary, dim):
        super().__init__()
        self.tokens = layers.Embedding(vocabulary, dim)
        self.positions = layers.Embedding(length, dim)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(0, ops.shape(x)[-1]))


class TransformerBlock(layers.Layer):
    def __init__(self, dim, heads, hidden, rate=0.1):
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, dim)
        self.feed_forward = keras.Sequential([layers.Dense(hidden, "relu"), layers.Dense(dim)])
        self.norm1, self.norm2 = layers.LayerNormalization(), layers.LayerNormalization()
        self.dropout1, self.dropout2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, x):
        x = self.norm1(x + self.dropout1(self.attention(x, x)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))


def text_classification():
    x, y = integers(50, 16, 10), integers(2, 16)
    inputs = keras.Input((10,))
    hidden = TransformerBlock(8, 2, 16)(TokenAndPosition(10, 50, 8)(inputs))
    hidden = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(hidden))
    model = keras.Model(inputs, layers.Dense(2, "softmax")(layers.Dense(8, "relu")(hidden)))
    model = tfprune.wrap(model)  # +
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[pruning()])  # +
    return model, x.astype("float32")


class Patches(layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, images):
        patches = ops.image.extract_patches(images, self.size)
        return ops.reshape(patches, (-1, patches.shape[1] * patches.shape[2], patches.shape[3]))

    def get_config(self):
        return {**super().get_config(), "size": self.size}


class PatchEncoder(layers.Layer):
    def __init__(self, count, dim):
        super().__init__()
        self.count = count
        self.projection = layers.Dense(dim)
        self.positions = layers.Embedding(count, dim)

    def call(self, patch):
        return self.projection(patch) + self.positions(ops.expand_dims(ops.arange(self.count), 0))

    def get_config(self):
        return {**super().get_config(), "count": self.count}


def vision_transformer():
    x, y = normal(16, 8, 8, 3), integers(3, 16)
    augmentation = keras.Sequential([layers.Normalization(), layers.RandomFlip("horizontal")], name="augmentation")
    augmentation.layers[0].adapt(x)
    inputs = keras.Input((8, 8, 3))
    encoded = PatchEncoder(4, 8)(Patches(4)(augmentation(inputs)))
    for _ in range(2):
        normed = layers.LayerNormalization(epsilon=1e-6)(encoded)
        attended = layers.Add()([layers.MultiHeadAttention(2, 8, dropout=0.1)(normed, normed), encoded])
        hidden = layers.Dense(16, keras.activations.gelu)(layers.LayerNormalization(epsilon=1e-6)(attended))
        encoded = layers.Add()([layers.Dense(8, keras.activations.gelu)(hidden), attended])
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.LayerNormalization()(encoded))))
    model = tfprune.wrap(model)  # +
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=8, epochs=2, validation_split=0.25, verbose=0, callbacks=[pruning()])  # +
    return model, x


class CTCLayer(layers.Layer):
    def __init__(self, name=None):
        super().__init__(name=name)
        self.loss_fn = keras.ops.ctc_loss

    def call(self, y_true, y_pred):
        batch = ops.shape(y_true)[0]
        lengths = [ops.full((batch,), tensor.shape[1], "int32") for tensor in (y_true, y_pred)]
        self.add_loss(ops.mean(self.loss_fn(y_true, ops.log(y_pred + 1e-7), *lengths)))
        return y_pred


def captcha_ocr():
    x = {"image": normal(16, 16, 8, 1), "label": 1 + integers(4, 16, 3)}
    image, label = keras.Input((16, 8, 1), name="image"), keras.Input((3,), name="label", dtype="int32")
    hidden = layers.MaxPooling2D(2)(layers.Conv2D(4, 3, activation="relu", padding="same", name="Conv1")(image))
    hidden = layers.Dense(8, "relu", name="dense1")(layers.Reshape((8, 16), name="reshape")(hidden))
    hidden = layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.25))(hidden)
    characters = layers.Dense(6, "softmax", name="dense2")(hidden)
    model = keras.Model([image, label], CTCLayer(name="ctc_loss")(label, characters), name="ocr")
    model = tfprune.wrap(model)  # +
    model.compile("adam")
    model.fit(x, batch_size=8, epochs=2, verbose=0, callbacks=[pruning()])  # +
    return keras.Model(model.input[0], model.get_layer("dense2").output), x["image"]


def tabular():
    x = {"age": normal(32, 1), "hours": normal(32, 1), "job": integers(5, 32, 1)}
    inputs = {name: keras.Input((1,), name=name, dtype=str(array.dtype)) for name, array in x.items()}
    scale = {name: layers.Normalization() for name in ("age", "hours")}
    for name, layer in scale.items():
        layer.adapt(x[name])
    features = [layer(inputs[name]) for name, layer in scale.items()]
    features = layers.concatenate([*features, layers.CategoryEncoding(5, output_mode="one_hot")(inputs["job"])])
    hidden = layers.Dropout(0.5)(layers.Dense(16, "relu")(features))
    model = keras.Model(inputs, layers.Dense(1, "sigmoid")(hidden))
    model = tfprune.wrap(model)  # +
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    model.fit(x, integers(2, 32, 1), epochs=4, verbose=0, callbacks=[pruning()])  # +
    return model, x


def timeseries_transformer():
    x, y = normal(16, 20, 1), integers(2, 16)
    inputs = hidden = keras.Input((20, 1))
    for _ in range(2):
        attended = layers.Dropout(0.1)(layers.MultiHeadAttention(2, 4, dropout=0.1)(hidden, hidden))
        residual = layers.LayerNormalization(epsilon=1e-6)(attended) + hidden
        hidden = layers.Dropout(0.1)(layers.Conv1D(4, 1, activation="relu")(residual))
        hidden = layers.LayerNormalization(epsilon=1e-6)(layers.Conv1D(1, 1)(hidden)) + residual
    hidden = layers.GlobalAveragePooling1D(data_format="channels_last")(hidden)
    model = keras.Model(inputs, layers.Dense(2, "softmax")(layers.Dense(8, "relu")(hidden)))
    model = tfprune.wrap(model)  # +
    model.compile("adam", "sparse_categorical_crossentropy")
    stopping = keras.callbacks.EarlyStopping(patience=10)
    model.fit(x, y, validation_split=0.2, epochs=2, verbose=0, callbacks=[stopping, pruning()])  # +
    return model, x


def u_net():
    x, y = normal(8, 16, 16, 3), integers(3, 8, 16, 16)
    inputs = keras.Input((16, 16, 3))
    hidden = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(4, 3, 2, padding="same")(inputs)))
    before = hidden
    hidden = layers.BatchNormalization()(layers.SeparableConv2D(8, 3, padding="same")(hidden))
    hidden = layers.MaxPooling2D(3, strides=2, padding="same")(hidden)
    before = hidden = layers.add([hidden, layers.Conv2D(8, 1, strides=2, padding="same")(before)])
    for filters in (8, 4):
        hidden = layers.Activation("relu")(hidden)
        hidden = layers.BatchNormalization()(layers.Conv2DTranspose(filters, 3, padding="same")(hidden))
        hidden = layers.UpSampling2D(2)(hidden)
        beside = layers.Conv2D(filters, 1, padding="same")(layers.UpSampling2D(2)(before))
        before = hidden = layers.add([hidden, beside])
    model = keras.Model(inputs, layers.Conv2D(3, 3, activation="softmax", padding="same")(hidden))
    model = tfprune.wrap(model)  # +
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[pruning()])  # +
    with pytest.raises(ValueError, match=r"Conv2D on inputs whose sizes stay open.*keras.Model\(x, model\(x\)\)"):
        to_tflite(model, "open.tflite")
    fixed = keras.Input((16, 16, 3), batch_size=1)  # as the message says
    return keras.Model(fixed, model(fixed)), x[:1]


class DistanceLayer(layers.Layer):
    def call(self, anchor, positive, negative):
        return (
            ops.sum(ops.square(anchor - positive), -1),
            ops.sum(ops.square(anchor - negative), -1),
        )


class SiameseModel(keras.Model):
    def __init__(self, network, margin=0.5):
        super().__init__()
        self.network, self.margin = network, margin
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs):
        return self.network(inputs)

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            near, far = self.network(data)
            loss = ops.mean(ops.maximum(near - far + self.margin, 0.0))
        gradients = tape.gradient(loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]


def siamese():
    x = [normal(16, 8, 8, 3) + shift for shift in (0, 0.1, 1)]
    images = keras.Input((8, 8, 3))
    hidden = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(images))
    embedding = keras.Model(images, layers.Dense(4)(layers.Dense(8, "relu")(hidden)), name="embedding")
    inputs = [keras.Input((8, 8, 3), name=name) for name in ("anchor", "positive", "negative")]
    network = keras.Model(inputs, DistanceLayer()(*map(embedding, inputs)))
    network = tfprune.wrap(network, in_place=True)  # +
    model = SiameseModel(network)
    model.compile("adam")
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(tuple(x)).batch(8)
    model.fit(dataset, epochs=2, verbose=0, callbacks=[pruning()])  # +
    return embedding, x[0]


class GraphConvLayer(layers.Layer):
    def __init__(self, units, normalize=False, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.normalize = normalize
        self.prepare = keras.Sequential([layers.BatchNormalization(), layers.Dense(units, "gelu")])
        self.update = keras.Sequential([layers.BatchNormalization(), layers.Dense(units, "gelu")])

    def call(self, inputs):
        nodes, edges, weights = inputs
        messages = self.prepare(ops.take(nodes, edges[1], axis=0)) * weights[:, None]
        summed = ops.segment_sum(messages, edges[0], num_segments=nodes.shape[0])
        nodes = self.update(ops.concatenate([nodes, summed], axis=1))
        return ops.normalize(nodes) if self.normalize else nodes


class GNNNodeClassifier(keras.Model):
    def __init__(self, graph_info, classes, units, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.features, self.edges, weights = graph_info
        self.edge_weights = weights / np.sum(weights)
        self.preprocess = keras.Sequential([layers.Dense(units, "gelu"), layers.Dropout(0.2)], name="preprocess")
        self.conv1, self.conv2 = GraphConvLayer(units, name="conv1"), GraphConvLayer(units, name="conv2")
        self.compute_logits = layers.Dense(classes, name="logits")

    def call(self, indices):
        x = self.preprocess(self.features)
        x = self.conv1((x, self.edges, self.edge_weights)) + x
        x = self.conv2((x, self.edges, self.edge_weights)) + x
        return self.compute_logits(ops.take(x, ops.squeeze(indices, -1), axis=0))


def graph_neural_network():
    graph = normal(12, 6), integers(12, 2, 30), np.ones(30, "float32")
    nodes, y = integers(12, 16, 1), integers(3, 16)
    model = GNNNodeClassifier(graph, 3, 8)
    model(nodes)
    model = tfprune.wrap(model, in_place=True)  # +
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(nodes, y, batch_size=8, epochs=2, verbose=0, callbacks=[pruning()])  # +
    inputs = keras.Input((1,), dtype="int32")
    return keras.Model(inputs, tfprune.strip(model)(inputs)), nodes


def speaker_recognition():
    x, y = normal(16, 32, 1), integers(3, 16)
    inputs = hidden = keras.Input((32, 1), name="input")
    for filters in (4, 8):
        beside = layers.Conv1D(filters, 1, padding="same")(hidden)
        hidden = layers.Activation("relu")(layers.Conv1D(filters, 3, padding="same")(hidden))
        hidden = layers.Add()([layers.Conv1D(filters, 3, padding="same")(hidden), beside])
        hidden = layers.MaxPool1D(pool_size=2, strides=2)(layers.Activation("relu")(hidden))
    hidden = layers.Flatten()(layers.AveragePooling1D(pool_size=3, strides=3)(hidden))
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="output")(layers.Dense(8, "relu")(hidden)))
    model = tfprune.wrap(model)  # +
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(16).batch(8)
    model.fit(dataset, epochs=2, verbose=0, callbacks=[pruning()])  # +
    return model, x


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, temperature=3):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn, self.distillation_loss_fn = student_loss_fn, distillation_loss_fn
        self.alpha, self.temperature = alpha, temperature

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
        soft = ops.softmax(self.teacher(x, training=False) / self.temperature, axis=1)
        distilled = self.distillation_loss_fn(soft, ops.softmax(y_pred / self.temperature, axis=1))
        return self.alpha * self.student_loss_fn(y, y_pred) + (1 - self.alpha) * distilled * self.temperature**2

    def call(self, x):
        return self.student(x)


def knowledge_distillation():
    x, y = normal(16, 8, 8, 1), integers(3, 16)

    def network(filters, name):
        parts = [layers.Conv2D(filters, 3, 2, padding="same"), layers.LeakyReLU(0.2), layers.Flatten()]
        return keras.Sequential([keras.Input((8, 8, 1)), *parts, layers.Dense(3)], name=name)

    teacher, student = network(8, "teacher"), network(4, "student")
    student = tfprune.wrap(student)  # +
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile(
        optimizer=keras.optimizers.Adam(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        distillation_loss_fn=keras.losses.KLDivergence(),
    )
    distiller.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[pruning()])  # +
    return student, x


SCRIPTS = first(
    *(captcha_ocr, knowledge_distillation, text_classification, vision_transformer, tabular, timeseries_transformer),
    *(u_net, siamese, graph_neural_network, speaker_recognition),
    count=2,
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_script_trains_strips_and_exports(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    model, x = script()
    stripped = tfprune.strip(model)
    report = tfprune.sparsity_report(stripped)
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    assert not any(isinstance(layer, tfprune.Pruned) for layer in stripped._flatten_layers())
    np.testing.assert_allclose(stripped.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    samples = keras.tree.map_structure(lambda array: array[: model.inputs[0].shape[0] or 2], x)
    report = to_tflite(model, tmp_path / "model.tflite", check_on=samples)
    assert report.max_abs_diff < 1e-4
