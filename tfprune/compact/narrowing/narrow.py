"""Narrow the residual stream of a language model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_count
from tfprune.compact.narrowing.narrow_report import NarrowReport
from tfprune.compact.narrowing.norms import ObservedNorms, StreamNorm, observed, stream_norms
from tfprune.compact.narrowing.same_sums import Cut, assign_all, embedding_factor
from tfprune.compact.narrowing.stream import build_narrower, width_of
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import Graph, functional, trace_to_run
from tfprune.keras_models.models.layers import as_numpy, paired, rename, walk, weight_bytes
from tfprune.keras_models.models.low_rank import train_alike
from tfprune.keras_models.models.token_ids import check_token_ids, token_masks


def narrow(
    model: keras.Model, samples: Any, *, hidden_dim: int, batch_size: int = 8, verbose: int | str = "auto"
) -> tuple[keras.Model, NarrowReport]:
    """Remove hidden dimensions from a language model: the least important ones, the same in all of its layers.

    Use it to make all layers of a model smaller and faster, and train the model afterwards: until then, its loss is
    much higher. Embeddings, all kernels that read or write the residual stream, and the scores become smaller; units
    and heads keep their number and size. A dimension is important if it is large in the outputs of the norms on the
    stream. Each norm is scaled so that its outputs stay as large as they were on the samples.

    Args:
        model: A backbone or task of KerasHub whose norms divide by the root mean square and whose heads have a size
            of their own: Gemma, Gemma 3, Gemma 4, GPT-OSS, Mistral, Qwen3, T5 and others, without masks. It is left
            unchanged.
        samples: Token ids and the other inputs of the model, in the forms that `reconstruct` accepts.
        hidden_dim: The number of hidden dimensions that remain, from 1 to one less than the model has.
        batch_size: Samples in a batch, at least 1. Default 8.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A model of the same class, uncompiled; and a report with the remaining dimensions. If the table of tokens is
        tied and the class multiplies embeddings by the root of the width, as Gemma does, a backbone's outputs are
        smaller by a constant and its table is larger by it, so that the scores of tokens agree.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the class of the model has no `hidden_dim`, or it sets the size of heads or other sizes, too.
        ValueError: If the norms subtract the mean, or the model is wrapped or quantized.
        ValueError: If `samples` are empty, do not fit the model, or have token ids beyond its vocabulary.
        ValueError: If `hidden_dim` is out of range.

    Example:
        >>> from keras_hub.models import Qwen3Backbone
        >>> sizes = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
        >>> model = Qwen3Backbone(vocabulary_size=10, hidden_dim=16, intermediate_dim=24, **sizes)
        >>> texts = {"token_ids": np.ones((2, 6), int), "padding_mask": np.ones((2, 6), int)}
        >>> narrower, report = narrow(model, texts, hidden_dim=12)
        >>> narrower.hidden_dim, report.parameters, len(report.kept)
        (12, (1752, 1316), 12)

    Reference:
        Muralidharan et al., 2024, "Compact language models via pruning and knowledge distillation" (Minitron),
        arXiv:2407.14679, section 2.2 (embedding channels).
    """
    width = width_of(model)
    hidden_dim = check_count(hidden_dim, "hidden_dim", least=1, most=width - 1)
    batch_size = check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    narrower, stream = build_narrower(model, hidden_dim)
    norms = stream_norms(model, stream)
    batches = Batches(samples, model, batch_size=batch_size, argument="samples")
    graph = trace_to_run(functional(model))
    check_token_ids(graph, batches)
    statistics = _observe(model, norms, batches, graph=graph, verbose=verbose)
    norms = [norm for layer in statistics.by_layer for norm in norms if id(norm.layer) == layer]
    importance = statistics.importance()
    dimensions = np.sort(np.argsort(-importance, kind="stable")[:hidden_dim])
    factor = embedding_factor(model, narrower, stream=stream, norms=norms, dimensions=dimensions)
    cut = Cut(stream, tuple(norms), dimensions, tuple(statistics.energy(norm, dimensions) for norm in norms))
    rename(narrower, [layer.name for _, layer in walk(model)])
    train_alike(paired(model, narrower))
    assign_all(narrower, cut.values([as_numpy(variable) for variable in model.variables], factor=factor))
    return narrower, NarrowReport(
        (width, hidden_dim),
        (model.count_params(), narrower.count_params()),
        (weight_bytes(model), weight_bytes(narrower)),
        float(np.mean(cut.energies)),
        dimensions,
        importance,
    )


def _observe(
    model: keras.Model, norms: list[StreamNorm], batches: Batches, *, graph: Graph, verbose: int | str
) -> ObservedNorms:
    with observed(norms) as statistics, Progress(sum(1 for _ in batches), verbose=verbose, unit="batch") as progress:
        for inputs, _ in batches:
            statistics.masks = list(token_masks(graph, inputs).values())
            model(keras.tree.pack_sequence_as(model.input, inputs), training=False)
            progress.add()
    return statistics
