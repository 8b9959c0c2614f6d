"""Grey pictures of cameras, read in strips on the scale of the tiles; masks written in strips, in the palette.

    with open_picture(path) as picture: picture.rows(0, 512)         # (512, W) uint8
    write_mask(stream, labels, height, width, made_by)               # an indexed PNG, pixel value = label

PNG, JPEG and TIFF are read by Pillow, which holds the whole picture: one byte a pixel, two of 16 bits. IMG and VICAR
need rasterio (GDAL), which reads strips from the disk. The tiles' scale is 8 bits; how 16 come to it: see `Picture`.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from lib.console import UserError
from lib.figures import PALETTE

PILLOW = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
GDAL = {".img": "IMG", ".vic": "VICAR", ".vicar": "VICAR"}
FORMATS = PILLOW | GDAL
"""What is read, by the end of a file's name in small letters."""

MADE_BY = "made_by"
"""Keyword of the text in a mask that says what it was made from."""

LARGEST = 1 << 31  # pixels of a picture; a header that asks for more is damaged

STRIP = 512  # rows that are looked through at a time

_READING = "make or copy it again, or take it out of the folder"


class BadPicture(UserError):
    """A file that is no picture that networks can read. The message is one line that names it."""


class Picture:
    """A grey picture, by strips of rows: a lib.windows.Frame.

    `height`, `width`: pixels. `bits`: 8 or 16, of each pixel in the file. `shift`: how many of the lowest bits are left
    out. A picture of 16 bits is divided by the power of two that brings its brightest pixel into 128..255: cameras
    write 10 to 14 bits into 16, and 12 bits divided by 16 are what 8 bits of the same scene would have been. Brighter
    or darker than that it is not made; a picture that fits into 8 bits stays as it is.
    """

    def __init__(self, height: int, width: int, bits: int, read: Callable[[int, int], np.ndarray]):
        """`read(start, stop)` gives (stop - start, width) pixels, of whole numbers from 0 to 65535."""
        self.height, self.width, self.bits = height, width, bits
        self._read = read
        highest = 0 if bits == 8 else max(int(read(*part).max()) for part in self._parts())
        self.shift = max(highest.bit_length() - 8, 0)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, width) uint8."""
        return (self._read(start, stop) >> self.shift).astype(np.uint8)

    def _parts(self) -> Iterator[tuple[int, int]]:
        return ((start, min(start + STRIP, self.height)) for start in range(0, self.height, STRIP))

    def __str__(self) -> str:
        """Its size, and what became of its bits."""
        scale = f", {8 + self.shift} of them used, divided by {1 << self.shift}" if self.shift else ""
        return f"{self.width}x{self.height}, {self.bits} bit{scale}"


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture, by its header. Raises BadPicture where it cannot be read."""
    with _reading(path), _opened(path) as image:
        return image.height, image.width


@contextmanager
def open_picture(path: Path) -> Iterator[Picture]:
    """The picture in a file, as it is stored: turning it by its EXIF data would move the mask away from it.

    Colours are taken where all of them are grey, an alpha channel where nothing is transparent; of several pages the
    first. Raises BadPicture, naming the file, where it is none of FORMATS, damaged, cut off, or no grey picture of 8 or
    16 bits.
    """
    with ExitStack() as stack:
        with _reading(path):
            image = stack.enter_context(_opened(path))
            picture = (_of_gdal if path.suffix.lower() in GDAL else _of_pillow)(image, path)
        yield picture


def check_picture(path: Path) -> None:
    """Reads a whole picture, strip by strip. Raises BadPicture as `open_picture` does."""
    with open_picture(path) as picture:
        for start in range(0, picture.height, STRIP):
            picture.rows(start, min(start + STRIP, picture.height))


@contextmanager
def _opened(path: Path):
    """A Pillow image or a rasterio dataset; of both, `height` and `width` are known before a pixel is read."""
    if path.suffix.lower() in GDAL:
        rasterio = _rasterio(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # no camera frame is
            dataset = rasterio.open(path)
        with dataset:
            _check_size(dataset, path)
            yield dataset
        return
    from PIL import Image

    # By the name's format alone: what a damaged header might look like otherwise is none of our business. Pillow's
    # limit, meant for pictures of strangers, is below what cameras and mosaics have
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path, formats=[PILLOW[path.suffix.lower()]]) as image:
            _check_size(image, path)
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _rasterio(path: Path):
    try:
        import rasterio
    except ImportError:
        raise BadPicture(
            f"{path}: IMG and VICAR need rasterio; pip install rasterio, or save it as PNG or TIFF"
        ) from None
    return rasterio


def _check_size(image, path: Path) -> None:
    if image.height * image.width > LARGEST:
        raise BadPicture(f"{path}: claims to have {image.width}x{image.height} pixels; {_READING}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns every way in which a picture can be damaged into a BadPicture."""
    try:
        yield
    except BadPicture:
        raise
    except MemoryError:
        raise BadPicture(f"{path}: does not fit into memory; cut it into several files") from None
    except Exception as error:  # Pillow's readers raise a dozen kinds on damaged bytes
        if isinstance(error, OSError) and error.filename is not None:
            raise BadPicture(f"{path}: {error.strerror}; {_READING}") from None
        kind = FORMATS[path.suffix.lower()]
        reason = "" if "cannot identify" in str(error) else f" ({str(error) or type(error).__name__})"
        raise BadPicture(f"{path}: not a whole {kind} picture{reason}; {_READING}") from None


def _of_gdal(dataset, path: Path) -> Picture:
    from rasterio.windows import Window

    kind = dataset.dtypes[0]
    if dataset.count != 1 or kind not in ("uint8", "uint16", "int16"):
        raise BadPicture(f"{path}: has {dataset.count} bands of {kind}; save it with one of 8 or 16 bits, unsigned")

    def read(start: int, stop: int) -> np.ndarray:
        with _reading(path):
            return _unsigned(dataset.read(1, window=Window(0, start, dataset.width, stop - start)), path)

    return Picture(dataset.height, dataset.width, 8 if kind == "uint8" else 16, read)


def _of_pillow(image, path: Path) -> Picture:
    image.load()
    mode, width = image.mode, image.width
    if mode in ("P", "PA"):
        image = image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I") and not image.mode.startswith("I;16"):
        words = {"1": "black and white only", "F": "floating-point numbers", "CMYK": "colours"}.get(
            mode, f"mode {mode}"
        )
        raise BadPicture(f"{path}: holds {words}; save it as a grey picture of 8 or 16 bits")

    def read(start: int, stop: int) -> np.ndarray:
        pixels = np.asarray(image.crop((0, start, width, stop)))
        return pixels if pixels.ndim == 2 and pixels.dtype == np.uint8 else _grey(pixels, path)

    if image.mode == "L":
        return Picture(image.height, width, 8, read)
    if image.mode in ("LA", "RGB", "RGBA"):
        for start in range(0, image.height, STRIP):  # before hours of work, not in their middle
            read(start, min(start + STRIP, image.height))
        return Picture(image.height, width, 8, read)
    return Picture(image.height, width, 16, read)


def _grey(pixels: np.ndarray, path: Path) -> np.ndarray:
    """One grey level (n, W) of pixels with channels, or of 16 and 32 bits."""
    if pixels.ndim == 2:
        return _unsigned(pixels, path)
    colours, alpha = (pixels[..., :-1], pixels[..., -1:]) if pixels.shape[-1] in (2, 4) else (pixels, None)
    if alpha is not None and not (alpha == 255).all():
        raise BadPicture(f"{path}: is transparent in places; save it without an alpha channel")
    if not (colours == colours[..., :1]).all():
        raise BadPicture(f"{path}: is a colour picture, and networks know grey ones; convert it")
    return colours[..., 0]


def _unsigned(pixels: np.ndarray, path: Path) -> np.ndarray:
    """The same numbers as uint8 or uint16."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.size and (pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max):
        raise BadPicture(
            f"{path}: has pixels from {pixels.min()} to {pixels.max()}; save it as grey of 16 bits, 0 to 65535"
        )
    return pixels.astype(np.uint16)


def write_mask(stream: IO[bytes], strips: Iterable[np.ndarray], height: int, width: int, made_by: str) -> None:
    """Writes an indexed PNG (Portable Network Graphics, 3rd edition), one strip of rows after the other.

    Args:
        stream: to write to.
        strips: labels (n, width) uint8 from the top down, `height` rows in all; each is asked for when the one before
            is written.
        made_by: ASCII text that goes into the file as `MADE_BY`.
    """

    def chunk(kind: bytes, content: bytes) -> None:
        check = zlib.crc32(kind + content)
        stream.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check))

    stream.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))  # 8 bits, indexed, not interlaced
    chunk(b"PLTE", PALETTE.tobytes())
    chunk(b"tEXt", MADE_BY.encode() + b"\0" + made_by.encode("ascii"))
    deflate = zlib.compressobj()
    for strip in strips:
        lines = np.pad(strip, ((0, 0), (1, 0)))  # a 0 before each row: unfiltered
        if packed := deflate.compress(lines.tobytes()):
            chunk(b"IDAT", packed)
    chunk(b"IDAT", deflate.flush())
    chunk(b"IEND", b"")


def made_by(path: Path) -> str | None:
    """What a mask says it was made from; None where it is not there, not whole, or says nothing."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(MADE_BY)
            image.verify()  # every chunk against its checksum
            return text
    except Exception:  # whatever is wrong with it, it is made again
        return None
