"""Downloads of official files, from a server on this machine."""

from functools import partial
import gzip
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import threading

import pytest

from tests.unit.training import made_up
from weightshare.errors import ConfigError, FileError
from weightshare.training.data import download as downloads
from weightshare.training.data import load_data

IDX = pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
CIFAR = pytest.mark.parametrize(("name", "edition"), list(made_up.CIFARS))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, and the address at which it is published."""
    from urllib.request import urlopen

    monkeypatch.setattr(downloads, "urlopen", urlopen)
    folder = tmp_path / "published"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("name", made_up.NAMES)
def test_a_download_is_stored_checked_and_used_again(name, server, tmp_path, monkeypatch, capsys):
    folder, url = server
    contents, train, test = made_up.files(name)
    made_up.publish(monkeypatch, name, contents, url=url)
    archive = made_up.official.OFFICIAL[name].editions[0].archive
    published = {archive: made_up.tar(contents, "any")} if archive else {
        f"{file}.gz": gzip.compress(content) for file, content in contents.items()
    }  # fmt: skip
    made_up.write(folder, published)
    made_up.check_same(load_data(name, tmp_path / "home"), train, test)
    assert capsys.readouterr().err.count("Downloading http") == len(published)
    assert sorted(path.name for path in (tmp_path / "home" / name).iterdir()) == sorted(published)
    for path in folder.iterdir():
        path.unlink()
    made_up.check_same(load_data(name, tmp_path / "home"), train, test)


@pytest.mark.parametrize("name", ["mnist", "cifar100"])
def test_a_bad_download_is_not_kept(name, server, tmp_path, monkeypatch):
    folder, url = server
    contents, *_ = made_up.files(name)
    made_up.publish(monkeypatch, name, contents, url=url)
    file = next(iter(contents))
    damaged = contents | {file: contents[file][:-1] + b"\x01"}
    published = {"cifar-100-binary.tar.gz": made_up.tar(damaged, "any")} | {
        f"{key}.gz": gzip.compress(content) for key, content in damaged.items()
    }
    made_up.write(folder, published)
    with pytest.raises(FileError, match=rf"{tmp_path / 'home' / name}.*{file}.*damaged or not the official file"):
        load_data(name, tmp_path / "home")
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


def test_what_is_there_is_not_downloaded(server, mnist, tmp_path, monkeypatch):
    folder, url = server
    contents, train, test = mnist
    made_up.publish(monkeypatch, "mnist", contents, url=url)
    first, *others = contents
    made_up.write(folder, {key: contents[key] for key in [first]}, packed=True)
    made_up.write(tmp_path / "home" / "mnist", {key: contents[key] for key in others})
    made_up.check_same(load_data("mnist", tmp_path / "home"), train, test)


def test_a_server_without_the_file_is_named(server, tmp_path, monkeypatch):
    _, url = server
    contents, *_ = made_up.files("cifar10")
    made_up.publish(monkeypatch, "cifar10", contents, url=url)
    with pytest.raises(ConfigError, match=r"cifar-10-binary\.tar\.gz could not be downloaded: HTTP Error 404"):
        load_data("cifar10", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_an_answer_that_breaks_off_leaves_nothing(mnist, tmp_path, monkeypatch):
    class Broken:
        length = None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, _):
            raise TimeoutError("no more")

    asked = []
    monkeypatch.setattr(downloads, "urlopen", lambda url, timeout: asked.append(timeout) or Broken())
    with pytest.raises(ConfigError, match="could not be downloaded: no more"):
        load_data("mnist", tmp_path)
    assert asked == [20]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
