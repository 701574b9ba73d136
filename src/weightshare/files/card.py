"""The model card: a page of Markdown beside a folded model's file, in the form that model hubs read.

Whoever finds the file months later learns from it what it is, what it was made from, how to read it and what was
measured. Everything on it is counted or measured; what nobody told, such as a licence, is not on it.
"""

from collections.abc import Mapping, Sequence
import json
from pathlib import Path

from torch import Tensor, nn

from weightshare.analysis.report import report
from weightshare.files import archive
from weightshare.files.atomic import write_text
from weightshare.planning import Plan

TAGS = ["weight-sharing", "pytorch"]


def write_card(
    folded: nn.Module,
    path: str | Path,
    plans: Sequence[Plan] = (),
    *,
    title: str | None = None,
    build: str | None = None,
    example_input: Tensor | None = None,
    measured: Mapping[str, str] | None = None,
    training: Mapping[str, str] | None = None,
    data: str | None = None,
) -> Path:
    """Write the model card of a file: its name with `.md` in the end.

    Args:
        folded: The folded model.
        path: The file that `weightshare.save` wrote it to.
        plans: What was shared, as it was applied.
        title: Its heading; the file's name without it.
        build: Lines of Python that leave the network that the file is read into as `model`; a placeholder without it.
        example_input: `(n, ...)`, to count multiply-accumulates of one forward pass.
        measured: Further numbers, from what was measured to its value, such as an accuracy.
        training: How it was trained, from a setting to its value.
        data: Name of the data set that it was trained on.

    Returns:
        Where the card is. A card that was there is replaced in one step.

    Raises:
        FileError: If the file is missing, cut or damaged, or the disk refuses.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        >>> plan = share_(net, Tie(rate=2))
        >>> small = fold(net)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save(small, f"{folder}/small.safetensors")
        ...     text = write_card(small, f"{folder}/small.safetensors", [plan]).read_text(encoding="utf-8")
        >>> "| stored numbers | 12 |" in text
        True
    """
    path = Path(path)
    held = archive.read_any(path)
    numbers = report(folded, example_input)
    header: dict[str, object] = {"library_name": "weightshare", "tags": TAGS}
    if data is not None:
        header["datasets"] = [data]
    facts = {
        "stored numbers": f"{numbers.stored:,}",
        "numbers as they are read, one that is read twice counted twice": f"{numbers.logical:,}",
        "different values": f"{numbers.distinct:,}",
        "bytes on disk": f"{path.stat().st_size:,}",
    }
    if numbers.macs is not None:
        facts["multiply-accumulates of one input"] = f"{numbers.macs:,}"
    parts = [
        "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "---"]),
        f"# {title or path.stem}",
        f"`{path.name}` holds a `{numbers.model}`"
        f"{' whose weights were shared in training and which was folded afterwards' if plans else ''}: its modules are "
        "plain ones of PyTorch and of the model.",
        f"## Numbers\n\n{_table('what', 'how much', facts | dict(measured or {}))}\n\nSharing saves stored numbers; it "
        "does not save multiply-accumulates or activations.",
        f"## Use\n\n{_use(path, build, len(held.aliases), len(held.coded))}",
    ]
    if plans:
        texts = "\n\n".join(str(plan) for plan in plans)
        parts.insert(-1, f"## What is shared\n\n```text\n{texts}\n```")
    if training:
        parts.append(f"## Training\n\n{_table('setting', 'value', training)}")
    write_text(path.with_suffix(".md"), "\n\n".join(parts) + "\n")
    return path.with_suffix(".md")


def _use(path: Path, build: str | None, tied: int, compact: int) -> str:
    made = build or "\nmodel = ...  # a network of the same classes and sizes"
    code = f'```python\nimport weightshare as ws\n{made}\nws.load("{path.name}", model)\n```\n\n'
    if compact:
        return (
            f"{code}{compact} of its tensors are stored as few values and packed labels, exact to the bit; "
            f'`ws.tensors("{path.name}")` gives all of them dense.'
        )
    alike = f" into a network that is tied alike ({tied:,} names read a tensor of another name)" if tied else ""
    return f"{code}Without this library, `safetensors.torch.load_model` reads it{alike}."


def _table(name: str, value: str, rows: Mapping[str, str]) -> str:
    return "\n".join([f"| {name} | {value} |", "|---|---|", *(f"| {key} | {text} |" for key, text in rows.items())])
