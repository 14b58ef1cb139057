"""``python -m hpc_dl.check.python NAME…``: prints which packages a Python has, for `read_python`."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from typing import Any

import msgspec

from hpc_dl.spec.modes import MODES

_MARK = "hpc-dl-python "


class Python(msgspec.Struct, frozen=True):
    """What an interpreter has."""

    executable: str
    failed: dict[str, str]
    """Package to the reason why it can't be imported."""
    gpus: tuple[str, ...] = ()
    """The GPUs that TensorFlow sees, as it names them."""


def main(wanted: list[str]) -> None:
    """Import packages, and print how that went."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    failed: dict[str, str] = {}
    for name in wanted:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: PERF203 - a broken package may raise anything
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    tensorflow: Any = sys.modules.get("tensorflow")
    gpus: list[str] = []
    if "tensorflow" in wanted and "tensorflow" not in failed:
        for device in tensorflow.config.list_physical_devices("GPU"):
            details = tensorflow.config.experimental.get_device_details(device)
            gpus.append(details.get("device_name", "a GPU"))
    print(_MARK + json.dumps({"executable": sys.executable, "failed": failed, "gpus": gpus}), flush=True)


def read_python(output: str) -> Python | None:
    """Return what `main` printed, whatever others printed before; None if it did not get that far."""
    found = re.search(rf"^{_MARK}(.*)$", output, re.MULTILINE)
    return msgspec.json.decode(found[1], type=Python) if found else None


def wanted_packages(mode: str, script: str) -> list[str]:
    """Return the packages that the processes of a job import."""
    if script:
        return []
    return ["tensorflow", *(["horovod.tensorflow"] if MODES[mode].ranks else [])]


if __name__ == "__main__":
    main(sys.argv[1:])
