"""CITATION.cff is whole, and of this version."""

import yaml

from tests.support import ROOT
import weightshare as ws

CITED = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_it_has_what_the_format_needs():
    assert CITED["cff-version"] == "1.2.0"
    assert CITED.keys() >= {"message", "title", "authors", "version", "license"}


def test_it_is_of_this_version():
    assert CITED["version"] == ws.__version__


def test_each_paper_is_cited_with_its_address():
    papers = {reference["year"]: reference for reference in CITED["references"]}
    assert set(papers) == {2019, 2021, 2022, 2023}
    readme = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    assert all(reference["url"] in readme and reference["authors"] for reference in papers.values())
