"""Write .tflite files with the tools of PyTorch's users, for `foreign_files.py`: ten networks, two converters each.

It needs an environment of its own, with none of tfprune in it:

    python -m venv build/torch
    build/torch/bin/pip install litert-torch onnx2tf torchvision ultralytics tensorflow tf_keras onnxruntime
    build/torch/bin/pip install onnxscript onnxsim sng4onnx onnx_graphsurgeon psutil
    build/torch/bin/python bench/torch_corpus.py build/torch_files
    python bench/foreign_files.py build/torch_files

Weights are random, and images have sides of 64: what is asked is which operators a converter writes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE, TOKENS, WORDS, LENGTH = 64, 32, 500, 16
CONVERTERS = ("litert", "onnx2tf")


def image_networks() -> dict[str, Callable[[], Any]]:
    """Return networks of torchvision by name, small ones of their families."""
    from torchvision import models
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(32, 64, 2), CNBlockConfig(64, 128, 2), CNBlockConfig(128, None, 2)]
    transformer = {"num_layers": 4, "num_heads": 4, "hidden_dim": 128, "mlp_dim": 256, "num_classes": 10}
    return {
        "resnet18": lambda: models.resnet18(num_classes=10),
        "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=10),
        "efficientnet_b0": lambda: models.efficientnet_b0(num_classes=10),
        "shufflenet_v2": lambda: models.shufflenet_v2_x1_0(num_classes=10),
        "convnext": lambda: ConvNeXt(stages, num_classes=10),
        "vit": lambda: models.VisionTransformer(image_size=SIDE, patch_size=8, **transformer),
        "unet": unet,
        "yolo11n": yolo,
    }


def vit_large() -> Any:
    """Return a transformer of 38 million weights, which `--only vit_large` writes."""
    from torchvision import models

    sizes = {"num_layers": 12, "num_heads": 8, "hidden_dim": 512, "mlp_dim": 2048, "num_classes": 10}
    return models.VisionTransformer(image_size=SIDE, patch_size=8, **sizes)


def text_networks() -> dict[str, Callable[[], Any]]:
    return {"encoder": encoder, "gru_tagger": tagger}


def unet() -> Any:
    """Return a U-Net of three levels, with bilinear resizing."""
    import torch
    from torch import nn

    def convolved(inputs: int, outputs: int) -> Any:
        parts = [
            (nn.Conv2d(size, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()) for size in (inputs, outputs)
        ]
        return nn.Sequential(*(part for each in parts for part in each))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList([convolved(3, 16), convolved(16, 32), convolved(32, 64)])
            self.up = nn.ModuleList([convolved(96, 32), convolved(48, 16)])
            self.end = nn.Conv2d(16, 4, 1)

        def forward(self, x: Any) -> Any:
            levels = []
            for block in self.down:
                x = block(x)
                levels.append(x)
                x = nn.functional.max_pool2d(x, 2)
            x = levels.pop()
            for block in self.up:
                x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
                x = block(torch.cat([x, levels.pop()], dim=1))
            return self.end(x)

    return UNet()


def yolo() -> Any:
    """Return Ultralytics' detector without its pretrained weights."""
    from ultralytics import YOLO

    network = YOLO("yolo11n.yaml").model
    network.model[-1].export, network.model[-1].format = True, "tflite"
    return network


def encoder() -> Any:
    """Return a classifier of texts with four layers of attention, as BERT's."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(WORDS, 128), nn.Parameter(torch.randn(1, TOKENS, 128))
            layer = nn.TransformerEncoderLayer(128, 4, 256, activation="gelu", batch_first=True)
            self.layers, self.end = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(128, 10)

        def forward(self, tokens: Any) -> Any:
            return self.end(self.layers(self.words(tokens) + self.places)[:, 0])

    return Encoder()


def tagger() -> Any:
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.gru, self.end = (
                nn.Embedding(WORDS, 32),
                nn.GRU(32, 64, batch_first=True),
                nn.Linear(64, 8),
            )

        def forward(self, tokens: Any) -> Any:
            return self.end(self.gru(self.words(tokens))[0])

    return Tagger()


def write(name: str, converter: str, path: Path) -> None:
    """Build a network and convert it."""
    import torch

    torch.manual_seed(0)
    texts = text_networks()
    if name in texts:
        network, sample = texts[name](), torch.randint(0, WORDS, (1, LENGTH if name == "gru_tagger" else TOKENS))
    else:
        images = {**image_networks(), "vit_large": vit_large}
        network, sample = images[name](), torch.randn(1, 3, SIDE, SIDE)
    for weights in network.parameters():  # layers of an encoder are copies, whose equal weights would be stored once
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=weights[0].numel() ** -0.5)
    network = network.eval()
    if converter == "litert":
        import litert_torch

        litert_torch.convert(network, (sample,)).export(str(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder, f"{name}.onnx")
        torch.onnx.export(network, (sample,), str(exported), dynamo=True, external_data=False)
        command = [sys.executable, "-m", "onnx2tf", "-i", str(exported), "-o", folder, "-n"]
        options = ["-kat", *[node.name for node in _inputs(exported)]] if name in texts else []
        # onnx2tf checks each layer on pictures that it fetches, unless they lie there
        pictures = np.random.default_rng(0).random((20, 128, 128, 3), dtype="float32")
        np.save(Path(folder, "calibration_image_sample_data_20x128x128x3_float32.npy"), pictures)
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        shutil.copy(Path(folder, f"{name}_float32.tflite"), path)


def _inputs(path: Path) -> Any:
    import onnx

    return onnx.load(str(path)).graph.input


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", metavar="NAME", help="one network, such as vit")
    parser.add_argument("--converter", choices=CONVERTERS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    names = [options.only] if options.only else [*image_networks(), *text_networks()]
    if options.only and options.converter:
        write(options.only, options.converter, options.folder / f"{options.only}_{options.converter}.tflite")
        return 0
    failed = 0
    for name in names:
        for converter in [options.converter] if options.converter else CONVERTERS:
            command = [sys.executable, __file__, str(options.folder), "--only", name, "--converter", converter]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            failed += done.returncode != 0
            print(f"{name} {converter}: {'written' if not done.returncode else _last_line(done.stderr)}", flush=True)
    return min(failed, 1)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


if __name__ == "__main__":
    sys.exit(main())
