"""Rank the experts of a mixture by what they add to the outputs of their layers, or by how often they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import check_choice, check_count
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import functional, trace_to_run
from tfprune.keras_models.models.layer_hooks import hooked_calls
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.token_ids import check_token_ids, token_masks, without_padding
from tfprune.methods.experts.expert_ranking import ExpertRanking, RankedExpert
from tfprune.methods.experts.moe_layers import MoeLayer
from tfprune.methods.experts.rebuild_experts import read_experts

NOTHING = 1e-6  # of the largest contribution: what rounding leaves of an expert that is not used


def rank_experts(model: keras.Model, samples: Any, *, criterion: str = "reap", batch_size: int = 8) -> ExpertRanking:
    """Rank the experts of each layer of a mixture on samples.

    Use it to choose the experts for `experts.drop`, without training. An expert's contribution is what its layer
    returns with this expert alone, minus what it returns with none, so an expert has to return zeros where its
    weights are zero. Each layer is run once more for each of its experts.

    Args:
        model: A built model with a mixture of experts: of KerasHub, or registered with `experts.register`. It is
            left unchanged.
        samples: Inputs that are like those of the model's use; labels are ignored. Padding is left out, as in
            `reconstruct`.
        criterion: `"reap"` (the default): the mean norm of the contribution, over the tokens that use the expert.
            `"frequency"`: the share of the tokens that use it. An expert that no token uses is the least important.
        batch_size: Samples in a batch, at least 1. Default 8.

    Returns:
        An `ExpertRanking` with both figures of each expert.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no experts, or `samples` are empty, do not fit the model, are not finite, or have
                token ids beyond its vocabulary.
        ValueError: If a layer has no known router, as one that was registered under another name.

    Example:
        >>> from keras_hub.models import MixtralBackbone
        >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
        >>> model = MixtralBackbone(vocabulary_size=20, num_layers=1, num_experts=4, top_k=2, **sizes)
        >>> tokens = np.random.default_rng(0).integers(0, 20, (4, 8))
        >>> ranking = rank_experts(model, {"token_ids": tokens, "padding_mask": np.ones((4, 8), int)})
        >>> len(ranking.rows), round(sum(row.frequency for row in ranking.rows), 3)
        (4, 2.0)

    Reference:
        Lasby et al., 2025, "REAP the Experts", arXiv:2510.13999 (router-weighted expert activation pruning).
    """
    check_choice(criterion, "criterion", choices=("reap", "frequency"))
    check_count(batch_size, "batch_size", least=1)
    _, layers = read_experts(model)
    _check_routers(layers)
    sums = [np.zeros((3, layer.experts)) for layer in layers]  # norms, tokens that use the expert, all tokens
    places = {id(layer.layer): index for index, layer in enumerate(layers)}
    called: list[tuple[int, Any]] = []
    batches = Batches(samples, model, batch_size=batch_size, argument="samples")
    graph = trace_to_run(functional(model))
    check_token_ids(graph, batches)

    def note(layer: keras.layers.Layer, inputs: Any, _: Any) -> None:
        called.append((places[id(layer)], inputs))

    for inputs, _ in batches:
        tensors = keras.tree.pack_sequence_as(model.input, [keras.ops.convert_to_tensor(array) for array in inputs])
        with hooked_calls([layer.layer for layer in layers], note):
            model(tensors, training=False)
        masks = list(token_masks(graph, inputs).values())
        for index, x in called:
            sums[index] += _contributions(layers[index], x, masks)
        called.clear()
    rows = [
        RankedExpert(layer.path, expert, norms / max(used, 1), used / max(tokens, 1))
        for layer, totals in zip(layers, sums, strict=True)
        for expert, (norms, used, tokens) in enumerate(totals.T.tolist())
    ]
    return ExpertRanking(tuple(rows), criterion)


def _check_routers(layers: Sequence[MoeLayer]) -> None:
    """Refuse a layer without a known router, which would be taken for a part of the experts."""
    for layer in layers:
        if not layer.router:
            raise ValueError(
                f"Expected a known router in {layer.path!r}, whose weights remain where an expert is alone. "
                f"Received: none among {', '.join(layer.rule.axes)}. Name the router in tfprune.experts.register."
            )


def _contributions(layer: MoeLayer, x: Any, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return of each expert the sum of the norms of its contributions, the tokens that use it, and all tokens."""
    nothing = _output(layer, x, experts=())
    added = [_output(layer, x, experts=(expert,)) - nothing for expert in range(layer.experts)]
    norms = np.stack([np.linalg.norm(without_padding(each, masks), axis=-1).ravel() for each in added])
    mask = norms > NOTHING * norms.max(initial=0)
    return np.stack([(norms * mask).sum(axis=1), mask.sum(axis=1), np.full(len(norms), norms.shape[1])])


def _output(layer: MoeLayer, x: Any, *, experts: Sequence[int]) -> np.ndarray:
    """Return the output of a layer in which all other experts have weights of zero."""
    mapping = []
    for variable in layer.layer.weights:
        if id(variable) in layer.axes and id(variable) not in layer.router:
            value, axis = as_numpy(variable), layer.axes[id(variable)]
            shape = [-1 if place == axis % value.ndim else 1 for place in range(value.ndim)]
            keep = np.isin(np.arange(layer.experts), experts).reshape(shape)
            mapping.append((variable, keras.ops.convert_to_tensor(value * keep)))
    with keras.StatelessScope(state_mapping=mapping):
        output = keras.tree.flatten(layer.layer(x))[0]
    return keras.ops.convert_to_numpy(output).astype(np.float64)
