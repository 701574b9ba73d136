"""Many images at once: the form that all of them have, their pixels, and which of them cannot be read."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
import os

from jaxtyping import UInt8
import numpy as np

from weightshare.errors import ConfigError, FileError
from weightshare.training.data.naming import unreadable
from weightshare.training.data.pictures import decode, header
from weightshare.training.data.stored import Source

TOGETHER = 64
"""Images that a thread decodes before it is given others: handing over each by itself costs more than a small one."""


def form_of(sources: Sequence[Source], size: int | None, names: Sequence[str] = ()) -> tuple[int, int, int]:
    """The shape `(in, h, w)` that images are brought to: grey if all of them are.

    Args:
        sources: Files or their content, at least one.
        size: Side of a square, or `None` where all have one size.
        names: As in `pictures.decode`, one each.

    Raises:
        ConfigError: If no size is given and theirs differ.
        FileError: If one is no image; all are then read, to say how many are not.
    """
    channels, first = 1, None
    for number, source in enumerate(sources):
        try:
            form, grey = header(source, names[number] if names else "")
        except FileError:
            check_all(sources, names)
            raise
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
    sources: Sequence[Source], shape: tuple[int, int, int], names: Sequence[str] = ()
) -> UInt8[np.ndarray, "n in h w"]:
    """The pixels of many images, decoded by as many threads as there are cores.

    Args:
        sources: Files or their content.
        shape: What each is brought to; see `form_of`.
        names: As in `pictures.decode`, one each.

    Raises:
        FileError: If some cannot be read: how many, and the first of them.
    """
    channels, height, width = shape
    images = np.empty((len(sources), channels, height, width), np.uint8)

    def fill(number: int, source: Source, name: str) -> None:
        images[number] = decode(source, channels, (height, width), name)

    _each(fill, sources, names)
    return images


def check_all(sources: Sequence[Source], names: Sequence[str] = ()) -> None:
    """Decode images and keep none.

    Raises:
        FileError: As `decode_all`.
    """
    _each(lambda number, source, name: decode(source, 3, name=name), sources, names)


def _each(does: Callable[[int, Source, str], object], sources: Sequence[Source], names: Sequence[str]) -> None:
    """Do something to every image, in threads, and then raise what went wrong with any of them."""

    def run(start: int) -> list[tuple[str, FileError]]:
        failures = []
        for number in range(start, min(start + TOGETHER, len(sources))):
            source, name = sources[number], names[number] if names else ""
            try:
                does(number, source, name)
            except FileError as error:
                failures.append((name if isinstance(source, bytes) else str(source), error))
        return failures

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        failures = [failure for found in threads.map(run, range(0, len(sources), TOGETHER)) for failure in found]
    if failures:
        raise unreadable(failures, len(sources))
