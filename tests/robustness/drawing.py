"""Random lines of a soak's script: Python text that says what is done, drawn for the model as it is now."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import random
from typing import Any

from torch import nn

from tests.contract.trial import Partition


@dataclass(frozen=True)
class Line:
    """One step of a sequence.

    Args:
        kind: What is expected of it: see `sequences.EXPECTED`.
        text: The Python that does it.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class View:
    """What lines are drawn by.

    Args:
        zoo: Name of the module in the zoo.
        model: As it is now.
        plans: How many are on it.
        tied: Names of slots that several sites read, for each slot of the plans.
        apart: The ties that are the model's own.
    """

    zoo: str
    model: nn.Module
    plans: int
    tied: Sequence[Sequence[str]]
    apart: Partition


def line(drawn: random.Random, view: View) -> Line:
    """A line that can be run now; every kind has its chance."""
    kinds = [kind for kind, (_, possible) in KINDS.items() if possible(view)]
    kind = drawn.choices(kinds, [WEIGHTS.get(kind, 2) for kind in kinds])[0]
    return Line(kind, KINDS[kind][0](drawn, view))


def spec(drawn: random.Random, view: View) -> str:
    """A spec, seldom one that no model fits."""
    positions = [_positions] * (4 if view.zoo.startswith("local") else 0)
    return drawn.choice([_tie, _tie, _tie, _through, _own, _templates, _codebook, *positions])(drawn)


def where(drawn: random.Random, view: View) -> str:
    """Nothing, a glob on names that are there, a list with an exclusion, a type, or nonsense."""
    every = dict(view.model.named_parameters())
    names = [name for name, tensor in every.items() if tensor.ndim > 1] or [*every]
    globs = [_glob(drawn, drawn.choice(names)) for _ in range(2)]
    return drawn.choices(
        ["None", repr(globs[0]), repr(globs), repr(["*", f"!{globs[0]}"]), "nn.Linear", "'nobody.*'"],
        [6, 6, 2, 2, 1, 0.3],
    )[0]


def _tie(drawn: random.Random) -> str:
    if drawn.random() < 0.1:
        return f"ws.Tie(slots={drawn.choice([[0, 1, 1, 0], [0, 0, 0, 1], [2, 0, 1, 0], [0, 1, 0, 1, 0, 2], [0, 2]])})"
    rate = drawn.choices([2, 1.5, 3, 4, 2.5, 1, 99], [10, 3, 3, 3, 2, 1, 0.5])[0]
    order = drawn.choice(["ws.sequential", "ws.strided", f"ws.random({drawn.randrange(9)})"])
    fuse = drawn.choice(["ws.first", "ws.mean", "ws.weighted_mean([3, 1, 2, 5])"])
    return f"ws.Tie(rate={rate}, order={order}, fuse={fuse}{_spread(drawn)})"


def _through(drawn: random.Random) -> str:
    fuse = drawn.choice(["ws.mean", "ws.scalar_weighted", "ws.channel_weighted"])
    return f"ws.Tie(rate={drawn.choice([2, 3])}, fuse=ws.through({fuse}){_spread(drawn)})"


def _own(drawn: random.Random) -> str:
    own = drawn.choice(["LoRA(1)", "LoRA(2)", "Scale('scalar')", "Scale('channel')"])
    return f"ws.Tie(rate={drawn.choice([2, 3])}, order=ws.strided, fuse=ws.mean, own={own})"


def _spread(drawn: random.Random) -> str:
    return drawn.choice(
        ["", "", "", "", ", spread=topology.front", ", spread=topology.middle", ", spread=topology.back"]
    )


def _templates(drawn: random.Random) -> str:
    init = drawn.choice(["orthogonal", "sparse", "from_pretrained"])
    return f"ws.Templates({drawn.choice([1, 2, 3])}, init={init!r}, within={drawn.choice(['stage', 'model'])!r})"


def _codebook(drawn: random.Random) -> str:
    return f"ws.Codebook(clusters={drawn.choice([1, 2, 5, 'None'])}, init='quantiles')"


def _positions(drawn: random.Random) -> str:
    return drawn.choice(["ws.Lattice()", "ws.Lattice(period=2)", "ws.LowRank(rank=1)", "ws.LowRank(rank=2)"])


def _glob(drawn: random.Random, name: str) -> str:
    parts = ["*" if part.isdigit() else part for part in name.split(".")]
    return ".".join(parts[: drawn.randint(1, len(parts))]) if drawn.random() < 0.5 else ".".join(parts)


def _share(drawn: random.Random, view: View) -> str:
    return f"plan = ws.share_(case.model, {spec(drawn, view)}, {where(drawn, view)})"


def _elsewhere(drawn: random.Random, view: View) -> str:
    return f"plan = planned_elsewhere(case, zoo.{view.zoo}(), {spec(drawn, view)}, {where(drawn, view)})"


def _stopped(drawn: random.Random, view: View) -> str:
    return f"stopped(case, {spec(drawn, view)}, {where(drawn, view)})"


def _refused(drawn: random.Random, view: View) -> str:
    call = drawn.choice(
        [
            "ws.share_(model, ws.Tie(rate=2), 'nobody')",
            "ws.share_(model, ws.Tie(rate=10**9))",
            "ws.share_(model, ws.Tie(slots=[0, 2]))",
            "ws.localize_(model, 'no input')",
            "ws.plan(model, ws.Codebook(clusters=2), nn.Tanh)",
            "ws.load('/nowhere', model)",
            "ws.save(model, '/dev/null')",
            "ws.fold(model, tolerance=-1)",
        ]
    )
    return f"refused(case, lambda model: {call})"


def _train(drawn: random.Random, _: View) -> str:
    return f"train(case, torch.optim.{drawn.choice(['AdamW', 'SGD'])}, steps={drawn.choice([1, 1, 2])})"


def _hook(drawn: random.Random, view: View) -> str:
    proximal = f"ws.Proximal(strength={drawn.choice(['1e-3', '0.1'])}, rewind={drawn.choice(['0.0', '0.98'])})"
    hook = drawn.choice([proximal, "ws.Sleep(every=1)"]) if view.zoo.startswith("local") else proximal
    return f"train_with(case, {hook})"


def _through_file(drawn: random.Random, view: View) -> str:
    return f"case = through_a_file(case, zoo.{view.zoo}())"


def _damaged(drawn: random.Random, _: View) -> str:
    return f"through_a_damaged_file(case, at={drawn.random():.4f}, bit={drawn.randrange(8)})"


def _reload(drawn: random.Random, view: View) -> str:
    own = any(len(part) > 1 for part in view.apart)  # which torch itself unties
    flags = {"assign": not own, "emptied": not own, "stored": True}
    return f"reloaded(case{''.join(f', {flag}=True' for flag, on in flags.items() if on and drawn.random() < 0.5)})"


def _retie(drawn: random.Random, view: View) -> str:
    return f"retied(case, {drawn.choice(view.tied)[-1]!r})"


def _two_values(drawn: random.Random, view: View) -> str:
    return f"two_values(case, {drawn.choice(view.tied)[-1]!r}, assign={drawn.random() < 0.5})"


Draw = Callable[[random.Random, View], str]
KINDS: Mapping[str, tuple[Draw, Callable[[View], Any]]] = {
    "share": (_share, lambda view: view.plans < 3),
    "planned elsewhere": (_elsewhere, lambda view: not view.plans),
    "stopped": (_stopped, lambda view: True),
    "refused": (_refused, lambda view: True),
    "train": (_train, lambda view: True),
    "train with a hook": (_hook, lambda view: True),
    "unshare": (lambda *_: "ws.unshare_(case.model)", lambda view: True),
    "fold": (lambda *_: "case = folded(case)", lambda view: True),
    "copy": (lambda *_: "case = copied(case)", lambda view: True),
    "file": (_through_file, lambda view: True),
    "damaged file": (_damaged, lambda view: True),
    "state": (_reload, lambda view: True),
    "retie": (_retie, lambda view: view.tied),
    "two values": (_two_values, lambda view: view.tied),
}
"""Each kind of line: how it is drawn, and when it can be."""
WEIGHTS: Mapping[str, float] = {
    "share": 12,
    "planned elsewhere": 6,
    "train": 4,
    "unshare": 1,
    "fold": 1.5,
    "refused": 1,
    "retie": 3,
    "two values": 3,
}
