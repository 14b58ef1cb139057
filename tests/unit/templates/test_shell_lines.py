"""Shell lines of a site, before and after its modules, as bash runs them in a job script."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.planning.plan import make_plan
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site_files import load_site

# In place of the nodes' Python: `begin` notes the environment, `again` says that there is no further attempt.
PYTHON = """#!/bin/bash
case $4 in
  begin) env -0 > "$NOTES"; echo 0 ;;
  again) exit 1 ;;
  finish) while [ "$1" != --code ]; do shift; done; exit "$2" ;;
esac
"""
MODULE = """
module() {
  echo "module $*"
  case $2 in missing) echo "no $2" >&2; return 1;; esac
  export LOADED="${LOADED-}${LOADED:+ }$*"
  : "$never_set"
}
"""


class Bench:
    """Runs job scripts of a site that is this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "python").write_text(PYTHON)
        (folder / "python").chmod(0o755)
        (folder / "init.sh").write_text(MODULE)
        (folder / "my.toml").write_text(
            f"scheduler = 'local'\ncores = 1\naddress = '127.0.0.1'\npython = '{folder}/python'\n"
        )

    def run(self, **keys: Any) -> tuple[int, str, dict[str, str]]:
        """Return the exit code and output of the script, and the environment that its Python got."""
        site = load_site(self.folder / "my.toml", **keys)
        plan = make_plan("train", site, self.folder / "my.toml", [Layer({"workdir": str(self.folder)}, "test")])
        notes = self.folder / "notes"
        notes.unlink(missing_ok=True)
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "HPC_DL_JOB_ID": "1", "NOTES": str(notes)}
        done = subprocess.run(
            ["bash", "-c", plan.script()], env=environ, capture_output=True, text=True, check=False, timeout=60
        )
        found = notes.read_text().split("\0")[:-1] if notes.exists() else []
        return done.returncode, done.stdout + done.stderr, dict(item.split("=", 1) for item in found)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


def test_lines_run_around_the_modules_in_their_order(bench: Bench) -> None:
    code, said, environ = bench.run(
        module_init=str(bench.folder / "init.sh"),
        before_modules=["module purge", "module use /opt/it\\'s"],
        modules=["first", "second"],
        after_modules=['export AFTER="$LOADED"'],
    )
    assert (code, environ["LOADED"]) == (0, "purge use /opt/it's load first load second")
    assert environ["AFTER"] == environ["LOADED"], said


def test_module_init_is_there_for_the_lines_alone(bench: Bench) -> None:
    code, _, environ = bench.run(module_init=str(bench.folder / "init.sh"), after_modules=["module restore mine"])
    assert (code, environ["LOADED"]) == (0, "restore mine")


def test_lines_are_run_as_in_a_users_own_script(bench: Bench) -> None:
    (bench.folder / "venv" / "bin").mkdir(parents=True)
    (bench.folder / "venv" / "bin" / "activate").write_text('export VIRTUAL_ENV="$PWD/venv" PS1="(v) $PS1"\n')
    lines = [
        "# nothing but a comment",
        "source venv/bin/activate  # it's in the working folder",
        'export PICKED=$HOME/z "QUOTED=a  b"',
        "ulimit -S -c 0; export CORE=$(ulimit -S -c)",
        "yes | head -n 1 >/dev/null",  # with pipefail its code would be that of SIGPIPE
        "declare -A table=([key]=word); export WORD=${table[key]}",
        "shopt -s extglob",
        "export SHORT=${WORD%%@(rd)}",
        "set -e; false || true",
        'export UNSET="<$not_set>"',
    ]
    code, said, environ = bench.run(after_modules=lines)
    assert (code, said) == (0, ""), said
    wanted = {"VIRTUAL_ENV": f"{bench.folder}/venv", "PICKED": f"{bench.folder}/z", "QUOTED": "a  b", "CORE": "0"}
    wanted |= {"WORD": "word", "SHORT": "wo", "UNSET": "<>"}
    assert {key: environ[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("(exit 7)", 7),
        ("source gone.sh", 1),
        ("no_such_command --now", 127),
        ("export OK=1 && false", 1),
        ("cd $(echo 'it is')", 1),
    ],
)
def test_a_line_that_fails_ends_the_job_with_the_cause(bench: Bench, line: str, code: int) -> None:
    for key in ("before_modules", "after_modules"):
        ended, said, environ = bench.run(**{key: ["export FIRST=1", line, "touch after"]})
        assert ended == code
        assert f"hpc-dl: {key} failed; see the site file: {line}\n" in said
        assert environ["FIRST"] == "1"
        assert not (bench.folder / "after").exists(), "the lines after it are not run"


def test_a_line_that_ends_the_script_is_told(bench: Bench) -> None:
    code, said, environ = bench.run(after_modules=["false || exit 3"])
    assert (code, environ) == (3, {})
    assert "hpc-dl: a shell line of the site file has ended the script" in said


def test_lines_of_no_site_leave_no_trace(bench: Bench) -> None:
    site = load_site(bench.folder / "my.toml")
    script = make_plan("train", site, bench.folder / "my.toml", []).script()
    assert "eval" not in script
    assert script.startswith("#!/bin/bash\n")
    assert (
        make_plan("train", load_site(bench.folder / "my.toml", login_shell=True), bench.folder / "my.toml", [])
        .script()
        .startswith("#!/bin/bash -l\n")
    )


def test_hostile_lines_reach_bash_as_they_are(bench: Bench) -> None:
    line = r"""printf '<%s>' "it's" 'a"b' '$(x)' '`id`' '%j' '\\'; echo"""
    _, said, _ = bench.run(before_modules=[line])
    expected = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
    assert expected in said
    assert shlex.quote(line) != line
