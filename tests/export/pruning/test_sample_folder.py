"""Folders of images and sounds as samples: sizes, channels, ranges, and what is refused."""

import wave

import numpy as np
import pytest
from file_graphs import FileGraph

from tfprune.export import add_metadata
from tfprune.export.command_line.cli import main
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import TensorInfo
from tfprune.export.pruning.samples import folder_limits, read_folder

Image = pytest.importorskip("PIL.Image")


def info(*shape, name="x"):
    return TensorInfo(name, (None, *shape), "float32")


@pytest.fixture
def photos(tmp_path):
    for number in range(5):
        pixels = np.full((6, 4, 3), 51 * number, np.uint8)
        pixels[..., 2] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def write_sound(path, amplitudes, *, width=2):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, width, 16000, 0, "NONE", ""))
        file.writeframes(np.array(amplitudes, "<i2").tobytes())


def test_images_have_the_size_and_the_range_of_the_input(photos):
    samples = read_folder(photos, [info(3, 2, 3)], limits=(-1, 1), most=10)
    assert samples.shape == (5, 3, 2, 3) and samples.dtype == np.float32
    np.testing.assert_allclose(samples[:, 0, 0, 0], [-1, -0.6, -0.2, 0.2, 0.6], atol=1e-6)
    assert (samples[..., 2] == 1).all()
    first = read_folder(photos, [info(3, 8, 8)], limits=(0, 255), most=2)
    assert first.shape == (2, 3, 8, 8) and first[1, 0, 0, 0] == pytest.approx(204)


def test_the_normalization_of_the_file_is_taken_for_each_channel(photos, tmp_path_factory, capsys):
    graph = FileGraph(0, shape=(1, 3, 2, 3))
    path = tmp_path_factory.mktemp("file") / "a.tflite"
    path.write_bytes(graph.content(graph.dense(graph.flatten(graph.convolution(graph.input, 4)), 3)))
    assert folder_limits(ModelFile.open(path)) is None
    add_metadata(path, path, mean=[10, 20, 30], std=[1, 2, 4])
    limits = folder_limits(ModelFile.open(path))
    samples = read_folder(photos, [info(3, 2, 3)], limits=limits, most=10)
    pixels = np.array([[51 * number] * 2 + [255] for number in range(5)])
    expected = (pixels - [10, 20, 30]) / [1, 2, 4]
    np.testing.assert_allclose(samples[:, 1, 1], expected, rtol=1e-5)
    first = read_folder(photos, [info(3, 8, 8)], limits=limits, most=10)
    np.testing.assert_allclose(first[:, :, 1, 1], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="Received: metadata with 3. Pass --range LOW HIGH"):
        read_folder(photos, [info(8, 8, 1)], limits=limits, most=10)
    small = path.with_name("small.tflite")
    assert main(["prune", str(path), str(small), "--sparsity", "0.5", "--samples", str(photos)]) == 0
    assert "numbers from -10 to 194, mean" in capsys.readouterr().err


def test_sounds_are_cut_and_filled_up(tmp_path):
    write_sound(tmp_path / "a.wav", [0, 16384, -32768, 32767, 5])
    write_sound(tmp_path / "b.wav", [32767])
    samples = read_folder(tmp_path, [info(4)], limits=(-1, 1), most=10)
    np.testing.assert_allclose(samples, [[0, 0.5, -1, 1], [1, 0, 0, 0]], atol=1e-4)


WRONG = {
    "which has none": ("empty", [info(3, 2, 3)], (0, 1)),
    "several inputs: 'a', 'b'": ("photos", [info(3, 2, 3, name="a"), info(3, name="b")], (0, 1)),
    "--range LOW HIGH .* Received: none": ("photos", [info(3, 2, 3)], None),
    "images of a fixed size. Received: .*10": ("photos", [info(10)], (0, 1)),
}


@pytest.mark.parametrize("message", WRONG)
def test_folders_that_do_not_fit(photos, tmp_path_factory, message):
    folder, inputs, limits = WRONG[message]
    path = photos if folder == "photos" else tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=message):
        read_folder(path, inputs, limits=limits, most=10)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png"):
        read_folder(tmp_path, [info(3, 2, 3)], limits=(0, 1), most=10)
    (tmp_path / "a.png").unlink()
    write_sound(tmp_path / "a.wav", [0, 1], width=1)
    with pytest.raises(ValueError, match="of 8 bits"):
        read_folder(tmp_path, [info(4)], limits=(0, 1), most=10)
