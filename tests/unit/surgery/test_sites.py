"""Sites: every parameter once, with all the paths that reach the object."""

import pytest
import torch
from torch import nn

from tests.zoo import chain, lazy, tied_embedding, used_twice
from weightshare.errors import SpecError
from weightshare.surgery.sites import decoded_names, plain, prefixes, sites, unwrapped


def test_paths_are_those_of_named_parameters() -> None:
    model, _ = chain()
    assert [site.path for site in sites(model)] == [name for name, _ in model.named_parameters()]


def test_a_tied_parameter_is_one_site_with_an_alias() -> None:
    model, _ = tied_embedding()
    (embed,) = [site for site in sites(model) if site.tensor is model.embed.weight]
    assert embed.names == ("embed.weight", "head.weight")


def test_a_module_under_two_names_gives_one_site_a_parameter() -> None:
    model, _ = used_twice()
    aliases = {site.path: site.aliases for site in sites(model) if site.aliases}
    assert aliases == {"once.weight": ("again.weight",), "once.bias": ("again.bias",)}


def test_equal_numbers_in_one_storage_are_no_alias() -> None:
    model = nn.ParameterList([nn.Parameter(torch.ones(3))])
    model.append(nn.Parameter(model[0].data))
    assert [site.aliases for site in sites(model)] == [(), ()]


def test_modules_are_listed_from_the_outermost() -> None:
    model, _ = chain()
    (site,) = [site for site in sites(model) if site.path == "blocks.3.fc1.weight"]
    assert [path for path, _ in site.modules] == ["blocks", "blocks.3", "blocks.3.fc1"]
    assert [module for _, module in site.modules] == [model.blocks, model.blocks[3], model.blocks[3].fc1]


def test_dtype_and_shape_are_plain_values() -> None:
    (site,) = sites(nn.Linear(2, 3, bias=False, dtype=torch.bfloat16))
    assert (site.dtype, site.shape) == ("bfloat16", (3, 2))


def test_prefixes_of_a_parameter_of_the_root() -> None:
    assert prefixes("weight") == ["weight"]


@pytest.mark.parametrize("thing", [None, 3, torch.ones(2), nn.Linear, [nn.Linear(2, 3)]])
def test_only_modules_have_sites(thing: object) -> None:
    with pytest.raises(SpecError, match=r"need an nn\.Module"):
        sites(thing)


def test_a_lazy_layer_is_refused_until_it_is_built() -> None:
    model, example = lazy()
    with pytest.raises(SpecError, match=r"'0\.weight' has no shape yet.*Run the model once"):
        sites(model)
    model(example)
    assert len(sites(model)) == 8


def test_wrappers_are_seen_through() -> None:
    """The class of DDP alone: what it wraps with needs several processes, which are tested apart."""
    model = nn.Sequential(nn.Linear(2, 3))
    compiled = torch.compile(model, backend="eager")
    parallel = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(parallel)
    parallel.module = compiled
    assert plain(compiled) is plain(model) is model
    assert unwrapped(parallel) is unwrapped(compiled) is model
    assert plain(parallel) is parallel
    assert [site.path for site in sites(compiled)] == ["0.weight", "0.bias"]


def test_names_of_what_is_decoded() -> None:
    stem = "a.b.parametrizations.weight"
    assert decoded_names("a.b.weight", "index") == (f"{stem}.original", f"{stem}.0.index")
    assert decoded_names("weight", "index")[0] == "parametrizations.weight.original"
