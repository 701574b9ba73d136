"""Sites: the places of any `nn.Module` that hold a weight, and the one rule by which a user names them.

A *site* is a parameter together with every path that reaches it. Two paths are aliases when they lead to the same
`nn.Parameter` **object**; names and memory addresses never decide that (an address is reused once it is freed).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
import re

from torch import nn
from torch.nn.parameter import UninitializedParameter

from weightshare._typing import Where
from weightshare.errors import NoMatch, SpecError
from weightshare.surgery.shards import settle_

EXCLUDE = "!"
"""What a glob begins with that takes away."""


@dataclass(frozen=True, eq=False)
class Site:
    """A place that holds a weight.

    Args:
        path: The first path of the parameter, in the order of `named_parameters`.
        tensor: The parameter itself.
        aliases: The other paths that reach the same object, in order.
        modules: `(path, module)` of every module above any of its paths, the root (`""`) left out; outermost first,
            those above the first path before others.
        holder: The module that holds the first path, be it the root.
        root: The model.
    """

    path: str
    tensor: nn.Parameter
    aliases: tuple[str, ...]
    modules: tuple[tuple[str, nn.Module], ...]
    holder: nn.Module
    root: nn.Module

    @property
    def names(self) -> tuple[str, ...]:
        """All paths of the parameter, the first one first."""
        return (self.path, *self.aliases)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        """The dtype without its module, such as `float32`."""
        return str(self.tensor.dtype).removeprefix("torch.")


def sites(model: nn.Module) -> tuple[Site, ...]:
    """List every parameter of a model once, with all its paths.

    Args:
        model: Any module.

    Returns:
        One `Site` for each parameter object, in the order of `model.named_parameters()`.

    Raises:
        SpecError: If `model` is no `nn.Module`, or has no parameter, or one that is not yet built (lazy modules).

    Example:
        >>> from torch import nn
        >>> [site.path for site in sites(nn.Linear(2, 3))]
        ['weight', 'bias']
    """
    model = plain(model)
    settle_(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for path, tensor in model.named_parameters(remove_duplicate=False):
        if isinstance(tensor, UninitializedParameter):
            raise SpecError(
                f"'{path}' has no shape yet: its lazy module is not built. Run the model once on one batch, then plan."
            )
        found.setdefault(id(tensor), (tensor, []))[1].append(path)
    if not found:
        raise SpecError(f"{type(model).__name__} has no parameters: there is nothing to share.")
    return tuple(
        Site(
            *(names[0], tensor, tuple(names[1:]), tuple((path, modules[path]) for path in _above(names))),
            holder=modules[names[0].rpartition(".")[0]],
            root=model,
        )
        for tensor, names in found.values()
    )


def plain(model: nn.Module) -> nn.Module:
    """The module itself, for one that `torch.compile` wrapped, so that paths are those of the user's own network.

    Raises:
        SpecError: If `model` is no `nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise SpecError(f"Cannot look for weights: got {type(model).__name__}, need an nn.Module.")
    # By name: importing the class would load the whole compiler.
    return model.get_submodule("_orig_mod") if type(model).__name__ == "OptimizedModule" else model


def unwrapped(model: nn.Module) -> nn.Module:
    """As `plain`, and out of DistributedDataParallel too: for what reads a model and does not change its parameters."""
    model = plain(model)
    return plain(model.module) if isinstance(model, nn.parallel.DistributedDataParallel) else model


def prefixes(path: str) -> list[str]:
    """The path of every module above a parameter, outermost first, and the parameter's own path last.

    Example:
        >>> prefixes("blocks.3.weight")
        ['blocks', 'blocks.3', 'blocks.3.weight']
    """
    parts = path.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def select(all_sites: Sequence[Site], where: Where) -> tuple[Site, ...]:
    """Choose sites by the one rule that every verb of the library uses.

    Args:
        all_sites: From `sites(model)`.
        where: A glob (`fnmatch.fnmatchcase`, so `*` crosses dots) that matches the path of the parameter or of any
            module above it; a list of globs, in which one that begins with `!` takes away again what it matches of
            those before it; a module type, which matches all below such a module (the model itself does not count); a
            predicate on `Site`; or `None` for all.

    Returns:
        The sites that match, in the order of `all_sites`.

    Raises:
        NoMatch: If a glob, the type or the predicate matches nothing; the nearest paths are named. If an exclusion
            takes nothing away, or exclusions leave nothing.
        SpecError: If `where` is none of the above, or an exclusion stands first, where there is nothing to take from.

    Example:
        >>> from torch import nn
        >>> net = nn.ModuleDict({"fc": nn.Linear(2, 3), "norm": nn.LayerNorm(3)})
        >>> [site.path for site in select(sites(net), ["*", "!*norm*", "norm.bias"])]
        ['fc.weight', 'fc.bias', 'norm.bias']
    """
    if where is None:
        return tuple(all_sites)
    if isinstance(where, str):
        where = [where]
    if isinstance(where, type):
        if not issubclass(where, nn.Module):
            raise SpecError(f"where={where.__name__} is no module type: give a subclass of nn.Module.")
        module_type = where
        chosen = {id(s) for s in all_sites if any(isinstance(module, module_type) for _, module in s.modules)}
    elif callable(where):
        chosen = {id(s) for s in all_sites if where(s)}
    elif isinstance(where, Sequence) and where and all(isinstance(glob, str) for glob in where):
        chosen = _by_globs(all_sites, where)
    else:
        raise SpecError(
            f"where={where!r} is not understood: give a glob, a non-empty list of globs, a module type, a predicate on "
            "Site, or None for all that fits."
        )
    if not chosen:
        raise NoMatch(f"where={describe(where)} matches no parameter of the model.")
    return tuple(s for s in all_sites if id(s) in chosen)


def decoded_names(path: str, second: str) -> tuple[str, str]:
    """What a state dict calls the two tensors of a path that `decode` changed: what is stored, and the decoder's own.

    Example:
        >>> decoded_names("fc1.weight", "index")
        ('fc1.parametrizations.weight.original', 'fc1.parametrizations.weight.0.index')
    """
    parent, _, name = path.rpartition(".")
    stem = f"{parent}.parametrizations.{name}" if parent else f"parametrizations.{name}"
    return f"{stem}.original", f"{stem}.0.{second}"


def describe(where: Where) -> str:
    """A pattern as a plan prints it."""
    if isinstance(where, type):
        return where.__name__
    if callable(where):
        return f"<{getattr(where, '__name__', 'predicate').strip('<>')}>"
    return repr(where) if where is None or isinstance(where, str) else repr(list(where))


def where_text(described: str) -> str:
    """What follows a spec in the heading of a plan: `where 'blocks'`, or `everywhere`.

    Args:
        described: From `describe`.
    """
    return "everywhere" if described == repr(None) else f"where {described}"


def _by_globs(all_sites: Sequence[Site], globs: Sequence[str]) -> set[int]:
    """The ids of the sites that globs choose, one after the other: each adds, or with a `!` takes away."""
    chosen = set[int]()
    for number, glob in enumerate(globs):
        pattern = glob.removeprefix(EXCLUDE)
        hits = {id(s) for s in all_sites if _matches(s, pattern)}
        excludes = pattern != glob
        if excludes and not number:
            raise SpecError(
                f"where={glob!r} takes away from what the globs before it match, and there are none: begin with one, "
                f"such as where={['*', glob]!r}."
            )
        if not hits:
            raise NoMatch(f"where={glob!r} matches no parameter and no module above one.{_nearest(all_sites, pattern)}")
        if excludes and not hits & chosen:
            # As for a glob that matches nothing: it is a slip of the pen, and would share what was to stay out.
            raise NoMatch(
                f"where={glob!r} takes nothing away: what it matches is not among the matches of "
                f"{list(globs[:number])!r}. Put it behind the glob that it is to restrict, or leave it out."
            )
        chosen = chosen - hits if excludes else chosen | hits
    if not chosen:
        raise NoMatch(f"where={list(globs)!r} leaves nothing: its exclusions take away all that its globs match.")
    return chosen


def _above(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(prefix for name in names for prefix in prefixes(name)[:-1]))


def _matches(site: Site, glob: str) -> bool:
    return any(fnmatchcase(prefix, glob) for name in site.names for prefix in prefixes(name))


def _nearest(all_sites: Sequence[Site], glob: str) -> str:
    """A sentence with paths that look like a glob that matched nothing; equal blocks are named once, by `*`."""
    paths = {re.sub(r"\b\d+\b", "*", prefix) for s in all_sites for prefix in prefixes(s.path)}
    near = get_close_matches(glob, sorted(paths), n=3, cutoff=0.4)
    listed = near or sorted(paths - {"*"}, key=lambda path: (path.count("."), path))[:8]
    lead = " Nearest paths: " if near else " The model has: "
    return f"{lead}{', '.join(repr(path) for path in listed)}."
