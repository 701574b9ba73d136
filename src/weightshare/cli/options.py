"""Options that several commands take, and what they make of the configuration: only what was given is changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from weightshare.errors import ConfigError
from weightshare.models.by_name import FORMS
from weightshare.training.plain_yaml import parse_yaml
from weightshare.training.recipe import RunConfig, read_yaml, strict
from weightshare.training.share import OF_TEMPLATES, Share

NAMES = FORMS.replace("[", "\\[")
"""What a model is called, for help: there a bracket would begin markup."""

Model = Annotated[
    str | None,
    typer.Argument(help=f"{NAMES}."),
]
Config = Annotated[Path | None, typer.Option(help="A YAML file with any of these settings; options here win over it.")]
ModelArg = Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the model's constructor; may be repeated.")]
Rate = Annotated[float | None, typer.Option(help="Share rate: how many layers read one slot.")]
Slots = Annotated[str | None, typer.Option(help="Instead of a rate: the slot of each layer, such as 0,0,1,1.")]
Templates = Annotated[int | None, typer.Option(help="Instead of a rate: how many templates a group's layers mix.")]
TemplateInit = Annotated[str | None, typer.Option(help="Of --templates: orthogonal, sparse or from_pretrained.")]
Within = Annotated[str | None, typer.Option(help="Of --templates: layers of a stage are a group, or of the model.")]
Budget = Annotated[
    str | None, typer.Option(help="Instead of --templates: numbers that the model may store, or a fraction of them.")
]
AcrossWidths = Annotated[
    bool | None, typer.Option("--across-widths", help="Of --templates: narrower layers read slices of wider ones.")
]
Order = Annotated[str | None, typer.Option(help="sequential, strided or random.")]
OrderSeed = Annotated[int | None, typer.Option(help="Seed of the random order.")]
Spread = Annotated[str | None, typer.Option(help="uniform, front, middle or back.")]
Fuse = Annotated[str | None, typer.Option(help="first, mean, weighted_mean, permuted_mean or least_squares.")]
Weights = Annotated[str | None, typer.Option(help="Of weighted_mean: one for each layer, such as 1,0.5,1,0.5.")]
Through = Annotated[bool | None, typer.Option("--through", help="Train all that is fused, and fuse in each pass.")]
Lora = Annotated[int | None, typer.Option(help="Rank of what each layer adds of its own to what it reads.")]
ScaleBy = Annotated[str | None, typer.Option(help="What each layer scales of its own: scalar or channel.")]
DataDir = Annotated[
    str | None, typer.Option(help="Where data sets lie and are downloaded to; data or $WEIGHTSHARE_DATA by default.")
]
ImageSize = Annotated[int | None, typer.Option(help="Side of the square that a folder's images are cut to, in pixels.")]
Where = Annotated[
    list[str] | None,
    typer.Option(help="Glob on parameter or module paths; may be repeated, '!GLOB' to take away of those before it."),
]

LocalWhere = Annotated[
    list[str] | None, typer.Option(help="Of --local: which convolutions; as --where, may be repeated.")
]
KeepFirst = Annotated[int | None, typer.Option(help="Of --local: how many of the first stay convolutions.")]
Sleep = Annotated[
    int | None, typer.Option(help="Pull kernels of positions together after every so many steps; for local layers.")
]
SleepMode = Annotated[str | None, typer.Option(help="Of --sleep: instant or hebbian.")]
SleepStrength = Annotated[float | None, typer.Option(help="Of --sleep: how far kernels move, 0 to 1; 1 by default.")]
SleepUnit = Annotated[str | None, typer.Option(help="Of --sleep: what it counts, step or epoch.")]
SleepPeriod = Annotated[
    int | None,
    typer.Option(help="Of --sleep: positions so far apart share; the kernel's size by default, 1 is all of them."),
]
SleepWhere = Annotated[
    list[str] | None, typer.Option(help="Of --sleep: which local layers; as --where, may be repeated.")
]


@dataclass(frozen=True)
class Entry:
    """Options of one entry of a list of the configuration.

    Args:
        section: Of the configuration, such as `localise`.
        flag: The option that asks for such an entry; the others say more of it.
        on: Whether that option is given.
        more: The other options that are given, by the field that each sets.
        names: What each field's option is called.
    """

    section: str
    flag: str
    on: bool
    more: Mapping[str, Any]
    names: Mapping[str, str]

    def over(self, base: Any, **always: Any) -> list[dict[str, Any]] | None:
        """The options over the one entry that the file has; nothing if none is given.

        Raises:
            ConfigError: If the options would say nothing, since neither the flag nor the file asks for an entry; or if
                the file has several.
        """
        if not self.on and not self.more:
            return None
        if not base and not self.on:
            given = ", ".join(self.names[field] for field in self.more)
            raise ConfigError(
                f"{given}: only together with {self.flag}. Give that too, or '{self.section}' in the configuration."
            )
        if base and (not isinstance(base, list) or len(base) != 1 or not isinstance(base[0], dict)):
            raise ConfigError(
                f"The options change one entry of '{self.section}', the configuration has several: edit the file."
            )
        return [{**(base[0] if base else {}), **self.more, **always}]


def configuration(
    path: Path | None,
    schedule: dict[str, Any] | None = None,
    localise: Entry | None = None,
    sleep: Entry | None = None,
    **options: Any,
) -> RunConfig:
    """The file's settings with the options over them."""
    settings = read_yaml(path) if path is not None else {}
    options["share"] = over(settings.get("share"), options.pop("share", None))
    if localise is not None:  # drawn anew, kernels that were loaded would be lost
        start = present(start="copy" if options.get("init") is not None else None)
        options["localise"] = localise.over(settings.get("localise"), **start)
    phases = sleep and sleep.over(settings["train"].get("sleep") if isinstance(settings.get("train"), dict) else None)
    schedule = {**(schedule or {}), **present(sleep=phases)}
    for key, given in (("train", schedule), ("model_args", options.pop("model_args", None))):
        base = settings.get(key)
        if given and isinstance(base, dict):
            for part in ("augment", "distil"):
                if isinstance(base.get(part), dict) and part in given:
                    given = {**given, part: {**base[part], **given[part]}}
            given = {**base, **given}
        options[key] = given
    settings |= {key: value for key, value in options.items() if value not in (None, {}, [])}
    if "model" not in settings and options.get("out") is not None and path is None:
        raise ConfigError(f"'{options['out']}' is no run directory to go on with, and no model is named for a new run.")
    if "model" not in settings:
        raise ConfigError("Which model? Name one, such as convmixer:32/8/2/3, or give 'model' in the configuration.")
    return strict(RunConfig, settings)


def over(base: Any, given: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """The options of sharing over the one entry that the file has."""
    if not given:
        return None
    if not base:
        return [given]
    if not isinstance(base, list) or len(base) != 1 or not isinstance(base[0], dict):
        raise ConfigError("The options change one entry of 'share', the configuration has several: edit the file.")
    # What an option makes meaningless goes with what it replaces.
    replaces = {"rate": {"slots"}, "slots": {"rate", "order", "order_seed", "spread"}, "fuse": {"weights"}}
    ties = {field.name for field in fields(Share)} - {"where", *OF_TEMPLATES}
    replaces |= {"templates": {*ties, "budget"}, "budget": {*ties, "templates"}}
    replaces |= {key: replaces.get(key, set()) | {*OF_TEMPLATES} for key in ("rate", "slots")}
    dropped = set[str]().union(*(replaces.get(key, set()) for key in given))
    return [{key: value for key, value in base[0].items() if key not in dropped} | given]


def sharing(
    slots: str | None,
    weights: str | None,
    where: list[str] | None,
    budget: str | None,
    **named: str | float | bool | None,
) -> dict[str, Any]:
    """The options of sharing as an entry of the configuration; only what was given, of `Share`'s fields."""
    lists = {"slots": numbers(slots, "--slots", int), "weights": numbers(weights, "--weights", float)}
    (most, *more) = numbers(budget, "--budget", int if (budget or "").isdecimal() else float) or [None]
    if more:
        raise ConfigError(f"--budget {budget!r}: need one number, a count or a fraction.")
    given = present(**named, **lists, budget=most, where=globs(where))
    strict(Share, given)
    return given


def globs(where: list[str] | None) -> str | list[str] | None:
    """A pattern as a configuration has it."""
    return where[0] if where and len(where) == 1 else where or None


def numbers(text: str | None, option: str, kind: type) -> list[Any] | None:
    """Numbers with commas or spaces between them."""
    try:
        return None if text is None else [kind(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: need numbers, with commas between several.") from error


def pairs(texts: Sequence[str] | None, option: str = "--model-arg", dotted: bool = False) -> dict[str, Any]:
    """`KEY=VALUE` texts, the values as YAML has them; a dotted key is one of a section."""
    found = {}
    for text in texts or ():
        key, separator, value = text.partition("=")
        if not separator or not (key.isidentifier() or (dotted and key)):
            raise ConfigError(f"{option} {text!r}: need KEY=VALUE.")
        found[key] = parse_yaml(value, f"{option} {text[:200]!r}")
    return found


def present(**values: Any) -> dict[str, Any]:
    """Those that are not `None`."""
    return {key: value for key, value in values.items() if value is not None}
