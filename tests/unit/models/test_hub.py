"""Names that the hub of models may know: what is a slip of the pen is said without it, and nobody waits for long."""

import pytest

from weightshare.errors import ConfigError
from weightshare.models import hub
from weightshare.models.by_name import build, mend_torchvision

huggingface_hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What the hub was asked; it cannot be reached."""
    names: list[tuple[str, float]] = []

    def model_info(self: object, name: str, timeout: float) -> None:
        names.append((name, timeout))
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return names


def test_a_class_that_is_none_is_not_looked_for(asked: list[tuple[str, float]]) -> None:
    mend_torchvision()
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"knows no 'BertForMaskdLM'.*Nearest: BertForMaskedLM"):
        build("transformers:BertForMaskdLM")
    assert asked == []


@pytest.mark.parametrize("name", ["bret", "nobody/nothing"])
def test_a_hub_that_does_not_answer_is_said_at_once(name: str, asked: list[tuple[str, float]]) -> None:
    mend_torchvision()
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"the hub gave no answer within 5 seconds: no route") as caught:
        build(f"transformers:{name}")
    assert ("Nearest: bert" in str(caught.value)) == (name == "bret")
    assert asked == [(name, 5)]


def test_timms_names_of_the_hub_are_asked_for_first(asked: list[tuple[str, float]]) -> None:
    with pytest.raises(ConfigError, match=r"Cannot build 'timm:hf-hub:nobody/nothing@main'; its cache has none"):
        build("timm:hf-hub:nobody/nothing@main")
    assert asked == [("nobody/nothing", 5)]


def test_what_the_cache_has_needs_no_answer(asked: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: f"/{name}/{file}")
    assert not hub.expect_on_hub("a/b", "No")


def test_what_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, timeout: object())
    assert hub.expect_on_hub("a/b", "No")
    for kind, said in (("RepositoryNotFoundError", "No, and the hub has none"), ("HFValidationError", "of that name")):
        error = type(kind, (getattr(errors, kind),), {"__init__": lambda self: None})()

        def model_info(self: object, name: str, timeout: float, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        with pytest.raises(ConfigError, match=said):
            hub.expect_on_hub("a/b", "No")
