"""The command line: tfprune demo | inspect | export | verify | bench."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tfprune.export.files.model_file import is_model_file
from tfprune.export.files.target import check_not_read
from tfprune.export.loading import load_arrays, load_keras, load_model
from tfprune.export.report import reason_of

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything loads TensorFlow, which is noisy


SPARSE = {"auto": "auto", "yes": True, "no": False}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, 1 when a check failed, 2 for what could not be done."""
    options = _parser().parse_args(arguments)
    try:
        with _orderly_end():
            report = options.command(options)
    except (TypeError, ValueError) as error:
        print(f"tfprune: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"tfprune: {reason_of(error)}. {options.needs}", file=sys.stderr)
        return 2
    print(json.dumps(report.as_dict(), indent=2) if options.json else report)
    return 0 if getattr(report, "passed", True) else 1


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Turn SIGTERM into an exit, on whose way children are ended and temporary folders removed."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    import tfprune

    parser = argparse.ArgumentParser(
        prog="tfprune",
        description="Prune Keras models while they train; export, check and measure compressed TFLite files.",
        epilog="`tfprune COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"tfprune {tfprune.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_inspect(commands)
    _add_export(commands)
    _add_verify(commands)
    _add_bench(commands)
    return parser


def _add(commands: Any, name: str, run: Callable, *, text: str, extra: str) -> argparse.ArgumentParser:
    # argparse fills in the one with the % operator and leaves the other as it is.
    parser = commands.add_parser(name, help=text.replace("%", "%%"), description=text)
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    needs = f'This command needs: pip install "tfprune[{extra}]" (from a checkout: pip install -e ".[{extra}]")'
    parser.set_defaults(command=run, needs=needs)
    return parser


def _add_demo(commands: Any) -> None:
    text = "Prune a small CNN to 90 %, export it, and run it without TensorFlow; takes about a minute."
    parser = _add(commands, "demo", _demo, text=text, extra="demo")
    parser.add_argument("--output", default="demo-output", metavar="DIR", help="folder for models and picture")


def _demo(options: argparse.Namespace) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=os.fdopen(os.dup(2), "w")), transient=True) as progress:
        task = progress.add_task("loading TensorFlow", total=1.0)
        load_keras()
        from tfprune.export.demo import run_demo

        return run_demo(
            options.output, tell=lambda what, done: progress.update(task, description=what, completed=done)
        )


def _add_inspect(commands: Any) -> None:
    text = "List what a .tflite file holds: inputs, outputs, operators, the zeros of each weight and what they save."
    parser = _add(commands, "inspect", _inspect, text=text, extra="device")
    _add_model(parser)
    parser.add_argument("--html", metavar="PAGE", help="also write a page with pictures of the zeros, for a browser")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .tflite file, plain, packed, or compressed with gzip or xz")


def _inspect(options: argparse.Namespace) -> Any:
    from tfprune.export.files.target import write_atomically
    from tfprune.export.inspecting.inspect import inspect
    from tfprune.export.inspecting.page import page
    from tfprune.export.xnnpack.sparse_inference_report import inference_of_file

    if options.html:
        check_not_read(options.html, options.model)
        content = page(options.model, inference=inference_of_file(options.model))
        write_atomically(options.html, content.encode())
    return inspect(options.model)


def _add_export(commands: Any) -> None:
    text = (
        "Convert a saved Keras model to a .tflite file, wrappers stripped, or write a .tflite file anew; either way "
        "sparse where that pays, and checked before it is written."
    )
    parser = _add(commands, "export", _export, text=text, extra="train")
    parser.add_argument("source", metavar="SOURCE", help="a model saved by model.save('x.keras'), or a .tflite file")
    parser.add_argument("target", metavar="TARGET", help="where the file goes, exactly as written here")
    parser.add_argument("--quantize", choices=["float16", "dynamic", "int8"], help="number format (default: float32)")
    parser.add_argument(
        "--levels", type=int, help="different non-zero values of an 8-bit weight, 1 to 255 (default: all)"
    )
    parser.add_argument("--io-dtype", choices=["float32", "int8"], help="inputs and outputs of an int8 file")
    parser.add_argument(
        "--calibration", metavar="FILE", help="samples for --quantize int8: .npy, or .npz with one array per input"
    )
    parser.add_argument(
        "--sparse", choices=[*SPARSE], default="auto", help="try sparse forms, take them only, or not (default: auto)"
    )
    parser.add_argument(
        "--optimize", choices=["size", "latency"], default="size", help="what the best form is (default: %(default)s)"
    )
    parser.add_argument("--check-on", metavar="FILE", help="samples on which the file is compared with the model")
    parser.add_argument("--compress", choices=["gzip", "xz", "packed"], help="compress it; Runner reads it directly")
    parser.add_argument(
        "--tolerance", type=float, help="largest difference allowed, as a fraction of the model's largest output"
    )


def _export(options: argparse.Namespace) -> Any:
    check_not_read(options.target, options.calibration, options.check_on)
    settings = {
        "sparse": SPARSE[options.sparse],
        "optimize": options.optimize,
        "compress": options.compress,
        "check_on": load_arrays(options.check_on) if options.check_on else None,
        "tolerance": options.tolerance,
    }
    if is_model_file(options.source):
        return _rewrite(options, settings)
    check_not_read(options.target, options.source)
    if options.quantize == "int8" and not options.calibration:
        raise ValueError(
            "Expected samples with --quantize int8. Received: no --calibration FILE. Save about 100 samples of real "
            "data with numpy.save."
        )
    model = load_model(options.source)
    from tfprune.export.converting.to_tflite import to_tflite

    return to_tflite(
        model,
        options.target,
        quantize=options.quantize,
        levels=options.levels,
        calibration=options.calibration and load_arrays(options.calibration),
        io_dtype=options.io_dtype or "float32",
        **settings,
    )


def _rewrite(options: argparse.Namespace, settings: dict[str, Any]) -> Any:
    from tfprune.export.rewriting.rewrite import rewrite

    for name in ("quantize", "levels", "io_dtype", "calibration"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"Expected a saved Keras model with --{name.replace('_', '-')}. Received: {options.source!r}, whose "
                "numbers have their type. Leave the option out, or export the Keras model."
            )
    return rewrite(options.source, options.target, **settings)


def _add_verify(commands: Any) -> None:
    text = "Load and run a .tflite file in a process of its own; with --against, compare it with the Keras model."
    parser = _add(commands, "verify", _verify, text=text, extra="device")
    _add_model(parser)
    parser.add_argument("--against", metavar="KERAS_MODEL", help="a saved Keras model that gives the right outputs")
    parser.add_argument("--inputs", metavar="FILE", help="samples to run: .npy, or .npz with one array per input")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest difference, as a fraction of the largest right output (default: %(default)g; int8: 0.1 or so)",
    )


def _verify(options: argparse.Namespace) -> Any:
    from tfprune.export.running.verify import verify

    inputs = load_arrays(options.inputs) if options.inputs else None
    expected = None
    if options.against:
        expected = _predict(load_model(options.against), inputs)
    return verify(options.model, inputs=inputs, expected=expected, tolerance=options.tolerance)


def _predict(model: Any, inputs: Any) -> Any:
    if inputs is None:
        raise ValueError("Expected samples to compare on. Received: --against without --inputs FILE.")
    import tfprune
    from tfprune.export.converting.signature import signature

    plain = tfprune.strip(model)
    signature(plain).arrays(inputs, "--inputs")  # Keras' own message would not name them
    return plain.predict(inputs, verbose=0)


def _add_bench(commands: Any) -> None:
    text = "Measure latency and peak memory of a .tflite file on this machine, in a process of its own."
    parser = _add(commands, "bench", _bench, text=text, extra="device")
    _add_model(parser)
    parser.add_argument("--inputs", metavar="FILE", help="samples of one run: .npy, or .npz with one array per input")
    parser.add_argument("--runs", type=int, default=50, help="timed runs (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=5, help="runs before them (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the interpreter (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="samples drawn for a run (default: %(default)s)")


def _bench(options: argparse.Namespace) -> Any:
    from tfprune.export.running.benchmark import benchmark

    counts = {name: getattr(options, name) for name in ("runs", "warmup", "threads", "batch")}
    return benchmark(options.model, inputs=load_arrays(options.inputs) if options.inputs else None, **counts)


if __name__ == "__main__":
    sys.exit(main())
