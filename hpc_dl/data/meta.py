"""``meta.json``, which describes the TFRecord shards to their readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc_dl.data.description import Dataset

META = "meta.json"
FORMAT = 1  # of the shards; folders of another format are made anew


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of ``meta.json`` in `folder`; empty if the file is missing or not a JSON object."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def is_complete(dataset: Dataset, folder: Path) -> bool:
    """Return whether all shards of `dataset` are in `folder`, with the sizes that they had when they were written."""
    meta = read_meta(folder)
    if meta.get("format") != FORMAT or meta.get("images") != [dataset.train_images, dataset.test_images]:
        return False
    try:
        return all((folder / file).stat().st_size == size for file, size in meta["bytes"].items())
    except OSError:
        return False
