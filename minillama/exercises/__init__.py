"""The checks of the exercises in the notebooks.

In a notebook, `check(fn)` looks up the exercise by the name of the function: a stub that raises
NotImplementedError is "not attempted yet", a right answer is "right", and a wrong one raises an
AssertionError that says what was expected and which mistake it looks like.
The checks lie beside this file, in one file for each notebook. A new one is a function decorated with
`exercise` and named like the function it checks; its stub and its solution, folded in a `<details>` block,
stand in the notebook, and wrong answers that it must refuse in `tests/wrong_answers/`.
"""

import importlib
import pkgutil
import re

import numpy as np

EXERCISES = {}


def exercise(check_answer):
    """Enter the check of one exercise, under its own name."""
    assert check_answer.__name__ not in EXERCISES, f"there is an exercise {check_answer.__name__!r} already"
    EXERCISES[check_answer.__name__] = check_answer
    return check_answer


def check(fn):
    """Check the answer to the exercise that is named like the function."""
    if fn.__name__ not in EXERCISES:
        raise ValueError(f"there is no exercise {fn.__name__!r}; keep the name that the notebook gives")
    try:
        EXERCISES[fn.__name__](fn)
    except NotImplementedError:
        print(f"{fn.__name__}: not attempted yet")
    else:
        print(f"{fn.__name__}: right")


def expect(got, right, mistakes=None):
    """Raise an AssertionError unless got is right, with a hint where it is what a likely mistake gives.

    mistakes: {hint: the wrong result that it explains}. Whole numbers and texts must be equal, other numbers to 5 digits.
    """
    if got is None:
        raise AssertionError("Your function gives back None: does it end with `return`?")
    if not same(got, right):
        hints = [hint for hint, wrong in (mistakes or {}).items() if same(got, wrong)]
        raise AssertionError(f"{hints[0] if hints else 'Not right yet.'}\n  expected {show(right)}\n  got      {show(got)}")


def same(a, b):
    try:
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return False
        return np.array_equal(a, b) if a.dtype.kind in "biuU" else np.allclose(a, b, rtol=1e-5, atol=1e-7)
    except (TypeError, ValueError):                                            # neither numbers nor texts, or rows of unequal length
        return False


def show(x):
    text = repr(x.tolist() if isinstance(x, np.ndarray | np.generic) else x)
    text = re.sub(r"np\.\w+\(([^()]*)\)", r"\1", text)                       # the numbers of a list, without their types
    return text if len(text) <= 200 else text[:200] + " …"


for module in pkgutil.iter_modules(__path__):                                  # each enters its checks as it is imported
    importlib.import_module(f"{__name__}.{module.name}")
