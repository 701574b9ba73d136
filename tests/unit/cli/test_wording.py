"""What an error of the library is called on the command line."""

import pytest

from weightshare.cli.wording import as_options

PLAN = ("plan", "convmixer:8/4/2/3")
SAID = [
    ("Tie(rate=0.5): need 1.", "--rate 0.5: need 1."),
    ("such as Tie(rate=2) or Tie(slots=[0, 0, 1]).", "such as --rate 2 or --slots 0,0,1."),
    ("Tie(fuse=through(mean)) reads", "--fuse through(mean) reads"),
    (
        "Templates(templates=2, init='sparse', across_widths=True): no",
        "--templates 2 --template-init sparse --across-widths: no",
    ),
    ("Sleep(every)=0: need a whole number", "--sleep 0: need a whole number"),
    ("train.lr=-1.0: need above 0.", "--lr -1.0: need above 0."),
    ("train.sleep[0].mode='foo': did you", "--sleep-mode foo: did you"),
    ("Nothing that where='!a*' matches", "Nothing that --where '!a*' matches"),
    ("Give at least budget=9456, or", "Give at least --budget 9456, or"),
    ("share.rate goes with a rate", "--rate goes with a rate"),
    ("local first: localize_(model, example).", "local first: --local."),
]


@pytest.mark.parametrize(("message", "said"), SAID)
def test_options_are_named(message: str, said: str) -> None:
    assert as_options(message, PLAN) == said


@pytest.mark.parametrize(
    "message",
    [
        "Tie(rate=2, own=LoRA(rank=2)) cannot",  # no option says all of it
        "Scale(by='row'): need",
        "Tie(2): need",
        "got train.augment.crop='x'",
        "x.where='a'",
        "'data=3' is a name",
    ],
)
def test_what_no_option_says_stays(message: str) -> None:
    assert as_options(message, PLAN) == message


@pytest.mark.parametrize(
    "arguments", [("plan", "wrn:16/1", "--config", "a.yaml"), ("train", "--out", "run"), ("fold", "run"), ()]
)
def test_with_a_configuration_options_are_named_only_if_given(arguments: tuple[str, ...]) -> None:
    message = "Tie(rate=0.5): need 1; train.lr=-1: need 0."
    assert as_options(message, arguments) == message
    assert as_options(message, (*arguments, "--rate=0.5")) == "--rate 0.5: need 1; train.lr=-1: need 0."
