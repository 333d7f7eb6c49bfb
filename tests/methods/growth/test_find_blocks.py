"""Repeated blocks are found by names and without, and what makes no blocks is refused by name."""

from __future__ import annotations

import keras
import pytest
from small_transformer import transformer

from tfprune.methods.growth.blocks import _numbered, find_blocks

layers = keras.layers


def names(found):
    return [[call.layer.name for call in block.calls] for block in found.blocks]


def residual(count, *, width=4, hidden=(8, 8, 8, 8), name="block_{}_{}", head=True):
    """Blocks that add two dense layers to what they read; the additions have no names of their own."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((width,))
    for index in range(count):
        inner = layers.Dense(hidden[index], "relu", name=name.format(index, "hidden"))(x)
        x = layers.Add()([x, layers.Dense(width, name=name.format(index, "out"))(inner)])
    return keras.Model(inputs, layers.Dense(2, name="head")(x) if head else x)


def test_named_and_unnamed_blocks_are_the_same_and_hold_what_has_no_name():
    model = transformer(3)
    by_name = names(find_blocks(model, r"(?:attention|hidden|back)_(\d+)"))
    assert [name.rstrip("_0123456789") for name in by_name[2]] == ["attention", "add", "hidden", "back", "add"]
    assert by_name == names(find_blocks(model, None))


@pytest.mark.parametrize("pattern", [None, r"block_(\d+)_"])
def test_a_residual_that_starts_from_the_input_belongs_to_the_first_block(pattern):
    found = names(find_blocks(residual(3), pattern))
    assert [[part for part in block if "block" in part] for block in found] == [
        [f"block_{index}_hidden", f"block_{index}_out"] for index in range(3)
    ]
    assert all(len(block) == 3 and block[2].startswith("add") for block in found)


def test_one_block_can_be_named():
    assert names(find_blocks(residual(1), r"block_(\d+)_"))[0][:2] == ["block_0_hidden", "block_0_out"]


@pytest.mark.parametrize("pattern", [None, r"block_(\d+)_"])
@pytest.mark.parametrize("hidden", [(8, 5, 2), (5, 8, 8), (8, 8, 5), (8, 5, 8)])
def test_blocks_of_other_widths_are_counted(pattern, hidden):  # as prune_units leaves them
    found = find_blocks(residual(3, hidden=hidden), pattern)
    assert [block.calls[0].layer.units for block in found.blocks] == list(hidden)


class Branch(layers.Layer):
    """A block in one layer, whose branch can be gone."""

    def __init__(self, units, name):
        super().__init__(name=name)
        self.inner = layers.Dense(units) if units else None

    def call(self, inputs):
        return inputs + self.inner(inputs) if self.inner else inputs

    def compute_output_shape(self, input_shape):
        return input_shape


@pytest.mark.parametrize("units", [(4, 0, 4, 4), (0, 4, 4, 0), (4, 4, 0, 0)])
def test_blocks_without_one_of_their_branches_are_counted(units):  # as those whose heads are all gone
    model = keras.Sequential([keras.Input((4,)), *(Branch(u, f"block_{i}") for i, u in enumerate(units))])
    assert names(find_blocks(model, None)) == [[f"block_{index}"] for index in range(4)]


def test_the_context_that_each_block_makes_for_itself_goes_with_it():
    x, condition = keras.Input((4,)), keras.Input((3,), name="condition")
    y = x
    for index in range(2):
        shift = layers.Dense(4, name=f"shift_{index}")(condition)
        y = layers.Add(name=f"sum_{index}")([y, layers.Dense(4, name=f"dense_{index}")(y), shift])
    found = find_blocks(keras.Model([x, condition], y), r"_(\d+)")
    assert [set(block) for block in names(found)] == [{f"shift_{i}", f"dense_{i}", f"sum_{i}"} for i in range(2)]


def test_blocks_inside_of_nested_models_are_found():
    block = [keras.Sequential([keras.Input((4,)), layers.Dense(4, "relu", name=f"d{i}")]) for i in range(3)]
    model = keras.Sequential([keras.Input((4,)), *block, layers.Dense(2)])
    assert names(find_blocks(model, None)) == [["d0"], ["d1"], ["d2"]]


def two_groups():
    x = inputs = keras.Input((4,))
    for index in range(2):
        x = layers.Dense(4, "relu", name=f"first_{index}")(x)
    x = layers.Dense(6, "relu", name="wider")(x)
    for index in range(2):
        x = layers.Dense(6, "relu", name=f"second_{index}")(x)
    return keras.Model(inputs, x)


def tapped():
    """The middle of the first block is an output of the model."""
    x = inputs = keras.Input((4,))
    outputs = []
    for index in range(2):
        hidden = layers.Dense(4, name=f"hidden_{index}")(x)
        outputs.append(hidden)
        x = layers.Dense(4, name=f"out_{index}")(hidden)
    return keras.Model(inputs, [x, outputs[0]])


def different():
    x = inputs = keras.Input((4,))
    x = layers.Dense(4, name="block_0_a")(x)
    x = layers.LayerNormalization(name="block_1_a")(x)
    return keras.Model(inputs, x)


def growing():
    x = inputs = keras.Input((4,))
    for index in range(2):
        x = layers.Dense(5 + index, name=f"block_{index}_a")(x)
    return keras.Model(inputs, x)


def reading_the_first():
    x = start = keras.Input((4,))
    for index in range(3):
        x = layers.Add(name=f"sum_{index}")([layers.Dense(4, name=f"dense_{index}")(x), start])
    return keras.Model(start, x)


@pytest.mark.parametrize(
    ("make", "pattern", "reason"),
    [
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3)]), None, "no part with weights is followed by"),
        (two_groups, None, "several groups of blocks repeat: 2 that begin with 'second_0' (Dense), and 2 that begin"),
        (tapped, r"_(\d+)", "'hidden_0' (Dense) inside of block 0 is also read by an output of the model"),
        (different, r"block_(\d+)_", "'block_0_a' (Dense) stands where the other block has 'block_1_a'"),
        (growing, r"block_(\d+)_", "block 0 makes (None, 5) of (None, 4)"),
        (reading_the_first, r"_(\d+)", "the block with number 1 does not read the block before it"),
        (different, r"layer_(\d+)", "it finds none of the layers block_0_a, block_1_a"),
        (different, r"block_\d+_", "the expression has 0 groups, and needs one"),
        (different, r"block_\d+_(.)", "its group finds 'a' in 'block_0_a', which is not a number"),
    ],
)
def test_what_makes_no_blocks_is_refused_by_name(make, pattern, reason):
    with pytest.raises(ValueError, match=r"^Expected a model of repeated blocks") as refused:
        find_blocks(make(), pattern)
    assert reason in str(refused.value)


def test_wrong_kinds_are_refused():
    class Own(keras.Model):
        pass

    with pytest.raises(TypeError, match="Expected a Keras model"):
        find_blocks("model.keras", None)
    with pytest.raises(ValueError, match="of class Own, whose calls cannot be followed"):
        find_blocks(Own(), None)
    with pytest.raises(ValueError, match="regular expressions"):
        find_blocks(residual(2), "block_(")
    with pytest.raises(ValueError, match="Expected a built model"):
        find_blocks(keras.Sequential([layers.Dense(3)]), None)


def test_names_count_places():
    assert _numbered(["norm1_01", "norm1_02"])(9) == "norm1_10"
    assert _numbered(["add", "add_1"]) is None
    assert _numbered(["add_1", "add_3"]) is None
