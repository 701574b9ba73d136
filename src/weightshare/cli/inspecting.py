"""The command that looks at a model."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from weightshare.analysis.inspecting import inspect as look_at
from weightshare.cli.commands import app
from weightshare.cli.options import NAMES, DataDir, ImageSize, ModelArg, pairs
from weightshare.errors import ConfigError
from weightshare.files.atomic import write_text


@app.command()
def inspect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"{NAMES}, or a folder: a run or a model of transformers.",
        ),
    ],
    model_arg: ModelArg = None,
    input: Annotated[
        str | None,
        typer.Option(
            help="Shape of one example, such as 3x224x224, or 8:int for 8 tokens; of several inputs all shapes, "
            "3x32x32,8:int or image=3x32x32,ids=8:int."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Images on which blocks are compared, as for train.")] = None,
    data_dir: DataDir = None,
    image_size: ImageSize = None,
    meta: Annotated[bool, typer.Option("--meta", help="Build it without numbers: counts alone, of any size.")] = False,
    page: Annotated[Path | None, typer.Option("--page", "--out", help="Write a page to this HTML file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write what was found to this file, too.")] = None,
) -> None:
    """Say what repeats in a model and what could be shared. Nothing is changed."""
    from weightshare.training.opened import input_of, opened

    if page is not None and page == json:
        raise ConfigError(f"--page and --json both name '{page}': one would be written over the other.")
    model, batches = opened(target, pairs(model_arg), data, data_dir, image_size, meta)
    name = " ".join([target, *(f"--model-arg {quote(pair)}" for pair in model_arg or ())])
    found = look_at(model, input_of(input, model), batches, name)
    print(found)
    if page is not None:
        write_text(page, found.page())
        print(f"\nPage: {page}")
    if json is not None:
        write_text(json, found.to_json())
        print(f"JSON: {json}")
