"""Long calls: progress bars, pools of processes, and pieces of HTML for pages that load nothing."""

from __future__ import annotations

import base64
import io
import os
import queue
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from html import escape
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from tfprune.base.folders import save_file
from tfprune.base.spec import check_choice, check_count
from tfprune.report import shortened

# Pieces of HTML for pages that load nothing: tables, bars, and escaped text from outside.

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LONGEST_NAME = 110  # in characters


def document(title: str, parts: Sequence[str], *, kicker: str, footer: str) -> str:
    """Put sections under a title into one page that may load nothing and run nothing.

    Args:
        title: The title.
        parts: The sections, as HTML.
        kicker: The subject of the page, above the title.
        footer: The program that made it, at the end.
    """
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>",
            f'<header><p class="kicker">{kicker}</p><h1>{text(title)}</h1></header><main>',
            *parts,
            f"</main><footer>{footer}</footer></body></html>\n",
        ]
    )


def text(content: str, length: int = _LONGEST_NAME) -> str:
    """Make any text safe to stand in a page: of bounded length, without marks that turn it around."""
    shown = shortened(content, length)
    return escape("".join(sign if sign.isprintable() else "\ufffd" for sign in shown))


def name_text(content: str) -> str:
    """Mark up a name from outside, such as that of a layer."""
    return f'<span class="name">{text(content) or "(no name)"}</span>'


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
    """Show the most important numbers, each with a name and a remark."""
    cells = [f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, value, more in rows]
    return f'<dl class="facts">{"".join(cells)}</dl>'


def section(title: str, content: str) -> str:
    """Put content under a heading."""
    return f"<section><h2>{title}</h2>\n{content}</section>"


def rows_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of HTML; the first cell is the heading of its row, the others are aligned to the right."""
    titles = "".join(f'<th scope="col">{title}</th>' for title in header)
    lines = []
    for first, *values in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in values)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def bar(parts: Iterable[tuple[str, float]]) -> str:
    """Draw parts of a length side by side; screen readers skip it, so give the numbers beside it."""
    pieces = "".join(f'<i class="{kind}" style="width:{100 * part:.2f}%"></i>' for kind, part in parts)
    return f'<span class="bar" aria-hidden="true">{pieces}</span>'


def key(entries: Iterable[tuple[str, str]], more: str = "") -> str:
    """Explain the colors of bars."""
    spans = [f'<span><i class="{kind}"></i>{name}</span>' for kind, name in entries]
    return f'<p class="key">{"".join(spans)}{more}</p>'


def swatch(kind: str) -> str:
    """Draw the color of one part of a bar."""
    return f'<i class="swatch {kind}"></i>'


def image(png: bytes, alt: str, *, size: tuple[int, int]) -> str:
    """Embed a PNG of a size (height, width) in the page; `alt` is HTML."""
    encoded = base64.b64encode(png).decode()
    return f'<img alt="{alt}" height="{size[0]}" width="{size[1]}" src="data:image/png;base64,{encoded}">'


# System fonts, one column on phones, light or dark as the reader's system is.
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --wash: #f6f8fa; --line: #d8dee4;
  --values: #3d7bc4; --places: #9ec3ea; --dense: #d5dce3; --yes: #1a7f37; --no: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --paper: #12161b; --wash: #1a2027; --line: #303842;
    --values: #4f8fd9; --places: #9cc0e8; --dense: #3a444f; --yes: #4ac26b; --no: #d4a72c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; }
h2 { margin: 3rem 0 0.25rem; font-size: 1.15rem; font-weight: 650; }
a { color: inherit; }
h1, .name { overflow-wrap: anywhere; }
p { margin: 0.25rem 0 1rem; max-width: 44rem; }
.soft, .kicker, caption, figcaption, footer { color: var(--soft); }
.kicker { margin: 0 0 0.25rem; font-size: 0.85rem; }
.name { font: 0.85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 1.75rem 0 0; padding: 1rem 0; border-block: 1px solid var(--line); }
.facts dt { font-size: 0.85rem; color: var(--soft); }
.facts dd { margin: 0; font-size: 1.35rem; line-height: 1.3; font-weight: 600; }
.facts dd small { display: block; font-size: 0.85rem; font-weight: 400; color: var(--soft); }
table { width: 100%; border-collapse: collapse; font-size: 0.92rem; }
caption { text-align: left; padding-bottom: 0.4rem; font-size: 0.85rem; }
th, td { padding: 0.4rem 0 0.4rem 0.9rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
th { font-weight: 400; }
thead th { font-size: 0.85rem; color: var(--soft); white-space: nowrap; }
td { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
td.text { white-space: normal; text-align: left; overflow-wrap: anywhere; }
table + table { margin-top: 1.5rem; }
.soft { font-weight: 400; }
tr.best th, tr.best td { font-weight: 600; }
.bar { display: flex; height: 0.5rem; margin-top: 0.3rem; min-width: 4rem; background: none; }
h2 + .bar { margin: 0.75rem 0; height: 0.75rem; }
.bar i { display: block; height: 100%; min-width: 0; }
i.v { background: var(--values); }
i.p { background: var(--places); }
i.d { background: var(--dense); }
.key { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0 0 0.75rem; font-size: 0.85rem;
  color: var(--soft); }
.key i, .swatch { display: inline-block; width: 0.75rem; height: 0.75rem; margin-right: 0.4rem;
  vertical-align: -0.06rem; }
.key img { width: 6rem; height: 0.75rem; margin: 0 0.4rem; vertical-align: -0.06rem; border: 1px solid var(--line);
  image-rendering: pixelated; }
details { border-bottom: 1px solid var(--line); }
details:first-of-type { border-top: 1px solid var(--line); }
summary { display: grid; grid-template-columns: 1fr auto; gap: 0 1rem; padding: 0.65rem 0 0.75rem 1.1rem;
  cursor: pointer; list-style: none; position: relative; }
summary::-webkit-details-marker { display: none; }
summary:focus-visible { outline: 2px solid var(--values); outline-offset: 2px; }
summary::before { content: "+"; position: absolute; top: 0.65rem; left: 0; color: var(--soft);
  font: 0.85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
details[open] > summary::before { content: "\\2212"; }
summary .what { font-size: 0.85rem; color: var(--soft); }
summary .size { text-align: right; white-space: nowrap; }
summary .part { text-align: right; white-space: nowrap; font-size: 0.85rem; color: var(--soft); }
summary .bar { grid-column: 1 / -1; }
.weight { display: grid; grid-template-columns: 16rem minmax(0, 1fr); gap: 1rem 2rem;
  padding: 0.5rem 0 1.75rem 1.1rem; }
svg.chart { width: 100%; max-width: 46rem; }
svg.chart text { fill: var(--soft); font-size: 12px; }
figure { margin: 0; }
figure img { display: block; width: 100%; max-width: 16rem; height: auto; border: 1px solid var(--line);
  image-rendering: pixelated; }
figcaption { margin-top: 0.4rem; font-size: 0.85rem; line-height: 1.4; }
.why { display: block; font-size: 0.85rem; color: var(--soft); overflow-wrap: anywhere; max-width: 48rem; }
ul { margin: 0 0 1rem; padding-left: 1.1rem; max-width: 48rem; overflow-wrap: anywhere; }
ul:empty { display: none; }
li { margin-bottom: 0.3rem; }
.yes { color: var(--yes); }
.no { color: var(--no); }
.notes dt { font-weight: 600; }
.notes dd { margin: 0 0 0.6rem; max-width: 44rem; }
footer { margin-top: 3rem; font-size: 0.85rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; }
  .wide { display: none; }
  svg.chart text { font-size: 20px; }
  .weight { grid-template-columns: minmax(0, 1fr); padding-left: 0; }
  th, td { padding-left: 0.6rem; }
}
@media print { details { break-inside: avoid; } }
"""


# Progress bars, for every call that may take more than a few seconds.

_SECONDS_BEFORE_A_BAR = 3.0
_BAR_WIDTH = 20  # characters, of a bar without Keras


def check_verbose(verbose: Any) -> None:
    """Refuse a wrong `verbose`.

    Raises:
        TypeError: If it is neither a string nor an integer.
        ValueError: If it is another one than "auto", 0, 1 and 2.
    """
    if isinstance(verbose, str):
        check_choice(verbose, "verbose", choices=("auto",), others="0, 1 or 2")
    else:
        check_count(verbose, "verbose", least=0, most=2)


class Progress:
    """Keras' progress bar over the units of a call, or a plain one without Keras.

    It is a context, which ends the line of the bar whatever happens.

    With "auto", the bar appears after three seconds, and only in a terminal or a notebook, unless Keras is set to log
    instead. So a log file holds no bar, and a quick example prints none.

    Args:
        total: The number of units; fewer may come.
        verbose: "auto", or as in Keras: 0 for nothing, 1 for a bar, 2 for one line at the end.
        unit: The name of a unit.
        shown: The names of the values that are shown beside the bar.

    Example:
        >>> with Progress(2, verbose=2, unit="layer") as progress:
        ...     progress.add()
        ...     progress.add()  # doctest: +ELLIPSIS
        2/2 - 0s - ...s/layer
    """

    def __init__(self, total: int, *, verbose: int | str, unit: str, shown: Sequence[str] = ()) -> None:
        is_auto = verbose == "auto"
        self._total, self._done = total, 0
        self._values: Mapping[str, float] = {}
        self._due = time.monotonic() + (_SECONDS_BEFORE_A_BAR if is_auto else 0)
        self._has_open_line = False
        self._bar: Any = None
        if total and (_is_watched() if is_auto else verbose):
            kind, keras = 1 if is_auto else int(verbose), sys.modules.get("keras")
            if keras:
                self._bar = keras.utils.Progbar(total, verbose=kind, stateful_metrics=shown, unit_name=unit)
            else:
                self._bar = _PlainBar(total, kind, unit)

    @property
    def is_shown(self) -> bool:
        """Whether there is a bar to move."""
        return self._bar is not None

    def __enter__(self) -> Progress:
        return self

    def add(self, count: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Count units as done, and show values as they are after them."""
        self._values = values or self._values
        if self._done < self._total:
            self._done = min(self._done + count, self._total)
            self._draw()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is None:
            self.add(self._total)
        elif self._has_open_line:
            self._draw(is_last=True)

    def _draw(self, *, is_last: bool | None = None) -> None:
        if self._bar is not None and time.monotonic() >= self._due:
            values = [(name, _Count(each) if isinstance(each, int) else each) for name, each in self._values.items()]
            self._bar.update(self._done, values, finalize=is_last)
            self._has_open_line = self._bar.verbose == 1 and self._done < self._total and not is_last


class _Count(float):
    """A number that Keras' bar shows as an integer; it divides each by 1, and shows it with four decimals."""

    def __truediv__(self, other: float) -> float:
        return self if other == 1 else float(self) / other

    def __format__(self, spec: str) -> str:
        return f"{int(self):,}"


class _PlainBar:
    """The bar of a program that has not loaded Keras, as on a device."""

    def __init__(self, total: int, verbose: int, unit: str) -> None:
        self.verbose = verbose
        self._total, self._unit, self._began = total, unit, time.monotonic()

    def update(self, done: int, values: Sequence[tuple[str, float]], *, finalize: bool | None = None) -> None:
        is_last = finalize or done >= self._total
        if self.verbose == 1 or is_last:
            full = _BAR_WIDTH * done // self._total
            bar = f" [{'=' * full}{'.' * (_BAR_WIDTH - full)}]" if self.verbose == 1 else ""
            line = f"{done}/{self._total}{bar} {time.monotonic() - self._began:.0f}s ({self._unit}s)"
            sys.stdout.write(("\r" if self.verbose == 1 else "") + line + ("\n" if is_last else ""))
            sys.stdout.flush()


def _is_watched() -> bool:
    """Return True if somebody sees what is drawn: a notebook, or a terminal."""
    stream, keras = sys.stdout, sys.modules.get("keras")  # None in a program without a console, or without Keras
    if stream is None or getattr(stream, "closed", False):
        return False
    if keras and not keras.config.is_interactive_logging_enabled():
        return False
    return getattr(stream, "isatty", bool)() or type(stream).__module__.startswith("ipykernel.")


# Figures of matplotlib, written to a file.


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure to an image file in the format of its suffix, whole or not at all.

    Raises:
        ValueError: If the file cannot be written, or the format is not known.
    """
    file, content = Path(path), io.BytesIO()
    suffix = file.suffix or f".{figure.canvas.get_default_filetype()}"
    figure.savefig(content, dpi=150, format=suffix[1:])
    save_file(file.with_suffix(suffix), content.getvalue())


# A pool of processes that do not run the user's program again, end with it, and are replaced when they die. A process
# imports this module before it has its variables: here, nothing imports Keras, which reads them.

_END_SECONDS = 10  # in which a process that broke its pool has ended
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
_starting = threading.Lock()


class ProcessPool(Executor):
    """An executor of child processes, each of which has its share of the processors.

    Each process is a pool of its own, so that a process that dies fails one task only; the next task gets a new one.

    Args:
        workers: The number of processes, each started by the first task that finds none idle.
        environment: Environment variables of the processes.
    """

    def __init__(self, workers: int, *, environment: Mapping[str, str]) -> None:
        share = str(max(1, (os.cpu_count() or 1) // workers))
        self._environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **dict.fromkeys(_THREADS, share), **environment}
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()  # None: a process that is not started yet
        self._started: list[_Process] = []
        for _ in range(workers):
            self._free.put(None)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run a function of a module in an idle process; wait until one is idle.

        Returns:
            A future. If the process dies, its exception says what ended it, such as SIGKILL.
        """
        process = self._free.get()
        if process is None:
            process = _Process(self._environment)
            self._started.append(process)
        future: Future = Future()
        future.set_running_or_notify_cancel()  # the process has begun
        inner = process.pool.submit(function, *args, **kwargs)
        inner.add_done_callback(partial(self._release, process, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes, also those that have a task: a pool that is left early waits for no task."""
        for process in self._started:
            process.end()

    def _release(self, process: _Process, future: Future, inner: Future) -> None:
        error = CancelledError() if inner.cancelled() else inner.exception()
        is_dead = isinstance(error, BrokenProcessPool)
        self._free.put(None if is_dead else process)
        if is_dead:
            future.set_exception(BrokenProcessPool(f"its process {process.ending()}"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(inner.result())


class _Process:
    """One process, which ends as soon as this object closes its pipe or the whole program has ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._context = _Context()
        reader, self._writer = self._context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=_begin, initargs=(reader, dict(environment))
        )

    def ending(self) -> str:
        """Return what ended the process, as the end of a sentence about it."""
        self._context.started.join(_END_SECONDS)
        code = self._context.started.exitcode
        if code is None or code >= 0:
            return "stopped answering" if code is None else f"ended with exit code {code}"
        name = {each.value: each.name for each in signal.Signals}.get(-code, f"signal {-code}")
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def end(self) -> None:
        self._writer.close()
        self.pool.shutdown(wait=True, cancel_futures=True)


class _SpawnProcess(SpawnProcess):
    def start(self) -> None:
        """Start without the main module: a script without `if __name__ == "__main__"` would run once more."""
        with _starting:
            main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main


class _Context(SpawnContext):
    """Starts the process of one pool, and remembers it for its exit code."""

    started: SpawnProcess

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.started = _SpawnProcess(*args, **kwargs)
        return self.started


def _begin(reader: Connection, environment: Mapping[str, str]) -> None:
    """Set variables before any package is imported, and wait in a thread for the end of the program."""
    os.environ.update(environment)
    with Path(os.devnull).open("wb") as nowhere:  # TensorFlow writes to both, whatever its log level
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    threading.Thread(target=_wait_and_end, args=(reader,), daemon=True).start()


def _wait_and_end(reader: Connection) -> None:
    with suppress(EOFError, OSError):
        reader.recv_bytes()
    os._exit(1)
