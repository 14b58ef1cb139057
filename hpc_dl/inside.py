"""Runs a module of ours with the Python of a container: ``python3 /…/hpc_dl/inside.py PACKAGES MODULE ARGUMENT…``.

hpc_dl itself comes from the host, and so do small packages that the image lacks: from PACKAGES, a folder of the host.
TensorFlow comes from the image. Python 3.6 can read this file, so that one that is too old is told in plain words.
"""

import importlib.machinery
import importlib.util
import platform
import runpy
import sys
from pathlib import Path
from typing import Any

_OLDEST = (3, 10)
# What the training program and the command `rank` import.
_LENT = ("msgspec", "click", "jinja2", "markupsafe", "tomli", "tomli_w", "typing_extensions")
_NEEDED = {"hpc_dl.train": ["tensorflow"], "hpc_dl.data": ["numpy"]}


class _Host:
    """Finds packages in a folder of the host, and no others there: those of the host's own Python don't fit here."""

    def __init__(self, folder: str, *names: str) -> None:
        self._folder = folder
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self._names:
            return importlib.machinery.PathFinder.find_spec(name, path or [self._folder], target)
        return None


def lacking(module: str) -> str:
    """Return what a module of ours needs and does not find here, in words; empty if it has all."""
    here = f"the container's Python ({sys.executable}, {platform.python_version()})"
    if sys.version_info < _OLDEST:
        return f"{here} is too old: hpc_dl needs {_OLDEST[0]}.{_OLDEST[1]} or newer"
    try:
        import msgspec  # noqa: F401 - its compiled part fits one version of Python
    except ImportError as error:
        return f"{here} can't import msgspec ({error}): install it in the image"
    for package in _NEEDED.get(module, []):
        if importlib.util.find_spec(package) is None:
            return f"{here} has no {package}: install it in the image, or name another Python as container_python"
    return ""


def main() -> None:
    """Run the module that the command line names."""
    ours = Path(__file__).resolve().parent
    sys.path[:] = [folder for folder in sys.path if folder and Path(folder).resolve() != ours]
    packages, module = sys.argv[1:3]
    sys.meta_path.insert(0, _Host(str(ours.parent), "hpc_dl"))
    sys.meta_path.append(_Host(packages, *_LENT))
    problem = lacking(module)
    if problem:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(module, None, "__main__", True)


if __name__ == "__main__":
    main()
