"""Train a ResNet and a vision transformer in PyTorch on Fashion-MNIST, and write them as .tflite files.

`torch_files.py` prunes what it writes. It needs the environment of `torch_corpus.py`, with none of tfprune in it, and
the images of Debian's package dataset-fashion-mnist:

    build/torch/bin/python bench/torch_trained.py build/torch_trained
    python bench/torch_files.py build/torch_trained

Each network comes as float32 from litert-torch, with PyTorch's order of dimensions, and as float32 and full int8 from
onnx2tf, calibrated on 512 images of the training set. About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

IMAGES = Path("/usr/share/datasets/fashion-mnist")
SIDE, CLASSES, CALIBRATION = 28, 10, 512


def fashion(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, (rows, 1, 28, 28) in [0, 1], and labels of "train" or "t10k"."""
    pixels = gzip.decompress((IMAGES / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((IMAGES / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, SIDE, SIDE) / np.float32(255)
    return torch.from_numpy(images), torch.from_numpy(np.frombuffer(labels, np.uint8).astype(np.int64))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(inner)) + self.shortcut(x))


def resnet() -> nn.Module:
    """Return the ResNet-20 for small images, of 270,000 weights (He et al., arXiv 1512.03385, section 4.2)."""
    widths = [(16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    blocks = [Block(*sizes) for sizes in [*widths, (64, 64, 1)]]
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


class OneColor(nn.Module):
    """A vision transformer for images of one color."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import VisionTransformer

        sizes = {"num_layers": 4, "num_heads": 4, "hidden_dim": 96, "mlp_dim": 192, "num_classes": CLASSES}
        self.network = VisionTransformer(image_size=SIDE, patch_size=4, **sizes)
        self.network.conv_proj = nn.Conv2d(1, 96, 4, 4)
        nn.init.xavier_uniform_(self.network.heads.head.weight)  # torchvision starts with zeros

    def forward(self, x: torch.Tensor) -> Any:
        return self.network(x)


NETWORKS = {"resnet": (resnet, 5, 0.02), "vit": (OneColor, 12, 0.002)}


def train(network: nn.Module, epochs: int, rate: float) -> None:
    """Train with AdamW, mirrored and shifted images, and a rate of one cycle."""
    images, labels = fashion("train")
    size = 128
    steps = epochs * (len(images) // size)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - size + 1, size):
            rows = order[start : start + size]
            batch = images[rows]
            batch = batch.flip(-1) if torch.rand(()) < 0.5 else batch
            batch = torch.roll(batch, tuple(torch.randint(-2, 3, (2,)).tolist()), (2, 3))
            loss = nn.functional.cross_entropy(network(batch), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    network.eval()


def accuracy(network: nn.Module) -> float:
    images, labels = fashion("t10k")
    with torch.inference_mode():
        right = [
            (network(batch).argmax(1) == truth).sum()
            for batch, truth in zip(images.split(500), labels.split(500), strict=True)
        ]
    return int(sum(right)) / len(labels)


def write(network: nn.Module, name: str, folder: Path) -> None:
    """Convert a network with both tools."""
    import litert_torch

    sample = torch.zeros(1, 1, SIDE, SIDE)
    litert_torch.convert(network, (sample,)).export(str(folder / f"{name}_litert_float32.tflite"))
    with tempfile.TemporaryDirectory() as scratch:
        exported = Path(scratch, f"{name}.onnx")
        torch.onnx.export(network, (sample,), str(exported), dynamo=True, external_data=False, input_names=["image"])
        images = fashion("train")[0][:CALIBRATION].permute(0, 2, 3, 1).numpy()
        np.save(Path(scratch, "calibration.npy"), images)
        # onnx2tf checks each layer on pictures that it fetches, unless they lie there
        pictures = np.random.default_rng(0).random((20, 128, 128, 3), dtype="float32")
        np.save(Path(scratch, "calibration_image_sample_data_20x128x128x3_float32.npy"), pictures)
        command = [sys.executable, "-m", "onnx2tf", "-i", str(exported), "-o", scratch, "-n", "-oiqt"]
        command += ["-cind", "image", "calibration.npy", "[[[[0]]]]", "[[[[1]]]]"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=scratch)
        shutil.copy(Path(scratch, f"{name}_float32.tflite"), folder / f"{name}_onnx2tf_float32.tflite")
        shutil.copy(Path(scratch, f"{name}_full_integer_quant.tflite"), folder / f"{name}_onnx2tf_int8.tflite")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=NETWORKS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in [options.only] if options.only else NETWORKS:
        build, epochs, rate = NETWORKS[name]
        torch.manual_seed(0)
        network = build()
        weights = options.folder / f"{name}.pt"
        if weights.exists():
            network.load_state_dict(torch.load(weights, weights_only=True))
            network.eval()
        else:
            train(network, epochs, rate)
            torch.save(network.state_dict(), weights)
        print(f"{name}: {accuracy(network):.2%} of the test images", flush=True)
        write(network, name, options.folder)


if __name__ == "__main__":
    main()
