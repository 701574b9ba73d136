"""The site builds strictly, leads nowhere that is not there, asks no other server, and has all public names."""

from html.parser import HTMLParser
import os
from pathlib import Path
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit
import zlib

import pytest

from tests.docs.pages import links, names, text
from tests.support import ROOT
import weightshare as ws

SOURCE = ROOT / "src" / "weightshare"
FOLDERS = (
    "depth",
    "space",
    "values",
    "analysis",
    "files",
    "training",
    "integrations",
    "experiments",
    "models",
    "surgery",
)


class Page(HTMLParser):
    """What one page of the site links to, loads, and can be linked to at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.update(filter(None, (found.get("id"), found.get("name"))))
        if tag == "a":
            self.links.append(found.get("href") or "")
        self.loads += [found["src"]] if found.get("src") else [found["href"]] if tag == "link" else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a build with a warning fails."""
    folder = tmp_path_factory.mktemp("site")
    told = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    """Every page has all of it. Give a page that is not found a line in docs/.nav.yml."""
    listed = {site / urlsplit(link).path for link in pages[site / "index.html"].links}
    assert [page for page in names() if page.startswith("docs/") and _built(site, page) not in listed] == []
    assert {site / "changelog.html", site / "contributing.html"} <= listed


def _built(site: Path, page: str) -> Path:
    return (site / page.removeprefix("docs/")).with_suffix(".html")


def test_no_link_is_dead(site: Path, pages: dict[Path, Page]) -> None:
    dead = []
    for path, page in pages.items():
        for link in {*page.links, *page.loads}:
            url = urlsplit(link)
            if url.scheme or path.name == "404.html":  # whose links are from the root of a server
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            at = target / "index.html" if target.is_dir() else target
            if not at.is_file() or (url.fragment and at in pages and unquote(url.fragment) not in pages[at].ids):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_a_bar_in_a_table_is_no_escape(site: Path) -> None:
    assert "Σ_{i&gt;j} |w_i − w_j|</code>" in (site / "papers" / "shakerinava2023.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_another_server(pages: dict[Path, Page]) -> None:
    assert {link for page in pages.values() for link in page.loads if urlsplit(link).netloc} == set()


@pytest.mark.parametrize("page", names())
def test_links_and_pictures_lead_to_files_of_the_repository(page: str) -> None:
    """The same Markdown is read in a repository viewer. Names of the API are links that only the site knows."""
    folder = (ROOT / page).parent
    targets = [target.partition("#")[0] for target in links(page)]
    assert [target for target in targets if target and not (folder / target).exists()] == []


@pytest.mark.parametrize("page", names())
def test_files_that_it_names_are_there(page: str) -> None:
    named = re.findall(r"`((?:tests|benchmarks|examples|docs)/[\w/.-]+)`", text(page))
    places = (ROOT, ROOT / "results")
    assert [path for path in named if not any((at / path).exists() for at in places)] == []


def test_every_public_name_and_module_is_on_a_page_of_the_api(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    assert [name for name in ws.__all__ if name != "models" and f"weightshare.{name}" not in found] == []
    modules = [path for folder in FOLDERS for path in (SOURCE / folder).glob("*.py")] + list(SOURCE.glob("*.py"))
    named = [".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in modules if path.name[0] != "_"]
    assert [name for name in named if name not in found] == []
