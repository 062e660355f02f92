"""The notebooks as files: what a reader would stumble over without running them. That they run is nbval's to prove."""

import ast
import copy
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest
from nbformat import reader

from minillama.viz import PARTS                        # matplotlib lists its fonts here, and not in a kernel that would say so on stderr

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRINTS = {"print", "show", "check"}                    # a cell that calls one of these outside of a function has an output
MACHINE = re.compile(r"(?<![\w.:])/(?:home|root|tmp|work|opt|usr|var|mnt|private|Users)/|\b[A-Z]:\\\w|\b0x[0-9a-f]{6,}")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROW = re.compile(r"^\|\s*(?:\[(\d\d)\]\(([^)]+)\)|(\d\d))\s*\|\s*([^|]+?)(?: \(planned\))?\s*\|", re.M)


def course():
    """The rows of the README's table: (number, title, link or None if planned)."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return [(linked or planned, title, link or None) for linked, link, planned, title in ROW.findall(readme)]


def navigation(rows, i):
    """The line that stands in a notebook's first and last cell."""
    def entry(number, title, link):
        return f"[{number} {title}]({Path(link).name})" if link else f"{number} {title} (planned)"

    parts = ["[Course](../README.md)"]
    if i > 0:
        parts.insert(0, "previous: " + entry(*rows[i - 1]))
    if i + 1 < len(rows):
        parts.append("next: " + entry(*rows[i + 1]))
    return " · ".join(parts)


def read(path):
    """A notebook as it lies there; `nbformat.read` would mend some faults without a word, and so does its validation."""
    return reader.reads(path.read_text(encoding="utf-8"))


def calls(source):
    """Names of the functions that a cell calls when it is run."""
    names, nodes = set(), list(ast.parse(re.sub(r"^[%!].*", "", source, flags=re.M)).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call):
            names.add(getattr(node.func, "attr", getattr(node.func, "id", None)))
        nodes += ast.iter_child_nodes(node)
    return names


def prose(source):
    """A text cell without its code, tables and HTML tags."""
    return re.sub(r"```.*?```|^\|[^\n]*|</?\w+>", "", source, flags=re.S | re.M)


def text_of(output):
    """All that an output says, pictures aside."""
    shown = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
    return "\n".join(map(str, [output.get("text", ""), *shown.values(), *output.get("traceback", [])]))


def faults(notebook, path):
    """Everything that is wrong with a notebook, as lines of text."""
    cells = notebook.cells
    if len({cell.get("id") for cell in cells}) < len(cells):
        yield "two cells with one id"
    else:
        try:
            nbformat.validate(copy.deepcopy(notebook))
        except nbformat.ValidationError as error:
            yield f"no valid notebook: {error.message}"
    if not 25 <= len(cells) <= 45:
        yield f"{len(cells)} cells"
    code = [cell for cell in cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "not run from top to bottom"
    if (lines := median(sum(map(bool, map(str.strip, cell.source.splitlines()))) for cell in code)) > 6:
        yield f"a median of {lines:g} lines in code cells"
    for i, cell in enumerate(cells):
        outputs = cell.get("outputs", [])
        yield from (f"{cell.id}: {fault}" for fault in (code_faults(cell, outputs) if cell.cell_type == "code" else text_faults(cell, path)))
        if found := MACHINE.search("\n".join([cell.source, *map(text_of, outputs)])):
            yield f"{cell.id}: says {found[0]!r}, which is of one machine"
        if any("image/png" in output.get("data", {}) for output in outputs):
            if not (i + 1 < len(cells) and cells[i + 1].source.startswith("**What to see:** ")):
                yield f"{cell.id}: a figure, but the next cell does not say what to see"
            if "model_map" not in cell.source and not any("<details>" in before.source for before in cells[max(0, i - 2):i]):
                yield f"{cell.id}: a figure without a prediction before it"
    if sum("show" in calls(cell.source) for cell in code) > 7 + 1:                     # and the map
        yield "more than 7 figures"


def code_faults(cell, outputs):
    called = calls(cell.source)
    if called & PRINTS and not outputs:
        yield "its output is not stored"
    if "show" in called and not any("image/png" in output.get("data", {}) for output in outputs):
        yield "its figure is not stored"
    if any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs):
        yield "an error or a warning is stored"
    if len(cell.source.splitlines()) > (20 if "show" in called else 15):
        yield f"{len(cell.source.splitlines())} lines"
    if max(map(len, cell.source.splitlines()), default=0) > 120:
        yield "a line of more than 120 characters"
    if "NBVAL" in cell.source and not re.search(r"perf_counter|timeit|widgets", cell.source):
        yield "only times and widgets may differ from run to run"


def text_faults(cell, path):
    words = len(prose(cell.source).split())
    if words > 120:
        yield f"{words} words"
    if re.search(r"\\text\w*\{[^}]*\\_", cell.source):
        yield "an underscore inside \\text…: MathJax shows its backslash"
    for target in LINK.findall(cell.source):
        if "://" not in target and not (path.parent / target.partition("#")[0]).is_file():
            yield f"a link to {target}, which is not there"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_no_faults(path):
    assert list(faults(read(path), path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_smaller_than_1500_kB(path):
    assert path.stat().st_size < 1_500_000


def test_the_readme_lists_every_notebook_in_order():
    rows = course()
    assert [number for number, _, _ in rows] == [f"{i:02d}" for i in range(len(rows))] and len(rows) >= len(NOTEBOOKS)
    assert [link for _, _, link in rows if link] == [f"notebooks/{path.name}" for path in NOTEBOOKS]
    assert all(Path(link).name.startswith(f"{number}_") for number, _, link in rows if link)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_title_and_links_to_the_neighbors_agree_with_the_readme(path):
    rows, cells = course(), read(path).cells
    (i,) = (i for i, (_, _, link) in enumerate(rows) if link == f"notebooks/{path.name}")
    assert cells[0].source.startswith(f"# {rows[i][0]} · {rows[i][1]}\n")
    assert navigation(rows, i) in cells[0].source.splitlines()
    assert cells[-1].source.splitlines()[-1] == navigation(rows, i)


def test_the_map_of_the_model_names_notebooks_of_the_course():
    assert {notebook for boxes in PARTS.values() for _, notebook, *_ in boxes} <= {number for number, _, _ in course()}


def test_nothing_but_notebooks_lies_beside_them():
    assert {path.suffix for path in (ROOT / "notebooks").iterdir() if not path.name.startswith(".")} == {".ipynb"}


# ------------------------------------------------------------------ each fault, planted, is found

def first(notebook, kind, text=""):
    return next(cell for cell in notebook.cells if cell.cell_type == kind and text in cell.source)


def figure(notebook):
    return next(cell for cell in notebook.cells if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])))


DAMAGE = {
    "no valid notebook": lambda nb: first(nb, "code").update(metadata=None),
    "two cells with one id": lambda nb: nb.cells[1].update(id=nb.cells[0].id),
    "cells": lambda nb: nb.cells.__delitem__(slice(3, -5)),
    "not run from top to bottom": lambda nb: first(nb, "code").update(execution_count=2),
    "its output is not stored": lambda nb: first(nb, "code", "print(").update(outputs=[]),
    "its figure is not stored": lambda nb: figure(nb).update(outputs=[nbformat.v4.new_output("stream", text="no figure")]),
    "an error or a warning": lambda nb: first(nb, "code").outputs.append(nbformat.v4.new_output("stream", name="stderr", text="Warning")),
    "21 lines": lambda nb: figure(nb).update(source="plt.show()\n" + 20 * "x = 1\n"),
    "16 lines": lambda nb: first(nb, "code").update(source=16 * "x = 1\n"),
    "a median of 7 lines": lambda nb: [cell.update(source=7 * "x = 1\n") for cell in nb.cells if cell.cell_type == "code"],
    "120 characters": lambda nb: first(nb, "code").update(source=f"x = '{120 * 'x'}'"),
    "only times and widgets": lambda nb: first(nb, "code").update(source="# NBVAL_IGNORE_OUTPUT\nx = 1"),
    "121 words": lambda nb: first(nb, "markdown").update(source="| a | table |\n" + 121 * "word "),
    "shows its backslash": lambda nb: first(nb, "markdown").update(source=r"$\texttt{theta\_base}$"),
    "a link to 99_lost.ipynb": lambda nb: first(nb, "markdown").update(source="[lost](99_lost.ipynb#here)"),
    "says '/home/'": lambda nb: first(nb, "code").outputs.append(nbformat.v4.new_output("stream", text="in /home/me/minillama")),
    "says '0x7f12ab34cd56'": lambda nb: first(nb, "code").update(source="x = '<object at 0x7f12ab34cd56>'"),
    "does not say what to see": lambda nb: nb.cells[nb.cells.index(figure(nb)) + 1].update(source="**See:** that"),
    "without a prediction": lambda nb: figure(nb).update(source="plt.plot([1, 2])\nplt.show()"),
    "more than 7 figures": lambda nb: nb.cells.extend(nbformat.from_dict(copy.deepcopy(figure(nb)) | {"id": f"more-{i}"}) for i in range(9)),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_planted_fault_is_found(fault):
    notebook = read(NOTEBOOKS[0])
    DAMAGE[fault](notebook)
    assert fault in "\n".join(faults(notebook, NOTEBOOKS[0]))


def test_the_line_of_links_names_planned_notebooks_without_a_link():
    rows = [("00", "A", "notebooks/00_a.ipynb"), ("01", "B", "notebooks/01_b.ipynb"), ("02", "C", None)]
    assert navigation(rows, 0) == "[Course](../README.md) · next: [01 B](01_b.ipynb)"
    assert navigation(rows, 1) == "previous: [00 A](00_a.ipynb) · [Course](../README.md) · next: 02 C (planned)"
    assert navigation(rows, 2) == "previous: [01 B](01_b.ipynb) · [Course](../README.md)"
