"""Mixed precision: convert a model to a file of 8-bit integers in which some operators stay in float.

A user names layers, and the converter takes the names of operators. TensorFlow numbers scopes of one name: the scope
`conv_1` may be that of a layer `conv` or of a layer `conv_1`. A second SavedModel, whose layers have numbers for
names, shows which operators belong to which layer.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfprune.base.spec import check_regex
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.quantization_error import MOVES
from tfprune.export.file.tflite.model import Operator, Subgraph
from tfprune.export.file.tflite.reader import read

if TYPE_CHECKING:
    import keras

    from tfprune.export.keras_side.preparing.signature import Signature

MARKED = "marked_model"
PATHS = "paths"  # of the layers, by their numbers
MARK = "tfprunelayer"  # begins the name of a layer with a number; a scope may have another number behind it
NUMBER = re.compile(rf"(?:^|[/;]){MARK}(\d+)(?=_|/|;|$)")
LAST = "NEG"  # makes the outputs of the marked model, whose own operators so keep their names
SHOWN = 3  # names in a message


def write_marked(model: keras.Model, folder: Path, *, inputs: Signature, unroll: bool) -> None:
    """Write a SavedModel of a model whose layers have numbers as names, and the paths of these layers.

    Args:
        model: The model. It is left as it is.
        folder: The folder of the job.
        inputs: The inputs of the model.
        unroll: Whether recurrent layers are unrolled.

    Raises:
        ValueError: As `write_saved_model` does.
    """
    import keras

    from tfprune.export.keras_side.preparing.saved_model import write_saved_model
    from tfprune.keras_models.models.anatomy import Anatomy

    leaves = Anatomy.of(model).leaves
    names = [layer.name for _, layer in leaves]
    try:
        for number, (_, layer) in enumerate(leaves):
            layer.name = f"{MARK}{number}"
        write_saved_model(model, folder / MARKED, inputs=inputs, unroll=unroll, last=keras.ops.negative)
    finally:
        for name, (_, layer) in zip(names, leaves, strict=True):
            layer.name = name
    write_job(folder, PATHS, settings={"paths": [path for path, _ in leaves]})


def convert_mixed(tf: Any, converter: Any, *, folder: Path, skip: Sequence[str], is_whole: bool) -> bytes:
    """Convert a model to integers except for some operators.

    Args:
        tf: TensorFlow.
        converter: Its converter of the model, with calibration data.
        folder: The folder of the job.
        skip: Regular expressions for paths of layers, or names of operators.
        is_whole: Whether inputs and outputs are integers, too.

    Returns:
        The file.

    Raises:
        ValueError: If one of `skip` matches nothing, or nothing is left for integers.
    """
    lite = tf.lite.experimental
    options = functools.partial(lite.QuantizationDebugOptions, fully_quantize=is_whole)
    debugger = lite.QuantizationDebugger(converter=converter, debug_options=options())
    marked = tf.lite.TFLiteConverter.from_saved_model(str(folder / MARKED)).convert()
    layers_of = _layers_of_operators(debugger.calibrated_model, marked)
    paths = read_job(folder, PATHS)[0]["paths"]
    names = {name for each in skip for name in _operators(each, paths, layers_of)}
    names |= _moves_between(read(debugger.calibrated_model).subgraphs[0], names)
    try:
        debugger.options = options(denylisted_nodes=sorted(names))
    except ValueError as error:  # no operator of integers is left
        raise ValueError(
            f"Expected `skip` to leave operators for integers. Received: skip={tuple(skip)!r}, which matches all of "
            "them. Use quantize=None for a file of floats"
        ) from error
    return debugger.get_nondebug_quantized_model()


def _layers_of_operators(content: bytes, marked: bytes) -> dict[str, set[int]]:
    """Return the numbers of the layers that each operator computes a part of, by the name of its first output."""
    graph, other = (read(each).subgraphs[0] for each in (content, marked))
    ends = {*other.outputs}
    own = [operator for operator in other.operators if operator.name != LAST or not ends & {*operator.outputs}]
    if [operator.name for operator in graph.operators] != [operator.name for operator in own]:
        return dict.fromkeys([_name(graph, operator) for operator in graph.operators], set())
    names = [
        (_name(graph, operator), _name(other, same)) for operator, same in zip(graph.operators, own, strict=True)
    ]
    return {name: {int(number) for number in NUMBER.findall(marked_name)} for name, marked_name in names}


def _moves_between(graph: Subgraph, names: set[str]) -> set[str]:
    """Return the names of operators that only move values, from operators in float to others in float."""
    takers: dict[int, list[Operator]] = defaultdict(list)
    for operator in graph.operators:
        for index in operator.inputs:
            takers[index].append(operator)
    reached = {index for operator in graph.operators for index in operator.outputs if _name(graph, operator) in names}
    moves = []
    for operator in graph.operators:
        if operator.name in MOVES and reached & {*operator.inputs}:
            reached |= {*operator.outputs}
            moves.append(operator)
    names_of_moves: set[str] = set()
    for operator in reversed(moves):
        after = {_name(graph, taker) for index in operator.outputs for taker in takers[index]}
        names_of_moves |= {_name(graph, operator)} if after <= names | names_of_moves else set()
    return names_of_moves


def _name(graph: Subgraph, operator: Operator) -> str:
    return graph.tensors[operator.outputs[0]].name


def _operators(each: str, paths: Sequence[str], layers_of: dict[str, set[int]]) -> list[str]:
    """Return the names of the operators that one of `skip` selects."""
    if each in layers_of:
        return [each]
    regex = check_regex(each, "`skip`")
    numbers = {number for number, path in enumerate(paths) if regex.search(path)}
    if not numbers:
        close = difflib.get_close_matches(each, [*paths, *layers_of], n=SHOWN, cutoff=0)
        raise ValueError(
            f"Expected `skip` to match a layer, or to be the name of an operator. Received: {each!r}, which is found "
            f"in no path of a layer. The closest names are {', '.join(map(repr, close))}"
        )
    names = [name for name, layers in layers_of.items() if layers & numbers]
    if not names:
        matching = ", ".join(paths[number] for number in sorted(numbers))
        close = difflib.get_close_matches(each, [*layers_of], n=SHOWN, cutoff=0)
        raise ValueError(
            f"Expected `skip` to match layers with operators in the file. Received: {each!r}, which matches "
            f"{matching}: the converter has merged them into other operators. Name the layer before, or an operator: "
            f"the closest are {', '.join(map(repr, close))}"
        )
    return names
