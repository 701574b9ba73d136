"""Downloads: in one step, checked before they get their name, and with an answer soon where there is no network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
import sys
from urllib.request import urlopen

from weightshare.errors import ConfigError
from weightshare.files.atomic import replacing
from weightshare.training.data.room import check_room, telling_room

TIMEOUT = 20
"""Seconds without an answer after which a download is given up."""

CHUNK = 2**16


class _Broken(Exception):
    """The network's error, kept apart from those of the disk."""


def download(url: str, path: Path, check: Callable[[Path], object]) -> None:
    """Store what a URL gives.

    Args:
        url: http or https.
        path: The file; folders above it are made. It appears whole, or not at all.
        check: Gets the downloaded file under a temporary name, and raises if its content is wrong.

    Raises:
        ConfigError: If the network does not give it.
        FileError: If it cannot be written, or there is no room for it. Whatever `check` raises too.
    """
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:
            check_room(path, answer.length)
            with telling_room(path, answer.length), replacing(path) as temporary:
                with open(temporary, "wb") as file, _progress(url, answer.length) as advance:
                    for chunk in _chunks(answer.read):
                        file.write(chunk)
                        advance(len(chunk))
                check(temporary)
    except (OSError, HTTPException, _Broken) as error:
        raise ConfigError(f"{url} could not be downloaded: {error}.") from error


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while True:
        try:
            chunk = read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _Broken(error) from error
        if not chunk:
            return
        yield chunk


@contextmanager
def _progress(url: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; elsewhere one line."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(url.rpartition("/")[2], total=total)
            yield lambda count: bar.update(task, advance=count)
    else:
        print(f"Downloading {url}", file=sys.stderr, flush=True)
        yield lambda count: None
