"""Gradients of a loss with respect to kernels, by Keras' training step; episodes; gradients of meta-training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.arrays import input_axes, output_axes
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count
from tfprune.criteria import Criterion
from tfprune.facts import FACTS, MEAN, META, Fact, UnknownFact
from tfprune.models.anatomy import Kernel, as_numpy, kernels, walk
from tfprune.models.graph import holders, read_only_scope
from tfprune.models.training import Batch, classes_of

# Weights to gather evidence of, and the facts that are requested of each.


@dataclass(frozen=True, eq=False)
class Subject:
    """A weight to gather evidence of.

    Attributes:
        path: Its path in the model.
        kernel: The weight, which holds its masked values while evidence is gathered.
        criterion: The criterion, which names the facts that it needs.
        latent: A function that returns the latent values of the weight.
        mask: Its mask, or None for a weight that has none.
        origin: The weight of the user's model that this one was copied from; None if it is that weight itself.
    """

    path: str
    kernel: Kernel
    criterion: Criterion
    latent: Callable[[], np.ndarray]
    mask: keras.Variable | None = None
    origin: keras.Variable | None = None


@dataclass(frozen=True, eq=False)
class FactRequest:
    """A fact to gather of a weight.

    Attributes:
        subject: The weight.
        fact: The fact.
        hooked: The layer whose calls are recorded.
        holder: The innermost layer that holds the weight.
    """

    subject: Subject
    fact: Fact
    hooked: keras.layers.Layer
    holder: keras.layers.Layer

    @property
    def key(self) -> str:
        """The name of the request, which no other one has."""
        return f"{self.subject.path} {self.fact.name}"

    @property
    def axes(self) -> list[int]:
        """The axes of the weight along which the fact has values."""
        letters = self.subject.kernel.axes
        if self.fact.per == "entry":
            return list(range(len(letters)))
        return output_axes(letters) if self.fact.per == "output" else input_axes(letters)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the fact: that of the weight, or (outputs,) or (inputs,)."""
        sizes = self.subject.kernel.variable.shape
        return tuple(sizes) if self.fact.per == "entry" else (math.prod(sizes[axis] for axis in self.axes),)

    def checked(self, value: Any, shape: tuple[int | None, ...]) -> Any:
        """Check the shape of a recorded fact, and return it.

        Args:
            value: The returned value.
            shape: The first axes that it has to have; None is any size.

        Raises:
            ValueError: If it has another shape.
        """
        received = tuple(getattr(value, "shape", ()))
        if len(received) < len(shape) or any(a not in (None, b) for a, b in zip(shape, received, strict=False)):
            raise ArgumentError(
                "reduce",
                f"`reduce` of the fact {self.fact.name!r} to return an array of shape {shape} for "
                f"{self.subject.path}, one value per {self.fact.per}",
                found=f"shape {received}",
            )
        return value


def requests_of(model: keras.layers.Layer, subjects: Sequence[Subject], *, of_data: bool) -> list[FactRequest]:
    """Return the facts that the criteria of some weights need.

    Args:
        model: The model that holds the weights.
        subjects: The weights.
        of_data: Whether to return the facts that are gathered from data, or those that are read from the model.
    """
    needed = [(subject, fact) for subject in subjects for fact in subject.criterion.needed_facts()]
    pairs = [(subject, fact) for subject, fact in needed if fact.needs_data is of_data]
    held = holders(model) if pairs else {}
    return [FactRequest(subject, fact, *held[id(subject.kernel.variable)]) for subject, fact in pairs]


# Gradients of a model's loss with respect to its kernels, batch by batch, by Keras' own training step.

_FLAT = 1e-6  # the gradient of a sum of softmax is 0 but for rounding

Loss = Callable[[Any, Any, Any, Any], Any]  # from inputs, targets, outputs and sample weights


def training_loss(model: keras.layers.Layer, loss: Any) -> Loss:
    """Return a loss given by name or as a function, or the loss that a model was compiled with.

    Raises:
        ValueError: If `loss` is None and the model is not compiled with one, or `loss` is not the name of a loss.
    """
    if loss is None:
        if not getattr(model, "compiled", False) or not model.loss:
            raise ValueError(
                f"Expected a loss, whose gradients the criterion looks at. Received: {model.name!r}, which is not "
                f"compiled with one, and loss=None. Compile it, or pass a loss, for example loss='mse'."
            )
        return lambda x, y, outputs, weight: model.compute_loss(x, y, outputs, weight, training=False)
    function = keras.losses.get(loss)
    if isinstance(function, keras.losses.Loss):
        return lambda x, y, outputs, weight: function(y, outputs, sample_weight=weight)

    def mean(x: Any, y: Any, outputs: Any, weight: Any) -> Any:
        losses = function(y, outputs)
        return ops.mean(losses if weight is None else losses * ops.cast(weight, losses.dtype))

    return mean


class _Recorder(keras.optimizers.Optimizer):
    """An optimizer that changes no weight, and adds up what facts measure of the gradients, in float64.

    Args:
        requests: Facts of gradients.
    """

    def __init__(self, requests: Sequence[FactRequest]) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self.requests = tuple(requests)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        self.indices = {id(variable): index for index, variable in enumerate(variables)}
        self.sums = [
            self.add_variable(shape=request.shape, dtype="float64", name=f"{request.fact.name}_{index}")
            for index, request in enumerate(self.requests)
        ]

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        for request, total in zip(self.requests, self.sums, strict=True):
            gradient = grads[self.indices[id(request.subject.kernel.variable)]]
            if gradient is not None:  # the loss depends on it
                recorded = _arranged(ops.cast(without_sparse_rows(gradient), "float64"), request)
                total.assign_add(request.checked(request.fact.reduce(recorded, ops), request.shape))
        self.iterations.assign_add(1)

    def reset(self) -> None:
        """Forget all batches."""
        for variable in self.variables:
            variable.assign(ops.zeros_like(variable.value))

    def combined(self) -> dict[str, np.ndarray]:
        """Return the recorded facts, by the keys of their requests."""
        batches = int(self.iterations)
        return {
            request.key: as_numpy(total).astype(np.float64) / (batches if request.fact.combine == MEAN else 1)
            for request, total in zip(self.requests, self.sums, strict=True)
        }


def without_sparse_rows(gradient: Any) -> Any:
    """Return a gradient as an array, also of an embedding, whose gradient names rows."""
    if hasattr(gradient, "dense_shape"):  # of an embedding: the rows that were looked up
        rows, shape = ops.expand_dims(gradient.indices, 1), gradient.dense_shape
        return ops.scatter(rows, gradient.values, shape)
    return gradient


def _arranged(gradient: Any, request: FactRequest) -> Any:
    """Return a gradient as the fact takes it: of the weight's shape, or with a column for each output or input."""
    if request.fact.per == "entry":
        return gradient
    rest = [axis for axis in range(len(gradient.shape)) if axis not in request.axes]
    order = [*rest, *request.axes]
    gradient = gradient if order == sorted(order) else ops.transpose(gradient, order)
    return ops.reshape(gradient, (-1, *request.shape))


class _OpenModel(keras.Model):
    """A model whose training step hands the gradients of a loss to a recording optimizer.

    Args:
        model: The model.
        loss: Its loss.
        masks: Masks that let the gradients of masked entries through; the weights themselves hold the zeros.
        recorder: The optimizer, which is built here.
        training: Whether layers behave as in training.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        loss: Loss,
        masks: Sequence[keras.Variable],
        *,
        recorder: keras.optimizers.Optimizer,
        training: bool,
    ) -> None:
        super().__init__(dtype="float32", autocast=False, name="open_model")
        self.model = model
        self._scope = lambda: read_only_scope(model, masks)
        self._loss, self._in_training = loss, training
        self.built = True
        self.compile(optimizer=recorder)
        recorder.build(self.trainable_variables)

    def call(self, inputs: Any) -> Any:
        self._entered = self._scope()
        with self._entered:
            return self.model(inputs, training=self._in_training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        with self._entered:  # it holds the losses that layers added in the call
            return self._loss(x, y, y_pred, sample_weight)


class Gradients(_OpenModel):
    """A model in inference whose training step hands the gradients of a loss to a `_Recorder`.

    Args:
        model: The model.
        loss: Its loss.
        requests: Facts of gradients.
    """

    def __init__(self, model: keras.layers.Layer, loss: Loss, requests: Sequence[FactRequest]) -> None:
        masks = [request.subject.mask for request in requests if request.subject.mask is not None]
        self.recorder = _Recorder(requests)
        super().__init__(model, loss, masks, recorder=self.recorder, training=False)

    def reset(self) -> None:
        """Forget all batches."""
        self.recorder.reset()

    def record(self, batch: Batch) -> None:
        """Record one batch."""
        if batch.y is None:
            raise ArgumentError(
                "data",
                "`data` with targets, as the criterion looks at gradients of the loss",
                found="inputs only",
                advice="Pass (x, y).",
            )
        self.train_on_batch(batch.x, batch.y, sample_weight=batch.sample_weight)

    def combined(self) -> dict[str, np.ndarray]:
        """Return the recorded facts, by the keys of their requests."""
        return self.recorder.combined()


class LossGradients(_OpenModel):
    """A model in training whose training step keeps the gradients of a loss, and changes no weight.

    Args:
        model: The model.
        loss: Its loss.
        masks: Masks whose entries get gradients, too.
    """

    def __init__(self, model: keras.layers.Layer, loss: Loss, masks: Sequence[keras.Variable]) -> None:
        self.kept = _LastGradients()
        self._seeds = [layer.seed_generator for _, layer in walk(model) if getattr(layer, "seed_generator", None)]
        super().__init__(model, loss, masks, recorder=self.kept, training=True)

    def of(self, batch: Batch) -> dict[int, np.ndarray]:
        """Return the gradients of a batch, by the id of the weight."""
        self.train_on_batch(batch.x, batch.y, sample_weight=batch.sample_weight)
        for generator in self._seeds:
            generator.next()  # or the next batch would drop the same units
        values = [np.array(as_numpy(gradient), np.float64) for gradient in self.kept.gradients]
        return {id(variable): value for variable, value in zip(self.trainable_variables, values, strict=True)}


class _LastGradients(keras.optimizers.Optimizer):
    """An optimizer that changes no weight, and keeps the last gradient of each."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0, name="last_gradients")

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        self.gradients = [
            self.add_variable(shape=variable.shape, dtype=variable.dtype, name=f"gradient_{index}")
            for index, variable in enumerate(variables)
        ]

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        for gradient, kept in zip(grads, self.gradients, strict=True):
            is_used = gradient is not None  # the loss depends on it
            kept.assign(without_sparse_rows(gradient) if is_used else ops.zeros_like(kept.value))


class _FlowGradients(_OpenModel):
    """A model in inference whose training step keeps the gradients of its summed outputs, weights taken as |w|."""

    def __init__(self, model: keras.layers.Layer) -> None:
        self.kept = _LastGradients()
        super().__init__(model, _sum_of_outputs, (), recorder=self.kept, training=False)
        weights = model.trainable_variables
        self._scope = lambda: read_only_scope(model, values={id(each): ops.abs(each.value) for each in weights})


def _sum_of_outputs(x: Any, y: Any, outputs: Any, weight: Any) -> Any:
    return sum(ops.sum(ops.cast(output, "float32")) for output in keras.tree.flatten(outputs))


def synaptic_flows(
    model: keras.layers.Layer, origins: Mapping[int, keras.Variable]
) -> dict[int, np.ndarray] | UnknownFact:
    """Return |w| dR/d|w| of each trained weight, by its id; R is the sum of the outputs on inputs of ones.

    Args:
        model: The model.
        origins: By the id of a weight, the weight whose id is returned in its place.
    """
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if not inputs or any(None in tensor.shape[1:] for tensor in inputs):
        return UnknownFact("the model does not name the shapes of its inputs")
    ones = [ops.ones((1, *tensor.shape[1:]), dtype=tensor.dtype) for tensor in inputs]
    flow = _FlowGradients(model)
    flow.train_on_batch(keras.tree.pack_sequence_as(model.inputs, ones) if len(ones) > 1 else ones[0])
    gradients = [np.asarray(as_numpy(gradient), np.float64) for gradient in flow.kept.gradients]
    variables = flow.trainable_variables
    flows = [np.abs(each * as_numpy(weight)) for each, weight in zip(gradients, variables, strict=True)]
    if max(each.max(initial=0) for each in flows) < _FLAT:
        return UnknownFact("the sum of the outputs is the same whatever the weights are, as after softmax")
    return {id(origins.get(id(weight), weight)): each for weight, each in zip(variables, flows, strict=True)}


# The Hessian of a loss times its gradient, batch by batch: a second derivative, taken by each backend.

_Values = list[Any]  # tensors, one for each weight
_Scalar = Callable[[_Values], Any]


class HessianGradients:
    """Multiply the Hessian of a loss by its mean gradient, with respect to the weights of some requests.

    It reads the data twice: `first` records the mean gradient, and then this object each batch's product with it.

    Args:
        model: The model.
        loss: Its loss.
        requests: Facts that are recorded of the product.
    """

    def __init__(self, model: keras.layers.Layer, loss: Loss, requests: Sequence[FactRequest]) -> None:
        self._model, self._loss, self._requests = model, loss, tuple(requests)
        self._weights = list({id(each.subject.kernel.variable): each for each in requests}.values())
        self._masks = [each.subject.mask for each in self._weights if each.subject.mask is not None]
        gradient = FACTS["gradient"]
        self._of_gradients = [FactRequest(each.subject, gradient, each.hooked, each.holder) for each in self._weights]
        self.first = Gradients(model, loss, self._of_gradients)

    def reset(self) -> None:
        """Forget all batches."""
        gradients = self.first.combined()
        self._vectors = [gradients[request.key] for request in self._of_gradients]
        self._sums: dict[str, Any] = {request.key: 0.0 for request in self._requests}
        self._batches = 0

    def record(self, batch: Batch) -> None:
        """Record one batch."""
        values = [ops.copy(each.subject.kernel.variable.value) for each in self._weights]
        products = _product(lambda inner: self._loss_at(inner, batch), values, self._vectors)
        by_subject = {id(each.subject): value for each, value in zip(self._weights, products, strict=True)}
        for request in self._requests:
            recorded = _arranged(ops.cast(without_sparse_rows(by_subject[id(request.subject)]), "float64"), request)
            reduced = request.checked(request.fact.reduce(recorded, ops), request.shape)
            self._sums[request.key] += np.asarray(as_numpy(reduced), np.float64)
        self._batches += 1

    def combined(self) -> dict[str, np.ndarray]:
        """Return the recorded facts, by the keys of their requests."""
        return {
            request.key: self._sums[request.key] / (self._batches if request.fact.combine == MEAN else 1)
            for request in self._requests
        }

    def _loss_at(self, values: _Values, batch: Batch) -> Any:
        """Return the loss of a batch with other values of the weights, in inference."""
        replaced = {
            id(each.subject.kernel.variable): value for each, value in zip(self._weights, values, strict=True)
        }
        with read_only_scope(self._model, self._masks, values=replaced):
            outputs = self._model(batch.x, training=False)
            return self._loss(batch.x, batch.y, outputs, batch.sample_weight)


def _product(loss: _Scalar, values: _Values, vectors: Sequence[np.ndarray]) -> _Values:
    """Return the Hessian of a loss times vectors: the gradient of the scalar product of its gradient with them."""

    def along(gradients: Sequence[Any]) -> Any:
        pairs = zip(gradients, vectors, strict=True)
        return sum(ops.sum(without_sparse_rows(each) * ops.cast(vector, each.dtype)) for each, vector in pairs)

    gradients_of = _GRADIENTS_OF[keras.config.backend()]
    return gradients_of(lambda outer: along(gradients_of(loss, outer, is_inner=True)), values, is_inner=False)


def _tensorflow(scalar: _Scalar, values: _Values, *, is_inner: bool) -> _Values:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        value = scalar(values)
    return tape.gradient(value, values, unconnected_gradients="zero")


def _jax(scalar: _Scalar, values: _Values, *, is_inner: bool) -> _Values:
    import jax

    return jax.grad(scalar)(values)


def _torch(scalar: _Scalar, values: _Values, *, is_inner: bool) -> _Values:
    import torch

    with torch.enable_grad():
        values = values if is_inner else [value.detach().clone().requires_grad_() for value in values]
        return torch.autograd.grad(scalar(values), values, create_graph=is_inner, materialize_grads=True)


_GRADIENTS_OF = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


# Gradients of the outer steps of meta-training, kept beside the weights for criteria that look at them.


class MetaGradients:
    """Record the gradients of the outer loss of meta-training, for `criteria.DACIS(meta=...)`.

    Create it before meta-training, and call `add` in each outer step. The gradients are stored with the weights of
    the model, where `update_masks` and `plan_shrink` find them. A new recorder on the same model starts anew.

    Args:
        model: The model that is trained, wrapped or not, and built.

    Raises:
        TypeError: If `model` is not a Keras layer or model.
        ValueError: If it has no kernel that is trained.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False, name="out")])
        >>> meta = MetaGradients(model)
        >>> meta.add([np.array([[3.0, 0.0], [4.0, 1.0]])])
        >>> meta.norms()
        [array([5., 1.])]
    """

    def __init__(self, model: keras.layers.Layer) -> None:
        if not isinstance(model, keras.layers.Layer):
            raise ArgumentTypeError("model", "a Keras model", f"{model!r} of type {type(model).__name__}")
        self._model, self._steps = model, 0
        positions = {id(variable): index for index, variable in enumerate(model.trainable_variables)}
        trained = [kernel for kernel in kernels(model) if id(kernel.variable) in positions]
        self._kernels = [(positions[id(kernel.variable)], kernel) for kernel in trained]
        if not self._kernels:
            raise ValueError(
                f"Expected a model with kernels that are trained. Received: {model.name!r} without any. Build it "
                f"first."
            )
        for kernel in trained:
            setattr(kernel.variable, META, None)

    def add(self, gradients: Sequence[Any]) -> None:
        """Add the gradients of one outer step.

        Args:
            gradients: One for each of `model.trainable_variables`, in this order, as `tape.gradient` returns them;
                None where the loss does not depend on the weight.

        Raises:
            ValueError: If their number or shapes are wrong.
        """
        gradients = [None if gradient is None else without_sparse_rows(gradient) for gradient in gradients]
        variables = self._model.trainable_variables
        received = [None if gradient is None else tuple(gradient.shape) for gradient in gradients]
        expected = [tuple(variable.shape) for variable in variables]
        fits = len(received) == len(expected) and all(
            shape in (None, other) for shape, other in zip(received, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"Expected one gradient for each of the {len(expected)} trainable variables of "
                f"{self._model.name!r}, of shapes {expected}. Received: {received}. Pass the result of "
                f"tape.gradient(loss, model.trainable_variables)."
            )
        self._steps += 1
        for position, kernel in self._kernels:
            before = getattr(kernel.variable, META)
            gradient = gradients[position]
            norms = _norms(np.zeros(kernel.variable.shape) if gradient is None else as_numpy(gradient), kernel)
            mean = 0.0 if before is None else before
            setattr(kernel.variable, META, mean + (norms - mean) / self._steps)

    def take(self, norms: Sequence[np.ndarray | None]) -> None:
        """Replace the recorded norms by `norms`, which an earlier recorder returned."""
        for position, kernel in self._kernels:
            setattr(kernel.variable, META, norms[position])

    def norms(self) -> list[np.ndarray | None]:
        """Return the mean over steps of the norm of each output, in the order of `add`; None for biases."""
        return [getattr(variable, META, None) for variable in self._model.trainable_variables]


def _norms(gradient: np.ndarray, kernel: Kernel) -> np.ndarray:
    outputs = output_axes(kernel.axes)
    rest = tuple(axis for axis in range(gradient.ndim) if axis not in outputs)
    return np.sqrt(np.square(gradient.astype(np.float64)).sum(axis=rest)).ravel()


# Episodes: small classification tasks drawn from labelled samples, as few-shot models are trained and judged by.


class Episodes:
    """Draw N-way K-shot episodes from labelled samples.

    Each episode is a batch with fields `x`, `y` and `classes`. It holds the support set, class after class, and then
    the queries, class after class. `y` numbers the classes of the episode from 0, as its loss needs them. `classes`
    are the labels in the whole data set. Criteria that compare classes use these, because class 0 differs from one
    episode to the next. Pass episodes as `data` where a criterion needs evidence, or train on them. The same seed
    gives the same episodes in every pass.

    Args:
        x: Samples, (samples, ...).
        y: Their labels, integers of shape (samples,).
        ways: Classes in an episode, at least 2. Default 5.
        shots: Support samples of each class, at least 1. Default 5.
        queries: Query samples of each class, at least 0. Default 15. With 0, an episode has a support set only.
        episodes: The number of episodes, at least 1. Default 100.
        seed: Seed of the draws, at least 0. Default 0.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is too small, `x` and `y` differ in length, labels are not integers, there are fewer
            classes than `ways`, or a class has fewer samples than shots and queries.

    Example:
        >>> x, y = np.arange(12.0)[:, None], np.arange(12) % 3 + 10
        >>> episode = next(iter(Episodes(x, y, ways=2, shots=2, queries=1)))
        >>> episode.x.shape, episode.y.tolist(), set(episode.classes.tolist()) <= {10, 11, 12}
        ((6, 1), [0, 0, 1, 1, 0, 1], True)

    Reference:
        Vinyals et al., 2016, "Matching Networks for One Shot Learning", arXiv:1606.04080.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        *,
        ways: int = 5,
        shots: int = 5,
        queries: int = 15,
        episodes: int = 100,
        seed: int = 0,
    ) -> None:
        self.ways, self.shots = check_count(ways, "ways", least=2), check_count(shots, "shots", least=1)
        self.queries = check_count(queries, "queries", least=0)
        self.episodes = check_count(episodes, "episodes", least=1)
        self.seed = check_count(seed, "seed", least=0)
        self._x = np.asarray(x)
        labels = classes_of(Batch(self._x, np.asarray(y)))
        if len(labels) != len(self._x):
            raise ValueError(
                f"Expected a label for each sample. Received: {len(self._x)} samples and {len(labels)} labels."
            )
        self._rows = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
        self._check_rows()

    def _check_rows(self) -> None:
        if len(self._rows) < self.ways:
            raise ValueError(
                f"Expected samples of at least ways={self.ways} classes. Received: {len(self._rows)} classes. Pass "
                f"more classes, or fewer ways."
            )
        needed = self.shots + self.queries
        short = {label: rows.size for label, rows in self._rows.items() if rows.size < needed}
        if short:
            listed = ", ".join(f"{size} of class {label}" for label, size in list(short.items())[:5])
            raise ValueError(
                f"Expected at least {needed} samples of each class, for shots={self.shots} and queries="
                f"{self.queries}. Received: {listed}. Leave these classes out, or lower shots or queries."
            )

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels of the classes that episodes are drawn from."""
        return tuple(self._rows)

    def __len__(self) -> int:
        return self.episodes

    def __iter__(self) -> Iterator[Batch]:
        return self.draw(self.episodes, seed=self.seed)

    def draw(self, episodes: int, *, seed: int | Sequence[int]) -> Iterator[Batch]:
        """Yield other episodes of the same kind.

        Args:
            episodes: The number of episodes.
            seed: Seed of the draws: an integer, or a sequence of integers.

        Example:
            >>> tasks = Episodes(np.arange(4.0), np.arange(4) % 2, ways=2, shots=1, queries=1)
            >>> [episode.y.tolist() for episode in tasks.draw(1, seed=3)]
            [[0, 1, 0, 1]]
        """
        generator = np.random.default_rng(seed)
        labels = np.array(list(self._rows))
        # Row i of both: class i of the episode, its support samples first.
        numbers = np.arange(self.ways)
        y = np.concatenate([np.repeat(numbers, self.shots), np.repeat(numbers, self.queries)])
        for _ in range(episodes):
            classes = generator.choice(labels, self.ways, replace=False)
            rows_by_class = np.stack(
                [generator.choice(self._rows[label], self.shots + self.queries, replace=False) for label in classes]
            )
            rows = np.concatenate([rows_by_class[:, : self.shots].ravel(), rows_by_class[:, self.shots :].ravel()])
            yield Batch(self._x[rows], y, None, classes[y])
