"""One run: train a dense network, continue from it in four ways with the same training, and export each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

import tfprune
from sample_apps.data.lines import Line
from sample_apps.spoken import listen
from sample_apps.spoken.log_mel import BANDS, FRAMES, SECOND, clips
from sample_apps.spoken.network import ds_cnn
from sample_apps.spoken.recordings import LANGUAGES, Speech
from tfprune.export import Micro, Quantization, to_tflite

FLASH, RAM = 256 * 1024, 64 * 1024  # bytes
BATCH, CALIBRATION, CHECKED = 64, 500, 32
PART = 12  # seconds of each language in the stream
VOTES = (1, 4, 8, 16)
DENSE, ZEROS, CHANNELS, ALL = WAYS = ("dense", "zeros", "channels", "channels, zeros, QAT")
FLOAT = ", float"  # what its second file is called
Clips = tuple[np.ndarray, np.ndarray]


def one_way(seed: int, way: str, speech: Speech, options: argparse.Namespace) -> Iterator[Line]:
    """Go on from the dense network of a seed: dense, with zeros, with fewer channels, or with both and in 8 bits."""
    data = labeled(speech.train, hop=SECOND)
    model = base(seed, data, options)
    keras.utils.set_random_seed(seed)
    if way in (CHANNELS, ALL):
        model = tfprune.shrink(model, tfprune.plan_shrink(model, options.channels, round_to=8))
    if way in (ZEROS, ALL):
        model = tfprune.wrap(model)
    trained = fine_tuned(model, data, options, has_masks=way in (ZEROS, ALL), rounds=way == ALL)
    for quantize in (None, "int8") if way == DENSE else ("int8",):
        name = way if quantize else f"{way}{FLOAT}"
        line = {"seed": seed, "way": name, **measured(trained, data, speech, options, way=way, quantize=quantize)}
        print(f"seed {seed}, {name}: {line['accuracy']:.2%}, {line['flash']:,} bytes", flush=True)
        yield line


def base(seed: int, data: Clips, options: argparse.Namespace) -> keras.Model:
    """Return the dense network of a seed, which is trained once for all ways."""
    path = options.output / f"dense-{seed}.keras"
    if not path.exists():
        keras.utils.set_random_seed(seed)
        model = ds_cnn(len(LANGUAGES), options.width)
        train(model, data, rate=2e-3, epochs=options.epochs)
        model.save(path)
    return keras.models.load_model(path)


def run_of(line: Line) -> tuple[int, str]:
    """Return the seed and the way that a line is from."""
    return line["seed"], line["way"].removesuffix(FLOAT)


def fine_tuned(
    model: keras.Model, data: Clips, options: argparse.Namespace, *, has_masks: bool, rounds: bool
) -> keras.Model:
    """Train further: with masks under a schedule, and for the last third while it rounds."""
    schedule = tfprune.schedules.Polynomial(options.sparsity, end=0.7)
    callbacks = [tfprune.PruningCallback(schedule, every=20)] if has_masks else []
    last = max(1, options.fine_tuning // 3) if rounds else 0
    train(model, data, rate=2e-3, epochs=max(1, options.fine_tuning - last), callbacks=callbacks)
    if rounds:
        model = tfprune.quantize_aware(model)
        train(model, data, rate=3e-4, epochs=last)
    return model


def train(model: keras.Model, data: Clips, *, rate: float, epochs: int, callbacks: Sequence[Any] = ()) -> None:
    x, y = data
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // BATCH)))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=2, callbacks=list(callbacks))


def measured(
    model: keras.Model,
    data: Clips,
    speech: Speech,
    options: argparse.Namespace,
    *,
    way: str,
    quantize: str | None,
) -> Line:
    """Export a model, and measure the file in the interpreter for microcontrollers."""
    path, settings = options.output / "spoken.tflite", {}
    if quantize:
        settings |= {"quantize": Quantization(quantize, io_dtype="int8")}
        settings |= {} if way == ALL else {"calibration": data[0][:: -(-len(data[0]) // CALIBRATION)]}
    target = Micro(arena=RAM, flash=FLASH) if way in (CHANNELS, ALL) else Micro()
    checked = data[0][:: -(-len(data[0]) // CHECKED)]
    # Where two languages are close, the scores of a softmax may move far: the accuracy tells what a file is worth.
    report = to_tflite(model, path, target=target, check_on=checked, tolerance=1.0, **settings).micro
    recording, answers = joined(speech.test)
    test = labeled(speech.test, hop=SECOND)
    right = listen.apart(path, recording, hop=SECOND, arena=report.arena).argmax(axis=1) == answers
    found = {
        "keras": float(model.evaluate(*test, verbose=0)[1]),
        "accuracy": float(right.mean()),
        "languages": [float(right[answers == number].mean()) for number in range(len(LANGUAGES))],
        "flash": report.flash,
        "arena": report.arena,
        "multiply_adds": tfprune.plan_shrink(tfprune.strip(model)).flops // 2,
    }
    if way == ALL:
        found |= streamed(path, speech, options)
    if way == DENSE:
        found["pauses"] = float(model.evaluate(*labeled([*map(quiet, speech.test)], hop=SECOND), verbose=0)[1])
    return found


def streamed(path: Any, speech: Speech, options: argparse.Namespace) -> Line:
    """Listen to some seconds of each language, one after the other, and write them down for whoever wants to."""
    recording = np.concatenate([track[: PART * SECOND] for track in speech.test])
    np.savez(options.output / "recording.npz", frames=recording, names=np.array(list(LANGUAGES.values())))
    votes = listen.apart(path, recording)
    last = np.arange(len(votes)) * listen.HOP + FRAMES - 1  # the last frame that a look has seen
    spoken = np.repeat(np.arange(len(LANGUAGES)), [min(len(track), PART * SECOND) for track in speech.test])[last]
    right = {str(count): listen.smoothed(votes, count).argmax(axis=1) == spoken for count in VOTES}
    said = listen.smoothed(votes).argmax(axis=1)
    return {
        "stream": {count: float(values.mean()) for count, values in right.items()},
        "delay": {count: _delay(values, spoken) for count, values in right.items()},
        "spoken": spoken.tolist(),
        "said": said.tolist(),
    }


def _delay(right: np.ndarray, spoken: np.ndarray) -> float:
    """Return the mean of the seconds from a change of language to the first correct answer."""
    starts = np.flatnonzero(np.diff(spoken, prepend=-1))
    ends = [*starts[1:], len(spoken)]
    looks = [np.append(right[start:end], True).argmax() for start, end in zip(starts, ends, strict=True)]
    return float(np.mean(looks)) * listen.HOP / SECOND


def quiet(track: np.ndarray) -> np.ndarray:
    """Return the frames of pauses, the quietest tenth, in which there is more of a room than of a language."""
    energy = track.mean(axis=1, dtype=np.float32)
    return track[energy <= np.quantile(energy, 0.1)]


def labeled(tracks: Sequence[np.ndarray], *, hop: int) -> Clips:
    """Return the clips of all languages, and the number of the language of each."""
    parts = [clips(track, hop) for track in tracks]
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def joined(tracks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return one recording of whole seconds, and the language of each."""
    seconds = [(len(track) - FRAMES) // SECOND + 1 for track in tracks]
    whole = [pad(track, count * SECOND) for track, count in zip(tracks, seconds, strict=True)]
    return np.concatenate(whole), np.repeat(np.arange(len(tracks)), seconds)


def pad(track: np.ndarray, length: int) -> np.ndarray:
    """Cut a track, or make it a frame longer, which no clip sees."""
    return np.concatenate([track, np.zeros((1, BANDS), track.dtype)])[:length]
