"""Let a language model's file write in a process of its own: what it chooses, and with which scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfprune.export.device.generating.interpreted_file import InterpretedFile
from tfprune.export.device.generating.signatures import Signatures
from tfprune.export.device.processes.child_process import run_job
from tfprune.export.device.processes.job_files import read_job, write_job

MODEL, JOB, RESULT = "model.tflite", "job", "result"


@dataclass(frozen=True)
class Written:
    """What a file wrote.

    Attributes:
        tokens: The greedy continuation of each prompt.
        scores: The logits that they were chosen by, (tokens, vocabulary), for each prompt.
        read: The logits after each token of a prompt but the last, which it was read by token by token.
        prefill_speed: Tokens of a prompt in a second of processor time.
        decode_speed: Tokens written in a second of processor time.
        runtime: The interpreter, with its version.
    """

    tokens: list[np.ndarray]
    scores: list[np.ndarray]
    read: list[np.ndarray]
    prefill_speed: float
    decode_speed: float
    runtime: str


def write_apart(folder: Path, prompts: Sequence[Sequence[int]], *, count: int, timeout: float) -> Written | str:
    """Let the file `MODEL` in a folder continue prompts, and return what it wrote, or why it could not.

    Args:
        folder: A folder that the caller removes.
        prompts: Token ids.
        count: The number of tokens to write after each prompt.
        timeout: Seconds after which the process is stopped.
    """
    arrays = {str(number): np.asarray(prompt, np.int32) for number, prompt in enumerate(prompts)}
    write_job(folder, JOB, settings={"count": count}, arrays=arrays)
    completed = run_job(run_write_job, folder, timeout=timeout)
    if not completed.ok:
        return completed.reason
    settings, results = read_job(folder, RESULT)
    tokens, scores, prompt_scores = (
        [results[f"{kind}/{name}"] for name in arrays] for kind in ("tokens", "scores", "read")
    )
    return Written(tokens, scores, prompt_scores, **settings)


def run_write_job(folder: Path) -> None:
    """Do the job in a folder."""
    settings, prompts = read_job(folder, JOB)
    signatures = Signatures(InterpretedFile(str(folder / MODEL), threads=1))
    results: dict[str, np.ndarray] = {}
    seconds, counts = np.zeros(2), np.zeros(2)  # of prefill and decode
    for name, prompt in prompts.items():
        signatures.position = 0
        prompt_scores = [signatures.decode(int(token)) for token in prompt[:-1]]
        signatures.position = 0
        start = time.process_time()
        signatures.prefill(prompt[:-1].tolist())
        between = time.process_time()
        scores = [signatures.decode(int(prompt[-1]))]
        while len(scores) < settings["count"]:
            scores.append(signatures.decode(int(scores[-1].argmax())))
        seconds += between - start, time.process_time() - between
        counts += len(prompt) - 1, len(scores)
        results[f"scores/{name}"], results[f"read/{name}"] = np.array(scores), np.array(prompt_scores)
        results[f"tokens/{name}"] = results[f"scores/{name}"].argmax(axis=1)
    prefill, decode = (counts / np.maximum(seconds, 1e-9)).tolist()
    speeds = {"prefill_speed": prefill, "decode_speed": decode, "runtime": signatures.runtime}
    write_job(folder, RESULT, settings=speeds, arrays=results)
