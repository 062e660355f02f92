"""Every exercise of the notebooks: its stub, its folded solution, and wrong answers with the hint that they get."""

import re
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest

import minillama as ml
from minillama.exercises import EXERCISES, check

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def definitions(pattern, kind):
    """{exercise: code of the cells or solutions that define a function of its name}, over all notebooks."""
    found = {name: [] for name in EXERCISES}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            for text in re.findall(pattern, cell.source, re.S) if cell.cell_type == kind else ():
                for name in re.findall(r"^def (\w+)\(", text, re.M):
                    if name in EXERCISES:
                        found[name].append(text)
    return found


STUBS = definitions(r".*", "code")
SOLUTIONS = definitions(r"<details>.*?```python\n(.*?)```.*?</details>", "markdown")


def defined(code, name):
    namespace = {"np": np, "ml": ml, "check": check}
    exec(code, namespace)
    return namespace[name]


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_has_one_stub_which_counts_as_not_attempted(name, capsys):
    (stub,) = STUBS[name]
    defined(stub, name)
    assert capsys.readouterr().out == f"{name}: not attempted yet\n"


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_has_one_folded_solution_which_is_right(name, capsys):
    (solution,) = SOLUTIONS[name]
    check(defined(solution, name))
    assert capsys.readouterr().out == f"{name}: right\n"


WRONG = [row for path in sorted((Path(__file__).parent / "wrong_answers").glob("*.py")) for row in runpy.run_path(path)["WRONG"]]


@pytest.mark.parametrize("name, answer, hint", WRONG, ids=[f"{name}: {hint}" for name, _, hint in WRONG])
def test_a_wrong_answer_is_refused_with_a_hint(name, answer, hint):
    answer.__name__ = name
    with pytest.raises(AssertionError, match=re.escape(hint)):
        check(answer)


def test_every_exercise_has_a_wrong_answer_here():
    assert {name for name, _, _ in WRONG} == set(EXERCISES)


def test_an_error_in_an_answer_is_shown_and_not_taken_for_a_stub():
    def likeliest(logits, n):
        raise IndexError("mine")

    with pytest.raises(IndexError, match="mine"):
        check(likeliest)


def test_an_unknown_name_is_refused():
    def likelyest(logits, n):
        raise NotImplementedError

    with pytest.raises(ValueError, match="no exercise 'likelyest'"):
        check(likelyest)
