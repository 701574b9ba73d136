"""Reading image files with Pillow: their size and kind without decoding them, and their pixels as bytes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import UInt8
import numpy as np

from weightshare.errors import ConfigError, FileError

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = frozenset({"1", "L", "LA"})
DEEP = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
"""Modes of more than 8 bits a channel, which a conversion would clip."""


TOGETHER = 64
"""Images that a thread decodes before it is given others: handing over each by itself costs more than a small one."""


def decode(
    source: Path | bytes,
    channels: int,
    size: tuple[int, int] | None = None,
    name: str = "",
    cut: tuple[int, float, float] | None = None,
) -> UInt8[np.ndarray, "in h w"]:
    """The pixels of one image.

    Args:
        source: A file, or its content.
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


def header(source: Path | bytes, name: str = "") -> tuple[tuple[int, int], bool]:
    """Height and width of an image, and whether it is grey; only the start of the file is read.

    Raises:
        FileError: If it is no image.
        ConfigError: If Pillow is not installed.
    """
    with _opened(source, name) as (image, _):
        return (image.height, image.width), image.mode in GREY | DEEP


def form_of(sources: Sequence[Path | bytes], size: int | None, names: Sequence[str] = ()) -> tuple[int, int, int]:
    """The shape `(in, h, w)` that images are brought to: grey if all of them are.

    Args:
        sources: Files or their content, at least one.
        size: Side of a square, or `None` where all have one size.
        names: As in `decode`, one each.

    Raises:
        ConfigError: If no size is given and theirs differ.
        FileError: If one is no image.
    """
    channels, first = 1, None
    for number, source in enumerate(sources):
        form, grey = header(source, names[number] if names else "")
        channels = channels if grey else 3
        first = first or form
        if size is None and form != first:
            where = names[number] if names else source
            raise ConfigError(
                f"Images differ in size: '{where}' has {form[0]}×{form[1]}, others have {first[0]}×{first[1]}. "
                "Give the size of the square to bring them to: size=..."
            )
        if size is not None and channels == 3:
            break  # the others need not be looked at
    assert first is not None
    return (channels, *first) if size is None else (channels, size, size)


def decode_all(
    sources: Sequence[Path | bytes], shape: tuple[int, int, int], names: Sequence[str] = ()
) -> UInt8[np.ndarray, "n in h w"]:
    """The pixels of many images, decoded by as many threads as there are cores.

    Args:
        sources: Files or their content.
        shape: What each is brought to; see `form_of`.
        names: As in `decode`, one each.

    Raises:
        FileError: If one cannot be read.
    """
    channels, height, width = shape
    images = np.empty((len(sources), channels, height, width), np.uint8)

    def fill(start: int) -> None:
        for number in range(start, min(start + TOGETHER, len(sources))):
            images[number] = decode(sources[number], channels, (height, width), names[number] if names else "")

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(fill, range(0, len(sources), TOGETHER)):  # an error of a thread is raised here
            pass
    return images


class _opened:
    """An open image and its name, closed again at the end."""

    def __init__(self, source: Path | bytes, name: str) -> None:
        self.where = str(source) if isinstance(source, Path) else name
        try:
            from PIL import Image
        except ImportError as error:
            raise ConfigError(
                f"Images are read with Pillow, which is not there: pip install pillow ({error})."
            ) from error
        try:
            self.image = Image.open(source if isinstance(source, Path) else BytesIO(source))
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
