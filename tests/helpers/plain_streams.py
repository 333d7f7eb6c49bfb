"""The streams of a packed array, put together again entry by entry."""

from __future__ import annotations


def join_plainly(streams, width, kind, count, common):
    if kind == "rows":
        return _join_rows(streams, count, *divmod(common, 2**32))
    places = range(count)
    if kind == "mask":
        mask = streams.pop(0)
        places = [place for place in range(count) if mask[place // 8] >> (7 - place % 8) & 1]
    if kind == "runs":
        places, place = [], 0
        for byte in streams.pop(0):
            place += byte
            if byte < 255:
                places.append(place)
                place += 1
    entries, before = [common] * count, 0
    for place, *parts in zip(places, *streams, strict=True):
        number = sum(part << 8 * index for index, part in enumerate(parts))
        if kind == "folded":
            number = (-(number + 1) // 2 if number % 2 else number // 2) % 256**width
        before = (before + number) % 256**width if kind == "steps" else number
        entries[place] = before
    return b"".join(entry.to_bytes(width, "little") for entry in entries)


def _join_rows(streams, count, length, common):
    places, classes, *values = streams
    values = [list(part) for part in values]
    at, entries = -1, [common] * count
    for byte in places:
        at += byte + (byte < 255)
        if byte < 255:
            entries[at] = values[classes[at // length]].pop(0)
    assert not any(values)
    return bytes(entries)
