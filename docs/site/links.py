"""Links of the pages that leave `docs/`, for the site: they read well in a repository viewer, and lead somewhere here.

A picture is copied. Any other text file becomes a page below `repository/` that shows it, and Markdown among these is a
page whose own links are followed. `CHANGELOG.md` and `CONTRIBUTING.md` have places of their own in the navigation.
"""

from pathlib import Path, PurePosixPath
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

NAMED = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "repository/README.md"}
PICTURES = {".png", ".svg", ".jpg", ".gif"}
SHOWN = {".py": "python", ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", "": "text", ".txt": "text"}
MOST_SHOWN = 200_000
"""Characters of a file that is shown whole; the site has no use for more."""
HEAD = "---\nsearch:\n  exclude: true\nhide:\n  - navigation\n  - toc\n---\n\n"
"""Of a page that shows a file: it is found by links alone."""
LINK = re.compile(r'(\]\(|\bsrc="|\bhref=")([^)\s"#:]+)(?=[)\s"#])')
CELL = re.compile(r"<td[^>]*>.*?</td>", re.DOTALL)
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of `docs/`, and what those link to."""
    root = Path(config.config_file_path).parent
    open_pages = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    open_pages += [(name, (root / name).read_text(encoding="utf-8")) for name in NAMED]
    for name in NAMED:
        files.append(_shown(config, root, name))
    for source, text in open_pages:  # grows while it is read
        for target in _targets(source, text):
            uri = _place(target)
            if target.startswith("docs/") or not (root / target).exists() or files.get_file_from_path(uri):
                continue
            file = _shown(config, root, target)
            files.append(file)
            if target.endswith(".md"):
                open_pages.append((target, file.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave `docs/` to their places in the site."""
    root = Path(config.config_file_path).parent
    source = _source(page.file.src_uri)

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if "://" in match[2] or not (root / target).exists():
            return match[0]
        uri = target.removeprefix("docs/") if target.startswith("docs/") else _place(target)
        return match[1] + posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")

    return _outside_fences(markdown, lambda text: LINK.sub(led, text))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show a bar in a table's code as one: there Markdown has `\\|`, since `|` ends a cell."""
    return CELL.sub(lambda match: match[0].replace("\\|", "|"), html)


def _shown(config: MkDocsConfig, root: Path, target: str) -> File:
    path = root / target
    uri = _place(target)
    if path.suffix in PICTURES:
        return File.generated(config, uri, abs_src_path=str(path))
    beside = "" if target in ("CHANGELOG.md", "CONTRIBUTING.md") else HEAD
    if path.is_dir():
        names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir() if child.name != "__pycache__")
        content = f"# {target}/\n\n" + "\n".join(f"- `{name}`" for name in names)
    elif path.suffix == ".md":
        return File.generated(config, uri, content=beside + path.read_text(encoding="utf-8"))
    else:
        text = path.read_text(encoding="utf-8")
        text = text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "\n… (cut here)\n"
        content = f"# {target}\n\n~~~~~{SHOWN.get(path.suffix, 'text')}\n{text}\n~~~~~\n"
    return File.generated(config, uri, content=beside + content)


def _place(target: str) -> str:
    """Where a file of the repository lies in the site's sources."""
    if target in NAMED:
        return NAMED[target]
    picture, page = PurePosixPath(target).suffix in PICTURES, target.endswith(".md")
    return f"repository/{target}" + "" if picture or page else f"repository/{target}.md"


def _source(uri: str) -> str:
    """The file of the repository that a page of the site is made of; the reverse of `_place`."""
    named = {place: name for name, place in NAMED.items()}
    return named.get(uri) or (uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}")


def _targets(source: str, text: str) -> list[str]:
    """The paths of the repository that a file links to."""
    found: list[str] = []

    def note(part: str) -> str:
        found.extend(posixpath.normpath(posixpath.join(posixpath.dirname(source), m[2])) for m in LINK.finditer(part))
        return part

    _outside_fences(text, note)
    return [target for target in found if not target.startswith("..")]


def _outside_fences(text: str, change) -> str:
    """The text with what is outside of its code blocks changed."""
    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, change(text[at:])])
