"""board: what a system tells of itself, from files as a Raspberry Pi has them."""

from __future__ import annotations

import pytest

from tfprune.export.device import runner


def test_the_name_is_that_of_the_board_or_of_the_processor(tmp_path, monkeypatch):
    model, processors = tmp_path / "model", tmp_path / "cpuinfo"
    monkeypatch.setattr(runner, "_PROCESSOR", (model, processors))
    processors.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert runner.board_name().endswith(", Some CPU @ 2 GHz")
    model.write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    assert runner.board_name().endswith(", Raspberry Pi 4 Model B Rev 1.4")


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags\t\t: fpu sse2 avx avx2", True),
        ("x86_64", "flags\t\t: fpu sse2 ssse3", False),
        ("AMD64", "", True),
        ("aarch64", "Features\t: fp asimd", False),
    ],
)
def test_avx_is_known_from_the_flags_of_an_x86_processor(machine, flags, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_PROCESSOR", (tmp_path / "model", tmp_path / "cpuinfo"))
    monkeypatch.setattr(runner.platform, "machine", lambda: machine)
    (tmp_path / "cpuinfo").write_text(flags)
    assert runner.has_avx() == expected


def test_governor_and_temperature_are_none_where_the_system_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_SYSTEM", tmp_path)
    assert runner.governor() is None and runner.temperature() is None
    (tmp_path / "devices/system/cpu/cpu0/cpufreq").mkdir(parents=True)
    (tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_governor").write_text("ondemand\n")
    for index, text in enumerate(["41350\n", "48686\n", "broken", ""]):
        (tmp_path / f"class/thermal/thermal_zone{index}").mkdir(parents=True)
        (tmp_path / f"class/thermal/thermal_zone{index}/temp").write_text(text)
    assert runner.governor() == "ondemand" and runner.temperature() == 48.686
