"""The page of an inspection: what a user sees first of their own model."""

from collections.abc import Iterator, Sequence

from weightshare._table import run_text, shape_text
from weightshare.analysis.alike import Alike
from weightshare.analysis.heat import draw_similarity
from weightshare.analysis.inspection import Inspection, activations_note, chance_note, thousandths
from weightshare.analysis.outlook import Choice
from weightshare.analysis.page import Bar, Code, Piece, Section, Tile, render_page
from weightshare.analysis.pictures import svg
from weightshare.analysis.present import told
from weightshare.depth.measure import Similarity

MOST_LISTS = 4
MOST_ROLES = 3
AXES = {
    "depth": "Across depth: layers read one weight, or mix a few",
    "space": "Across space: a kernel for each position, or one for all",
    "values": "Across values: numbers of one weight become equal",
}


def inspection_page(found: Inspection) -> str:
    """The page as HTML text."""
    return render_page(found.name or found.model, found.lead, list(_tiles(found)), list(_sections(found)))


def _tiles(found: Inspection) -> Iterator[Tile]:
    of = max(1, found.stored)
    yield Tile("stored numbers", short(found.stored), f"{found.stored:,}, each tensor once")
    yield Tile(
        "memory", f"{short(found.bytes)}B", f"and {short(found.buffer_bytes)}B of buffers; {short(found.file)}B on file"
    )
    if found.blocks:
        largest = max(found.blocks, key=lambda one: one.numbers)
        more = f", and {len(found.blocks) - 1} more lists" if len(found.blocks) > 1 else ""
        yield Tile("equal blocks", f"{largest.blocks} × {largest.block}", f"in {largest.path or 'the model'}{more}")
    if found.equal or not found.shares:
        yield Tile("in equal layers", f"{found.equal / of:.1%}", "of the stored numbers")
    tie = next((one for one in found.choices if one.axis == "depth" and one.stored is not None), None)
    if tie is not None and tie.stored is not None:
        yield Tile("with two layers tied", f"{tie.stored / of:.1%}", f"{tie.stored:,} numbers")
    if found.already:
        yield Tile("shared already", str(len(told(found.already))), "or not plain: see below")


def _sections(found: Inspection) -> Iterator[Section]:
    of = max(1, found.stored)
    if found.unrun:
        yield Section("It was not run", text=found.unrun)
    if found.parts:
        strip = [Piece(p.path, p.numbers / of, p.blocks, f"{p.numbers:,} numbers") for p in found.parts]
        text = "The whole model, from its input on, as wide as the numbers that each part stores. " + (
            "Blocks of one colour are equal, and could read the same weights; what is grey stands alone."
            if found.blocks
            else "What repeats in it is shared already: see below."
            if found.shares
            else "Nothing in it repeats."
        )
        yield Section(
            "What repeats",
            text,
            strip=strip,
            columns=("equal blocks in", "blocks", "class", "numbers", "of model") if found.blocks else (),
            rows=[(b.path or "the model", b.blocks, b.block, b.numbers, share(b.numbers, of)) for b in found.blocks],
        )
    if found.roles:
        roles = [(r.name, shape_text(r.shape), r.layers, r.numbers, share(r.numbers, of)) for r in found.roles]
        titles = ("equal layers", "weight", "layers", "numbers", "of model")
        yield Section("What the blocks hold", columns=titles, rows=roles[:8])
        if roles[8:]:
            yield Section(f"{len(roles) - 8} smaller roles", columns=titles, rows=roles[8:], folded=True)
    for axis, title in AXES.items():
        yield from _choices(title, [choice for choice in found.choices if choice.axis == axis], of)
    for step in found.steps:
        listing = step.lines + (
            f"\n\n# the same, printed only, on the command line:\n# {step.command}" if step.command else ""
        )
        yield Section(f"Next: {step.title[0].lower()}{step.title[1:]}", listing=listing)
    yield from _alike(found.alike)
    if found.activations is not None:
        text = (
            f"Linear CKA of what the blocks give on {found.inputs}: 1 where one is the other but for a rotation and a "
            f"scale. {activations_note(found.activations, found.inputs)}"
        ).rstrip()
        yield Section("What the blocks compute", text=text, picture=_heat(found.activations, "Linear CKA of blocks"))
    elif found.uncompared:
        yield Section("What the blocks compute", text=f"It was not compared: {found.uncompared}.")
    if found.already:
        rows = told(found.already)
        yield Section("Shared already, or not plain", columns=("what", "where", "meaning"), rows=rows)
    elif found.stored:
        yield Section("Shared already, or not plain", text="Nothing: every path reads a plain parameter of its own.")
    if found.cautions:
        yield Section("What to mind", points=found.cautions)
    if found.left_out():
        rows = [(len(names), run_text(names, 8), reason) for reason, names in found.left_out().items()]
        yield Section("Left out, and why", columns=("how many", "what", "reason"), rows=rows, folded=True)


def _choices(title: str, listed: Sequence[Choice], of: int) -> Iterator[Section]:
    fits = [choice for choice in listed if not choice.refused]
    if not fits:
        if listed:
            yield Section(title, text=" ".join(f"Not here: {choice.refused}" for choice in listed[:1]))
        return
    rows = [
        (Code(c.code), c.stored, share(c.stored, of), f"{short(c.file or 0)}B", c.what)
        if c.stored is not None
        else (Code(c.code), "–", Bar("–", 0.0), "–", c.what)
        for c in fits
    ]
    yield Section(title, columns=("how", "stored numbers", "of now", "on file", "what"), rows=rows)


def _alike(found: Sequence[Alike]) -> Iterator[Section]:
    if not found:
        return
    rows = [
        (
            *(one.blocks or "the model", thousandths(one.pairs.nanmean().item()), thousandths(one.neighbours)),
            *_closest(one),
        )
        for one in found
    ]
    text = (
        f"{chance_note(found)} Cosines of the matrices of two blocks: 1 where they are equal, 0 where they have "
        "nothing in common."
    ).strip()
    largest = sorted(found, key=lambda one: one.numbers * len(one.whole.rows))[-MOST_LISTS:]
    pictures = []
    for one in (one for one in found if one in largest):
        pictures.append(
            _heat(one.whole, f"Cosines of all matrices in {one.blocks or 'the model'}", one.blocks or "blocks")
        )
        several = len(one.roles) > 1 and not one.by_chance
        pictures += [
            _heat(role, f"Cosines of {name}", name) for name, role in (one.roles[:MOST_ROLES] if several else ())
        ]
    columns = ("blocks in", "mean cosine", "of neighbours", "most alike", "cosine")
    yield Section("How alike the blocks are", text, columns=columns, rows=rows, picture="".join(pictures))


def _closest(one: Alike) -> tuple[str, str]:
    first, second, cosine = one.closest
    return f"{first} and {second}", thousandths(cosine)


def _heat(one: Similarity, title: str, above: str = "") -> str:
    return svg(draw_similarity({above: one}, side=2.2 if above else 4.2), title)


def share(numbers: int, of: int) -> Bar:
    """A part of the model as a bar; one that is larger than the model fills its cell."""
    return Bar(f"{numbers / of:,.1%}", min(1.0, numbers / of))


def short(number: int) -> str:
    """A number of three digits or so: `86.6 M`.

    Example:
        >>> [short(number).replace("\\xa0", " ") for number in (86_567_656, 999, 12_345)]
        ['86.6 M', '999 ', '12.3 k']
    """
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}\xa0{letter}"
    return f"{number}\xa0"
