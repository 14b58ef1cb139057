"""The best checkpoint of a run, kept apart from the newest ones, which come and go."""

from __future__ import annotations

import json
from pathlib import Path

from hpc_dl.disk import write_whole
from hpc_dl.train.attempt import Attempt


class Best:
    """``checkpoints/best-STEP.*``, and ``best.json`` with its accuracy, which a continued run compares with."""

    def __init__(self, run_dir: Path) -> None:
        """Read the step and the accuracy of the best checkpoint so far, if there is one."""
        self._attempt = Attempt(run_dir)
        self._folder = run_dir / "checkpoints"
        self.step, self.test_accuracy = -1, -1.0
        try:
            found = json.loads((self._folder / "best.json").read_text(encoding="utf-8"))
            self.step, self.test_accuracy = int(found["step"]), float(found["test_accuracy"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or it can't be read: the next one is the best

    def offer(self, prefix: str, step: int, test_accuracy: float) -> None:
        """Keep a checkpoint if it is better than the best so far.

        The files get second names, which costs no space. Then ``best.json`` is replaced. Only then the best one before
        is removed. So ``best.json`` names a whole checkpoint at any time.

        Raises:
            PeerLostError: a later attempt has taken over.
            OSError: the checkpoint can't be kept.
        """
        if test_accuracy <= self.test_accuracy:
            return
        self._attempt.check()
        source = Path(prefix)
        name = source.name.replace("step", "best", 1)
        for file in source.parent.glob(f"{source.name}.*"):
            target = self._folder / file.name.replace(source.name, name, 1)
            target.unlink(missing_ok=True)
            target.hardlink_to(file)
        write_whole(self._folder / "best.json", json.dumps({"step": step, "test_accuracy": test_accuracy}) + "\n")
        self.step, self.test_accuracy = step, test_accuracy
        for old in self._folder.glob("best-*.*"):
            if not old.name.startswith(f"{name}."):
                old.unlink()
