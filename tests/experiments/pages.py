"""Reading pages as a browser and a screen reader do: what is in them, and whether it is whole."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
import re

VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADS = {"src", "xlink:href", "data", "poster"}


@dataclass
class Grid:
    """A table: its caption, its heads row by row, and its body: for each row the header and the cells."""

    caption: str = ""
    heads: list[list[tuple[str, int]]] = field(default_factory=list)
    body: list[list[str]] = field(default_factory=list)


class Page(HTMLParser):
    """A page, read: what is wrong with it is in `faults`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.open, self.faults = path, list[str](), list[str]()
        self.ids, self.links, self.loads, self.text = list[str](), list[str](), list[str](), list[str]()
        self.headings, self.grids, self.names = list[int](), list[Grid](), list[str]()
        self._into: list[str] | None = None
        self._needs_title = False
        source = path.read_text(encoding="utf-8")
        self.feed(source)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]
        self.faults += [f"id {one!r} stands twice" for one in {*self.ids} if self.ids.count(one) > 1]
        self.loads += re.findall(r"url\((?!#)([^)]*)\)|@import ([^;]*)", source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]], closed: bool = False) -> None:
        given = dict(attrs)
        if tag not in VOID and not closed:
            self.open.append(tag)
        if self._needs_title and tag != "title":
            self.faults.append("an <svg> does not begin with its title")
        self._needs_title = tag == "svg"
        if tag == "svg" and given.get("role") != "img":
            self.faults.append("an <svg> is no image")
        if tag == "img" and not given.get("alt"):
            self.faults.append("an <img> without a text")
        if "tabindex" in given and given["tabindex"] == "0" and not (given.get("aria-label") and given.get("role")):
            self.faults.append(f"<{tag}> takes the focus and has no name or role")
        self.ids += [given["id"] or ""] if "id" in given else []
        self.loads += [value or "" for name, value in attrs if name in LOADS]
        self.loads += [given["href"] or ""] if tag == "link" else []
        self.links += [given["href"] or ""] if tag == "a" else []
        self.links += [f"#{given['aria-labelledby']}"] if "aria-labelledby" in given else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self._start_of_table(tag, given)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs, closed=True)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()
        if tag in ("td", "th", "caption"):
            words = " ".join("".join(self._into or ()).split())
            self._into = None
            grid = self.grids[-1]
            if tag == "caption":
                grid.caption = words
            elif "thead" in self.open:
                grid.heads[-1].append((words, self._span))
            else:
                grid.body[-1].append(words)
        if tag == "table" and not self.grids[-1].caption:
            self.faults.append("a table without a caption")

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._into is not None and "sup" not in self.open:
            self._into.append(data)

    def _start_of_table(self, tag: str, given: dict[str, str | None]) -> None:
        if tag == "table":
            self.grids.append(Grid())
        elif tag == "tr":
            grid = self.grids[-1]
            (grid.heads if "thead" in self.open else grid.body).append([])
        elif tag in ("td", "th", "caption"):
            self._into, self._span = [], int(given.get("colspan") or 1)
            if tag == "th" and given.get("scope") not in ("row", "col", "colgroup"):
                self.faults.append("a <th> without a scope")


def site(folder: Path) -> dict[str, Page]:
    """All pages of a folder, by address."""
    return {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}


def dangling(pages: dict[str, Page]) -> list[str]:
    """Links and anchors that lead nowhere, and whatever is not a file of the folder."""
    known = {page.path.resolve(): page for page in pages.values()}
    found = []
    for address, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            there = (page.path.parent / target).resolve() if target else page.path.resolve()
            if there not in known or (anchor and anchor not in known[there].ids):
                found.append(f"{address}: {link}")
        for load in page.loads:
            inside = load.startswith("#") and load[1:] in page.ids
            held = load == "data:," or load.startswith("data:image/png;base64,")
            if not (inside or held or (page.path.parent / load).is_file()):
                found.append(f"{address}: {load}")
    return found


def compared(page: Page) -> dict[tuple[str, str, str, str], str]:
    """The numbers of the tables that compare, by scale, row, metric and kind."""
    found = {}
    for grid in page.grids:
        if len(grid.heads) == 2:
            scale = grid.caption.rpartition("· ")[2].partition(", ")[0]
            metrics = [title for title, span in grid.heads[0][1:] for _ in range(span)]
            kinds = [title for title, _ in grid.heads[1]]
            for header, *cells in grid.body:
                assert len(cells) == len(kinds) == len(metrics)
                row = header.split()[-1]
                found |= {(scale, row, *at): cell for *at, cell in zip(metrics, kinds, cells, strict=True)}
    return found
