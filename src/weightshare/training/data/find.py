"""The files of a named set: found where they may lie, else downloaded, and checked in any case."""

import os
from pathlib import Path

from weightshare.errors import ConfigError
from weightshare.training.data.build import build
from weightshare.training.data.download import download
from weightshare.training.data.formats import read_part
from weightshare.training.data.official import OFFICIAL, Edition
from weightshare.training.data.split import Data
from weightshare.training.data.unpack import checked, read_file, read_tar

Content = dict[str, bytes]


def named_set(name: str, home: Path) -> Data:
    """A named set from its official files.

    Args:
        name: A key of `OFFICIAL`.
        home: The folder of data sets.

    Raises:
        ConfigError: If files are not there and cannot be downloaded.
        FileError: If a file is damaged.
    """
    official = OFFICIAL[name]
    for edition in official.editions:
        if (content := _content(edition, name, home)) is not None:
            break
    else:
        edition = official.editions[0]
        _download(edition, name, home)
        content = _content(edition, name, home)
        assert content is not None
    train, test = (
        read_part(edition.format, [(file.name, content[file.name]) for file in files])
        for files in (edition.train, edition.test)
    )
    return build(name, train, test, len(official.class_names), official.class_names)


def _content(edition: Edition, name: str, home: Path) -> Content | None:
    """The checked content of all files, or nothing if not all of them are there."""
    if all(paths := [_first(_places(edition, home, file.name)) for file in edition.files]):
        pairs = zip(edition.files, [path for path in paths if path], strict=True)
        return {file.name: checked(read_file(path), file.checksum, str(path)) for file, path in pairs}
    if archive := _first(_archives(edition, name, home)):
        return _tar_content(edition, archive, str(archive))
    return None


def _tar_content(edition: Edition, archive: Path, where: str) -> Content:
    content = read_tar(archive, [file.name for file in edition.files], where)
    return {file.name: checked(content[file.name], file.checksum, f"{where}: {file.name}") for file in edition.files}


def _places(edition: Edition, home: Path, file: str) -> list[Path]:
    """Where a file may lie; each one by itself may be packed too."""
    endings = ("", ".gz") if not edition.archive else ("",)
    return [home / folder / (file + ending) for folder in edition.folders for ending in endings]


def _archives(edition: Edition, name: str, home: Path) -> list[Path]:
    return [home / name / edition.archive, home / edition.archive] if edition.archive else []


def _first(paths: list[Path]) -> Path | None:
    return next((path for path in paths if os.path.isfile(path)), None)


def _download(edition: Edition, name: str, home: Path) -> None:
    try:
        if edition.archive:
            path = home / name / edition.archive
            download(edition.url + edition.archive, path, lambda got: _tar_content(edition, got, str(path)))
            return
        for file in edition.files:
            if not _first(_places(edition, home, file.name)):
                path = home / name / f"{file.name}.gz"
                url = f"{edition.url}{file.name}.gz"
                download(url, path, lambda got, f=file, p=path: checked(read_file(got, str(p)), f.checksum, str(p)))
    except ConfigError as error:
        raise ConfigError(_missing(name, home, error)) from error


def _missing(name: str, home: Path, error: ConfigError) -> str:
    lines = [f"data={name!r} is not there, and {error}"]
    for edition in OFFICIAL[name].editions:
        absent = [file.name for file in edition.files if not _first(_places(edition, home, file.name))]
        folders = ", ".join(f"'{home / folder}'" for folder in edition.folders)
        packed = "" if edition.archive else " (each also with .gz)"
        lines.append(f"Missing: {', '.join(absent)}{packed}; looked in {folders}.")
        if edition.archive:
            archives = " or ".join(f"'{path}'" for path in _archives(edition, name, home))
            lines.append(f"Nor is {archives} there; it is published at {edition.url}{edition.archive}.")
        else:
            lines.append(f"They are published as {' and '.join(f'{edition.url}{file}.gz' for file in absent)}.")
    lines.append(f"Put the files into '{home / name}', or name another folder: WEIGHTSHARE_DATA, or data_dir.")
    return "\n".join(lines)
