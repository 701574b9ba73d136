"""The one rule by which a user names weights: glob, list, type, predicate, nothing."""

import pytest
from torch import nn

from tests.zoo import chain, tied_embedding
from weightshare.errors import NoMatch, SpecError
from weightshare.surgery.sites import Site, describe, select, sites


def chosen(model: nn.Module, where: object) -> list[str]:
    return [site.path for site in select(sites(model), where)]


def test_none_is_all() -> None:
    model, _ = chain()
    assert chosen(model, None) == [name for name, _ in model.named_parameters()]


def test_a_glob_matches_a_parameter() -> None:
    model, _ = chain(depth=3)
    assert chosen(model, "blocks.?.fc1.weight") == [f"blocks.{index}.fc1.weight" for index in range(3)]


def test_a_glob_that_matches_a_module_takes_all_below_it() -> None:
    model, _ = chain(depth=2)
    assert chosen(model, "blocks.1.fc2") == ["blocks.1.fc2.weight", "blocks.1.fc2.bias"]


def test_a_star_crosses_dots() -> None:
    model, _ = chain(depth=2)
    assert chosen(model, "b*.bias") == [f"blocks.{i}.{name}.bias" for i in (0, 1) for name in ("norm", "fc1", "fc2")]


def test_a_glob_is_anchored_and_minds_case() -> None:
    model, _ = chain()
    for glob in ("fc1", "Blocks", "block"):
        with pytest.raises(NoMatch):
            chosen(model, glob)


def test_a_glob_matches_any_of_a_parameters_names() -> None:
    model, _ = tied_embedding()
    assert chosen(model, "head") == ["embed.weight"]


def test_a_list_is_the_union_in_the_order_of_the_model() -> None:
    model, _ = chain()
    assert chosen(model, ["head.bias", "stem", "stem.weight"]) == ["stem.weight", "stem.bias", "head.bias"]


def test_a_type_takes_all_below_such_a_module() -> None:
    model, _ = chain(depth=2)
    names = [f"blocks.{index}.norm.{name}" for index in (0, 1) for name in ("weight", "bias")]
    assert chosen(model, nn.LayerNorm) == names
    assert chosen(model, nn.Sequential) == [name for name in chosen(model, None) if name.startswith("blocks.")]


def test_a_type_matches_any_of_a_parameters_names() -> None:
    model, _ = tied_embedding()
    assert "embed.weight" in chosen(model, nn.Linear)


def test_a_predicate_sees_the_site() -> None:
    model, _ = chain(depth=2)

    def wide(site: Site) -> bool:
        return site.shape == (7, 5)

    assert chosen(model, wide) == ["blocks.0.fc1.weight", "blocks.1.fc1.weight"]


def test_a_glob_without_a_match_names_the_nearest_path() -> None:
    model, _ = chain()
    with pytest.raises(NoMatch, match=r"where='blocks\.\*\.fc\.weight'.*'blocks\.\*\.fc1\.weight'"):
        chosen(model, "blocks.*.fc.weight")


def test_a_glob_like_nothing_names_what_there_is() -> None:
    model, _ = chain()
    with pytest.raises(NoMatch, match=r"'blocks'.*'head'.*'stem'"):
        chosen(model, "XYZ#QQQ@@")


def test_one_entry_of_a_list_without_a_match_is_an_error() -> None:
    model, _ = chain()
    with pytest.raises(NoMatch, match=r"where='haed'.*'head'"):
        chosen(model, ["stem", "haed"])


def test_a_type_without_a_match_is_an_error() -> None:
    model, _ = chain()
    with pytest.raises(NoMatch, match="where=Conv2d"):
        chosen(model, nn.Conv2d)


def test_a_predicate_without_a_match_is_an_error() -> None:
    model, _ = chain()

    def never(site: Site) -> bool:
        return False

    with pytest.raises(NoMatch, match="where=<never>"):
        chosen(model, never)


@pytest.mark.parametrize(
    ("where", "paths"),
    [
        (["blocks.1.*", "!*.norm", "!*.fc2"], ["blocks.1.fc1.weight", "blocks.1.fc1.bias"]),
        (["*", "!blocks", "!*.bias"], ["stem.weight", "head.weight"]),
        (["*", "!blocks", "!head", "*.1.fc2.bias"], ["stem.weight", "stem.bias", "blocks.1.fc2.bias"]),
        (("stem", "!stem.bias"), ["stem.weight"]),
    ],
    ids=["norms out", "two exclusions", "taken in again", "a tuple"],
)
def test_an_exclusion_takes_away_of_what_stands_before_it(where: object, paths: list[str]) -> None:
    assert chosen(chain(depth=2).model, where) == paths


def test_an_exclusion_matches_any_of_a_parameters_names() -> None:
    model, _ = tied_embedding()
    assert not {"embed.weight", "head.weight"} & set(chosen(model, ["*", "!head"]))


@pytest.mark.parametrize("where", ["!*norm*", ["!*norm*"], ["!*norm*", "blocks"], ["!", "blocks"]])
def test_an_exclusion_that_stands_first_is_refused(where: object) -> None:
    with pytest.raises(SpecError, match=r"takes away from what.*before it.*there are none.*\['\*', '!"):
        chosen(chain().model, where)


def test_an_exclusion_of_what_was_not_chosen_is_an_error() -> None:
    with pytest.raises(NoMatch, match=r"where='!\*norm\*' takes nothing away.*matches of \['stem', 'head'\]"):
        chosen(chain().model, ["stem", "head", "!*norm*"])


def test_an_exclusion_before_what_it_should_take_away_is_an_error() -> None:
    with pytest.raises(NoMatch, match=r"where='!\*norm' takes nothing away.*Put it behind"):
        chosen(chain().model, ["stem", "!*norm", "blocks"])


def test_an_exclusion_without_a_match_names_the_nearest_path() -> None:
    with pytest.raises(NoMatch, match=r"where='!blocks\.\*\.nrom' matches no parameter.*'blocks\.\*\.norm'"):
        chosen(chain().model, ["blocks", "!blocks.*.nrom"])


def test_exclusions_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(NoMatch, match=r"where=\['stem', '!stem'\] leaves nothing"):
        chosen(chain().model, ["stem", "!stem"])


@pytest.mark.parametrize("where", [3, [], (), [3], ["stem", nn.Linear], b"stem", 0.5])
def test_anything_else_is_refused(where: object) -> None:
    model, _ = chain()
    with pytest.raises(SpecError, match="not understood"):
        chosen(model, where)


def test_a_type_that_is_no_module_is_refused() -> None:
    model, _ = chain()
    with pytest.raises(SpecError, match="int is no module type"):
        chosen(model, int)


@pytest.mark.parametrize(
    ("where", "text"),
    [(None, "None"), ("a.*", "'a.*'"), (("a", "b"), "['a', 'b']"), (nn.Linear, "Linear"), (len, "<len>")],
)
def test_a_pattern_is_printed_as_it_was_given(where: object, text: str) -> None:
    assert describe(where) == text
