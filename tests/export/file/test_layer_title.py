"""Names of layers in tables: PyTorch's paths without modules, all others as they are, and none too long."""

import pytest

from tfprune.export.file.report import layer_title

BLOCK = "torchvision.models.vision_transformer.VisionTransformer/torchvision.models.vision_transformer.EncoderBlock_3"
NAMES = {
    "model/dense/MatMul;model/dense/BiasAdd": "model/dense/MatMul;model/dense/BiasAdd",
    "block.1/conv.2/Relu": "block.1/conv.2/Relu",
    f"{BLOCK}/torch.nn.modules.linear.Linear_0;1": "VisionTransformer/EncoderBlock_3/Linear_0",
    f"{BLOCK}/torch.nn.modules.linear.Linear_0; and 3 more": "VisionTransformer/EncoderBlock_3/Linear_0 and 3 more",
    f"{BLOCK};;{BLOCK};": "VisionTransformer/EncoderBlock_3",
    f"a.b.{'x' * 40}/a.b.{'y' * 40}/a.b.Linear_0": f"\u2026/{'y' * 40}/Linear_0",
    f"a.b.{'x' * 80}": "\u2026/" + "x" * 64,
    "": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_as_tables_show_it(name):
    assert layer_title(name) == NAMES[name]


def test_a_long_name_of_another_kind_loses_its_middle():
    assert len(layer_title("model/" + "a" * 100 + "/Relu")) == 48
