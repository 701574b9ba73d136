"""Distillation: a network that shares learns from an unshared teacher, from its logits and from its hidden states.

| term | of student `s` and teacher `t` |
|---|---|
| logits | `T² KL(softmax(z_t / T) ‖ softmax(z_s / T))`, mean over the batch |
| hidden states, `relation` | `KL(R_t ‖ R_s)` of each row of `R = softmax(H Hᵀ / √d)`, mean over rows and layers |
| hidden states, `mse` | `(H_s - H_t)²`, mean over entries and layers |

Source: Zhang 2022 (MiniViT, arXiv 2204.07154), weight distillation; `T²` of Hinton 2015 (arXiv 1503.02531), so that the
temperature does not scale gradients; `mse` as in Jiao 2020 (TinyBERT, arXiv 1909.10351), for equal widths.
Differs: Kullback-Leibler divergences instead of cross entropies, which have the same gradients and are 0 where student
and teacher agree; no relations among queries, keys and values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
from typing import Literal

from jaxtyping import Float
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, mse_loss

from weightshare.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class Distil:
    """What a network learns from a teacher, as a configuration holds it.

    The loss is `labels · (cross entropy with the labels) + logits · (logits term) + hidden · (hidden term)`. The
    teacher sees the very images that the student sees, varied and mixed, in evaluation mode.

    Args:
        teacher: A file of `weightshare.save`, of the same network before anything is shared (or of one that shares).
        labels: Weight of the labels, 0 or more; MiniViT has the teacher alone, 0.
        logits: Weight of the logits term, 0 or more.
        temperature: Of the logits term, above 0.
        hidden: Weight of the hidden term, 0 or more. In units of nats, or of squared activations.
        kind: Of the hidden term: `relation` compares positions with each other, so widths may differ; `mse` compares
            numbers with numbers.
        where: Modules whose outputs are the hidden states: a glob, or a list of globs, on module paths of the teacher
            (the outermost ones that match; `*` crosses dots). Nothing for the repeated blocks.

    Raises:
        ConfigError: If a value is out of its range, or does nothing.
    """

    teacher: str
    labels: float = 0.0
    logits: float = 1.0
    temperature: float = 1.0
    hidden: float = 0.0
    kind: Literal["relation", "mse"] = "relation"
    where: str | list[str] | None = None

    def __post_init__(self) -> None:
        if not self.teacher:
            raise ConfigError("distil.teacher='': need a file that weightshare.save wrote.")
        for name in ("labels", "logits", "hidden"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"distil.{name}={getattr(self, name)!r}: need a finite number, 0 or more.")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"distil.temperature={self.temperature!r}: need a finite number above 0.")
        if self.kind not in HIDDEN:
            raise ConfigError(f"distil.kind={self.kind!r}: need one of {', '.join(HIDDEN)}.")
        if not self.logits and not self.hidden:
            raise ConfigError("distil: nothing is learnt from the teacher; give logits, or hidden, above 0.")
        if not self.hidden and (self.where is not None or self.kind != "relation"):
            raise ConfigError("distil.where and distil.kind go with distil.hidden above 0.")


def logits_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """How far a student's predictions are from its teacher's: `T² KL(softmax(z_t/T) ‖ softmax(z_s/T))`, batch mean.

    Args:
        student: Logits.
        teacher: Logits; no gradient goes there if they were made under `no_grad`.
        temperature: `T`, above 0; above 1, classes that the teacher holds unlikely count more.

    Returns:
        A scalar in nats, 0 or more; 0 where the two softmaxes agree.

    Source: Zhang 2022 (MiniViT), prediction-logit distillation, `T = 1`; Hinton 2015, section 2.1, for `T²`.

    Example:
        >>> float(logits_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 4.0]])))
        0.0
    """
    ours, theirs = (log_softmax(logits / temperature, -1) for logits in (student, teacher))
    return kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def relation_loss(
    student: Float[Tensor, "batch n wide"],
    teacher: Float[Tensor, "batch n deep"],
) -> Float[Tensor, ""]:
    """How differently two networks relate positions: `KL(R_t ‖ R_s)` of each row of `R = softmax(H Hᵀ / √d)`, meaned.

    Args:
        student: Hidden states of `n` tokens or positions.
        teacher: Those of the same ones; the width may be another.

    Returns:
        A scalar in nats, 0 or more.

    Source: Zhang 2022 (MiniViT), hidden-state distillation.

    Example:
        >>> states = torch.eye(3).unsqueeze(0)
        >>> float(relation_loss(states, -states))  # a turned basis relates them alike
        0.0
    """
    ours, theirs = (
        log_softmax(states @ states.mT / math.sqrt(states.shape[-1]), -1).flatten(0, 1) for states in (student, teacher)
    )
    return kl_div(ours, theirs, reduction="batchmean", log_target=True)


HIDDEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"relation": relation_loss, "mse": mse_loss}


def hidden_loss(
    student: Sequence[Float[Tensor, "batch *state"]],
    teacher: Sequence[Float[Tensor, "batch *state"]],
    kind: Literal["relation", "mse"] = "relation",
) -> Float[Tensor, ""]:
    """The mean over layers of `relation_loss`, or of the mean squared difference.

    Args:
        student: Hidden states of some layers: `(batch, n, width)`, or maps `(batch, width, h, w)` with `n = h w`.
        teacher: Those of the same layers; of equal shape but for the width, which `mse` needs equal, too.
        kind: `relation` or `mse`.

    Returns:
        A scalar, 0 or more, computed in float32 (in float64 from float64).

    Raises:
        TrainingError: If shapes do not fit, or the numbers of layers differ.
    """
    if len(student) != len(teacher):
        raise TrainingError(
            f"The student gives {len(student)} hidden states, the teacher {len(teacher)}: need equally many."
        )
    terms = []
    for number, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        mine, its = (_tokens(states) for states in (ours, theirs))
        compared = (mine.shape, its.shape) if kind == "mse" else (mine.shape[:2], its.shape[:2])
        if compared[0] != compared[1] or (kind == "relation" and not mine.ndim == its.ndim == 3):
            needed = "equal shapes" if kind == "mse" else "(batch, n, width) or (batch, width, h, w) with equal n"
            raise TrainingError(
                f"Hidden state {number} is {tuple(ours.shape)} in the student, {tuple(theirs.shape)} in the teacher: "
                f"kind={kind!r} needs {needed}. Name other modules with distil.where."
            )
        terms.append(HIDDEN[kind](mine, its))
    return torch.stack(terms).mean()


def _tokens(states: Tensor) -> Tensor:
    """Maps as tokens, one for each position, and anything of lower precision in float32."""
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    return states.flatten(2).mT if states.ndim == 4 else states
