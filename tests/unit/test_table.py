"""Tables stay within their width: titles are broken between words before any cell is."""

from weightshare._table import WIDTH, render

COLUMNS = ("group", "weight", "layers", "slots", "layer reads slot", "stored before", "after")
PATH = "bert.encoder.layer.*.attention.output.dense.weight"
ROW = (PATH, "48×48", "0–5", 2, "0 0 0 1 1 1", 13_824, 4_608)


def test_a_table_that_fits_has_its_titles_on_one_line():
    lines = render(COLUMNS, [("a.weight", *ROW[1:])], numbers=COLUMNS[-2:]).splitlines()
    assert lines[0].split() == " ".join(COLUMNS).split()
    assert len(lines) == 3


def test_titles_are_broken_before_a_path_is():
    lines = render(COLUMNS, [ROW], numbers=COLUMNS[-2:]).splitlines()
    assert lines[0].split() == ["stored"]
    assert lines[-1].split()[0] == PATH
    assert "13,824" in lines[-1]
    assert max(map(len, lines)) <= WIDTH


def test_what_titles_cannot_make_fit_is_folded():
    lines = render(("path", "how it is called here"), [("x" * 150, "y")]).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.count("x") for line in lines) == 150
