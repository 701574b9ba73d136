"""Errors as the command line says them: what the library calls `Tie(rate=0.5)` or `train.lr=-1` is `--rate 0.5`.

An error may as well be about a configuration, whose keys it names rightly. So an option is named only if it was given,
or if there is no configuration that could be meant.
"""

import ast
from collections.abc import Sequence
import re

OPTIONS = {
    "Tie": {name: f"--{name}" for name in ("rate", "order", "slots", "fuse", "spread")},
    "Templates": {
        "templates": "--templates",
        "init": "--template-init",
        "within": "--within",
        "across_widths": "--across-widths",
        "budget": "--budget",
    },
    "LoRA": {"rank": "--lora"},
    "Sleep": {"every": "--sleep"} | {name: f"--sleep-{name}" for name in ("mode", "strength", "unit")},
    "Lattice": {"period": "--sleep-period"},
}
"""What the fields of specs are called on the command line."""

_SHARE = ("rate", "slots", "order", "order_seed", "spread", "fuse", "weights", "through", "lora", "scale", "templates")
_TRAIN = ("epochs", "batch_size", "lr", "weight_decay", "schedule", "layer_decay", "channels_last")
_OTHER = ("within", "budget", "where", "data", "device", "devices", "strategy", "precision", "keep_first")
KEYS = {
    **{key: f"--{key.replace('_', '-')}" for key in (*_SHARE, *_OTHER)},
    **{f"share.{key}": f"--{key.replace('_', '-')}" for key in _SHARE},
    **{f"train.{key}": f"--{key.replace('_', '-')}" for key in _TRAIN},
    **{f"train.sleep[0].{key}": f"--sleep-{key}" for key in ("mode", "strength", "unit", "period", "where")},
    "init": "--template-init",
}
"""What keys of the configuration, and arguments, are called on the command line."""

PHRASES = {"localize_(model, example)": "--local"}
"""What a call would do, and the option that does."""

CALL = re.compile(r"\b(Tie|Templates|LoRA|Sleep|Lattice)\((?:[^()]|\([^()]*\))+\)")
CHECKED = re.compile(r"\b(Tie|Templates|LoRA|Sleep|Lattice)\((\w+)\)=(\S+?)(?=: )")
VALUE = r"('[^']*'|\"[^\"]*\"|\[[^\]]*\]|-?\d[\w.+-]*\w|-?\d)"
GOES = re.compile(r"\bshare\.(\w+)(?= goes )")
KEY = re.compile(rf"(?<![\w.('\"-])({'|'.join(map(re.escape, sorted(KEYS, key=len, reverse=True)))})={VALUE}")


def as_options(message: str, arguments: Sequence[str]) -> str:
    """An error with the names that the command line has for what it is about.

    Args:
        message: Of an error of ours.
        arguments: Those of the command.

    Example:
        >>> as_options("Tie(rate=0.5): a share rate is 1 or more.", ["plan", "wrn:16/1", "--rate", "0.5"])
        '--rate 0.5: a share rate is 1 or more.'
    """
    given = {argument.partition("=")[0] for argument in arguments}
    command, model = (*arguments[:2], "", "")[:2]
    alone = command in ("plan", "train") and model[:1] not in ("", "-") and "--config" not in given

    def meant(option: str) -> bool:
        return alone or option in given

    def call(found: re.Match[str]) -> str:
        said = _call(found[0])
        return " ".join(said.values()) if said and any(map(meant, said)) else found[0]

    def checked(found: re.Match[str]) -> str:
        option = OPTIONS[found[1]].get(found[2], "")
        return f"{option} {found[3]}" if option and meant(option) else found[0]

    def key(found: re.Match[str]) -> str:
        option = KEYS[found[1]]
        return f"{option} {_plain(found[2])}" if meant(option) else found[0]

    def goes(found: re.Match[str]) -> str:
        return KEYS.get(f"share.{found[1]}", found[0])

    for pattern, replace in ((GOES, goes), (CHECKED, checked), (CALL, call), (KEY, key)):
        message = pattern.sub(replace, message)
    for phrase, option in PHRASES.items():
        message = message.replace(phrase, option)
    return message


def _call(text: str) -> dict[str, str]:
    """Options that say what a call of a spec says, with their values; none if they cannot say all of it."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return {}
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
        return {}
    said = {}
    for keyword in tree.keywords:
        option = OPTIONS[tree.func.id].get(keyword.arg or "")
        if option is None:
            return {}
        value = ast.unparse(keyword.value)
        said[option] = option if value == "True" else f"{option} {_plain(value)}"
    return said


def _plain(value: str) -> str:
    """A value as it is typed: words without quotes unless they hold a space or a pattern, lists with commas."""
    if re.fullmatch(r"'[\w.-]+'", value):
        return value[1:-1]
    if re.fullmatch(r"[\[(][\d\s,.-]+[\])]", value):
        return ",".join(re.findall(r"[\d.-]+", value))
    return value
