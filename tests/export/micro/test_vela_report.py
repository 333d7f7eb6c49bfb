"""What is said of NPUs, compared with the compiler's own command on the same file."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys

import pytest
from tiers import first

from tfprune.export import rewrite, sparsify, vela
from tfprune.export.micro.reports import ACCELERATORS

pytest.importorskip("ethosu", reason="ethos-u-vela is not installed (extra `vela`)")


@pytest.mark.parametrize("accelerator", first("ethos-u55-128", "ethos-u65-256", "ethos-u85-256"))
def test_it_says_what_the_compiler_writes_into_its_table(network, tmp_path, accelerator):
    path = tmp_path / "dense.tflite"
    path.write_bytes(network.files["int8"])
    command = [sys.executable, "-m", "ethosu.vela", str(path), "--accelerator-config", accelerator]
    subprocess.run([*command, "--output-dir", str(tmp_path)], check=True, capture_output=True)
    (file,) = tmp_path.glob("*.csv")
    row = next(csv.DictReader(file.read_text().splitlines()))
    report = vela(accelerator).report(path)
    assert report.cycles == int(row["cycles_total"])
    assert report.microseconds == pytest.approx(1e6 / float(row["inferences_per_second"]), rel=1e-3)
    assert report.sram == float(row["sram_memory_used"]) * 1024
    assert report.weight_bytes == int(row["total_npu_encoded_weights"])
    assert report.weights == int(row["total_original_weights"])
    assert (report.system, report.memory) == (row["system_config"], row["memory_mode"])
    assert f"{report.cycles:,} cycles" in str(report) and not report.on_cpu


def test_zeros_cost_fewer_bytes(network):
    report = vela("ethos-u55-128").report(network.files["int8"])
    assert report.weight_bytes < 0.5 * report.weights  # as nine in ten of the convolutions are 0


def test_names_of_the_configuration_reach_the_compiler(network):
    data = network.files["int8"]
    slow = vela("ethos-u55-128", system="Ethos_U55_Deep_Embedded", memory="Sram_Only").report(data)
    assert (slow.system, slow.memory) == ("Ethos_U55_Deep_Embedded", "Sram_Only")
    with pytest.raises(ValueError, match="Received: .*System_Config.Fast not found in Vela config file. It takes"):
        vela("ethos-u55-128", system="Fast").report(data)


def test_a_file_without_integers_is_refused(network):
    with pytest.raises(ValueError, match=r"Expected a file with operators for ethos-u85-256.* none of CONV_2D, "):
        vela("ethos-u85-256").report(network.files["float32"])


@pytest.mark.programs
def test_a_file_that_makes_its_weights_while_it_runs_is_refused(network, tmp_path):
    with pytest.raises(ValueError, match="Received: DENSIFY, which makes them while the model runs"):
        vela("ethos-u55-128").report(sparsify(network.files["int8"]).data)
    rewrite(network.files["int8"], tmp_path / "micro", target="micro")
    with pytest.raises(ValueError, match="Received: TFLM_DECODE, which makes"):
        vela("ethos-u55-128").report(tmp_path / "micro")


def test_what_is_cut_short_never_reaches_the_compiler(network):
    with pytest.raises(ValueError, match="Expected a whole TFLite file"):
        vela("ethos-u55-128").report(network.files["int8"][:3000])


def test_npus_and_counts_that_do_not_exist_are_refused():
    with pytest.raises(
        ValueError, match="Expected `accelerator` to be .*'ethos-u55-128'.*Received: accelerator='ethos-u55'"
    ):
        vela("ethos-u55")
    with pytest.raises(ValueError, match="Expected `counts` to be .*'weight_bytes'.*Received: counts='flops'"):
        vela("ethos-u55-32", counts="flops")
    with pytest.raises(TypeError, match="Expected a name in `system`, or None. Received: system=3"):
        vela("ethos-u55-32", system=3)


def test_every_name_is_one_of_the_compiler():
    done = subprocess.run([sys.executable, "-m", "ethosu.vela", "--help"], capture_output=True, text=True, check=True)
    assert "{" + ",".join(ACCELERATORS) + "}" in done.stdout


def test_without_the_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'Run pip install "tfprune\[vela\]"'):
        vela("ethos-u55-128")
