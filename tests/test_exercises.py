"""Every exercise of the notebooks: its stub, its folded solution, and wrong answers with the hint that they get."""

import re
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


def write(llama, ids, n, context=list):
    ids = list(ids)
    for _ in range(n):
        ids.append(int(llama(context(ids))[-1].argmax()))
    return ids


def write_into_the_callers_list(llama, ids, n):
    ids += write(llama, ids, n)[len(ids):]
    return ids


def count(config, n_kv_heads=None, norms=True, last_norm=True, matrices=3, head_dim=None, tied=None):
    c = config
    attention = 2 * c.dim * (head_dim or c.head_dim) * (c.n_heads + (n_kv_heads or c.n_kv_heads))
    tables = c.vocab_size * c.dim * (1 if (c.tied if tied is None else tied) else 2)
    return tables + c.n_layers * (attention + matrices * c.dim * c.hidden_dim + norms * 2 * c.dim) + last_norm * c.dim


WRONG = [                                              # exercise, wrong answer, part of the hint
    ("likeliest", lambda logits, n: np.argsort(logits[-1])[-n:], "rising order"),
    ("likeliest", lambda logits, n: np.argsort(logits[-1])[:n], "least likely"),
    ("likeliest", lambda logits, n: np.argsort(-logits[0])[:n], "first position"),
    ("likeliest", lambda logits, n: np.sort(logits[-1])[::-1][:n], "the logits themselves"),
    ("likeliest", lambda logits, n: np.argsort(-logits)[:, :n], "Every row"),
    ("likeliest", lambda logits, n: None, "return"),
    ("likeliest", lambda logits, n: [[0], [1, 2]], "Not right yet"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n)[len(ids):], "Only the new ids"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n, lambda written: written[-1:]), "latest token alone"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n, lambda written: ids), "the prompt alone"),
    ("write_greedily", lambda llama, ids, n: write(lambda context: llama(context)[:1], ids, n), "first row"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n + 1), "too many"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n - 1), "missing"),
    ("write_greedily", write_into_the_callers_list, "own list was changed"),
    ("count_parameters", lambda c: count(c, n_kv_heads=c.n_heads), "n_kv_heads heads"),
    ("count_parameters", lambda c: count(c, head_dim=c.dim // c.n_heads), "need not be dim"),
    ("count_parameters", lambda c: count(c, tied=False), "A tied model"),
    ("count_parameters", lambda c: count(c, tied=True), "not tied"),
    ("count_parameters", lambda c: count(c, norms=False, last_norm=False), "norms have weights"),
    ("count_parameters", lambda c: count(c, last_norm=False), "one more norm"),
    ("count_parameters", lambda c: count(c, matrices=2), "three matrices"),
    ("count_parameters", lambda c: count(c) + 1, "Not right yet"),
]


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
