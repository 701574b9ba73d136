"""The command line: text in, text out. What it does is done by `training`, `experiments` and the verbs."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
import os
from pathlib import Path
import sys
from typing import Annotated, Any

import typer

from weightshare._table import render
from weightshare.analysis.report import report as report_on
from weightshare.depth.fuse import mean
from weightshare.errors import ConfigError, SharingError
from weightshare.files.atomic import write_text
from weightshare.files.checkpoint import save
from weightshare.files.sizes import sizes
from weightshare.models.by_name import build
from weightshare.training.recipe import RunConfig, Share, read_yaml, strict
from weightshare.verbs import fold as fold_model
from weightshare.verbs import plan as plan_for

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[str | None, typer.Argument(help="convmixer:C/D/P/K, timm:NAME or module:callable.")]
Config = Annotated[Path | None, typer.Option(help="A YAML file with any of these settings; options here win over it.")]
ModelArg = Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the model's constructor; may be repeated.")]
Rate = Annotated[float | None, typer.Option(help="Share rate: how many layers read one slot.")]
Slots = Annotated[str | None, typer.Option(help="Instead of a rate: the slot of each layer, such as 0,0,1,1.")]
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


def _version(asked: bool) -> None:
    if asked:
        print(f"weightshare {version('weightshare')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Weight sharing for any PyTorch network: plan, train, report, fold."""


@app.command()
def plan(
    model: Model = None,
    config: Config = None,
    model_arg: ModelArg = None,
    rate: Rate = None,
    slots: Slots = None,
    order: Order = None,
    order_seed: OrderSeed = None,
    spread: Spread = None,
    fuse: Fuse = None,
    weights: Weights = None,
    through: Through = None,
    lora: Lora = None,
    scale: ScaleBy = None,
    where: Where = None,
    json: Annotated[Path | None, typer.Option(help="Write the plan to this file, too.")] = None,
) -> None:
    """Print what sharing would do to a model. Nothing is trained or changed."""
    share = _share(rate, slots, order, order_seed, spread, fuse, weights, where, through, lora, scale)
    settings = _config(config, model=model, model_args=_pairs(model_arg), share=share)
    if not settings.share:
        raise ConfigError("There is nothing to plan: give --rate or --slots, or 'share' in the configuration.")
    network = build(settings.model, **settings.model_args)
    for number, entry in enumerate(settings.share):
        made = plan_for(network, entry.spec, entry.where)
        print(made if number == 0 else f"\n{made}")
        if json is not None:
            write_text(json if number == 0 else json.with_stem(f"{json.stem}-{number + 1}"), made.to_json())
        if number + 1 < len(settings.share):
            # The next plan is for what this one leaves; its numbers do not matter, so no fusion needs batches.
            plan_for(network, replace(entry.spec, fuse=mean), entry.where).apply_(network)


@app.command()
def train(
    model: Model = None,
    config: Config = None,
    model_arg: ModelArg = None,
    rate: Rate = None,
    slots: Slots = None,
    order: Order = None,
    order_seed: OrderSeed = None,
    spread: Spread = None,
    fuse: Fuse = None,
    weights: Weights = None,
    through: Through = None,
    lora: Lora = None,
    scale: ScaleBy = None,
    where: Where = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, mnist, fashion-mnist, cifar10, cifar100, an .npz file or a folder of images."),
    ] = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE, may be repeated: crop=4, flip=true, rand_augment=[2,9], rand_augment_std, erase, mixup, "
            "cutmix, pad=mean, repeats=4, cutout=16."
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Give each position of the convolutions a kernel of its own.")
    ] = False,
    keep_first: Annotated[int | None, typer.Option(help="Of --local: how many of the first stay convolutions.")] = None,
    sleep: Annotated[int | None, typer.Option(help="Share kernels of positions after every so many steps.")] = None,
    sleep_mode: Annotated[str | None, typer.Option(help="Of --sleep: instant or hebbian.")] = None,
    init: Annotated[str | None, typer.Option(help="A saved model to start from, before it is shared.")] = None,
    distil: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE, may be repeated: teacher=FILE, labels=0, logits=1, temperature=1, hidden=1, "
            "kind=relation, where=blocks.*."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decay of matrices and kernels.")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="How lr falls: cosine; onecycle; or step, to a quarter at half and at three quarters."),
    ] = None,
    layer_decay: Annotated[float | None, typer.Option(help="Factor on lr from a layer to the one before.")] = None,
    channels_last: Annotated[
        bool | None, typer.Option(help="Images in memory with channels last: often faster.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")] = None,
    devices: Annotated[int | None, typer.Option(help="How many, one process each.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Lightning Fabric's strategy: auto, ddp, ...")] = None,
    precision: Annotated[str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed.")] = None,
    checkpoint_minutes: Annotated[
        float | None, typer.Option(help="Keep the state inside an epoch, too, after so many minutes.")
    ] = None,
    tensorboard: Annotated[bool | None, typer.Option(help="Write scalars and pictures for TensorBoard.")] = None,
    out: Annotated[str | None, typer.Option(help="Run directory; a run that was stopped goes on there.")] = None,
) -> None:
    """Share a model, train it, fold it and write a run directory with a page."""
    from weightshare.training.run import CONFIG, PAGE, run
    from weightshare.training.workplace import Stopped, is_first_process

    share = _share(rate, slots, order, order_seed, spread, fuse, weights, where, through, lora, scale)
    recipe = _given(epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay)
    recipe |= _given(channels_last=channels_last, schedule=schedule)
    recipe |= {"sleep": [_given(every=sleep, mode=sleep_mode)]} if sleep is not None or sleep_mode else {}
    recipe |= {"augment": changes} if (changes := _pairs(augment, "--augment")) else {}
    recipe |= {"distil": changes} if (changes := _pairs(distil, "--distil")) else {}
    options = {"data": data, "init": init, "seed": seed, "device": device, "devices": devices, "strategy": strategy}
    options |= {"data_dir": data_dir, "image_size": image_size, "tensorboard": tensorboard}
    options |= {"checkpoint_minutes": checkpoint_minutes}
    options |= {"localise": [_given(keep_first=keep_first)] if local or keep_first is not None else None}
    options |= {"precision": precision, "out": out, "model": model, "model_args": _pairs(model_arg), "share": share}
    if config is None and model is None and out is not None and (Path(out) / CONFIG).is_file():
        config = Path(out) / CONFIG  # go on with the run that is there
    settings = _config(config, recipe, **options)
    try:
        summary = run(settings, echo=print)
    except (KeyboardInterrupt, Stopped) as stop:
        there = (Path(settings.out) / CONFIG).is_file()
        hint = f" Go on with: weightshare train --out {settings.out}" if there else ""
        if is_first_process():
            print(f"{str(stop) or 'Stopped.'}{hint}", file=sys.stderr)
        sys.exit(stop.status if isinstance(stop, Stopped) else 130)
    if summary:
        print(f"\nTest accuracy {summary['accuracy']:.2%}, {summary['stored']:,} stored numbers.")
        print(f"Page: {Path(settings.out) / PAGE}")


@app.command()
def report(
    target: Annotated[str, typer.Argument(help="A run directory, or a model's name.")],
    model_arg: ModelArg = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
) -> None:
    """Print what a model stores and shares; of a run, make its page again."""
    from weightshare.training.run import rewrite_page, trained

    if Path(target).is_dir() or ":" not in target:
        model, data = trained(target)
        numbers, page = report_on(model, data.example), rewrite_page(target)
        print(f"{numbers}\n\nPage: {page}")
    else:
        numbers = report_on(build(target, **_pairs(model_arg)))
        print(numbers)
    if json is not None:
        write_text(json, numbers.to_json())


@app.command()
def suggest(
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
    budget: Annotated[float, typer.Option(help="Fraction of the stored numbers that may be left, such as 0.5.")] = 0.5,
    where: Where = None,
) -> None:
    """Propose which layers of a trained model share, by what they do to some training images."""
    from weightshare.depth.suggest import suggest as suggest_for
    from weightshare.training.run import some_images, trained

    model, data = trained(run)
    print(suggest_for(model, budget, some_images(data), where))


@app.command()
def fold(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    out: Annotated[Path | None, typer.Option(help="File to write; folded.safetensors in the run by default.")] = None,
    tolerance: Annotated[
        float, typer.Option(help="How far kernels of a local layer may be from their mean, relative; inf for any.")
    ] = 1e-3,
) -> None:
    """Fold a trained model into a plain one, save it, and say what it costs."""
    from weightshare.training.run import FOLDED, output_difference, trained

    model, data = trained(run)
    small = fold_model(model, tolerance)
    path = out or Path(run) / FOLDED
    size, numbers = save(small, path), report_on(small)
    print(f"{path}: {size:,} bytes, {numbers.stored:,} stored numbers that {numbers.logical:,} places read.")
    print(f"Largest change of an output by folding: {output_difference(model, small, data):.1e}.")
    coded = [one for one in sizes(path) if one.index]
    if coded:
        columns = ("weight", "dense bytes", "codebook", "+ labels", "of dense")
        rows = [(c.name, c.dense, c.codebook, c.index, f"{c.stored / c.dense:.1%}") for c in coded]
        print(f"\nStored as codebook and labels:\n\n{render(columns, rows, numbers=columns[1:])}")


@app.command()
def data(
    source: Annotated[str, typer.Argument(help="As for train --data; also an .npz with packed JPEG images.")],
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    to: Annotated[Path | None, typer.Option(help="Write it to this .npz file, which loads faster.")] = None,
) -> None:
    """Say what a data set holds, once it is checked; write it as one .npz file."""
    from weightshare.training.data import convert, load_data

    found = load_data(source, data_dir, image_size) if to is None else convert(source, to, data_dir, image_size)
    channels, height, width = found.train.shape
    print(f"{found.name}: {len(found.train):,} images to learn from, {len(found.test):,} to be measured on,")
    print(f"{found.classes} classes, {channels}×{height}×{width} pixels.")
    if to is not None:
        print(f"{to}: {to.stat().st_size:,} bytes. Train on it with: weightshare train MODEL --data {to}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where runs, results and the page go.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings of each network.")] = 3,
) -> None:
    """Halve a ConvMixer on real handwritten digits: plain, tied from scratch, tied from the trained one."""
    from weightshare.experiments.digits import demo as run_demo

    run_demo(out, range(seeds))


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="4A, 4B, 5A, 5B or 6, of Pogodin 2021; search-space, of Lin 2022.")],
    out: Annotated[Path, typer.Option(help="Folder of results; a folder of the paper is made in it.")] = Path(
        "results"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="How many runs.")] = 10,
    input_mean: Annotated[float, typer.Option(help="Mean of the inputs; the text of Pogodin 2021 has 1.")] = 0.0,
    data: Annotated[str | None, typer.Option(help="Of figure 6: images to train on, cifar10 by default.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a figure of a paper again: its curves beside theory, as numbers and as a picture."""
    from weightshare.experiments.figures import figure as make_figure

    options = _given(data=data, data_dir=data_dir)
    numbers, picture = make_figure(name, out, seeds=range(seeds), input_mean=input_mean, **options)
    print(f"{numbers}\n\nPicture: {picture}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of ours is one message on standard error and exit status 1."""
    sys.path.insert(0, os.getcwd())  # so that module:callable finds a module beside the caller, as `python -m` would
    try:
        app(args=None if arguments is None else list(arguments))
    except SharingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _config(path: Path | None, schedule: dict[str, Any] | None = None, **options: Any) -> RunConfig:
    """The file's settings with the options over them."""
    settings = read_yaml(path) if path is not None else {}
    options["share"] = _over(settings.get("share"), options.pop("share", None))
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


def _over(base: Any, given: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """The options of sharing over the one entry that the file has."""
    if not given:
        return None
    if not base:
        return [given]
    if not isinstance(base, list) or len(base) != 1 or not isinstance(base[0], dict):
        raise ConfigError("The options change one entry of 'share', the configuration has several: edit the file.")
    # What an option makes meaningless goes with what it replaces.
    replaces = {"rate": {"slots"}, "slots": {"rate", "order", "order_seed", "spread"}, "fuse": {"weights"}}
    dropped = set[str]().union(*(replaces.get(key, set()) for key in given))
    return [{key: value for key, value in base[0].items() if key not in dropped} | given]


def _share(
    rate: float | None,
    slots: str | None,
    order: str | None,
    order_seed: int | None,
    spread: str | None,
    fuse: str | None,
    weights: str | None,
    where: list[str] | None,
    through: bool | None,
    lora: int | None,
    scale: str | None,
) -> dict[str, Any]:
    """The options of sharing as an entry of the configuration; only what was given."""
    given = _given(rate=rate, order=order, order_seed=order_seed, spread=spread, fuse=fuse)
    given |= _given(through=through, lora=lora, scale=scale)
    given |= _given(slots=_numbers(slots, "--slots", int), weights=_numbers(weights, "--weights", float))
    given |= _given(where=where[0] if where and len(where) == 1 else where or None)
    strict(Share, given)
    return given


def _numbers(text: str | None, option: str, kind: type) -> list[Any] | None:
    try:
        return None if text is None else [kind(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: need numbers with commas between them.") from error


def _pairs(texts: Sequence[str] | None, option: str = "--model-arg") -> dict[str, Any]:
    import yaml

    pairs = {}
    for text in texts or ():
        key, separator, value = text.partition("=")
        if not separator or not key.isidentifier():
            raise ConfigError(f"{option} {text!r}: need KEY=VALUE.")
        try:
            pairs[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{option} {text!r}: {error}") from error
    return pairs


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


if __name__ == "__main__":
    main()
