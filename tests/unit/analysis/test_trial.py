"""What an inspection runs the model on: what it is given, or a guess; and what is said where it does not run."""

import random

import pytest
import torch
from torch import nn

from tests.support import state
from tests.zoo import ZOO, chain, lazy
from weightshare.analysis.example import example_for
from weightshare.analysis.inspecting import inspect
from weightshare.errors import SpecError


class Noisy(nn.Module):
    """Draws random numbers and writes a buffer, in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.last = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        self.last = x
        return self.fc(x) + torch.randn(3) + random.random()


def test_nothing_stays_of_a_run() -> None:
    model = Noisy()
    before, torch_state, python_state = state(model), torch.get_rng_state(), random.getstate()
    assert inspect(model).inputs == "random numbers, 3"
    assert state(model) == before
    assert model.seen == 0
    assert model.last is None
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


def test_the_model_is_left_alone_where_it_cannot_run() -> None:
    model = chain().model
    before = state(model)
    found = inspect(model, torch.zeros(1, 4))
    assert state(model) == before
    assert found.unrun.startswith(
        "Sequential did not run on the example input, 1×4: RuntimeError: mat1 and mat2 shapes"
    )
    assert "It does run on random numbers, 3." in found.unrun
    assert "give example_input=input, a tensor" in found.unrun


class TwoInputs(nn.Module):
    """Takes two tensors, as models of images and text do."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(7, 5), nn.Embedding(11, 5)
        self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        x = self.image(image) + self.text(text).mean(1)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return x


class ByName(TwoInputs):
    def forward(self, *, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return super().forward(image, text)


class OneDict(TwoInputs):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return super().forward(batch["image"], batch["text"])


def test_what_does_not_run_costs_only_what_needs_a_pass() -> None:
    found, whole = inspect(TwoInputs()), inspect(TwoInputs(), (torch.zeros(1, 7), torch.ones(1, 3, dtype=torch.long)))
    assert found.unrun.startswith(
        "TwoInputs did not run on random numbers, 7: TypeError: TwoInputs.forward() missing 1 required positional "
        "argument: 'text'."
    )
    assert "give example_input=(image, text) or {'image': image, 'text': text}" in found.unrun
    assert "--input image=SHAPE,text=SHAPE" in found.unrun
    assert f"Not run: {found.unrun}".split()[:30] == str(found).split("\n\n")[1].split()[:30]
    assert (found.blocks, found.roles, found.choices) == (whole.blocks, whole.roles, whole.choices)
    assert found.activations is None
    assert whole.unrun == ""


@pytest.mark.parametrize("examples", [1, 13])
@pytest.mark.parametrize(
    ("model", "give"),
    [
        (TwoInputs(), lambda image, text: (image, text)),
        (TwoInputs(), lambda image, text: {"image": image, "text": text}),
        (ByName(), lambda image, text: {"image": image, "text": text}),
        (OneDict(), lambda image, text: ({"image": image, "text": text},)),
    ],
)
def test_several_inputs_are_given_as_the_message_says(model, give, examples: int) -> None:
    example = give(torch.randn(examples, 7), torch.arange(examples * 3).view(examples, 3) % 11)
    found = inspect(model, example)
    assert (found.unrun, found.uncompared) == ("", "")
    assert found.activations.rows == tuple(f"blocks.{index}" for index in range(4))
    assert found.inputs == (
        "16 random inputs of the example's shape" if examples == 1 else "the example input, 13 examples"
    )


def test_a_dict_that_is_one_argument_is_told_to_be_wrapped() -> None:
    found = inspect(OneDict(), {"image": torch.zeros(1, 7), "text": torch.ones(1, 3, dtype=torch.long)})
    assert "{image: 1×7, text: 1×3 int64}: TypeError" in found.unrun
    assert "example_input=(batch,) where it is a tuple or a dict itself" in found.unrun


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"batches": [torch.randn(3, 3)]}, "batches of 4 examples or more, 'blocks.0' gives 3"),
        ({"batches": [torch.randn(5, 3), torch.randn(5, 4)]}, "cannot run on batch 1: RuntimeError: mat1"),
        ({"batches": []}, "was given no batch"),
        ({"example_input": torch.randn(2, 3)}, "the example input holds 2 examples: give 4 or more"),
    ],
)
def test_a_similarity_that_is_not_there_has_a_reason(given, reason: str) -> None:
    found, plain = inspect(chain().model, **given), inspect(chain().model)
    assert reason in found.uncompared
    assert found.activations is None
    assert "What blocks give was not compared: " in str(found)
    assert (found.choices, found.roles, found.unrun) == (plain.choices, plain.roles, "")


def test_a_loader_of_inputs_and_labels_is_told_apart() -> None:
    loader = [[torch.randn(5, 3), torch.zeros(5, dtype=torch.long)]]
    found = inspect(chain().model, batches=loader)
    assert found.unrun.startswith("Sequential did not run on the first batch, [5×3, 5 int64]: TypeError: ")
    assert "give the inputs alone: batches=[x for x, _ in loader]. It does run on random numbers, 3." in found.unrun
    assert (
        "the example input, int: the example input is of type int: need a tensor, a sequence of"
        in inspect(chain().model, 3).unrun
    )


def test_what_local_layers_cost_says_for_which_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 3))
    (said,) = (c.what for c in inspect(model).choices if c.axis == "space")
    assert "for inputs of 3×224×224, which is a guess: give example_input" in said
    (said,) = (c.what for c in inspect(model, torch.randn(1, 3, 11, 13)).choices if c.axis == "space")
    assert said.endswith("at the sizes of the example input")
    model.image_size = 17
    (said,) = (c.what for c in inspect(model).choices if c.axis == "space")
    assert said.endswith("for inputs of 3×17×17, the model's own size")


def test_a_lazy_model_needs_an_input() -> None:
    model, example = lazy()
    with pytest.raises(SpecError, match=r"'0.weight' has no shape yet.*Give example_input"):
        inspect(model)
    assert inspect(model, example).stored == sum(p.numel() for p in ZOO["built"]().model.parameters())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(7, 5), "random numbers, 7"),
        (nn.LSTM(7, 5), "random numbers, 8×7"),
        (nn.Sequential(nn.Conv1d(3, 5, 3), nn.ReLU()), "random numbers, 3×224"),
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 30 * 30, 2)), "random numbers, 3×32×32"),
        (nn.Sequential(nn.Embedding(13, 5), nn.Linear(5, 3)), "8 random tokens of 13"),
        (nn.TransformerEncoderLayer(10, 2, 7), "random numbers, 8×10"),
    ],
)
def test_an_input_is_guessed(model: nn.Module, said: str) -> None:
    guess, _ = example_for(model)
    assert guess.said == said
    model(guess.make(3))


def test_an_input_that_nobody_can_guess_is_asked_for() -> None:
    found = inspect(nn.Bilinear(3, 5, 2))
    assert found.inputs == ""
    assert "Bilinear.forward takes input1, input2: give example_input=(input1, input2)" in found.unrun
