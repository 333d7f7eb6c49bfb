"""Feed damaged and foreign files to everything that reads files: `make fuzz`, or `run.py TARGET ... --runs 100000`,
or `run.py --minutes 60`, which gives each target the same part of an hour.

A finding is another exception than ValueError, more than `MEMORY` on top of what the libraries take, or more than
`SECONDS` of processor time for one input (or `WAITING` seconds by the clock, where something waits or never ends).
It stops its target, and libFuzzer leaves the input in build/fuzz. Interpreters are native code: they run in a forked
child. A crash there stops nothing, and its input is kept. A crash of the runner is a finding, too. One of the
interpreter for microcontrollers is only counted: it believes the shapes that a file gives to its tensors, and the
library, too, runs it in a process of its own, where a crash is the reason why a file did not run. A file that makes a
loop endless is not a finding, because nobody can tell before it runs: the child ends after a third of `SECONDS` of
processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

MEMORY = 2**29  # bytes of address space; inputs have some ten kilobytes
NATIVE_MEMORY = 2**31  # for interpreters, which get tensors of up to half a gigabyte, and copy them
SECONDS = 10  # of processor time: a busy machine takes longer by the clock
WAITING = 300
LIES = (0, 1, 5, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
FOLDER = Path(__file__).parents[2] / "build" / "fuzz"
CRASHES = FOLDER / "crashes"
TARGETS = ("read", "load", "inspect", "page", "unpack", "micro", "runner", "interpreter")
RUNS = 100_000
# Targets that make their own inputs, and the program beside this one that runs them.
PROGRAMS = dict.fromkeys(("messages", "jobs", "folders", "archives", "texts", "interrupts"), "untrusted.py")
PROGRAMS["keras"] = "saved_models.py"


def main() -> int:
    """Run the targets one after the other, each in a process of its own; return 1 when one has a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = (*TARGETS, *PROGRAMS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(every)} (default: all)")
    text = f"inputs for each target (default: {RUNS:,}; 200 to 20,000 of those that are not .tflite files)"
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--runs", type=int, help=text)
    length.add_argument("--minutes", type=float, help="how long all targets take together, instead of --runs")
    parser.add_argument("--seed", type=int, default=1, help="where the mutations begin (default: %(default)s)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(every):
        parser.error(f"no such target: {', '.join(unknown)}")
    if options.child:
        fuzz(options.targets[0], runs=options.runs, minutes=options.minutes, seed=options.seed)
    chosen = options.targets or every
    seeds = FOLDER / "files"
    if not seeds.exists() and set(chosen) & set(TARGETS):
        subprocess.run([sys.executable, Path(__file__).with_name("files.py"), seeds], check=True)
    length = [] if options.runs is None else [f"--runs={options.runs}"]
    if options.minutes is not None:
        length = [f"--minutes={options.minutes / len(chosen)}"]
    failed = [name for name in chosen if name in TARGETS and not passes(name, length, seed=options.seed)]
    failed += [name for name in chosen if name in PROGRAMS and not program_passes(name, length, seed=options.seed)]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{(spent.ru_utime + spent.ru_stime) / 60:.1f} minutes of processor time, {len(failed)} with findings")
    return 1 if failed else 0


def program_passes(target: str, length: list[str], *, seed: int) -> bool:
    """Run a target that makes its own inputs."""
    begin = "--seed" if target == "keras" else "--first"
    command = [sys.executable, Path(__file__).with_name(PROGRAMS[target]), target, *length, f"{begin}={seed}"]
    return not subprocess.run(command, check=False).returncode


def passes(target: str, length: list[str], *, seed: int) -> bool:
    """Fuzz one target in a child; tell how it went."""
    CRASHES.mkdir(parents=True, exist_ok=True)
    before = len([*CRASHES.iterdir()])
    command = [sys.executable, __file__, target, "--child", *(length or [f"--runs={RUNS}"]), f"--seed={seed}"]
    log = FOLDER / f"{target}.log"
    with log.open("wb") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False, cwd=FOLDER).returncode
    crashed = len([*CRASHES.iterdir()]) - before
    native = f", crashes of the native code, kept in {CRASHES}: {crashed}" if crashed else ""
    runs = re.search(r"number_of_executed_units: +(\d+)", log.read_text(encoding="utf-8", errors="replace"))
    inputs = f"{int(runs[1]):,} inputs" if runs else "its inputs"
    end = f"no other finding in {inputs}" if code == 0 else f"A FINDING, see {log}"
    print(f"{target}: {end}{native}", flush=True)
    return code == 0 and not (crashed and target == "runner")


def fuzz(target: str, *, runs: int | None, minutes: float | None, seed: int) -> None:
    """Hand this process to libFuzzer, which ends it."""
    import atheris

    with atheris.instrument_imports(include=["tfprune.export"]):  # the schema would take most of the time
        work = targets()[target]

    def one(data: bytes) -> None:
        begin = time.process_time()
        with contextlib.suppress(ValueError):
            work(data)
        if time.process_time() - begin > SECONDS:
            raise AssertionError(f"more than {SECONDS} s of processor time")

    found = FOLDER / f"found-{target}"  # inputs that reached new code, for the next run
    found.mkdir(exist_ok=True)
    longest = max(path.stat().st_size for path in (FOLDER / "files").iterdir()) + 200
    limits = [f"-timeout={WAITING}", f"-max_len={longest}", "-rss_limit_mb=4096", f"-seed={seed}"]
    limits.append(f"-runs={runs}" if minutes is None else f"-max_total_time={round(60 * minutes)}")
    more = ["-len_control=0", f"-artifact_prefix={target}-", "-print_final_stats=1"]
    arguments = [sys.argv[0], *limits, *more, str(found), str(FOLDER / "files")]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    limit_memory(NATIVE_MEMORY if target in ("runner", "interpreter") else MEMORY)
    atheris.Fuzz()


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """Change an input as libFuzzer does, or half the time a real file, so that it stays whole and says nonsense."""
    import atheris

    random = Random(seed)
    if random.random() < 0.5:
        return atheris.Mutate(data, longest)
    changed = bytearray(random.choice(real_files()))
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(changed) - 4)
        if random.random() < 0.5:
            changed[place] ^= 1 << random.randrange(8)
        else:  # numbers stand at multiples of four
            start = place // 4 * 4
            changed[start : start + 4] = random.choice(LIES).to_bytes(4, "little")
    return bytes(changed[:longest])


@functools.cache
def real_files() -> list[bytes]:
    """Read the files to start from."""
    return [path.read_bytes() for path in sorted((FOLDER / "files").iterdir())]


def targets() -> dict:
    """Import what is fuzzed."""
    from ai_edge_litert import interpreter, schema_py_generated  # noqa: F401  (loaded before memory is limited)

    from tfprune.export.file.container import unpack
    from tfprune.export.file.document import load_objects
    from tfprune.export.file.inspect import inspect, page
    from tfprune.export.file.reader import read

    return {
        "read": read,
        "load": load_objects,
        "inspect": inspect,
        "page": page,
        "unpack": unpack,
        "micro": unpack_in_parts,
        "runner": functools.partial(run_in_child, predict),
        "interpreter": functools.partial(run_in_child, measure),
    }


def unpack_in_parts(data: bytes) -> None:
    """Write a file for microcontrollers, as far as that goes without its interpreter."""
    from tfprune.export.file.model_file import ModelFile
    from tfprune.export.micro.micro import _Candidates

    candidates = _Candidates(ModelFile.open(data))
    candidates.write(candidates.plan(2**40, 0))
    candidates.write(candidates.plan(candidates.caps[0] + 64, 0))


def limit_memory(most: int) -> None:
    """Let this process grow by no more bytes."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + most, taken + most))


def run_in_child(work: Callable[[bytes], None], data: bytes) -> None:
    """Run a file in a child; a native crash ends the child alone, and its input is kept."""
    from tfprune.export.file.container import read_model

    plain = read_model(data)  # here, so that libFuzzer sees the way through our own checks
    child = os.fork()
    if child == 0:
        os._exit(run(work, plain))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) not in (signal.SIGPROF, signal.SIGALRM):
        name = signal.Signals(os.WTERMSIG(status)).name
        (CRASHES / f"{name}-{zlib.crc32(data):08x}").write_bytes(data)
    elif os.WIFEXITED(status) and status:
        raise RuntimeError("it raised another exception than ValueError")


def run(work: Callable[[bytes], None], plain: bytes) -> int:
    """Load and run a file; return 1 for an exception that is no ValueError."""
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # libFuzzer's own would take the crash for its own
    signal.setitimer(signal.ITIMER_PROF, SECONDS / 3)  # for a loop that a file makes endless
    signal.alarm(WAITING // 3)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    errors = os.dup(2)
    os.dup2(nowhere, 2)
    try:
        work(plain)
    except ValueError:
        return 0
    except BaseException:  # noqa: BLE001 (each is a finding)
        os.write(errors, traceback.format_exc().encode())
        return 1
    return 0


def predict(plain: bytes) -> None:
    from tfprune.export.device.runner import Runner, random_inputs

    runner = Runner(plain)
    runner.predict(random_inputs(runner.inputs, runner.outputs, rows=1))


def measure(plain: bytes) -> None:
    """Do what the process of the interpreter for microcontrollers does, which takes RuntimeErrors for refusals."""
    from tfprune.export.device.runner import random_inputs
    from tfprune.export.file.reader import read
    from tfprune.export.micro.interpreter import _load_and_run

    model = read(plain)
    inputs = random_inputs(model.inputs, model.outputs, rows=1)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(RuntimeError):
        _load_and_run(plain, inputs, outputs=len(model.outputs), said=Path(folder, "said"))


if __name__ == "__main__":
    sys.exit(main())
