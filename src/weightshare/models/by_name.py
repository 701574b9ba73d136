"""Networks by name, for the command line and for configurations.

| name | network |
|---|---|
| `convmixer:C/D/P/K` | our ConvMixer, such as `convmixer:256/8/2/5` |
| `torus-cnn:C1/C2`, `torus-mlp:C1/C2` | two circular convolutions and their fully connected twin |
| `resnet20:C1/C2/C3` | the ResNet of small images, such as `resnet20:16/32/64`; options `blocks=3` and `shortcut` |
| `resnet18:C1/C2/C3/C4` | the ResNet of large images, such as `resnet18:32/64/128/256`, of half the usual width |
| `s-conv:C`, `s-fc:C` | one strided convolution with a wide layer behind it, and its fully connected twin |
| `wrn:L/W` | WRN-L-W, such as `wrn:28/10`; option `dropout` |
| `swrn:L/W/K` | SWRN-L-W-K, `K` templates a stage, such as `swrn:28/10/2`; without `/K` one template a layer |
| `wrn50:W` and `swrn50:W/K` | the same for large images, such as `wrn50:2`, `swrn50:2` |
| `timm:NAME` | any model of timm |
| `transformers:NAME` | a class, a kind, a folder or a name of the hub: see `models.of_transformers` |
| `module:callable` | whatever the callable returns, such as `mypackage.nets:make` |
| `file.py:callable` | likewise, from a file |
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module, util
from inspect import signature
from pathlib import Path
import sys
import sysconfig
import traceback
from types import ModuleType
from typing import Any

import torch
from torch import nn

from weightshare.errors import ConfigError
from weightshare.models.convmixer import convmixer
from weightshare.models.hub import expect_on_hub
from weightshare.models.resnet import ResNet, resnet18_half, resnet20
from weightshare.models.shallow import s_conv, s_fc
from weightshare.models.torus import torus_cnn, torus_mlp
from weightshare.models.wrn import swrn, wrn
from weightshare.models.wrn50 import swrn50, wrn50


def _resnet20(*widths: int, **options: Any) -> ResNet:
    return resnet20(widths, **options)


def _resnet18(*widths: int, **options: Any) -> ResNet:
    return resnet18_half(widths, **options)


OURS: dict[str, tuple[Callable[..., nn.Module], str, str]] = {
    "convmixer": (convmixer, "C/D/P/K", "convmixer:256/8/2/5"),
    "torus-cnn": (torus_cnn, "C1/C2", "torus-cnn:32/64"),
    "torus-mlp": (torus_mlp, "C1/C2", "torus-mlp:32/64"),
    "resnet20": (_resnet20, "C1/C2/C3", "resnet20:16/32/64"),
    "resnet18": (_resnet18, "C1/C2/C3/C4", "resnet18:32/64/128/256"),
    "s-conv": (s_conv, "C", "s-conv:64"),
    "s-fc": (s_fc, "C", "s-fc:64"),
    "wrn": (wrn, "L/W", "wrn:28/10"),
    "swrn": (swrn, "L/W[/K]", "swrn:28/10/2"),
    "wrn50": (wrn50, "W", "wrn50:2"),
    "swrn50": (swrn50, "W[/K]", "swrn50:2"),
}
"""Our own networks: the constructor, the sizes that a name gives (in brackets what may be left out), and an example."""


FORMS = ", ".join(f"{kind}:{form}" for kind, (_, form, _) in OURS.items()) + (
    ", timm:NAME, transformers:NAME, module:callable or file.py:callable"
)
"""What names look like."""


def build(
    name: str,
    /,
    in_channels: int | None = None,
    classes: int | None = None,
    size: Sequence[int] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network by name.

    Args:
        name: See the table of this module.
        in_channels: Channels of the images, `None` for the network's default. A callable of yours is not given it.
        classes: Number of classes, likewise.
        size: Height and width of the images, for networks that need it: those with a parameter `side` or `size`.
        options: Keyword arguments of the network, or of your callable.

    Returns:
        The network, with random weights unless an option says otherwise.

    Raises:
        ConfigError: If the name has another form, or the package, network or option does not exist.

    Example:
        >>> type(build("convmixer:8/2/1/3", in_channels=1, classes=10)).__name__
        'ConvMixer'
    """
    kind, separator, rest = name.partition(":")
    if not separator or not kind or not rest:
        raise ConfigError(f"model={name!r}: need {FORMS}.{_nearest_name(name)}")
    given = {"in_channels": in_channels, "classes": classes}
    try:
        if kind in OURS:
            make, form, example = OURS[kind]
            if "side" in signature(make).parameters and "side" not in options:
                given["side"] = _side(name, size)
            return make(*_sizes(name, rest, form, example), **_given(given), **options)
        if kind == "timm":
            timm = import_timm()
            names = {"in_chans": in_channels, "num_classes": classes}
            if ":" not in rest and not timm.is_model(rest):
                near = get_close_matches(rest, timm.list_models(), n=3)
                hint = f" Nearest: {', '.join(near)}." if near else ""
                raise ConfigError(f"Cannot build {name!r}: timm has no such model.{hint}")
            place, _, on_hub = rest.partition(":")
            if place in ("hf-hub", "hf_hub"):
                expect_on_hub(on_hub.partition("@")[0], f"Cannot build {name!r}")
            return timm.create_model(rest, **_given(names), **options)
        if kind == "transformers":
            from weightshare.models.of_transformers import build_transformers  # which needs this module

            return build_transformers(rest, options)
        make = _callable(name, kind, rest)
        made = make(**_taken(make, _given({**given, "size": size})), **options)
    except ConfigError:
        raise
    except Exception as error:  # whatever a constructor, or a hub that cannot be reached, raises
        raise ConfigError(f"Cannot build {name!r} with {_given(given) | options}: {error}{_where(error)}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name!r} returned {type(made).__name__}, need an nn.Module.")
    return made


def import_timm() -> Any:
    """Import timm, which imports torchvision: see `mend_torchvision`.

    Raises:
        ConfigError: If timm is not installed.
    """
    mend_torchvision()
    try:
        return import_module("timm")
    except ImportError as error:
        raise ConfigError(f"timm is not installed ({error}): pip install 'weightshare[models]'.") from error


def mend_torchvision() -> None:
    """Let torchvision be imported where torch is a CPU build and torchvision a CUDA build; elsewhere do nothing.

    There torchvision stops at two operators that its compiled half would have declared. No classifier calls them, so
    declaring them is enough; a call would still fail with torch's own error. Call it before what imports torchvision:
    timm, transformers and Lightning's metrics do.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_torchvision_operators()


def _declare_torchvision_operators() -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    # "FRAGMENT": torchvision's own declarations, if they come after all, may join ours.
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    setattr(torchvision, "_weightshare_operators", library)  # noqa: B010 - the declarations live as long as the module that needs them


def _sizes(name: str, text: str, form: str, example: str) -> list[int]:
    sizes, most = text.split("/"), form.count("/") + 1
    if not most - form.count("[") <= len(sizes) <= most or not all(size.isdecimal() for size in sizes):
        raise ConfigError(f"model={name!r}: need the sizes {form}, such as {example}.")
    return [int(size) for size in sizes]


def _side(name: str, size: Sequence[int] | None) -> int | None:
    if size is not None and size[0] != size[1]:
        raise ConfigError(f"model={name!r} needs square images, these have {size[0]}×{size[1]} pixels.")
    return None if size is None else size[0]


def _callable(name: str, module: str, attribute: str) -> Any:
    try:
        if module.partition(".")[0] == "torchvision":
            mend_torchvision()
        there = _from_file(module) if module.endswith(".py") else import_module(module)
    except Exception as error:  # whatever the user's own code raises when it is imported
        kinds = [*OURS, "timm", "transformers"]
        near = get_close_matches(module, kinds, n=1)
        hint = f" Is {near[0]}: meant?" if near else f" Known kinds are {', '.join(kinds)} and an importable module."
        at = _where(error)
        raise ConfigError(f"model={name!r}: {type(error).__name__}: {error}{at}.{'' if at else hint}") from error
    if not hasattr(there, attribute):
        near = get_close_matches(attribute, dir(there), n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ConfigError(f"model={name!r}: {module!r} has no {attribute!r}{hint}.")
    found = getattr(there, attribute)
    if not callable(found):
        raise ConfigError(
            f"model={name!r}: {attribute!r} is a {type(found).__name__}, need a callable that returns a module."
        )
    return found


def _from_file(path: str) -> ModuleType:
    """The module that a file is; it finds modules that lie beside it."""
    file = Path(path).resolve()
    spec = util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise FileNotFoundError(f"there is no file '{path}'")
    module = util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    known = sys.modules.get(file.stem)
    sys.modules[file.stem] = module  # as dataclasses and pickles ask for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(file.stem)
        if known is not None:
            sys.modules[file.stem] = known
        raise
    finally:
        sys.path.remove(str(file.parent))
    return module


def _where(error: BaseException) -> str:
    """The line of the user's own code that an error comes from, if it comes from any."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    paths = [*sysconfig.get_paths().values(), str(Path(__file__).parent), "<frozen"]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(tuple(paths))]
    return f" ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _nearest_name(name: str) -> str:
    """Who might know a name that was given without its kind."""
    if name in OURS:
        return f" Give sizes, such as {OURS[name][2]}."
    try:
        known = import_timm().list_models()
    except ConfigError:
        return ""
    near = get_close_matches(name, known, n=1)
    return f" Is timm:{near[0]} meant?" if near else ""


def _taken(make: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a callable names in its signature; it need not know of channels and classes."""
    try:
        known = signature(make).parameters
    except (TypeError, ValueError):  # some callables of C have none
        return {}
    return {name: value for name, value in options.items() if name in known}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
