"""The example of a search runs, with a stand-in for the library that asks and tells."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import DOCS, blocks

# The names of Optuna that the page uses; it searches by chance.
_OPTUNA = """
import random, types

class Trial:
    def __init__(self):
        self.params = {}
    def suggest_float(self, name, low, high, log=False):
        return self.params.setdefault(name, random.uniform(low, high))
    def suggest_int(self, name, low, high):
        return self.params.setdefault(name, random.randint(low, high))

class Study:
    def __init__(self):
        self.trials = []
    def ask(self):
        self.trials.append(Trial())
        return self.trials[-1]
    def tell(self, trial, value, state=None):
        trial.value = value
    best_trial = property(lambda self: min(self.trials, key=lambda trial: trial.value))
    best_value = property(lambda self: self.best_trial.value)
    best_params = property(lambda self: self.best_trial.params)

def create_study(direction):
    return Study()

trial = types.SimpleNamespace(TrialState=types.SimpleNamespace(FAIL="fail"))
"""


def test_the_example_of_a_search_finds_something(tmp_path: Path) -> None:
    program = next(block.text for block in blocks(DOCS / "howto" / "functions.rst") if block.caption == "search.py")
    assert len(program.splitlines()) < 25
    (tmp_path / "search.py").write_text(program)
    if importlib.util.find_spec("optuna") is None:
        (tmp_path / "optuna.py").write_text(_OPTUNA)
    command = [sys.executable, "search.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 trials; best: ")
    assert len(list((tmp_path / "runs").iterdir())) == 6
