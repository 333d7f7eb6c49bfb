"""Characters drawn in many fonts: a class is a character, a sample is a font family."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageDraw, ImageFont

SIZE, BOX = 28, 22  # pixels of an image, and of the square that a character fills in it
FAMILIES = 24  # samples of a class, at most
FEWEST = 15  # of fewer samples a class is left out: ten shots and five queries
ALIKE = 0.93  # cosine of mean images: above it, two classes look the same in many fonts
# First and last character of each range.
TRAIN = {
    "Latin": ["AZ", "az"],
    "Greek": ["\u0391\u03a9", "\u03b1\u03c9"],
    "Cyrillic": ["\u0410\u042f", "\u0430\u044f"],
    "Hiragana": ["\u3042\u3093"],
    "Katakana": ["\u30a2\u30f3"],
    "Hangul": ["\uac00\uac63"],
}
TEST = {"Hebrew": ["\u05d0\u05ea"], "Thai": ["\u0e01\u0e2e"], "Georgian": ["\u10d0\u10f0"]}
ADVICE = (
    "Install the fonts that docs/papers/few_shot.md names (apt-get install fonts-dejavu-core ...), "
    "or name a folder of fonts: --fonts DIR"
)


@dataclass(frozen=True)
class Glyphs:
    """Images in [0, 1] of shape (samples, 28, 28, 1), their classes, and the character of each class."""

    x: np.ndarray
    y: np.ndarray
    characters: list[str]


@dataclass(frozen=True)
class Face:
    """A font file, the characters that it has, and the picture it draws for those that it has not."""

    path: Path
    covered: frozenset[int]
    placeholder: bytes


def read_glyphs(folder: Path, cache: Path) -> tuple[Glyphs, Glyphs]:
    """Return glyphs to train on, and glyphs of other scripts in other fonts to test on; draw them only once."""
    if not cache.exists():
        train, test = draw_all(folder)
        parts = {
            f"{name}_{part}": value
            for name, glyphs in (("train", train), ("test", test))
            for part, value in (
                ("x", (glyphs.x * 255).astype(np.uint8)),
                ("y", glyphs.y),
                ("characters", np.array(glyphs.characters)),
            )
        }
        np.savez_compressed(cache, **parts)
    with np.load(cache, allow_pickle=False) as stored:
        return tuple(
            Glyphs(
                stored[f"{name}_x"].astype(np.float32) / 255,
                stored[f"{name}_y"],
                stored[f"{name}_characters"].tolist(),
            )
            for name in ("train", "test")
        )


def draw_all(folder: Path) -> tuple[Glyphs, Glyphs]:
    """Draw all characters. A font that has a script of the test is not used in training at all."""
    unseen, seen = [], []
    tested, trained = characters(TEST), characters(TRAIN)
    for face in faces(folder, needed=tested + trained):
        (unseen if any(ord(character) in face.covered for character in tested) else seen).append(face)
    pictures = drawn(tested, unseen)
    test = distinct(pictures, [])
    train = distinct(drawn(trained, seen), list(test.values()))
    if len(train) < 20 or len(test) < 5:
        sys.exit(
            f"Expected fonts in which at least 20 characters to train on and 5 to test on can be drawn {FEWEST} "
            f"times. Received: {len(train)} and {len(test)} in {folder}. {ADVICE}"
        )
    return stacked(train), stacked(test)


def characters(scripts: dict[str, list[str]]) -> list[str]:
    ranges = [pair for pairs in scripts.values() for pair in pairs]
    return [chr(code) for first, last in ranges for code in range(ord(first), ord(last) + 1)]


def faces(folder: Path, *, needed: list[str]) -> Iterator[Face]:
    """Yield one file of each font family, so that a support set and its queries never share a family."""
    found: dict[str, Path] = {}
    covered: dict[str, frozenset[int]] = {}
    codes = {ord(character) for character in needed}
    for path in sorted(folder.rglob("*.[ot]tf")):
        if path.is_symlink():
            continue
        try:
            with TTFont(path, lazy=True) as font:
                names, cmap = font["name"], font.getBestCmap() or {}
                family = names.getDebugName(16) or names.getDebugName(1) or path.stem
                style = names.getDebugName(17) or names.getDebugName(2) or ""
        except (TTLibError, KeyError, ValueError, UnicodeDecodeError):
            continue  # damaged, or a font of bitmaps
        if codes & cmap.keys() and (family not in found or style in ("Regular", "Book", "Roman", "Medium")):
            found[family], covered[family] = path, frozenset(codes & cmap.keys())
    for family, path in sorted(found.items()):
        blank = draw("\uffff", ImageFont.truetype(str(path), 40))
        yield Face(path, covered[family], b"" if blank is None else blank.tobytes())


def draw(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """Return a character that fills the box, dark = 0 and ink = 255; None where the font draws nothing."""
    page = Image.new("L", (160, 160))
    ImageDraw.Draw(page).text((80, 80), character, fill=255, font=font, anchor="mm")
    if page.getbbox() is None:
        return None
    image = page.crop(page.getbbox())
    scale = BOX / max(image.size)
    image = image.resize([max(round(side * scale), 1) for side in image.size], Image.Resampling.LANCZOS)
    whole = Image.new("L", (SIZE, SIZE))
    whole.paste(image, [(SIZE - side) // 2 for side in image.size])
    return np.asarray(whole)


def drawn(wanted: list[str], fonts: list[Face]) -> dict[str, np.ndarray]:
    """Return the images of each character that enough families draw; a picture that two share counts once."""
    opened = [(face, ImageFont.truetype(str(face.path), 40)) for face in fonts]
    order = np.random.default_rng(0)
    found = {}
    for character in wanted:
        images: dict[bytes, np.ndarray] = {}
        for index in order.permutation(len(opened)):
            face, font = opened[index]
            image = draw(character, font) if ord(character) in face.covered and len(images) < FAMILIES else None
            if image is not None and image.tobytes() != face.placeholder:
                images.setdefault(image.tobytes(), image)
        if len(images) >= FEWEST:
            found[character] = np.stack(list(images.values()))
    return found


def distinct(pictures: dict[str, np.ndarray], others: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the classes whose mean image is unlike that of every class before it, and of others."""
    means = [direction(images) for images in others]
    kept = {}
    for character, images in pictures.items():
        mean = direction(images)
        if not means or max(float(mean @ other) for other in means) < ALIKE:
            kept[character] = images
            means.append(mean)
    return kept


def direction(images: np.ndarray) -> np.ndarray:
    mean = images.reshape(len(images), -1).mean(axis=0)
    return mean / np.linalg.norm(mean)


def stacked(classes: dict[str, np.ndarray]) -> Glyphs:
    y = np.repeat(np.arange(len(classes)), [len(images) for images in classes.values()])
    x = np.concatenate(list(classes.values())).astype(np.float32)[..., np.newaxis] / 255
    return Glyphs(x, y, list(classes))


def write_sheet(glyphs: Glyphs, path: Path, *, rows: int = 12, columns: int = 15) -> None:
    """Write a picture of some classes, one in each row."""
    chosen = np.linspace(0, len(glyphs.characters) - 1, rows).astype(int)
    lines = [np.hstack(glyphs.x[np.flatnonzero(glyphs.y == label)[:columns], ..., 0]) for label in chosen]
    sheet = Image.fromarray(np.rint(255 * (1 - np.vstack(lines))).astype(np.uint8))
    sheet.resize([2 * side for side in sheet.size], Image.Resampling.NEAREST).save(path)


def made_up() -> tuple[Glyphs, Glyphs]:
    """Return shapes that are easy to tell apart, for a run of seconds without fonts."""
    random = np.random.default_rng(0)
    patterns = random.uniform(0, 1, (60, 7, 7)) > 0.6
    images = np.kron(patterns, np.ones((4, 4)))[np.repeat(np.arange(60), 16)]
    x = np.clip(images + random.normal(0, 0.2, images.shape), 0, 1).astype(np.float32)[..., np.newaxis]
    y = np.repeat(np.arange(60), 16)
    names = [str(number) for number in range(60)]
    return Glyphs(x[:640], y[:640], names[:40]), Glyphs(x[640:], y[640:] - 40, names[40:])
