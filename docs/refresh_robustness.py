"""Put the committed results into docs/robustness.md: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

python docs/refresh_robustness.py
"""

from collections import Counter
from collections.abc import Callable, Mapping
import json
from pathlib import Path
from typing import Any

from weightshare._table import render
from weightshare.experiments.studies.results import filled as with_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "robustness.md"
RESULTS = ROOT / "results" / "robustness"
SURVIVORS = ROOT / "tests" / "robustness" / "survivors.json"

Found = Mapping[str, Any]


def soak(found: Found) -> str:
    """Lines that were done and refused, by kind."""
    kinds = dict.fromkeys(key.partition(": ")[0] for key in found["lines"])
    columns = ("what", "done", "refused")
    rows = [(kind, *(found["lines"].get(f"{kind}: {end}", 0) for end in columns[1:])) for kind in kinds]
    total = [("in all", *(sum(row[column] for row in rows) for column in (1, 2)))]
    failed = [f"seed {one['seed']} ({one['name']}): {one['where'][0]}" for one in found["failed"]]
    lead = (
        f"{found['sequences']:,} sequences on {len(found['modules'])} networks, {len(failed)} of them failed, "
        f"in {found['seconds'] / 60:,.0f} minutes."
    )
    return "\n".join([lead, "", render(columns, [*rows, *total], numbers=columns[1:]), *failed])


def fuzz(found: Found) -> str:
    """What came out of each parser."""
    columns = ("parser", "inputs", "taken", "refused", "slowest (s)", "defects")
    rows, defects = [], []
    for name, told in found["parsers"].items():
        outcomes = told["outcomes"]
        refused = told["inputs"] - outcomes.get("taken", 0) - outcomes.get("defect", 0)
        slowest = f"{told['slowest']:.1f}"
        rows.append((name, told["inputs"], outcomes.get("taken", 0), refused, slowest, len(told["defects"])))
        defects += [f"{name}: {what}" for what in told["defects"]]
    rows.append(("in all", *(sum(row[column] for row in rows) for column in (1, 2, 3)), "", len(defects)))
    lead = f"{found['seconds']:g} seconds for each parser; engine: {found['engine']}."
    return "\n".join([lead, "", render(columns, rows, numbers=columns[1:]), *defects])


def leaks(found: Found) -> str:
    """What each cycle adds."""
    columns = ("loop", "bytes a cycle", "objects a cycle", "files", "threads", "hooks")
    rows = [
        (
            *(name.replace("_", " "), f"{one['bytes']:,.0f}", f"{one['objects']:.3f}"),
            *(f"{one[key]:.0f}" for key in ("files", "threads", "hooks")),
        )
        for name, one in found["loops"].items()
    ]
    lead = (
        f"{found['cycles']:,} cycles each. A leak is more than {found['limits']['bytes']} bytes or "
        f"{found['limits']['objects']} objects a cycle, or one file, thread or hook."
    )
    return "\n".join([lead, "", render(columns, rows, numbers=columns[1:])])


def coverage(found: Found) -> str:
    """Percent of each part of the core."""
    parts: dict[str, list[int]] = {}
    for path, (statements, ran, _) in found["modules"].items():
        name = path.removeprefix("src/weightshare/").partition("/")[0]
        held = parts.setdefault(name, [0, 0])
        held[0], held[1] = held[0] + statements, held[1] + ran
    columns = ("part", "statements", "ran", "percent")
    rows = [(name, all_, ran, f"{100 * ran / max(1, all_):.1f}") for name, (all_, ran) in sorted(parts.items())]
    rows.append(("core", found["statements"], found["ran"], f"{found['percent']:.1f}"))
    return render(columns, rows, numbers=columns[1:])


def mutants(found: Found) -> str:
    """How many were noticed, by module, and which were not, each with its reason."""
    reasons = json.loads(SURVIVORS.read_text(encoding="utf-8"))
    columns = ("module", "mutants", "of these tried", "noticed", "survived", "no test")
    ends = {module: Counter(one["outcome"] for one in tried.values()) for module, tried in found["tried"].items()}
    rows = [
        (
            *(module, found["all"][module], sum(end.values()), end["killed"] + end["timeout"]),
            *(end["survived"], end["no tests"]),
        )
        for module, end in ends.items()
    ]
    rows.append(("in all", *(sum(row[column] for row in rows) for column in range(1, 6))))
    left = [
        f"{name}: {reasons.get(name, 'not explained')}"
        for tried in found["tried"].values()
        for name, one in tried.items()
        if one["outcome"] in ("survived", "no tests")
    ]
    lead = f"A sample of {found['sample']:,} of {sum(found['all'].values()):,} mutants, seed {found['seed']}."
    return "\n".join([lead, "", render(columns, rows, numbers=columns[1:]), "", *left])


BLOCKS: Mapping[str, Callable[[Found], str]] = {
    "soak": soak,
    "fuzz": fuzz,
    "leaks": leaks,
    "coverage": coverage,
    "mutants": mutants,
}


def filled(page: str) -> str:
    """The page with every block as it should be; one whose result is not there says so."""
    blocks = {}
    for name, told in BLOCKS.items():
        path = RESULTS / f"{name}.json"
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        blocks[name] = f"No result yet: make {name}" if held is None else told(held)
    return with_blocks(page, blocks)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
