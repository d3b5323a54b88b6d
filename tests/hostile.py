"""Image files that must be refused: broken, unsupported, too small, too large, or made to exhaust memory or time.

Every item is invalid by construction, not because some decoder was seen to refuse it.
"""

from __future__ import annotations

import io
import itertools
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from imgeval.contract import IMAGE_FORMATS, MAX_ENCODED_BYTES

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAGIC = {
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "PNG": PNG_MAGIC,
    "WEBP": b"RIFF\x00\x10\x00\x00WEBPVP8 ",
    "BMP": b"BM",
    "GIF": b"GIF89a",
    "TIFF": b"II*\x00",
}


def hostile_images(count: int = 200, seed: int = 0) -> list[tuple[str, bytes]]:
    """The first `count` of (label, file); the same for the same seed, and any number can be had."""
    rng = random.Random(seed)
    items = itertools.chain(_fixed(), _endless(rng))
    return list(itertools.islice(items, count))


def real_file(kind: str, width: int = 64, height: int = 48, **save: object) -> bytes:
    """A valid file of noise, which no codec compresses well, so that every part of the file carries pixels."""
    noise = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    return saved(Image.fromarray(noise), kind, **save)


def saved(image: Image.Image, kind: str, **save: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **save)
    return out.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of a header and the given chunks."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_MAGIC + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], *, next_ifd: int = 0, tail: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory at byte 8; entries are (tag, type, count, value or offset)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", next_ifd) + tail


def grey_tiff(width: int, height: int, **changed: int) -> bytes:
    """An uncompressed 8-bit grey TIFF whose pixels are not in the file, with some tags changed."""
    tags = {"bits": 8, "compression": 1, "photometric": 1, "offset": 200, "samples": 1, "rows": height, "length": 4096}
    tags |= changed
    return tiff(
        [
            (256, 4, 1, width),
            (257, 4, 1, height),
            (258, 3, 1, tags["bits"]),
            (259, 3, 1, tags["compression"]),
            (262, 3, 1, tags["photometric"]),
            (273, 4, 1, tags["offset"]),
            (277, 3, 1, tags["samples"]),
            (278, 4, 1, tags["rows"]),
            (279, 4, 1, tags["length"]),
        ]
    )


def bmp(width: int, height: int, *, bits: int = 24, compression: int = 0, header_bytes: int = 40) -> bytes:
    info = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, bits, compression, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, 54) + info + bytes(64)


def gif(width: int, height: int, *blocks: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0, 0, 0) + bytes(6) + b"".join(blocks)


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of_scans(scans: int, side: int = 64) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are at least `scans`; 100 bytes or so each."""
    data = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + b"\xff\xd9"


def with_jpeg_size(width: int, height: int) -> bytes:
    data = bytearray(real_file("JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def _fixed() -> Iterator[tuple[str, bytes]]:
    yield from _not_images()
    yield from _outside_the_limits()
    yield from _bombs()
    yield from _malformed()


def _not_images() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "one byte", b"\xff"
    yield "zeros", bytes(4096)
    yield "ones", b"\xff" * 4096
    yield "text", b"a photo of an astronaut\n" * 50
    yield "utf-16 text", "a photo of an astronaut".encode("utf-16")
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="64" height="64"/></svg>'
    yield "svg with an external entity", b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
    yield "html", b"<!DOCTYPE html><html><body><img src='data:image/png;base64,iVBORw0KGgo='></body></html>"
    yield "json", b'{"image": "astronaut.png"}'
    yield "pdf", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer << /Root 1 0 R >>\n%%EOF\n"
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"
    yield "pickle", pickle.dumps({"image": [0] * 64})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("image.png"), real_file("PNG"))
    yield "zip with a png inside", archive.getvalue()
    yield "zlib stream", zlib.compress(bytes(100_000))
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(200)
    yield "heic", struct.pack(">I", 24) + b"ftypheic" + bytes(200)
    yield "avif", struct.pack(">I", 24) + b"ftypavif" + bytes(200)
    yield "mp4", struct.pack(">I", 24) + b"ftypisom" + bytes(200)
    yield "wav", b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28)
    for kind in ("PPM", "ICO", "TGA", "PCX", "SGI", "DDS"):
        yield f"unsupported format {kind}", real_file(kind)
    for kind, magic in MAGIC.items():
        yield f"{kind} magic alone", magic
        yield f"{kind} magic and zeros", magic + bytes(2000)
        yield f"{kind} magic and text", magic + b"not an image at all " * 40
    for kind in IMAGE_FORMATS:
        yield f"{kind} after a byte", b"\n" + real_file(kind)
    for kind, other in zip(IMAGE_FORMATS, (*IMAGE_FORMATS[1:], IMAGE_FORMATS[0]), strict=True):
        yield f"{kind} magic on a {other}", MAGIC[kind] + real_file(other)[len(MAGIC[kind]) :]


def _outside_the_limits() -> Iterator[tuple[str, bytes]]:
    for kind in IMAGE_FORMATS:
        for width, height in ((1, 1), (7, 8), (8, 7), (300, 1)):
            yield f"{kind} {width}x{height}", real_file(kind, width, height)
    yield "32-bit float tiff", saved(Image.new("F", (16, 16), 0.5), "TIFF")
    yield "32-bit integer tiff", saved(Image.new("I", (16, 16), 70_000), "TIFF")
    yield "one pixel row too many", png(8000, 8001, png_chunk(b"IDAT", zlib.compress(b"")))
    yield "one byte too many", real_file("PNG").ljust(MAX_ENCODED_BYTES + 1, b"\0")


def _bombs() -> Iterator[tuple[str, bytes]]:
    idat = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    yield "png header of 60000x60000", png(60_000, 60_000, idat)
    yield "png header of 2^31-1 squared", png(2**31 - 1, 2**31 - 1, idat)
    yield "png header of 2^32-1 x 8", png(2**32 - 1, 8, idat)
    rows = zlib.compress(bytes(9000 * (1 + 9000 // 8)))
    yield "whole black png of 81 megapixels", png(9000, 9000, png_chunk(b"IDAT", rows), depth=1, colour=0)
    yield "jpeg header of 65500x65500", with_jpeg_size(65_500, 65_500)
    yield "jpeg header of 9000x9000", with_jpeg_size(9000, 9000)
    yield "jpeg of 5000 scans", jpeg_of_scans(5000)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x44\x01\x00;"
    yield "gif of 65535x65535", gif(65_535, 65_535, frame)
    yield "small gif with a huge frame", gif(16, 16, frame)
    yield "bmp of 50000x50000", bmp(50_000, 50_000)
    yield "bmp of height -2^31", bmp(64, -(2**31))
    yield "bmp of negative width", bmp(-64, 64)
    yield "run-length bmp of 60000x60000", bmp(60_000, 60_000, bits=8, compression=1)
    yield "tiff of 60000x60000", grey_tiff(60_000, 60_000)
    yield "tiff of 2^32-1 squared", grey_tiff(2**32 - 1, 2**32 - 1)
    extended = struct.pack("<B3x", 0x02) + (16_382).to_bytes(3, "little") * 2
    yield "webp canvas of 16383x16383", webp((b"VP8X", extended), (b"ANIM", bytes(6)))
    yield "webp canvas of 2^24 squared", webp((b"VP8X", b"\x02\0\0\0" + b"\xff" * 6), (b"ANIM", bytes(6)))
    yield "lossless webp of 16384x16384", webp((b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(20)))
    lossy = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(20)
    yield "lossy webp of 16383x16383", webp((b"VP8 ", lossy))
    megabytes = zlib.compress(bytes(50_000_000), 9)
    yield "png zTXt of 50 MB", png(64, 48, png_chunk(b"zTXt", b"Comment\0\0" + megabytes), idat)
    yield "png iTXt of 50 MB", png(64, 48, png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + megabytes), idat)
    yield "png iCCP of 50 MB", png(64, 48, png_chunk(b"iCCP", b"sRGB\0\0" + megabytes), idat)
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9))
    yield "png of 100 zTXt of 1 MB", png(64, 48, *[text] * 100, idat)


def _malformed() -> Iterator[tuple[str, bytes]]:
    whole = zlib.compress(bytes(48 * (1 + 64 * 3)))
    yield "png without pixels", png(64, 48)
    yield "png of too few rows", png(64, 48, png_chunk(b"IDAT", zlib.compress(bytes(500))))
    yield "png whose pixels are no zlib stream", png(64, 48, png_chunk(b"IDAT", b"\xff" * 500))
    yield "png of 3 bits", png(64, 48, png_chunk(b"IDAT", whole), depth=3)
    yield "png of colour type 5", png(64, 48, png_chunk(b"IDAT", whole), colour=5)
    yield "png of no width", png(0, 48, png_chunk(b"IDAT", whole))
    yield (
        "png header with a wrong checksum",
        bytes(byte ^ (at == 20) for at, byte in enumerate(png(64, 48, png_chunk(b"IDAT", whole)))),
    )
    yield "png with a chunk of 2^31 bytes", PNG_MAGIC + struct.pack(">I", 2**31) + b"IHDR" + bytes(100)
    jpeg = real_file("JPEG")
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    yield "jpeg start alone", b"\xff\xd8"
    yield "jpeg start and end", b"\xff\xd8\xff\xd9"
    yield "jpeg without a frame header", jpeg[:frame] + jpeg[frame + 19 :]
    yield "jpeg without a scan", jpeg[:scan] + b"\xff\xd9"
    yield "jpeg of 12-bit samples", jpeg[: frame + 4] + b"\x0c" + jpeg[frame + 5 :]
    yield "jpeg of no width", with_jpeg_size(0, 48)
    yield "jpeg of 7 components", jpeg[: frame + 9] + b"\x07" + jpeg[frame + 10 :]
    yield "gif without frames", gif(64, 48, b";")
    yield "gif of comments only", gif(64, 48, b"!\xfe\x05hello\x00" * 100, b";")
    yield "gif frame without samples", gif(64, 48, b"," + struct.pack("<HHHHB", 0, 0, 64, 48, 0) + b"\x08\x00;")
    yield "bmp of 7 bits", bmp(64, 48, bits=7)
    yield "bmp of compression 99", bmp(64, 48, compression=99)
    yield "bmp of a 1000-byte header", bmp(64, 48, header_bytes=1000)
    yield "bmp of too few rows", bmp(64, 48)
    yield "tiff without tags", tiff([])
    yield "tiff without tags, in a cycle", tiff([], next_ifd=8)
    yield "tiff with its directory outside", b"II*\x00" + struct.pack("<I", 2**32 - 1)
    yield "tiff of 65535 directory entries", b"II*\x00" + struct.pack("<IH", 8, 65_535) + bytes(100)
    yield "tiff tags of 2^32-1 values", tiff([(tag, 4, 2**32 - 1, 8) for tag in range(254, 290)])
    yield "tiff with pixels outside", grey_tiff(64, 48, offset=2**32 - 1)
    yield "tiff of 65535 bits", grey_tiff(64, 48, bits=65_535)
    yield "tiff of 65535 samples", grey_tiff(64, 48, samples=65_535)
    yield "tiff of compression 50000", grey_tiff(64, 48, compression=50_000)
    yield "tiff of photometric 99", grey_tiff(64, 48, photometric=99)
    yield "deflate tiff without pixels", grey_tiff(64, 48, compression=8, rows=2**32 - 1)
    yield "jpeg tiff without pixels", grey_tiff(64, 48, compression=7)
    yield "webp without chunks", webp()
    yield "webp of metadata only", webp((b"EXIF", bytes(64)))
    yield "webp animation without frames", webp((b"VP8X", b"\x02\0\0\0" + b"\x3f\0\0" * 2), (b"ANIM", bytes(6)))
    yield "lossless webp of zeros", webp((b"VP8L", bytes(200)))


def _endless(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Truncations, random bytes, and flipped bits where a checksum covers them."""
    variants = [(kind, real_file(kind)) for kind in IMAGE_FORMATS]
    variants += [
        ("progressive JPEG", real_file("JPEG", progressive=True)),
        ("lossless WEBP", real_file("WEBP", lossless=True)),
        ("deflate TIFF", real_file("TIFF", compression="tiff_adobe_deflate")),
    ]
    covered = real_file("PNG")
    pixels_start, pixels_end = (
        covered.index(b"IDAT"),
        covered.rindex(b"IEND") - 12,
    )  # Pillow leaves the last chunk's own checksum unread
    while True:
        for label, data in variants:
            kept = rng.randrange(1, len(data) * 9 // 10)
            yield f"{label} cut to {kept} of {len(data)} bytes", data[:kept]
        size = rng.randrange(1, 5000)
        # A zero first: no magic starts with one, so random bytes stay random bytes.
        yield f"{size} random bytes", b"\0" + rng.randbytes(size)
        kind = rng.choice(IMAGE_FORMATS)
        yield f"{kind} magic and {size} random bytes", MAGIC[kind] + rng.randbytes(size)
        bit = rng.randrange(8 * pixels_start, 8 * pixels_end)
        flipped = bytearray(covered)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"PNG with bit {bit} flipped", bytes(flipped)
