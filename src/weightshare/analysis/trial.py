"""Runs a model for a first look: on what it is given, or on a guess. What fails is told with the model's own error.

Nothing here raises for what a model's forward pass does: an inspection has much to say that needs no forward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
import inspect
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from weightshare._table import shape_text
from weightshare.analysis.example import Guess, example_for
from weightshare.analysis.present import calls_of
from weightshare.depth.cka import FEWEST, cka
from weightshare.depth.measure import Similarity
from weightshare.errors import SharingError, SpecError

SMALL = 30_000_000
"""Models up to this many stored numbers are run on random inputs for `cka`; larger ones on given examples alone."""
EXAMPLES = 16
"""Random inputs that such a model is run on."""
MOST_CHARACTERS = 300
"""Of an error of the model."""
LABELS = " If this is a batch of inputs and labels, give the inputs alone: batches=[x for x, _ in loader]."
GIVE = "examples in example_input, in batches, or by --data"


@dataclass(frozen=True)
class Trial:
    """A pass of the model, or why there was none.

    Args:
        example: What it ran on; `None` if it did not run.
        calls: How often each module ran.
        said: What it ran on, in words.
        guess: Where nothing was given.
        failed: What it did not run on, with its error and what to give instead; empty if it ran.
    """

    example: Any = None
    calls: Mapping[str, int] | None = None
    said: str = ""
    guess: Guess | None = None
    failed: str = ""

    @property
    def sized(self) -> str:
        """What is to be said of numbers that depend on the size of the input."""
        if self.guess is None:
            return f", at the sizes of {self.said}" if self.said else ""
        shape = shape_text(self.guess.shape)
        if self.guess.own:
            return f", for inputs of {shape}, the model's own size"
        return f", for inputs of {shape}, which is a guess: give example_input, or --input, for your size"


def trial(model: nn.Module, example_input: Any, batches: Sequence[Any] | None) -> Trial:
    """Run a model once.

    Args:
        model: Any module with parameters; see `example.untouched`.
        example_input: What it runs on, or `None`.
        batches: Those on which blocks are compared; an example is taken from the first one where there is no other.
    """
    said = "the example input"
    if example_input is None and batches:
        first = batches[0]
        example_input, said = (first[:1] if isinstance(first, Tensor) else first), "the first batch"
    if example_input is not None:
        if all(parameter.is_meta for parameter in model.parameters()):
            example_input = _mapped(example_input, lambda tensor: tensor.to("meta"))
        try:
            return Trial(example_input, calls_of(model, example_input), said)
        except SpecError as error:
            guess, _ = example_for(model)
            pair = isinstance(example_input, tuple | list) and len(example_input) == 2
            more = LABELS if pair else ""
            more += f" It does run on {guess.said}." if guess is not None else ""
            return Trial(failed=_did_not_run(model, f"{said}, {described(example_input)}", error, more))
    guess, tried = example_for(model)
    if guess is not None:
        example_input = guess.make(1)
        return Trial(example_input, calls_of(model, example_input), guess.said, guess)
    if not tried:
        return Trial(failed=f"{type(model).__name__} was run on no input, and none could be guessed. {wanted(model)}")
    (first, error), more = tried[0], len(tried) - 1
    others = f" Nor did it on {more} other guess{'es' if more > 1 else ''}." if more else ""
    return Trial(failed=_did_not_run(model, first, error, others))


def compared(model: nn.Module, ran: Trial, batches: Sequence[Any] | None, small: bool) -> tuple[Similarity | None, str]:
    """Compare what blocks give, on the batches, the example or random inputs like it.

    Args:
        model: Any module with repeated blocks.
        ran: From `trial`.
        batches: What was given to compare blocks on.
        small: Whether the model may be run on random inputs.

    Returns:
        The similarity and what it was computed on; or `None` and why there is none.
    """
    if batches is not None:
        return _similarity(model, batches, "the batches that were given")
    if ran.example is None:
        return None, "the model was not run"
    examples = _examples(ran.example) if ran.guess is None else 0
    if examples >= FEWEST:
        return _similarity(model, [ran.example], f"the example input, {examples} examples")
    if not small:
        return None, f"of a model of more than {SMALL:,} numbers this needs {FEWEST} or more {GIVE}"
    if ran.guess is not None:
        return _similarity(model, [ran.guess.make(EXAMPLES)], f"{ran.said}, {EXAMPLES} examples")
    if examples != 1:
        held = examples or "no clear number of"
        return None, f"the example input holds {held} examples: give {FEWEST} or more {GIVE}"
    like = _mapped(ran.example, _more_like)
    return _similarity(model, [like], f"{EXAMPLES} random inputs of the example's shape")


def wanted(model: nn.Module) -> str:
    """What to give a model as its input, by the arguments of its `forward`.

    Example:
        >>> class Two(nn.Module):
        ...     def forward(self, image, text, scale=1.0): ...
        >>> wanted(Two())
        "Two.forward takes image, text: give example_input=(image, text) or {'image': image, 'text': text}, or --input \
image=SHAPE,text=SHAPE on the command line; a SHAPE such as 3x224x224 is that of one example, 8:int that of 8 tokens."
    """
    shapes = "a SHAPE such as 3x224x224 is that of one example, 8:int that of 8 tokens."
    needed, named = _arguments(model)
    lead = f"{type(model).__name__}.forward takes {', '.join(needed)}: give example_input="
    as_dict = "{" + ", ".join(f"'{name}': {name}" for name in needed) + "}"
    options = ",".join(f"{name}=SHAPE" for name in needed)
    if not needed:
        return (
            "Give example_input=...: a tensor, a tuple of positional arguments or a dict of keyword arguments; or "
            f"--input SHAPE on the command line; {shapes}"
        )
    if named:
        return f"{lead}{as_dict}, or --input {options} on the command line; {shapes}"
    if len(needed) == 1:
        return (
            f"{lead}{needed[0]}, a tensor, or example_input=({needed[0]},) where it is a tuple or a dict itself, or "
            f"--input SHAPE on the command line; {shapes}"
        )
    return f"{lead}({', '.join(needed)}) or {as_dict}, or --input {options} on the command line; {shapes}"


def described(inputs: Any) -> str:
    """An input in words: its shapes.

    Example:
        >>> described({"image": torch.zeros(1, 3, 5), "scales": [2.0, torch.zeros(7)]})
        '{image: 1×3×5, scales: [float, 7]}'
    """
    if isinstance(inputs, Tensor):
        kind = "" if inputs.is_floating_point() else f" {str(inputs.dtype).removeprefix('torch.')}"
        return ("×".join(map(str, inputs.shape)) or "scalar") + kind
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name}: {described(value)}" for name, value in inputs.items()) + "}"
    if isinstance(inputs, tuple | list):
        inside = ", ".join(map(described, inputs))
        return f"[{inside}]" if isinstance(inputs, list) else f"({inside})"
    return type(inputs).__name__


def _did_not_run(model: nn.Module, said: str, error: SpecError, more: str = "") -> str:
    """What a model was tried on, its own error, and what to give instead."""
    own = error.__cause__ or error
    text = shorten(str(own), MOST_CHARACTERS, placeholder=" …").rstrip(".")
    kind = "" if isinstance(own, SharingError) and text else type(own).__name__
    named = ": ".join(part for part in (kind, text) if part)
    return f"{type(model).__name__} did not run on {said}: {named}.{more} {wanted(model)}"


def _arguments(model: nn.Module) -> tuple[list[str], bool]:
    """The arguments that `forward` needs, and whether some are taken by name alone."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # compiled or wrapped: it has none
        return [], False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [one for one in parameters if one.default is one.empty and one.kind not in kinds]
    main = getattr(model, "main_input_name", None)  # of transformers, where every argument may be left out
    if not needed and isinstance(main, str):
        return [main], True
    return [one.name for one in needed], any(one.kind is one.KEYWORD_ONLY for one in needed)


def _similarity(model: nn.Module, batches: Sequence[Any], said: str) -> tuple[Similarity | None, str]:
    try:
        return cka(model, model, batches), said
    except SharingError as error:
        return None, f"on {said}: {shorten(str(error), MOST_CHARACTERS, placeholder=' …')}".rstrip(".")


def _examples(inputs: Any) -> int:
    """The length of the first axis of all tensors; 0 where they differ, or there is none."""
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in _tensors(inputs)}
    return lengths.pop() if len(lengths) == 1 else 0


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping | tuple | list):
        for value in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(value)


def _mapped(inputs: Any, call: Any) -> Any:
    """The same nest of mappings and sequences, with every tensor replaced."""
    if isinstance(inputs, Tensor):
        return call(inputs)
    if isinstance(inputs, Mapping):
        return {name: _mapped(value, call) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return [_mapped(value, call) for value in inputs]
    return inputs


def _more_like(tensor: Tensor) -> Tensor:
    """Random examples of the shape of one: numbers of a normal law, or entries of an integer one in another order."""
    generator = torch.Generator().manual_seed(0)
    shape = (EXAMPLES, *tensor.shape[1:])
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.randn(shape, generator=generator, device="cpu").to(tensor.device, tensor.dtype)
    flat = tensor.reshape(-1)
    drawn = torch.randint(max(1, len(flat)), shape, generator=generator, device="cpu")
    return flat[drawn.to(tensor.device)]
