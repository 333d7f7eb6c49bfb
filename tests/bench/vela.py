"""MLPerf Tiny's networks on Arm's Ethos-U: what channels, zeros, groups and few values save there, by its compiler.

Each row has the cycles, the SRAM and the bytes of weights as fractions of the dense int8 file's. The last rows meet a
budget of cycles.
"""

from __future__ import annotations

import sys

import keras
from common import Row
from micro import NETWORKS, pruned, samples_of, settled

import tfprune
from tfprune.export import VelaReport, vela
from tfprune.export.keras_side.converting.convert import convert
from tfprune.export.rewriting.share_weights import share_weights

ACCELERATORS = ("ethos-u55-128", "ethos-u85-256")
BUDGET, WITHIN = 0.5, 0.05
COUNTS = ("cycles", "sram", "weight_bytes")


def measure() -> list[Row]:
    rows = []
    for name, build in NETWORKS.items():
        model = settled(build())
        forms = forms_of(model)
        for accelerator in ACCELERATORS:
            reports = {form: vela(accelerator).report(content) for form, content in forms.items()}
            dense = reports.pop("dense")
            rows += [Row(f"{name}, {accelerator}, dense: cycles, SRAM, weight bytes", _amounts(dense), "", True)]
            rows += [Row(f"{name}, {form}: of these", _ratios(one, dense), "", True) for form, one in reports.items()]
        rows.append(within_budget(name, model))
    return rows


def forms_of(model: keras.Model) -> dict[str, bytes]:
    """Return int8 files of a network as it is, and smaller in four ways."""
    networks = {
        "dense": model,
        "50 % of the channels": settled(tfprune.shrink(model, tfprune.plan_shrink(model, 0.5))),
        "90 % zeros": pruned(model),
        "2 of 4": pruned(model, 0.5, tfprune.patterns.NM(2, 4)),
    }
    files = {}
    for form, network in networks.items():
        samples = samples_of(network)
        files[form] = convert(network, quantize="int8", calibration=samples, io_dtype="int8", batch=1)
    return files | {"16 values": share_weights(files["dense"], levels=17)}  # beside 0


def within_budget(name: str, model: keras.Model) -> Row:
    cost = vela(ACCELERATORS[0])
    plan = tfprune.plan_shrink(model, tfprune.budget(latency=BUDGET, measure=cost))
    used = cost(tfprune.shrink(model, plan)) / (BUDGET * cost(model))
    what = f"{name}, {ACCELERATORS[0]}: cycles used of a budget of half"
    return Row(what, f"{used:.3f}", f"{1 - WITHIN:g} to 1", 1 - WITHIN <= used <= 1)


def _amounts(report: VelaReport) -> str:
    return ", ".join(f"{getattr(report, count):,}" for count in COUNTS)


def _ratios(report: VelaReport, dense: VelaReport) -> str:
    return ", ".join(f"{getattr(report, count) / getattr(dense, count):.2f}" for count in COUNTS)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
