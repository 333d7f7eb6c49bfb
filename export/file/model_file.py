"""ModelFile: a .tflite file that is read and checked once, and edited into the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tfprune.export.file import schema
from tfprune.export.file.container import Source, check_whole, read_model, source_name
from tfprune.export.file.document import (
    CONVERTER,
    REDUCED_PRECISION,
    numbers_operators,
    put_in_order,
    read_metadata,
    save_objects,
    signatures_of,
    starting_at,
    unpack_objects,
)
from tfprune.export.file.reader import Model, read
from tfprune.export.file.report import reason_of
from tfprune.export.file.xnnpack import Analysis, SparseInferenceReport, analyze, inference_of

Pass = Callable[[Any], bool]  # changes an open `schema.ModelT`, and returns whether it changed anything


@dataclass(frozen=True)
class ModelFile:
    """A plain .tflite file. What it holds is read when it is first asked for, and once.

    Bytes from outside come in by `open`, which checks them. What an edit gives is ours: it is checked once more, by
    `checked`, before it is written.

    Attributes:
        content: The bytes.
        name: How errors call the file: its path, or the number of its bytes.
        is_checked: Whether it is known that readers take it: a file from outside was checked at the door.
    """

    content: bytes = field(repr=False)
    name: str = field(default="", compare=False)
    is_checked: bool = field(default=False, compare=False)

    @classmethod
    def open(cls, source: Source | ModelFile) -> ModelFile:
        """Open a file from outside: unpack it, and check its structure, its sparse tensors and its operators.

        Args:
            source: A path, or the bytes of a file, plain or packed. A file that is open is returned as it is.

        Raises:
            TypeError: If `source` is neither a path nor bytes.
            ValueError: If the file cannot be read, is empty, damaged, or is not a TFLite file.
        """
        return source if isinstance(source, ModelFile) else cls(read_model(source), source_name(source), True)

    @cached_property
    def graph(self) -> Model:
        """Graphs, operators and tensors, and the zeros of the constants.

        Raises:
            ValueError: If the file is damaged; or (also an ImportError) if ai-edge-litert is not installed.
        """
        return read(self.content)

    @cached_property
    def metadata(self) -> dict[str, bytes]:
        """The metadata by name."""
        return read_metadata(self.content)

    @property
    def converter(self) -> str:
        """The name and version of what converted it; empty where that was TensorFlow's converter, or is not known."""
        return self.metadata.get(CONVERTER, b"").decode("utf-8", "replace").strip("\0")

    @cached_property
    def signatures(self) -> dict[str, int]:
        """The number of the graph that each signature starts at, by the name of the signature."""
        return signatures_of(self.content)

    @cached_property
    def analyses(self) -> tuple[Analysis, ...]:
        """What XNNPACK makes of each graph, the main one first."""
        return analyze(self.graph, self.objects())

    @cached_property
    def inference(self) -> SparseInferenceReport:
        """How XNNPACK runs the file.

        Raises:
            ValueError: If the analysis fails.
        """
        try:
            return inference_of(self.analyses, half=REDUCED_PRECISION in self.metadata)
        except ImportError:
            raise
        except ValueError as error:
            name = self.name or source_name(self.content)
            raise ValueError(f"Cannot tell how {name} runs. {reason_of(error)}.") from error

    @property
    def hazards(self) -> tuple[str, ...]:
        """Why outputs are wrong on ARM as soon as a weight of the file is sparse; empty if they are right."""
        return tuple(text for analysis in self.analyses for text in analysis.hazards)

    def objects(self) -> schema.ModelT:
        """Return the file as objects, for one reader or one edit: each call unpacks it anew.

        Raises:
            ValueError: If the file is damaged, or keeps values outside of the flatbuffer; or (also an ImportError) if
                ai-edge-litert is not installed.
        """
        _ = self.graph  # refuses damage
        return unpack_objects(self.content)

    @contextmanager
    def edit(self) -> Iterator[_Edit]:
        """Open the file to change it. At the end of the block it is saved, in canonical order.

        A file that names its operators by number keeps its order.

        Example:
            >>> file = ModelFile.open("digits.tflite")
            >>> with file.edit() as edit:
            ...     edit.model.description = b"digits"
            >>> edit.file.content != file.content
            True
        """
        edit = _Edit(self.objects(), self)
        yield edit
        edit.file = self.saved(edit.model)

    def after(self, *passes: Pass) -> ModelFile:
        """Return the file after some passes, or this one if none of them changes anything.

        A file that names its operators by number is returned as it is, because passes move operators.
        """
        if not passes:
            return self
        model = self.objects()
        with fitting(self):
            if numbers_operators(model) or not sum(change(model) for change in passes):
                return self
        return self.saved(model)

    def saved(self, model: schema.ModelT) -> ModelFile:
        """Return the next file: the changed objects of this one, in canonical order, as `edit` saves them.

        Raises:
            ValueError: If operators do not fit their tensors, the file does not fit into 2 GB, or a part cannot be
                packed.
        """
        with fitting(self):
            if not numbers_operators(model):
                put_in_order(model)
        return ModelFile(save_objects(model))

    def starting_at(self, signature: str) -> ModelFile:
        """Return the file as it runs from a signature on; with an empty one, this file."""
        return ModelFile(starting_at(self.content, signature)) if signature else self

    def checked(self) -> ModelFile:
        """Return the file once it was checked, as it has to be before it is written.

        Raises:
            ValueError: If an edit left a damaged file.
        """
        if not self.is_checked:
            check_whole(self.content, name=self.name or source_name(self.content))
        return self


@contextmanager
def fitting(file: ModelFile) -> Iterator[None]:
    """Turn what goes wrong with operators that do not fit their tensors into one error."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"Expected a TFLite file whose operators fit their tensors. Received: {len(file.content):,} bytes that "
            f"are damaged ({reason_of(error)}). Copy the file again."
        ) from error


@dataclass
class _Edit:
    """An open file.

    Attributes:
        model: Its objects, as the schema module of ai-edge-litert describes them; to be changed.
        file: The file before the change and, once the block has ended, the next one.
    """

    model: schema.ModelT
    file: ModelFile
