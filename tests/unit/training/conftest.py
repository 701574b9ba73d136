"""What several tests of data sets need."""

from urllib.error import URLError

from jaxtyping import config
import pytest

from tests.unit.training import made_up
from weightshare.training.data import download as downloads


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches the network by accident; those that mean to ask a server of their own."""

    def refuse(url, timeout):
        raise URLError("no network")

    monkeypatch.setattr(downloads, "urlopen", refuse)


@pytest.fixture
def mnist(monkeypatch):
    """A made-up MNIST whose checksums are the published ones: its files, and what they hold."""
    contents, train, test = made_up.files("mnist")
    made_up.publish(monkeypatch, "mnist", contents)
    return contents, train, test


@pytest.fixture
def unchecked():
    """As it is for users: in tests, annotations are checked before the code that should find the mistake."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
