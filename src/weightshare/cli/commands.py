"""The commands: each takes options, calls what does the work, and prints what it says."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
import math
import os
from pathlib import Path
import sys
from typing import Annotated

import typer

from weightshare._table import render
from weightshare.analysis.report import report as report_on
from weightshare.cli.options import (
    AcrossWidths,
    Budget,
    Config,
    DataDir,
    Entry,
    Fuse,
    ImageSize,
    KeepFirst,
    LocalWhere,
    Lora,
    Model,
    ModelArg,
    Order,
    OrderSeed,
    Rate,
    ScaleBy,
    Sleep,
    SleepMode,
    SleepPeriod,
    SleepStrength,
    SleepUnit,
    SleepWhere,
    Slots,
    Spread,
    TemplateInit,
    Templates,
    Through,
    Weights,
    Where,
    Within,
    configuration,
    globs,
    pairs,
    present,
    sharing,
)
from weightshare.cli.wording import as_options
from weightshare.depth.fuse import mean
from weightshare.depth.tie import Tie
from weightshare.errors import ConfigError, SharingError
from weightshare.files.atomic import write_text
from weightshare.files.export import to_onnx, to_torch_export
from weightshare.files.sizes import sizes
from weightshare.models.by_name import build
from weightshare.planning import applied_plans
from weightshare.verbs import fold as fold_model
from weightshare.verbs import plan as plan_for

EXPORTERS = {"onnx": (to_onnx, ".onnx"), "torch": (to_torch_export, ".pt2")}

LOCAL_OPTIONS = {"keep_first": "--keep-first", "where": "--local-where"}
SLEEP_OPTIONS = {"every": "--sleep"} | {
    field: f"--sleep-{field}" for field in ("mode", "strength", "unit", "period", "where")
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    templates: Templates = None,
    template_init: TemplateInit = None,
    within: Within = None,
    across_widths: AcrossWidths = None,
    budget: Budget = None,
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
    share = sharing(
        *(slots, weights, where, budget),
        rate=rate,
        order=order,
        order_seed=order_seed,
        spread=spread,
        fuse=fuse,
        through=through,
        lora=lora,
        scale=scale,
        templates=templates,
        init=template_init,
        within=within,
        across_widths=across_widths,
    )
    settings = configuration(config, model=model, model_args=pairs(model_arg), share=share)
    if not settings.share:
        raise ConfigError(
            "There is nothing to plan: give --rate, --slots or --templates, or 'share' in the configuration."
        )
    network = build(settings.model, **settings.model_args)
    for number, entry in enumerate(settings.share):
        made = plan_for(network, entry.spec, entry.where)
        print(made if number == 0 else f"\n{made}")
        if json is not None:
            write_text(json if number == 0 else json.with_stem(f"{json.stem}-{number + 1}"), made.to_json())
        if number + 1 < len(settings.share):
            # The next plan is for what this one leaves; its numbers do not matter, so no fusion needs batches.
            spec = replace(entry.spec, fuse=mean) if isinstance(entry.spec, Tie) else entry.spec
            plan_for(network, spec, entry.where).apply_(network)


@app.command()
def train(
    model: Model = None,
    config: Config = None,
    model_arg: ModelArg = None,
    rate: Rate = None,
    slots: Slots = None,
    templates: Templates = None,
    template_init: TemplateInit = None,
    within: Within = None,
    across_widths: AcrossWidths = None,
    budget: Budget = None,
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
    local_where: LocalWhere = None,
    keep_first: KeepFirst = None,
    sleep: Sleep = None,
    sleep_mode: SleepMode = None,
    sleep_strength: SleepStrength = None,
    sleep_unit: SleepUnit = None,
    sleep_period: SleepPeriod = None,
    sleep_where: SleepWhere = None,
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
    strategy: Annotated[
        str | None, typer.Option(help="Of several processes: ddp, fsdp2; or another of Fabric's.")
    ] = None,
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

    share = sharing(
        *(slots, weights, where, budget),
        rate=rate,
        order=order,
        order_seed=order_seed,
        spread=spread,
        fuse=fuse,
        through=through,
        lora=lora,
        scale=scale,
        templates=templates,
        init=template_init,
        within=within,
        across_widths=across_widths,
    )
    recipe = present(epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay)
    recipe |= present(channels_last=channels_last, schedule=schedule)
    phase = present(mode=sleep_mode, strength=sleep_strength, unit=sleep_unit, period=sleep_period)
    phase |= present(every=sleep, where=globs(sleep_where))
    positions = present(keep_first=keep_first, where=globs(local_where))
    recipe |= {"augment": changes} if (changes := pairs(augment, "--augment")) else {}
    recipe |= {"distil": changes} if (changes := pairs(distil, "--distil")) else {}
    options = {"data": data, "init": init, "seed": seed, "device": device, "devices": devices, "strategy": strategy}
    options |= {"data_dir": data_dir, "image_size": image_size, "tensorboard": tensorboard}
    options |= {"checkpoint_minutes": checkpoint_minutes}
    options |= {"localise": Entry("localise", "--local", local, positions, LOCAL_OPTIONS)}
    options |= {"sleep": Entry("train.sleep", "--sleep", sleep is not None, phase, SLEEP_OPTIONS)}
    options |= {"precision": precision, "out": out, "model": model, "model_args": pairs(model_arg), "share": share}
    if config is None and model is None and out is not None and os.path.isfile(Path(out) / CONFIG):
        config = Path(out) / CONFIG  # go on with the run that is there
    settings = configuration(config, recipe, **options)
    try:
        summary = run(settings, echo=print)
    except (KeyboardInterrupt, Stopped) as stop:
        there = os.path.isfile(Path(settings.out) / CONFIG)
        hint = f" Go on with: weightshare train --out {settings.out}" if there else ""
        if is_first_process():
            print(f"{str(stop) or 'Stopped.'}{hint}", file=sys.stderr)
        sys.exit(stop.status if isinstance(stop, Stopped) else 130)
    if summary:
        print(f"\nTest accuracy {summary['accuracy']:.2%}, {summary['stored']:,} stored numbers.")
        if summary["folded_accuracy"] != summary["accuracy"]:
            lead = "Folded, it computes something else: test accuracy"
            print(
                f"{lead} {summary['folded_accuracy']:.2%}, outputs differ by {summary['folded_output_difference']:.1e}."
            )
        print(f"Page: {Path(settings.out) / PAGE}")


@app.command()
def report(
    target: Annotated[str, typer.Argument(help="A run directory, or a model's name.")],
    model_arg: ModelArg = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
) -> None:
    """Print what a model stores and shares; of a run, make its page again."""
    from weightshare.training.run import rewrite_page, trained

    if os.path.isdir(target) or ":" not in target:
        model, data = trained(target)
        numbers, page = report_on(model, data.example), rewrite_page(target)
        print(f"{numbers}\n\nPage: {page}")
    else:
        numbers = report_on(build(target, **pairs(model_arg)))
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
    from weightshare.training.folded import save_folded
    from weightshare.training.loop import evaluate
    from weightshare.training.run import FOLDED, output_difference, read_config, trained

    model, data = trained(run)
    small = fold_model(model, tolerance)
    path = out or Path(run) / FOLDED
    plans, difference = [plan for _, plan in applied_plans(model)], output_difference(model, small, data)
    accuracy, numbers = evaluate(small, data.test)[1], report_on(small)
    size = save_folded(small, path, read_config(run), data, plans, accuracy, difference)
    print(f"{path}: {size:,} bytes, {numbers.stored:,} stored numbers that {numbers.logical:,} places read.")
    print(f"Its model card: {path.with_suffix('.md')}")
    print(f"Largest change of an output by folding: {difference:.1e}.")
    coded = [one for one in sizes(path) if one.index]
    if coded:
        columns = ("weight", "dense bytes", "codebook", "+ labels", "of dense")
        rows = [(c.name, c.dense, c.codebook, c.index, f"{c.stored / c.dense:.1%}") for c in coded]
        print(f"\nStored as codebook and labels:\n\n{render(columns, rows, numbers=columns[1:])}")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    format: Annotated[str, typer.Option(help="onnx, or torch for a program of torch.export.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write; model.onnx or .pt2 in the run by default.")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="The shared model; the folded one by default.")] = False,
) -> None:
    """Export a trained model for other runtimes, check what was written, and print sizes."""
    from weightshare.training.run import trained

    if format not in EXPORTERS:
        raise ConfigError(f"--format {format!r}: need {' or '.join(EXPORTERS)}.")
    write, suffix = EXPORTERS[format]
    model, data = trained(run)
    model = model if shared else fold_model(model, math.inf)
    print(write(model, data.example, out or Path(run) / f"model{suffix}", dynamic_batch=True))


@app.command()
def data(
    source: Annotated[str, typer.Argument(help="As for train --data; also an .npz with packed JPEG images.")],
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    to: Annotated[Path | None, typer.Option(help="Write it to this .npz file, which loads faster.")] = None,
) -> None:
    """Say what a data set holds, once every image is read; write it as one .npz file."""
    from weightshare.training.data import check, convert, load_data, named, without

    found = load_data(source, data_dir, image_size) if to is None else convert(source, to, data_dir, image_size)
    check(found)
    channels, height, width = found.train.shape
    print(f"{found.name}: {len(found.train):,} images to learn from, {len(found.test):,} to be measured on,")
    print(f"{found.classes} classes, {channels}×{height}×{width} pixels.")
    if missing := without(found):
        print(f"None to be measured on of {len(missing):,} of {found.classes:,} classes: {named(missing)}.")
    if to is not None:
        print(f"{to}: {to.stat().st_size:,} bytes. Train on it with: weightshare train MODEL --data {to}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of ours is one message on standard error and exit status 1."""
    sys.path.insert(0, os.getcwd())  # so that module:callable finds a module beside the caller, as `python -m` would
    try:
        app(args=None if arguments is None else list(arguments))
    except SharingError as error:
        said = as_options(str(error), sys.argv[1:] if arguments is None else list(arguments))
        print(f"{type(error).__name__}: {said}", file=sys.stderr)
        sys.exit(1)
