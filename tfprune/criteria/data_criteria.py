"""Criteria that look at inputs, gradients and scales besides the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tfprune.base.axes import output_axes
from tfprune.base.spec import check_choice
from tfprune.criteria.base import Criterion, Evidence


@dataclass(frozen=True)
class BatchNormGamma(Criterion):
    """Score an entry by the scale of the BatchNormalization that takes its output: |gamma_o|. It needs no data.

    All entries of a channel have the same score. Use it with `patterns.Channel` and `plan_shrink`.

    Example:
        >>> facts = {"gamma": np.array([0.5, -2.0])}
        >>> BatchNormGamma()(Evidence(np.array([[3.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.5, 2. ]])

    Reference:
        Liu et al., 2017, "Learning Efficient Convolutional Networks through Network Slimming", arXiv:1708.06519.
    """

    needs: ClassVar[tuple[str, ...]] = ("gamma",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.everywhere(evidence.over_outputs(np.abs(evidence.fact("gamma"))))


@dataclass(frozen=True)
class Taylor(Criterion):
    """Score an entry by the change of the loss if it were zero, to first order: the mean over batches of |w dL/dw|.

    Within a batch, gradients of opposite sign cancel. Over batches, their sizes add up, so that weights still differ
    where training has converged. Gradients are taken in the masked model, for masked entries as well.

    Example:
        >>> facts = {"gradient_sizes": np.array([[0.1, 3.0]])}
        >>> Taylor()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.2, 3. ]])

    Reference:
        Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient_sizes",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.abs(evidence.weight) * evidence.fact("gradient_sizes")


@dataclass(frozen=True)
class SNIP(Criterion):
    """Score an entry by |w dL/dw|, with the mean gradient over all batches. Use it before training.

    Gradients of opposite sign cancel over the whole data, while `Taylor` adds up their sizes batch by batch. Choose
    the first masks with `update_masks(model, 0.9, allocation="global", data=(x, y))`, and train with them.

    Example:
        >>> facts = {"gradient": np.array([[0.1, -3.0]])}
        >>> SNIP()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.2, 3. ]])

    Reference:
        Lee, Ajanthan & Torr, 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        arXiv:1810.02340, equation 5.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradient",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.abs(evidence.weight * evidence.fact("gradient"))


@dataclass(frozen=True)
class GraSP(Criterion):
    """Score an entry by how much gradient flow the model loses without it: w Hg. Use it before training.

    g is the mean gradient over all batches with respect to the scored weights, and H the Hessian of the mean loss. An
    entry with a score below 0 lowers the norm of the gradient, and is removed first. The data are read twice. The
    paper divides the logits by 200 in the loss: pass a `loss` that does so.

    Example:
        >>> facts = {"hessian_gradient": np.array([[0.5, 2.0]])}
        >>> GraSP()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[-1.,  2.]])

    Reference:
        Wang, Zhang & Grosse, 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow",
        arXiv:2002.07376, equation 8, with the opposite sign.
    """

    needs: ClassVar[tuple[str, ...]] = ("hessian_gradient",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.weight * evidence.fact("hessian_gradient")


@dataclass(frozen=True)
class Fisher(Criterion):
    """Score an entry by w^2 times the mean over batches of (dL/dw)^2, the diagonal of the Fisher information.

    It estimates the loss of removing the entry to second order. With batches of one sample the diagonal is exact;
    larger batches average gradients before they are squared, which makes it smaller.

    Example:
        >>> facts = {"squared_gradients": np.array([[0.5, 2.0]])}
        >>> Fisher()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[2., 2.]])

    Reference:
        Theis et al., 2018, "Faster gaze prediction with dense networks and Fisher pruning", arXiv:1801.05787.
    """

    needs: ClassVar[tuple[str, ...]] = ("squared_gradients",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.square(evidence.weight, dtype=np.float64) * evidence.fact("squared_gradients")


@dataclass(frozen=True)
class SynFlow(Criterion):
    """Score an entry by the synaptic flow that passes through it. It needs no data. Use it before training.

        score = |w| dR/d|w|, R = the sum of the outputs on inputs of ones, all weights taken by their absolute values

    The scores of each layer without biases add up to R, so that no layer is emptied if masks are set in many small
    steps: `for k in range(1, 101): update_masks(model, 1 - 0.1 ** (k / 100), allocation="global", regrow=False)`. The
    model must not end with softmax. Activations stay as they are; the paper's are ReLU.

    Example:
        >>> facts = {"synaptic_flow": np.array([[0.5, 2.0]])}
        >>> SynFlow()(Evidence(np.array([[-2.0, 1.0]]), "dense/kernel", "io", facts))
        array([[0.5, 2. ]])

    Reference:
        Tanaka et al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow",
        arXiv:2006.05467, algorithm 1.
    """

    needs: ClassVar[tuple[str, ...]] = ("synaptic_flow",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.fact("synaptic_flow")


@dataclass(frozen=True)
class Movement(Criterion):
    """Score an entry by whether training moves it away from zero: the sum of -w dL/dw. Use it for fine-tuning.

    Each mask update adds the mean of one pass over the data. A weight that training makes smaller has a score below
    zero, however large it is. `PruningCallback` adds up the updates of one `fit`, a `Gatherer` all of its passes.

    Example:
        >>> facts = {"movement": np.array([[-0.4, 0.1]])}
        >>> Movement()(Evidence(np.array([[5.0, 0.1]]), "dense/kernel", "io", facts))
        array([[-0.4,  0.1]])

    Reference:
        Sanh, Wolf & Rush, 2020, "Movement Pruning", arXiv:2005.07683, section 4. The paper adds up scores in every
        training step; tfprune adds them up in every mask update.
    """

    needs: ClassVar[tuple[str, ...]] = ("movement",)

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return evidence.fact("movement")


@dataclass(frozen=True)
class Wanda(Criterion):
    """Score an entry by its absolute value times the L2 norm of the input that it multiplies: |w_oi| ||x_i||.

    Args:
        compare: `"layer"` (default) compares all entries of a weight. `"output"` compares the entries of each output,
            as the paper does for language models: the score is the rank of an entry within its output, in (0, 1], and
            every output loses the same share.

    Raises:
        ValueError: If `compare` is another name.

    Example:
        >>> facts = {"input_norms": np.array([10.0, 0.1])}
        >>> Wanda()(Evidence(np.array([[1.0], [-30.0]]), "dense/kernel", "io", facts))
        array([[10.],
               [ 3.]])

    Reference:
        Sun et al., 2023, "A Simple and Effective Pruning Approach for Large Language Models",
        arXiv:2306.11695, equation 1.
    """

    compare: str = "layer"
    needs: ClassVar[tuple[str, ...]] = ("input_norms",)

    def __post_init__(self) -> None:
        check_choice(self.compare, "compare", choices=("layer", "output"))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        scores = np.abs(evidence.weight) * evidence.over_inputs(evidence.fact("input_norms"))
        if self.compare == "layer":
            return scores
        outputs = output_axes(evidence.axes)
        front = np.moveaxis(scores, outputs, range(len(outputs)))
        rows = front.reshape(np.prod(front.shape[: len(outputs)], dtype=int), -1)
        positions = np.argsort(np.argsort(-rows, axis=1, kind="stable"), axis=1)  # 0 is the best of its output
        ranks = 1 - positions / rows.shape[1]
        return np.moveaxis(ranks.reshape(front.shape), range(len(outputs)), outputs)
