"""timm and transformers, imported in the order that also works where torchvision is another build than torch."""

from typing import Any

import pytest

from weightshare.models.by_name import import_timm


@pytest.fixture(scope="session")
def timm() -> Any:
    """The package timm."""
    return import_timm()


@pytest.fixture(scope="session")
def transformers(timm: Any) -> Any:
    """The package transformers, which imports torchvision where it finds it."""
    import transformers

    return transformers
