"""A file as C++ source: its bytes, what it says, and that a compiler takes it without a warning."""

import shutil
import subprocess

import keras
import numpy as np
import pytest

from tfprune.export import c_array, micro_support, rewrite, to_tflite
from tfprune.export.command_line.cli import main
from tfprune.export.file.container import encode
from tfprune.export.file.document import load_objects
from tfprune.export.file.inspect import inspect
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.micro.interpreter import largest_live
from tfprune.export.rewriting.sparsify import sparsify

MAIN = """\
#include "model-1.h"
#include <cstdio>
#include <cstdint>

struct Resolver {
  unsigned int calls = 0;
  METHODS
};

int main() {
  Resolver resolver;
  if (!model_1_register(resolver) || resolver.calls != model_1_operators) return 1;
  if (reinterpret_cast<std::uintptr_t>(model_1) % 16 != 0) return 2;
  if (model_1_arena_size != 5000) return 3;
  std::fwrite(model_1, 1, model_1_size, stdout);
  return 0;
}
"""


@pytest.fixture(scope="module")
def micro_file(network) -> bytes:
    from tfprune.export.micro.micro import _Candidates

    return _Candidates(ModelFile(network.files["int8"])).write((1, 0, 2, 1)).file.content


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_a_compiler_takes_it_and_the_bytes_are_the_files(micro_file, tmp_path):
    report = c_array(micro_file, tmp_path / "model-1.cc", arena=5000)
    methods = "".join(f"int {call}() {{ ++calls; return 0; }}\n  " for call in report.registrations)
    (tmp_path / "main.cc").write_text(MAIN.replace("METHODS", methods))
    strict = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o", "program"]
    subprocess.run([*strict, "main.cc", "model-1.cc"], cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run([tmp_path / "program"], capture_output=True, check=True, timeout=60)
    assert done.stdout == micro_file


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_a_file_with_a_strange_name_gives_source_that_a_compiler_takes(micro_file, tmp_path):
    strange = tmp_path / "a\nint x; \u202e\\.tflite"
    strange.write_bytes(micro_file)
    c_array(strange, tmp_path / "my model's.cc")
    header = (tmp_path / "my model's.h").read_text()
    assert header.startswith(r"// a\nint x; \u202e")
    strict = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", "my model's.cc"]
    subprocess.run(strict, cwd=tmp_path, check=True, timeout=60)


def test_it_registers_the_operators_of_the_file(micro_file, tmp_path):
    report = c_array(micro_file, tmp_path / "model.cpp")
    assert len(report.registrations) == len(read(micro_file).ops)
    assert {"AddDecode", "AddConcatenation", "AddConv2D"} <= {*report.registrations}
    assert "arena" not in (tmp_path / "model.h").read_text()


WORDS = ["int.cc", "main.cc", "class.cc", "std.cc", "linux.cc"]


@pytest.mark.parametrize("name", ["model.c", "model", "1.cc", "ä.cc", *WORDS, 'a"b.cc', "a\nb.cc"])
def test_names_that_make_none_in_cpp_are_refused(micro_file, tmp_path, name):
    with pytest.raises(ValueError, match="Call it model.cc"):
        c_array(micro_file, tmp_path / name)


def test_a_file_with_operators_that_are_missing_is_refused(sparse, tmp_path):
    with pytest.raises(ValueError, match="DENSIFY"):
        c_array(sparse, tmp_path / "model.cc")
    assert not list(tmp_path.iterdir())


@pytest.mark.programs
def test_boards_are_compared_with_the_arena_on_32_bits(tmp_path, monkeypatch):
    pytest.importorskip("mcufit", reason="mcufit is not installed: see the extra `micro`")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    model = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8, "relu") for _ in range(24))])
    to_tflite(model, path := tmp_path / "deep.tflite", batch=1)
    content = path.read_bytes()
    report = micro_support(content, board="zero")
    chip = report.on_chip
    assert largest_live(load_objects(content)) <= chip.activations < chip.planning < chip.total == report.arena
    assert report.boards[0].ram_left == 24 * 1024 - report.arena
    assert f"{chip.planning:,} planning, before the first run, {chip.activations:,} activations" in str(report)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    without = micro_support(content, board="zero")
    assert without.on_chip is None and without.boards[0].ram_left == 24 * 1024 - without.arena
    assert without.arena > report.arena
    assert f"{without.arena:,} bytes with pointers of 64 bits, less on a chip" in str(without)


def test_support_of_a_file(network, sparse):
    report = micro_support(network.files["int8"], board="zero")
    assert (report.runs, report.missing, report.reason) == (True, (), "")
    assert report.boards[0].fits
    assert report.flash == len(network.files["int8"])
    without = micro_support(sparse)
    assert (without.runs, without.missing, without.arena, without.boards) == (False, ("DENSIFY",), None, ())
    with pytest.raises(ValueError, match="board"):
        micro_support(network.files["int8"], board="abacus")


@pytest.mark.programs
def test_every_report_of_every_kind_of_file_turns_into_json(cases, sparse, network, micro_file, tmp_path):
    files = [*(case.data for case in cases.values()), *network.files.values(), sparse, micro_file]
    files += [encode(data, "packed") for data in (sparse, micro_file)]
    reports = [report for data in files for report in (inspect(data), ModelFile.open(data).inference)]
    reports += [sparsify(data) for data in files[:-2]]
    reports += [micro_support(sparse), micro_support(micro_file), c_array(micro_file, tmp_path / "model.cc")]
    reports += [rewrite(data, tmp_path / "model.tflite", target="micro") for data in network.files.values()]
    for report in reports:
        assert report.as_dict()


@pytest.mark.programs
def test_support_before_training_is_that_of_the_dense_file(network):
    import keras

    report = micro_support(keras.models.clone_model(network.model))
    after = micro_support(network.files["int8"])
    assert (report.ops, report.arena, report.registrations) == (after.ops, after.arena, after.registrations)
    with pytest.raises(TypeError, match="Keras model"):
        micro_support(3)


@pytest.mark.programs
def test_the_arena_before_training_has_room_for_biases_that_are_0_until_then(network):
    import keras

    from tfprune.export.keras_side.convert import convert

    model = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(6, "relu") for _ in range(3))])
    before, x = micro_support(model), np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, x[:, :6], verbose=0)
    after = micro_support(convert(model, quantize="int8", io_dtype="int8", calibration=x, batch=1))
    assert (before.arena, before.ops) == (after.arena, after.ops)


def test_an_untrained_model_that_gives_next_to_nothing_runs(network):
    import keras

    small = keras.initializers.RandomNormal(stddev=1e-12)
    layer = keras.layers.Dense(4, activation="softmax", kernel_initializer=small)
    assert micro_support(keras.Sequential([keras.Input((8,)), layer])).runs


@pytest.mark.programs
def test_the_commands(network, sparse, tmp_path, capsys):
    dense, small, source = tmp_path / "dense.tflite", tmp_path / "small.tflite", tmp_path / "small.cc"
    dense.write_bytes(network.files["int8"])
    np.save(tmp_path / "x.npy", network.samples)
    command = ["export", str(dense), str(small), "--target", "micro", "--arena", "9000"]
    assert main([*command, "--check-on", str(tmp_path / "x.npy")]) == 0
    assert "bit for bit" in capsys.readouterr().out
    assert main(["micro", str(small), "--board", "pico", "--c-array", str(source)]) == 0
    assert "FITS" in capsys.readouterr().out
    assert "small_arena_size" in source.with_suffix(".h").read_text()
    (tmp_path / "sparse.tflite").write_bytes(sparse)
    assert main(["micro", str(tmp_path / "sparse.tflite"), "--json"]) == 1
    assert '"DENSIFY"' in capsys.readouterr().out
    assert rewrite(small.read_bytes(), dense, target="micro").micro.rows


def test_a_model_that_stays_in_float_in_part_is_looked_at_too():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.LayerNormalization()(inputs)))
    assert "RSQRT" in micro_support(model).ops
