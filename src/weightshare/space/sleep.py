"""Sleep: between training steps the kernels of positions that see the same are pulled together.

    handle = Sleep(every=10).attach_(optimizer, model)      # runs after optimizer.step(), in anyone's loop
    Sleep(mode="hebbian").now_(model)                       # or once, without an optimizer

**Instant** sharing sets each kernel to the mean over its class of the `Lattice`. **Hebbian** sharing gets there by
local plasticity (equation 4): the input repeats, so all neurons `i` of a class see one `x`, and

    Δw_i = −η [(z_i − mean_j z_j) x + γ (w_i − w_i^init)],        z_i = w_i·x

Only weights are needed, no gradients, so it goes with any learning rule that has an optimizer's `step`, and it is the
same on every process of data-parallel training: patterns are drawn from a seed of their own. Sharing is for each layer
and each channel. Moments of the optimizer are not shared.

In the grid: the drive towards sharing across space. Source: Pogodin 2021, sections 4 and 4.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from weightshare._table import run_text, shape_text
from weightshare._typing import Where
from weightshare.decoding import wide
from weightshare.errors import NoMatch, SpecError
from weightshare.hooks import Handle, expect_count, expect_number, is_count
from weightshare.space.lattice import Lattice
from weightshare.space.layer import LocalLayer
from weightshare.space.plasticity import Hebbian, expect_periodic, relax_
from weightshare.surgery.shards import gathered
from weightshare.surgery.sites import describe, plain, select, sites


@dataclass(frozen=True)
class Sleep:
    """A phase of weight sharing after every so many steps.

    Args:
        every: After how many steps, at least 1. The first step of an epoch is followed by one, so that `every=10`
            sleeps after steps 1, 11, 21, ...; without `handle.epoch_ended()` all steps are one epoch.
        mode: `"instant"`, `"hebbian"`, or a `Hebbian(...)` with settings of its own.
        strength: How far kernels move, from 0 (not) to 1 (all the way).
        unit: What `every` counts: `"step"`, or `"epoch"`, whose ends `handle.epoch_ended()` tells.
        lattice: Which positions share.

    Raises:
        SpecError: If a value is out of its range.

    Source: Pogodin 2021, section 4; `ws(n)` of its tables is `Sleep(every=n)`.

    Example:
        >>> from weightshare.space.local import LocallyConnected1d
        >>> net = nn.Sequential(LocallyConnected1d(1, 1, 3, input_size=8))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> handle = Sleep(every=1).attach_(optimizer, net)
        >>> net(torch.ones(2, 1, 8)).sum().backward()
        >>> optimizer.step()
        >>> torch.equal(net[0].weight[0], net[0].weight[3])
        True
    """

    every: int = 10
    mode: Literal["instant", "hebbian"] | Hebbian = "instant"
    strength: float = 1.0
    unit: Literal["step", "epoch"] = "step"
    lattice: Lattice = field(default_factory=Lattice)

    def __post_init__(self) -> None:
        expect_count("Sleep(every)", self.every, 1)
        expect_number("Sleep(strength)", self.strength, 0, 1)
        if self.mode not in ("instant", "hebbian") and not isinstance(self.mode, Hebbian):
            raise SpecError(f"Sleep(mode={self.mode!r}): need 'instant', 'hebbian' or a Hebbian(...).")
        if self.unit not in ("step", "epoch"):
            raise SpecError(f"Sleep(unit={self.unit!r}): need 'step' or 'epoch'.")
        if not isinstance(self.lattice, Lattice):
            raise SpecError(f"Sleep(lattice={self.lattice!r}): need a Lattice.")

    def attach_(self, optimizer: torch.optim.Optimizer, model: nn.Module, where: Where = None) -> "SleepHandle":
        """Sleep after steps of an optimizer from now on.

        Args:
            optimizer: Any of torch, or a wrapper that holds it as `.optimizer`.
            model: The model that it trains.
            where: Which of its local layers, by the rule of `plan`; `None` is all.

        Returns:
            The handle.

        Raises:
            NoMatch: If the model has no local layer, or the pattern matches none.
            OptimizerMismatch: If no group of the optimizer holds a layer's weight.
            SpecError: If a weight cannot be moved, the mode does not fit a layer, or no two positions of any layer
                share.
        """
        return SleepHandle(optimizer, model, where, self)

    def now_(self, model: nn.Module, where: Where = None) -> None:
        """Sleep once, without an optimizer.

        Args:
            model: A model with local layers.
            where: Which of them; `None` is all.

        Raises:
            NoMatch: If there is none.
            SpecError: If the mode does not fit a layer, all of a layer that `where` names is frozen, no two positions
                of any layer share, or a weight is not finite.
        """
        layers = local_layers(model, where)
        free = trainable(layers, where)
        self._expect_fit(layers, where)
        for number, (path, layer) in enumerate(layers.items()):
            self._relax(path, layer, (0, number), free[path])

    def _expect_fit(self, layers: Mapping[str, LocalLayer], where: Where) -> None:
        """Refuse what would fail at the first sleep, and what no sleep would move."""
        alone = []
        for path, layer in layers.items():
            try:
                slots = self.lattice.assignment(layer).slots
                if self.mode != "instant":
                    expect_periodic(layer, self.lattice)
            except SpecError as error:
                raise SpecError(f"Sleep on '{path}': {error}") from error
            if slots == prod(layer.positions):
                alone.append(f"'{path}' of {shape_text(layer.positions)} positions")
        if len(alone) == len(layers):  # beside others one may well be small, as the last layers mostly are
            give = "Give a smaller period" if self.mode == "instant" else "Take mode='instant' and a smaller period"
            named = "" if where is None else f", or leave it out of where={describe(where)}"
            raise SpecError(
                f"Sleep would move nothing in {run_text(alone, 6)}: with {self.lattice!r} no two positions share. "
                f"{give}, such as lattice=Lattice(period=1) for all positions{named}."
            )

    def _relax(self, path: str, layer: LocalLayer, seeds: tuple[int, int], only: list[nn.Parameter]) -> None:
        if not only:
            return
        rule = Hebbian() if self.mode == "hebbian" else self.mode
        try:
            with gathered(layer, only) as wholes:
                if isinstance(rule, Hebbian):
                    relax_(layer, self.lattice, rule, self.strength, seeds, wholes)
                else:
                    pull_(layer, self.lattice, self.strength, wholes)
        except SpecError as error:
            raise SpecError(f"Sleep on '{path}': {error}") from error


class SleepHandle(Handle):
    """What `Sleep.attach_` returns: `now()` sleeps at once, `epoch_ended()` tells that an epoch is over.

    Attributes:
        sleeps: How many phases there were.
    """

    spec: Sleep

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, where: Where, spec: Sleep) -> None:
        self.layers = local_layers(model, where)
        held = {id(tensor) for free in trainable(self.layers, where).values() for tensor in free}
        super().__init__(optimizer, model, [site for site in sites(model) if id(site.tensor) in held], spec)
        self.sleeps = self.in_epoch = self.epochs = 0
        try:
            spec._expect_fit(self.layers, where)
        except SpecError:
            self.remove()
            raise

    def after(self) -> None:
        self.in_epoch += 1
        if self.spec.unit == "step" and (self.in_epoch - 1) % self.spec.every == 0:
            self.now()

    def now(self) -> None:
        """Sleep at once, whatever `every` says.

        Raises:
            ModelChanged: If the model reads other parameters now.
            SpecError: If a weight is not finite.
        """
        self.expect_held()
        held = {id(site.tensor) for site in self.sites if site.tensor.requires_grad}
        for number, (path, layer) in enumerate(self.layers.items()):
            free = [one for one in own(layer) if id(one) in held]
            held -= {*map(id, free)}  # what two layers read is pulled once
            self.spec._relax(path, layer, (self.sleeps, number), free)
        self.sleeps += 1

    def epoch_ended(self) -> None:
        """Count steps from 0 again, and sleep if `unit="epoch"` says so."""
        self.in_epoch = 0
        self.epochs += 1
        if self.spec.unit == "epoch" and self.epochs % self.spec.every == 0:
            self.now()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"sleeps": self.sleeps, "in_epoch": self.in_epoch, "epochs": self.epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        counts = [state.get(name) for name in ("sleeps", "in_epoch", "epochs")]
        if not all(is_count(count) for count in counts):
            raise SpecError(f"The state of a hook is damaged: {dict(state)!r}.")
        super().load_state_dict(state)
        self.sleeps, self.in_epoch, self.epochs = (int(count) for count in counts if count is not None)


def local_layers(model: nn.Module, where: Where = None) -> dict[str, LocalLayer]:
    """The local layers of a model of which a pattern matches a parameter, by path, each once, in its order.

    Raises:
        NoMatch: If there is none.
    """
    model = plain(model)
    found_sites = sites(model)
    every = {path: module for path, module in model.named_modules() if isinstance(module, LocalLayer)}
    if not every:
        raise NoMatch(
            f"{type(model).__name__} has no local layer (LocallyConnected1d to 3d, PatchLinear), so there is nothing "
            "to move. Make its convolutions local first: localize_(model, example)."
        )
    chosen = {id(site.tensor) for site in select(found_sites, where)}
    found = {path: layer for path, layer in every.items() if any(id(p) in chosen for p in layer.parameters())}
    if not found:
        raise NoMatch(
            f"where={describe(where)} matches no local layer. There are: {run_text(list(map(repr, every)), 8)}."
        )
    return found


def trainable(layers: Mapping[str, LocalLayer], where: Where = None) -> dict[str, list[nn.Parameter]]:
    """What sleep moves: for each layer the parameters that positions have parts of, each once, but the frozen ones.

    Raises:
        SpecError: If all of a layer that a pattern names is frozen, or all layers are; or a weight is made from others,
            or on the meta device.
    """
    found: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for path, layer in layers.items():
        try:
            parts = own(layer)
        except SpecError as error:
            raise SpecError(f"Sleep on '{path}': {error}") from error
        if any(one.is_meta for one in parts):
            raise SpecError(f"Sleep: '{path}' is on the meta device and has no numbers to share: load the model first.")
        if where is not None and not any(one.requires_grad for one in parts):
            raise SpecError(f"Sleep: '{path}' is frozen: no step changes it. Leave it out of where={describe(where)}.")
        found[path] = [one for one in parts if one.requires_grad and id(one) not in seen]
        seen |= {*map(id, parts)}
    if not any(found.values()):
        raise SpecError("Sleep: all local layers are frozen: requires_grad is False. Set it for what is to be moved.")
    return found


def pull_(
    layer: LocalLayer, lattice: Lattice, strength: float = 1.0, only: Sequence[nn.Parameter] | None = None
) -> None:
    """Set the kernels of each class to their mean, or move them part of the way; biases of positions too.

    Args:
        layer: Changed in place.
        lattice: Which positions share.
        strength: 1 leaves kernels of a class equal to the bit.
        only: Which of the layer's weight and bias; `None` is all that positions have parts of.

    Raises:
        SpecError: If a weight is NaN or infinite, or the lattice does not fit the layer.
    """
    axes = len(layer.axes)
    for tensor in own(layer) if only is None else only:
        whole = tensor.detach()
        flat = whole.flatten(0, axes - 1)
        classes = [at.to(flat.device) if isinstance(at, Tensor) else at for at in lattice.classes(layer)]
        # Regular classes are views, whose positions lie along every spatial axis; the others are copies, along one.
        views = [(flat, at, (0,)) if isinstance(at, Tensor) else (whole, at, (*range(axes),)) for at in classes]
        means = [view[at].mean(along, keepdim=True) for view, at, along in views]
        if not bool(torch.stack([wide(mean).sum() for mean in means]).isfinite().all()):
            raise SpecError("a weight is NaN or infinite: the loss has diverged. Lower the learning rate.")
        for (view, at, _), mean in zip(views, means, strict=True):
            view[at] = mean if strength == 1 else view[at].lerp(mean, strength)
        torch.autograd.graph.increment_version(tensor)


def own(layer: LocalLayer) -> list[nn.Parameter]:
    """The parameters of a layer that each position has a part of.

    Biases of a transposed layer belong to positions of its output, of which each is reached by many kernels, so they
    are none of these.

    Raises:
        SpecError: If its weight is made from something else, such as the slots of a `Lattice`, or is not in one piece.
    """
    names = ["weight", *(["bias"] if layer.bias is not None and layer.bias_of_kernels() else [])]
    # By what the layer holds itself: reading a slot as it is gives a parameter too, of a bank.
    if any(layer._parameters.get(name) is None for name in names):
        raise SpecError("its weight is made from stored slots, which is shared already. Take that off first: unshare_.")
    found = [layer.get_parameter(name) for name in names]
    if not all(one.is_contiguous() for one in found):  # classes are written through flat views
        raise SpecError("its weight is not in one piece of memory: set it to weight.contiguous() first.")
    return found
