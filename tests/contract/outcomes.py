"""What one cell of the matrix comes to: passed, refused with a reason, or failed with a traceback."""

from collections.abc import Callable
from dataclasses import dataclass
import traceback
from typing import Literal, TypeVar
import warnings

import pytest
import torch

from tests.contract.trial import NothingTied, TorchRefuses
from weightshare.errors import SharingError, SharingWarning

AnyTrial = TypeVar("AnyTrial")

IGNORED: tuple[tuple[str, type[Warning]], ...] = (
    # Torch's code generator uses it when it is first imported.
    (r"`torch\.jit\.script_method` is deprecated", DeprecationWarning),
    # Torch's compiler makes an instance of every autograd function that it traces.
    (r"<class 'torch\.autograd\.function\.Function'> should not be instantiated", DeprecationWarning),
    # Torch's compiler asks every tensor that a compiled function reads for it; hooks, which make weights, and forward
    # methods are compiled apart.
    (r"The \.grad attribute of a Tensor that is not a leaf", UserWarning),
    # Torch's, of layers that return a view, as ours do: what follows in the zoo changes nothing in place.
    (r"FSDP2-wrapped module .* returned a view tensor", UserWarning),
    # Ours, and right: the zoo shares batch norm on purpose.
    (r"Batch norm is shared", SharingWarning),
)
"""Warnings that are expected, each with its reason; all others are errors."""


@dataclass(frozen=True)
class Outcome:
    """Of one event on one module with one spec. The detail is a refusal's message, or a failure's traceback."""

    kind: Literal["passed", "refused", "failed"]
    detail: str = ""


def attempt(event: Callable[[AnyTrial], None], trial: AnyTrial) -> Outcome:
    """Run an event. Only an error of ours that names its reason, or torch's own refusal, counts as refused."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("error")
        for message, category in IGNORED:
            warnings.filterwarnings("ignore", message, category)
        try:
            event(trial)
        except (SharingError, TorchRefuses, NothingTied) as error:
            return Outcome("refused", f"{type(error).__name__}: {error}")
        except (Exception, pytest.fail.Exception):  # the latter is what pytest.raises says, and no Exception
            return Outcome("failed", traceback.format_exc())
    return Outcome("passed")
