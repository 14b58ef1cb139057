"""The place of the data files that come with the package: templates, job descriptions, sites."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def share() -> Path:
    """Return the folder that holds ``templates/``, ``jobs/`` and ``env/sites/``.

    In a wheel they are inside the package; in a checkout they are at its top, where people look for them.
    """
    installed = _PACKAGE / "share"
    return installed if installed.is_dir() else _PACKAGE.parent
