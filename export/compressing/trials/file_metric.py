"""The metric by which the files of a search are chosen: which one, of which output, and how it travels to workers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.limit import Limit
from tfprune.export.device.running.evaluate import metric_of
from tfprune.export.device.running.metrics import NAMES, measure, metric_mode, metric_name
from tfprune.keras_models.tasks.packed_model import WITHOUT_WORKERS
from tfprune.keras_models.tasks.references import import_path, imported


@dataclass(frozen=True, eq=False)
class FileMetric:
    """A metric of the outputs of a file.

    Attributes:
        metric: A name that `evaluate` knows, a metric of Keras, or a function of labels and outputs.
        mode: `"max"` if a larger value is better, `"min"` if a smaller one is.
        output: The name of the output that is measured; None for the only one.
    """

    metric: Any = "accuracy"
    mode: str = "max"
    output: str | None = None

    @classmethod
    def of(cls, limit: Limit, model: keras.Model) -> FileMetric:
        """Return the metric of a limit: one by name, one of a compiled model by its name, or the one it has.

        Raises:
            ValueError: If there is no metric of this name, or `mode` is wrong or needed.
        """
        metric = limit.metric
        if isinstance(metric, str) and metric not in NAMES:
            compiled = _compiled_metrics(model)
            if metric not in compiled:
                others = "".join(f", {name!r}" for name in compiled if name not in NAMES)
                raise ValueError(
                    f"Expected `metric` to be {', '.join(map(repr, NAMES))}{others}, or a metric of Keras. "
                    f"Received: metric={metric!r}. Compile the model with the metric, or pass the metric itself."
                )
            return cls(compiled[metric], metric_mode(compiled[metric], limit.mode), limit.output)
        metric = metric_of(limit)
        return cls(metric, metric_mode(metric, limit.mode), limit.output)

    @property
    def name(self) -> str:
        """The name of the metric, behind that of the output if one was named."""
        return metric_name(self.metric) if self.output is None else f"{self.output}_{metric_name(self.metric)}"

    def score(self, outputs: Mapping[str, np.ndarray], y: Any) -> float:
        """Return the metric of the outputs of a file.

        A function gets all outputs by name if there are several, and no output was named.

        Raises:
            ValueError: If it has several outputs and none was named, labels do not fit, or the metric is NaN.
        """
        if self.output is None and len(outputs) > 1:
            if not callable(self.metric) or hasattr(self.metric, "update_state"):
                raise ValueError(
                    f"Expected the name of an output to measure, of a model with several. Received: none of "
                    f"{', '.join(map(repr, outputs))}. Pass tfprune.Limit(..., output={next(iter(outputs))!r}), or a "
                    f"function of all labels and outputs as the metric."
                )
            score = float(np.mean(np.asarray(self.metric(y, dict(outputs)))))
        else:
            metrics = self.metric if self.output is None else {self.output: self.metric}
            score = next(iter(measure(outputs, y, metrics=metrics).values()))
        if not math.isfinite(score):
            raise ValueError(
                f"Expected a finite {self.name} of the file. Received: {score}. Check its weights and the samples."
            )
        return score

    def drop(self, score: float, baseline: float) -> float:
        """Return how much worse a score is than the baseline; negative if it is better."""
        return baseline - score if self.mode == "max" else score - baseline

    def settings(self) -> dict[str, Any]:
        """Return the metric as values of JSON: its name, or where its class or function is, and its arguments.

        Raises:
            ValueError: If its arguments are not values of JSON.
        """
        entry: Any = self.metric
        if not isinstance(entry, str):
            entry = {"path": f"{self._definition.__module__}:{self._definition.__qualname__}"}
            if hasattr(self.metric, "get_config"):
                config = self.metric.get_config()
                entry["config"] = {key: value for key, value in config.items() if key != "name"}
        try:
            json.dumps(entry)
        except TypeError as error:
            raise ValueError(
                f"Expected a metric whose `get_config` returns values of JSON. Received: {self.name!r}, where "
                f"{str(error)[:200]}. Return numbers, strings, lists and dicts from it."
            ) from error
        return {"metric": entry, "mode": self.mode, "output": self.output}

    def to_send(self) -> dict[str, Any]:
        """Return the settings, from which `read` makes the same metric in another process.

        Raises:
            ValueError: If another process cannot import it.
        """
        settings = self.settings()
        entry = settings["metric"]
        if isinstance(entry, str):
            return settings
        import_path(self._definition, expected=f"a metric {self.name!r}")
        if self._definition is not self.metric and "config" not in entry:
            raise ValueError(
                f"Expected a metric with `get_config`, which workers make again. Received: {self.name!r} without it. "
                f"Add `get_config` and `from_config`, as metrics of Keras have them. {WITHOUT_WORKERS}"
            )
        return settings

    @property
    def _definition(self) -> Any:
        """The function, or the class of the metric."""
        return self.metric if hasattr(self.metric, "__qualname__") else type(self.metric)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> FileMetric:
        """Make the metric of which `to_send` returned these settings.

        Raises:
            ValueError: If it cannot be imported here.
        """
        entry = settings["metric"]
        if isinstance(entry, str):
            return cls(entry, settings["mode"], settings["output"])
        definition = imported(entry["path"], expected="the metric")
        metric = definition.from_config(entry["config"]) if "config" in entry else definition
        return cls(metric, settings["mode"], settings["output"])


def _compiled_metrics(model: keras.Model) -> dict[str, Any]:
    """Return the metrics that a model was compiled with, by name."""
    config = keras.saving.deserialize_keras_object(model.get_compile_config())
    compiled = keras.tree.flatten([config.get(key) for key in ("metrics", "weighted_metrics")])
    metrics = [
        each if isinstance(each, keras.metrics.Metric) else keras.metrics.get(each) for each in compiled if each
    ]
    names = [each if isinstance(each, str) else metric_name(each) for each in compiled if each]
    return dict(zip(names, metrics, strict=True))
