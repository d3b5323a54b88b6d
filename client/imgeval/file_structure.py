"""Counts that an image file's structure gives without decoding it, each in one pass and with a bound.

Pillow counts the frames of a GIF or TIFF by opening each of them, which a small hostile file stretches to minutes, and
does not count the scans of a JPEG at all. A count of a broken file is that of its intact beginning; nothing is raised.
"""

from __future__ import annotations

import re
import struct

MAX_FRAMES_COUNTED = 10_000

# Every marker that ends entropy-coded data, so neither stuffing (00), fill (ff) nor restarts (d0-d7).
_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
_JPEG_END, _JPEG_SCAN = b"\xd9", b"\xda"


def jpeg_scans(data: bytes) -> int:
    """Scans of the first image in a JPEG file."""
    scans, at = 0, 2
    while (marker := _JPEG_MARKER.search(data, at)) and marker[1] != _JPEG_END:
        scans += marker[1] == _JPEG_SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans


def gif_frames(data: bytes) -> int:
    """Frames of a GIF file, at least 1 and at most MAX_FRAMES_COUNTED."""

    def palette_bytes(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    frames = 0
    try:
        at = 13 + palette_bytes(data[10])
        while data[at : at + 1] != b";" and frames < MAX_FRAMES_COUNTED:
            block = data[at : at + 1]
            if block == b",":  # position and size, flags, palette, code size, then the samples
                frames += 1
                at += 11 + palette_bytes(data[at + 9])
            elif block == b"!":  # extension: its label, then its data
                at += 2
            else:
                at += 1
                continue
            while data[at]:  # sub-blocks: a length, then as many bytes; length 0 ends them
                at += 1 + data[at]
            at += 1
    except IndexError:
        pass  # the file ends early; the frames before count
    return max(1, frames)


def tiff_frames(data: bytes) -> int:
    """Image file directories of a TIFF or BigTIFF file, at least 1 and at most MAX_FRAMES_COUNTED; a cycle ends it."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    first, offset, entries, entry_bytes = (8, "Q", "Q", 20) if big else (4, "I", "H", 12)
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + offset, data, first)
        while at and at not in seen and len(seen) < MAX_FRAMES_COUNTED:
            seen.add(at)
            (count,) = struct.unpack_from(order + entries, data, at)
            (at,) = struct.unpack_from(order + offset, data, at + struct.calcsize(entries) + count * entry_bytes)
    except (struct.error, OverflowError):
        pass  # a directory outside the file; those before count
    return max(1, len(seen))
