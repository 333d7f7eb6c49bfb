"""A file as C++ source that a program for a microcontroller is compiled with."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tfprune.base.spec import check_count
from tfprune.export.file.files.destination import check_destination, check_not_read, write_atomically
from tfprune.export.file.files.source import Source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.micro.array_report import ArrayReport
from tfprune.export.micro.operators import missing, registrations
from tfprune.report import printable

ENDINGS = (".cc", ".cpp", ".cxx")
BYTES_PER_LINE = 12  # bytes in a line

# Words of C++, and names that <cstddef>, compilers or the interpreter use already.
RESERVED_NAMES = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class
compl concept const const_cast consteval constexpr constinit continue co_await co_return co_yield decltype
default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline
int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
reinterpret_cast requires return short signed sizeof static static_assert static_cast struct switch template
this thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t
while xor xor_eq main std tflite size_t ptrdiff_t nullptr_t max_align_t NULL offsetof linux unix i386 typeof
"""

HEADER = """\
// {title}, {bytes} bytes, made by tfprune.
#ifndef {guard}
#define {guard}

#include <cstddef>

extern const unsigned char {name}[];
extern const std::size_t {name}_size;
{arena}
// How many operators the resolver has room for: tflite::MicroMutableOpResolver<{name}_operators> resolver;
constexpr unsigned int {name}_operators = {operators};

// Registers them: true if all went well.
template <typename Resolver>
bool {name}_register(Resolver& resolver) {{
  return {calls};
}}

#endif  // {guard}
"""
ARENA = """
// Bytes of RAM in which the interpreter for 64-bit machines runs it. Kernels of a chip's maker may need more.
constexpr std::size_t {name}_arena_size = {arena};
"""
CODE = """\
#include "{header}"

alignas(16) const unsigned char {name}[] = {{
{lines}
}};
const std::size_t {name}_size = sizeof({name});
"""


def c_array(source: Source, path: str | os.PathLike[str], *, arena: int | None = None) -> ArrayReport:
    """Write a .tflite file as a C++ array, aligned to 16 bytes, with a header that registers its operators.

    Use it to compile a file of `target="micro"` into the program of a microcontroller.

    Args:
        source: A path, or the bytes of a .tflite file.
        path: Where the C++ source is written, ending in .cc, .cpp or .cxx; the header is written beside it and ends
            in .h. The array has the name of the file.
        arena: The bytes of RAM that the header states as the size of the arena; None (the default) states no size.

    Returns:
        A report of both files.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If the file cannot be read or written, has operators that the interpreter for microcontrollers
            lacks, or its name makes no name in C++.

    Example:
        >>> report = c_array("digits.tflite", "digits.cc")
        >>> report.header
        'digits.h'
    """
    target = check_destination(path)
    header, name = target.with_suffix(".h"), re.sub(r"\W", "_", target.stem, flags=re.ASCII)
    is_free = re.match("[A-Za-z]", name) and name not in RESERVED_NAMES.split()
    is_quotable = header.name.isprintable() and not set(header.name) & {'"', "\\"}
    if target.suffix not in ENDINGS or not is_free or not is_quotable:
        raise ValueError(
            f"Expected a path that ends in {', '.join(ENDINGS)}, with a name that begins with a letter, is not a "
            f"word of C++, and has no quotes or newlines. Received: {str(target)!r}. Call it model.cc, for example."
        )
    file = ModelFile.open(source)
    content, names = file.content, file.graph.ops
    if lacking := missing(names):
        raise ValueError(
            f"Expected a file whose operators the interpreter for microcontrollers has. Received: "
            f"{source_name(source)} with {', '.join(lacking)}. Export it with target='micro'."
        )
    if isinstance(source, (str, os.PathLike)):
        for written in (target, header):
            check_not_read(str(written), os.fspath(source))
    calls = registrations(names)
    size = "" if arena is None else ARENA.format(name=name, arena=check_count(arena, "arena", least=1))
    text = HEADER.format(
        title=printable(Path(source).name) if isinstance(source, (str, os.PathLike)) else "A model",
        bytes=f"{len(content):,}",
        guard=f"{name.upper()}_H_",
        name=name,
        arena=size,
        operators=len(calls),
        calls=" &&\n         ".join(f"static_cast<int>(resolver.{call}()) == 0" for call in calls) or "true",
    )
    write_atomically(header, text.encode())
    write_atomically(target, CODE.format(header=header.name, name=name, lines=_lines(content)).encode())
    return ArrayReport(str(target), str(header), name, len(content), tuple(calls))


def _lines(content: bytes) -> str:
    rows = (content[start : start + BYTES_PER_LINE] for start in range(0, len(content), BYTES_PER_LINE))
    return "\n".join("  " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)
