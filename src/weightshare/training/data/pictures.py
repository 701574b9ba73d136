"""Reading image files with Pillow: their size and kind without decoding them, and their pixels as bytes."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import UInt8
import numpy as np

from weightshare.errors import ConfigError, FileError
from weightshare.training.data.stored import Member, Source

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = frozenset({"1", "L", "LA"})
DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Modes of more than 8 bits a channel, which a conversion would clip."""


def decode(
    source: Source,
    channels: int,
    size: tuple[int, int] | None = None,
    name: str = "",
    cut: tuple[int, float, float] | None = None,
) -> UInt8[np.ndarray, "in h w"]:
    """The pixels of one image.

    Args:
        source: A file, a stretch of one, or content.
        channels: 1 for grey, 3 for RGB; transparency is dropped. Turns that a camera noted (EXIF) are not made.
        size: Height and width wanted: the largest centred part of that form is scaled (bicubic), as if the shorter
            side were scaled and the middle cut out. `None` keeps the size.
        name: What to call content in a message.
        cut: Instead of all of that form, a square of so many pixels, of the picture scaled for that form; and where in
            the free room it is, down and to the right: 0 at one end, 0.5 in the middle, 1 at the other.

    Raises:
        FileError: If it is no image, or has more than 8 bits a channel.
        ConfigError: If Pillow is not installed.
    """
    with _opened(source, name) as (image, where):
        try:
            if image.mode in DEEP:
                raise FileError(f"Cannot use the image '{where}': it has more than 8 bits a channel. Convert it first.")
            if "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert("RGB" if channels == 3 else "L")
            if size is not None and cut is not None:
                side, down, right = cut
                image = _fitted(image, size, (side, side), down, right)
            elif size is not None and (image.height, image.width) != size:
                image = _fitted(image, size, size)
        except FileError:
            raise
        except Exception as error:  # a decoder raises what it likes: OSError, SyntaxError, ValueError, struct.error
            raise _damaged(where, error) from error
        pixels = np.array(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def header(source: Source, name: str = "") -> tuple[tuple[int, int], bool]:
    """Height and width of an image, and whether it is grey; only the start of the file is read.

    Raises:
        FileError: If it is no image.
        ConfigError: If Pillow is not installed.
    """
    with _opened(source, name) as (image, _):
        return (image.height, image.width), image.mode in GREY | DEEP


class _opened:
    """An open image and its name, closed again at the end."""

    def __init__(self, source: Source, name: str) -> None:
        self.where = name if isinstance(source, bytes) else str(source)
        try:
            from PIL import Image
        except ImportError as error:
            raise ConfigError(
                f"Images are read with Pillow, which is not there: pip install pillow ({error})."
            ) from error
        try:
            content = source.read() if isinstance(source, Member) else source
            self.image = Image.open(content if isinstance(content, Path) else BytesIO(content))
        except Exception as error:  # see `decode`
            raise _damaged(self.where, error) from error

    def __enter__(self) -> "tuple[Image, str]":
        return self.image, self.where

    def __exit__(self, *_: object) -> None:
        self.image.close()


def _fitted(
    image: "Image", form: tuple[int, int], size: tuple[int, int], down: float = 0.5, right: float = 0.5
) -> "Image":
    """A part of an image that is scaled for one form, and has the size of another, no larger one."""
    from PIL.Image import Resampling

    scale = min(image.height / form[0], image.width / form[1])
    height, width = scale * size[0], scale * size[1]
    top, left = down * (image.height - height), right * (image.width - width)
    # Rounding must not put an end outside of the image, which Pillow refuses.
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return image.resize((size[1], size[0]), Resampling.BICUBIC, box)


def _damaged(where: str, error: Exception) -> FileError:
    return FileError(f"Cannot read the image '{where}': {error}. It is damaged or no image; replace or remove it.")
