"""A teacher at work: it runs beside its student, and what both give on the way is compared."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from weightshare.errors import NoMatch, TrainingError
from weightshare.surgery.blocks import Place, places
from weightshare.surgery.sites import prefixes, sites
from weightshare.training.distil import Distil, hidden_loss, logits_loss

Seen = list[tuple[str, Tensor]]


@contextmanager
def watched(modules: Mapping[str, nn.Module]) -> Iterator[Seen]:
    """Keep what modules give while this is open, in the order in which they run; nothing is left on them after.

    Args:
        modules: By the names that they are kept under. A module that stands there twice is watched once, and one that
            runs several times is kept as often: the layers of a folded network.

    Yields:
        A list that fills with names and outputs; of a tuple, its first entry.

    Raises:
        TrainingError: In the forward pass, if a module gives no tensor.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
        >>> with watched({"1": net[1]}) as seen:
        ...     _ = net(torch.zeros(5, 3))
        >>> [(name, tuple(states.shape)) for name, states in seen]
        [('1', (5, 2))]
    """
    seen: Seen = []
    once = {module: name for name, module in reversed(list(modules.items()))}  # the first name wins
    handles = [module.register_forward_hook(partial(_keep, seen, name)) for module, name in once.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(seen: Seen, name: str, module: nn.Module, _: Any, output: Any) -> None:
    states = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(states, Tensor):
        raise TrainingError(
            f"'{name}' ({type(module).__name__}) gives {type(states).__name__}, need a tensor as a hidden state. Name "
            "another module with distil.where."
        )
    seen.append((name, states))


def hidden_names(model: nn.Module, where: str | Sequence[str] | None = None) -> list[str]:
    """Which modules give the hidden states: the outermost that match, or the repeated blocks.

    Args:
        model: The teacher, whose blocks are told apart by their parameters.
        where: A glob or a list of globs on module paths, or nothing for the repeated blocks.

    Returns:
        Paths, in the order of `named_modules()`.

    Raises:
        NoMatch: If nothing matches, or no block repeats.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), *(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(2)))
        >>> hidden_names(net), hidden_names(net, "*.1")
        (['1', '2'], ['1.1', '2.1'])
    """
    known = [name for name, _ in model.named_modules() if name]
    if where is None:
        found = {place.block for place in places(sites(model)).values() if isinstance(place, Place) and place.after}
        if not found:
            raise NoMatch(
                f"{type(model).__name__} has no repeated blocks to take hidden states from: give distil.where."
            )
        return [name for name in known if name in found]
    globs = [where] if isinstance(where, str) else list(where)
    matching = {name for name in known if any(fnmatchcase(name, glob) for glob in globs)}
    if not matching:
        near = get_close_matches(globs[0] if globs else "", known, n=3, cutoff=0.0)
        raise NoMatch(f"distil.where={where!r} matches no module of {type(model).__name__}. Near: {', '.join(near)}.")
    return [name for name in known if name in matching and not matching & {*prefixes(name)[:-1]}]


class Tutor:
    """A teacher at work: what a training loop calls instead of the network.

    Args:
        spec: What is learnt, and how much each part weighs.
        model: The student, bare, on its device.
        teacher: On the same device; put into evaluation mode, its parameters stay as they are.
        images: A few images as the networks see them, which show whether the two fit.
        autocast: Makes the context in which the teacher runs: that of the training's precision.

    Raises:
        TrainingError: If the teacher cannot run on the images, or what it gives does not fit the student.
        NoMatch: If modules that should give hidden states are missing.
    """

    def __init__(
        self,
        spec: Distil,
        model: nn.Module,
        teacher: nn.Module,
        images: Tensor,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.spec, self.teacher, self.autocast = spec, teacher.eval(), autocast
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                self._expect_outputs(model(images), images)
                names = hidden_names(teacher, spec.where) if spec.hidden else []
                self.ours, self.theirs = self._found(model, names), self._found(teacher, names)
                self(model, images)  # says whether hidden states fit
        finally:
            model.train(was_training)

    def __call__(self, network: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the student, or what wraps it, and its teacher on the same images.

        Returns:
            The student's logits, and what it is to learn from the teacher: a scalar with a gradient.
        """
        with watched(self.ours) as ours:
            logits = network(images)
        with torch.no_grad(), self.autocast(), watched(self.theirs) as theirs:
            wanted = self.teacher(images)
        loss = self.spec.logits * logits_loss(logits.float(), wanted.float(), self.spec.temperature)
        if self.spec.hidden:
            mine, its = ([state for _, state in seen] for seen in (ours, theirs))
            loss = loss + self.spec.hidden * hidden_loss(mine, its, self.spec.kind)
        return logits, loss

    def digest(self) -> str:
        """Of the teacher's numbers: another teacher under the same name makes another run."""
        told = hashlib.sha256()
        for name, tensor in self.teacher.state_dict().items():
            told.update(name.encode())
            told.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return told.hexdigest()[:16]

    def _expect_outputs(self, logits: Tensor, images: Tensor) -> None:
        kind = type(self.teacher).__name__
        try:
            wanted = self.teacher(images)
        except Exception as error:  # whatever a network of the user's raises
            shape = tuple(images.shape)
            raise TrainingError(f"The teacher, {kind}, cannot run on images of shape {shape}: {error}") from error
        got = tuple(wanted.shape) if isinstance(wanted, Tensor) else type(wanted).__name__
        if got != tuple(logits.shape):
            raise TrainingError(
                f"The teacher, {kind}, gives {got} where the student gives {tuple(logits.shape)}: need a teacher of "
                "the same classes."
            )

    @staticmethod
    def _found(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
        """By name; a folded network has one module under several."""
        known = dict(network.named_modules(remove_duplicate=False))
        for name in names:
            if name not in known:
                raise NoMatch(
                    f"{type(network).__name__} has no module {name!r}, which gives a hidden state of the teacher. Name "
                    "modules that both have with distil.where."
                )
        return {name: known[name] for name in names}
