"""The number format of a file as a value: what goes together, and what is refused."""

import pytest

from tfprune.export import Quantization
from tfprune.export.keras_side.convert import as_quantization


def test_names_and_values_become_one_form():
    assert as_quantization("int8") == Quantization("int8")
    assert as_quantization(None) == Quantization(None)
    form = Quantization("int16x8", levels=2, io_dtype="int16", allow_float=True)
    assert as_quantization(form) is form


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"scheme": "int9"}, ValueError, "Received: scheme='int9'"),
        ({"scheme": "int8", "levels": 1}, ValueError, "`levels` to be an integer from 2 to 256"),
        ({"scheme": "int8", "levels": 257}, ValueError, "`levels` to be an integer from 2 to 256"),
        ({"scheme": "int8", "levels": 4.0}, TypeError, "`levels` to be an integer"),
        ({"scheme": "int4", "levels": 4}, ValueError, "'int8' or 'int16x8' with `levels`"),
        ({"scheme": None, "levels": 4}, ValueError, "8-bit weights share. Received: levels=4, scheme=None"),
        ({"scheme": "int8", "io_dtype": "uint8"}, ValueError, "Did you mean 'int8'?"),
        ({"scheme": "int4", "io_dtype": "int16"}, ValueError, "io_dtype='float32' or 'int8' with scheme='int4'"),
        ({"scheme": "dynamic", "io_dtype": "int8"}, ValueError, "io_dtype='float32' with scheme='dynamic'"),
        ({"scheme": "int8", "allow_float": "yes"}, ValueError, "`allow_float` to be False or True"),
        ({"scheme": "int16x8", "skip": "conv"}, ValueError, "scheme='int8' or 'int4' with `skip`"),
        ({"scheme": "int8", "skip": 3}, TypeError, "`skip` to be a string, or a list of them. Received: skip=3"),
        ({"scheme": "int8", "skip": ["conv", 3]}, TypeError, "`skip` to be a string, or a list of them"),
        ({"scheme": "int8", "skip": [""]}, ValueError, "`skip` without empty strings"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Quantization(**arguments)


@pytest.mark.parametrize(("quantize", "error"), [("int9", ValueError), (8, TypeError)])
def test_what_is_no_format_is_refused_under_the_name_of_the_argument(quantize, error):
    with pytest.raises(error, match=f"'int4', or a Quantization. Received: quantize={quantize!r}"):
        as_quantization(quantize)
