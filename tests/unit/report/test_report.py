"""The page of a job and of several, its figures and tables, from run folders that are whole, damaged and hostile."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dl.cli.main import main
from hpc_dl.report.compare import compare, speeds
from hpc_dl.report.curves import MOST, log_ticks, runs, thin, ticks
from hpc_dl.report.drawing import drawing
from hpc_dl.report.measured import measure
from hpc_dl.report.model import Figure, Report, Series
from hpc_dl.report.one_job import report_of
from hpc_dl.report.page import html, svg, write_files
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.job import JobSpec
from tests.unit.report.runs import make_run

NASTY = "<script>alert(1)</script> \" ' & </title> ]]>"
_HTML = "{http://www.w3.org/1999/xhtml}"
_CHROMIUM = shutil.which("chromium")


def page(report: Report) -> Any:
    """Return the tree of a page that has no mistake."""
    parser = html5lib.HTMLParser(strict=False, namespaceHTMLElements=True)
    tree = parser.parse(html(report))
    assert parser.errors == []
    return tree


def text(tree: Any) -> str:
    return " ".join(" ".join(tree.itertext()).split())


def report(run: RunFolder) -> Report:
    return report_of(measure(run), "COMPLETED", "hpc-dl report 12 --html")


def cells(report: Report, table: str) -> dict[Any, dict[str, Any]]:
    (found,) = [one for one in report.tables if one.name == table]
    return {row[0]: dict(zip(found.columns, row, strict=True)) for row in found.rows}


def test_the_page_of_a_job_has_all_that_was_measured(tmp_path: Path) -> None:
    found = report(make_run(tmp_path))
    names = {figure.name for figure in found.figures}
    wanted = {"loss-steps", "loss-time", "accuracy-steps", "accuracy-time", "throughput", "step-times", "cpu-processes"}
    assert wanted | {"cpu-nodes", "sent", "received", "packets", "memory", "gpu-use", "gpu-power", "confusion"} <= names
    facts = {"test accuracy": "95.00%", "node-hours": "0.667", "price": "2", "time": "20:00 min"}
    assert found.facts.items() >= facts.items()
    processes = cells(found, "processes")
    assert processes["worker:0"]["CPU in use"] == 2.0
    assert processes["worker:0"]["median ms"] == 130.0
    assert processes["worker:1"]["bytes received per step"] == 20
    assert processes["ps:0"]["node"] == "n1"
    nodes = cells(found, "nodes")
    assert (nodes["n2"]["MB/s sent"], nodes["n2"]["MB/s received"], nodes["n2"]["packets/s sent"]) == (10.0, 20.0, 1000)
    assert (nodes["n1"]["CPU in use"], nodes["n1"]["GPU %"], nodes["n1"]["GPU W"]) == (4.0, 80.0, 120)
    tree = page(found)
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}svg"))) == len(found.figures)
    assert f"hpc-dl submit {tmp_path}/train-12/asked.toml --site here" in text(tree)


def test_the_page_needs_no_other_file_and_is_small(tmp_path: Path) -> None:
    run = make_run(tmp_path, workers=64)
    text = html(report(run))
    assert len(text.encode()) < 3_000_000
    assert not re.search(r"[ <](src|href)=|@import|url\(", text)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    run = make_run(tmp_path, script=f"/tmp/{NASTY}.py", args=(NASTY,), env={"TOKEN": "secret"})
    (run.monitor / "n1.jsonl").rename(run.monitor / '<b>&".jsonl')
    (run.metrics / "worker-1.jsonl").rename(run.metrics / "<i>'-0.jsonl")
    result = json.loads(run.result.read_text())
    run.result.write_text(json.dumps({**result, NASTY: NASTY}))
    found = report(run)
    tree = page(found)
    assert len(list(tree.iter(f"{_HTML}script"))) == 1
    assert not [*tree.iter(f"{_HTML}b"), *tree.iter(f"{_HTML}i")]
    assert NASTY in text(tree)
    assert '<b>&"' in text(tree)
    assert "secret" not in html(found)
    for figure in found.figures:
        ET.fromstring(svg(figure, alone=True))  # it is XML  # noqa: S314
        assert "var(" not in svg(figure, alone=True)  # programs other than browsers show it too


@pytest.mark.parametrize("gone", ["metrics", "monitor", "placement", "attempts", "result", "summary", "all"])
def test_what_was_not_measured_is_left_out(tmp_path: Path, gone: str) -> None:
    run = make_run(tmp_path)
    for name in ("metrics", "monitor", "placement", "attempts", "result", "summary") if gone == "all" else (gone,):
        path = getattr(run, name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = report(run)
    page(found)
    if gone == "all":
        assert not found.figures
        assert [table.name for table in found.tables] == ["settings"]
    assert ("loss-steps" in {figure.name for figure in found.figures}) == (gone not in ("metrics", "all"))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_damaged_lines_never_stop_a_report(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    run = make_run(tmp_path_factory.mktemp("damaged"))
    for path in [run.monitor / "n1.jsonl", run.metrics / "worker-0.jsonl", run.result, run.placement, run.attempts]:
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            begin = data.draw(st.integers(0, len(content)))
            content[begin : begin + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=20))
        path.write_bytes(bytes(content))
    page(report(run))


def test_a_script_may_write_what_it_likes(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    odd: list[Any] = [{"time": 1, "step": 2, "loss": "low"}, {"time": 1e400, "step": 1, "loss": None}, [1], "x", 3]
    odd += [{"event": "trained", "step_seconds": {"histogram": 3}}, {"event": "trained", "bytes_sent": "x"}]
    (run.metrics / "worker-0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in odd))
    run.result.write_text(json.dumps({"confusion": [[1], "x"], "steps": "many", "images_per_s": [1], "images": True}))
    page(report(run))


def test_the_files_of_a_report_are_its_figures_and_tables(tmp_path: Path) -> None:
    found = report(make_run(tmp_path))
    files = write_files(found, tmp_path / "new" / "out")
    names = {path.name for path in files}
    assert {f"{figure.name}.{ending}" for figure in found.figures for ending in ("svg", "png", "json")} <= names
    assert (tmp_path / "new" / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "new" / "out" / "nodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["node"] for row in rows] == ["n1", "n2"]
    same = json.loads((tmp_path / "new" / "out" / "nodes.json").read_text())
    assert rows == [{key: str(value) for key, value in row.items()} for row in same]
    root = ET.parse(files[0].parent / "loss-steps.svg").getroot()  # noqa: S314
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert json.loads((files[0].parent / "loss-steps.json").read_text())["series"][0]["name"] == "worker:0"


def test_without_its_library_there_is_no_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert not [path for path in write_files(report(make_run(tmp_path)), tmp_path / "out") if path.suffix == ".png"]


def test_jobs_are_compared_with_the_one_of_their_kind_that_has_the_fewest_workers(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, f"a-{n}", workers, speed) for n, workers, speed in ((1, 4, 75.0), (2, 1, 100.0))]
    runs.append(make_run(tmp_path, "other-3", 2, 10.0, batch=999))
    found = [measure(run) for run in runs]
    four, one, other = speeds(found)
    assert (four.speedup, four.efficiency) == (3.0, 0.75)
    assert (one.speedup, one.efficiency, other.speedup) == (1.0, 1.0, 1.0)
    both = compare(found, ["COMPLETED", "FAILED", "FAILED"], "hpc-dl compare")
    assert both.state == "1 COMPLETED, 2 FAILED"
    assert {"speedup", "images-workers", "loss-steps", "throughput", "step-times"} <= {one.name for one in both.figures}
    table = cells(both, "jobs")
    assert (table["a-1"]["efficiency %"], table["a-2"]["workers"], table["a-1"]["price"]) == (75.0, 1, 2.0)
    page(both)


def test_the_commands_write_pages_and_print_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, workers in ((12, 2), (13, 1)):
        make_run(tmp_path / "runs", f"train-{number}", workers)
    with pytest.raises(SystemExit, match="0"):
        main(["report", "./runs/train-12", "--html", "--out", "out", "--one", "./runs/train-13"])
    told = capsys.readouterr().out
    assert "step times in ms" in told
    assert "Report: runs/train-12/report.html" in told
    assert "ideal" in (tmp_path / "runs" / "train-12" / "report.html").read_text()
    assert (tmp_path / "out" / "report.html").exists()
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "./runs/train-12", "./runs/train-13", "--html", "new/my page.html"])
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines()] == ["job", "train-12", "train-13", "Report:"]
    assert (tmp_path / "new" / "my page.html").exists()


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), max_size=2000))
def test_a_thinned_series_is_short_and_keeps_its_mean(points: list[tuple[float, float]]) -> None:
    short = thin(sorted(points))
    assert len(short) <= MOST
    if points and len(points) <= MOST:
        assert short == sorted(points)
    assert all(min(y for _, y in points) - 1e-3 <= y <= max(y for _, y in points) + 1e-3 for _, y in short)


def test_what_is_not_finite_is_left_out_and_a_line_breaks_where_steps_go_back() -> None:
    assert thin([(1, float("nan")), (2, 3), (float("inf"), 1)]) == [(2, 3)]
    assert list(runs([(1, 0), (2, 0), (1, 0)])) == [[(1, 0), (2, 0)], [(1, 0)]]
    figure = Figure("f", "", "", "", [Series("s", [1, 2, 1, 2], [0, 1, 2, 3])])
    assert drawing(figure).curves[0].path.count("M") == 2


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_are_few_and_around_the_data(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 8
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= low + span - 1e-6 * step


@given(st.floats(1e-6, 1e6), st.floats(1, 1e6))
def test_log_ticks_are_around_the_data(low: float, factor: float) -> None:
    found = log_ticks(low, low * factor)
    assert found == sorted(found)
    assert found[0] <= low * 1.001
    assert found[-1] >= low * factor * 0.999


def test_many_workers_share_a_colour_and_one_entry_of_the_legend() -> None:
    figure = Figure("f", "", "", "", [Series(f"worker:{n}", [0, 1], [n, n]) for n in range(64)])
    (entry,) = drawing(figure).legend
    assert entry.name == "64 processes or nodes"


@pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_sorts_a_table(tmp_path: Path) -> None:
    text = html(compare([measure(make_run(tmp_path, f"a-{n}", n)) for n in (2, 4, 1)], ["COMPLETED"] * 3, ""))
    click = '[...document.querySelectorAll("th button")].find((b) => b.textContent === "workers").click();'
    (tmp_path / "page.html").write_text(text.replace("</script>", f"{click}</script>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}/profile"]
    command = [str(_CHROMIUM), *options, "--dump-dom", f"file://{tmp_path}/page.html"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert re.findall(r"<tr><td>(a-\d)</td>", shown) == ["a-1", "a-2", "a-4"]


def test_settings_of_a_job_that_are_defaults_are_not_shown(tmp_path: Path) -> None:
    found = cells(report(make_run(tmp_path, steps=JobSpec().steps, batch=77)), "settings")
    assert "steps" not in found
    assert found["batch"]["value"] == 77
