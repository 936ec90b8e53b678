"""Run every measurement over every contender in alternation, and write the medians and ratios to bench/RESULTS.md."""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncssh
import cryptography

from bench import files, measure
from bench.contenders import CONTAINER, Contender, contenders
from bench.pods import KUBECTL, POD, POD_BARE, adapter, fetch, pods, send
from tests.conftest import CACHE
from tests.engine import Engine

RESULTS = Path(__file__).parent / "RESULTS.md"


@dataclass(frozen=True)
class Row:
    """One measurement: what it is called, how it is taken, and of whom."""

    title: str
    take: Callable[[Contender], float]
    of: tuple[str, ...]
    digits: int
    fresh: bool = False  # servers just started for each run: a second one would find memory that the first has freed


@dataclass(frozen=True)
class FileRow:
    """One measurement of moving files: what it is called, how it is taken, and of whom."""

    title: str
    take: Callable[[files.Mover, Path], float]
    of: tuple[str, ...]
    digits: int


Figures = dict[str, dict[str, list[float]]]  # a row's title and a contender's name to the figure of each run

DIRECT, BASTION, BARE, SSHD = "docker exec", "bastion", "bastion, no record", "sshd + ForceCommand"
ROWS = (
    Row("throughput, MiB/s", measure.throughput, (DIRECT, BASTION, BARE, SSHD), 0),
    Row("connect to first byte, ms", measure.first_byte, (DIRECT, BASTION, BARE, SSHD), 0),
    Row("echo at a terminal, ms", measure.echo, (DIRECT, BASTION, BARE, SSHD), 2),
    Row("memory of an idle session, KiB", measure.memory, (BASTION, BARE, SSHD), 0, fresh=True),
    Row("processor time of a login, ms", measure.login, (BASTION, BARE, SSHD), 2),
)
POD_ROWS = (
    Row("pod: throughput, MiB/s", measure.throughput, (KUBECTL, POD, POD_BARE), 0),
    Row("pod: throughput of the adapter alone, MiB/s", adapter, (POD_BARE,), 0),
    Row("pod: connect to first byte, ms", measure.first_byte, (KUBECTL, POD, POD_BARE), 0),
    Row("pod: echo at a terminal, ms", measure.echo, (KUBECTL, POD, POD_BARE), 2),
    Row("pod: scp, or kubectl cp, out of the pod, MiB/s", fetch, (KUBECTL, POD), 0),
    Row("pod: scp, or kubectl cp, into the pod, MiB/s", send, (KUBECTL, POD), 0),
)
_MOVERS = (files.COPY, files.SHELL, files.SERVER, files.SSHD)
FILE_ROWS = (
    FileRow(
        "files: scp out of the container, MiB/s", files.fetch, (files.COPY, files.SHELL, files.SERVER, files.SSHD), 0
    ),
    FileRow("files: scp into the container, MiB/s", files.send, _MOVERS, 0),
    FileRow("files: `ls -l` of 10,000 files, s", files.listing, _MOVERS[1:], 2),
)
GOALS = (
    ("throughput, MiB/s", BASTION, DIRECT, 0.8, "at least 0.8 of `docker exec`"),
    ("connect to first byte, ms", BASTION, SSHD, 0.35, "at most 0.35 of sshd + ForceCommand"),
    ("echo at a terminal, ms", BASTION, SSHD, 1.0, "no slower than sshd + ForceCommand"),
    ("memory of an idle session, KiB", BASTION, None, 48.0, "at most 48 KiB"),
    ("processor time of a login, ms", BASTION, None, 3.0, "at most 3 ms"),
)


def main() -> None:
    """Measure, print and write."""
    arguments = argparse.ArgumentParser(prog="make bench", description=__doc__)
    arguments.add_argument("--runs", type=int, default=5, help="runs of each measurement and contender")
    arguments.add_argument("--only", help="measure only the rows whose title has this word")
    chosen = arguments.parse_args()

    def wanted(row: Row | FileRow) -> bool:
        return chosen.only is None or chosen.only in row.title

    rows, pod_rows = ([row for row in every if wanted(row)] for every in (ROWS, POD_ROWS))
    file_rows = [row for row in FILE_ROWS if wanted(row)]
    engine = Engine(CACHE)
    try:
        engine.start_engine()
        engine.prepare()
        with tempfile.TemporaryDirectory(prefix="bastion-bench-") as folder:
            figures = _measure(engine, Path(folder), rows, chosen.runs) if rows else {}
            moved = _measure_files(engine, Path(folder) / "files", file_rows, chosen.runs)
            in_pods, cluster = _measure_pods(engine, Path(folder) / "pods", pod_rows, chosen.runs)
        report = _report(figures, chosen.runs, engine.docker("version", "--format", "{{.Server.Version}}"))
        report += _report_files(moved) + _report_pods(in_pods, cluster)
    finally:
        engine.close()
    print(report)
    if chosen.only is None:
        RESULTS.write_text(report)


def _measure(engine: Engine, folder: Path, rows: Sequence[Row], runs: int) -> Figures:
    figures: Figures = {row.title: {name: [] for name in row.of} for row in rows}
    with contenders(engine, folder / "lasting") as every:
        engine.docker("exec", CONTAINER, "sh", "-c", f"head -c {measure.SIZE} /dev/urandom > /tmp/random")
        for row in (row for row in rows if not row.fresh):
            for _ in range(runs):
                _take(row, every, figures)
    for row in (row for row in rows if row.fresh):
        for run in range(runs):
            with contenders(engine, folder / f"fresh{run}") as every:
                _take(row, every, figures)
    return figures


def _measure_files(engine: Engine, folder: Path, rows: Sequence[FileRow], runs: int) -> Figures:
    figures: Figures = {row.title: {name: [] for name in row.of} for row in rows}
    if not rows:
        return figures
    with contenders(engine, folder) as every, files.movers(engine, every, folder) as ways:
        for row in rows:
            for _ in range(runs):
                for way in (way for way in ways if way.name in row.of):
                    figure = row.take(way, folder)
                    figures[row.title][way.name].append(figure)
                    print(f"{row.title}: {way.name}: {figure:.2f}", file=sys.stderr)
    return figures


def _measure_pods(engine: Engine, folder: Path, rows: Sequence[Row], runs: int) -> tuple[Figures, str]:
    figures: Figures = {row.title: {name: [] for name in row.of} for row in rows}
    if not rows:
        return figures, ""
    with pods(engine, folder) as (every, cluster):
        for row in rows:
            for _ in range(runs):
                _take(row, every, figures)
    return figures, cluster


def _take(row: Row, every: Sequence[Contender], figures: Figures) -> None:
    for contender in every:
        if contender.name in row.of:
            figure = row.take(contender)
            figures[row.title][contender.name].append(figure)
            print(f"{row.title}: {contender.name}: {figure:.2f}", file=sys.stderr)


def _report(figures: Figures, runs: int, docker: str) -> str:
    digits = {row.title: row.digits for row in ROWS}
    lines = [
        "# Results",
        "",
        f"Medians of {runs} alternating runs, with the least and the most, on {datetime.now(UTC):%Y-%m-%d}:",
        f"{_machine()}, Python {platform.python_version()}, asyncssh {asyncssh.__version__},",
        f"cryptography {cryptography.__version__}, Docker Engine {docker}, {_openssh()}. Made by: `make bench`",
        "",
        f"| | {DIRECT} | {BASTION} | {BARE} | {SSHD} |",
        "|---|---:|---:|---:|---:|",
    ]
    for title, taken in figures.items():
        cells = [_cell(taken.get(name), digits[title]) for name in (DIRECT, BASTION, BARE, SSHD)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| goal | measured | met |", "|---|---:|---|"]
    for title, name, other, bound, words in GOALS:
        if title in figures:
            mine = statistics.median(figures[title][name])
            value = mine / statistics.median(figures[title][other]) if other else mine
            met = value >= bound if title.startswith("throughput") else value <= bound
            lines.append(f"| {title.split(',')[0]}: {words} | {value:.2f} | {'yes' if met else 'no'} |")
    return "\n".join(lines) + "\n"


def _report_files(figures: Figures) -> str:
    if not figures:
        return ""
    digits = {row.title: row.digits for row in FILE_ROWS}
    lines = ["", "Files, by the stock scp and sftp:", "", f"| | {' | '.join(_MOVERS)} |", "|---|---:|---:|---:|---:|"]
    for title, taken in figures.items():
        lines.append(f"| {title} | {' | '.join(_cell(taken.get(name), digits[title]) for name in _MOVERS)} |")
    lines += ["", "| goal | measured | met |", "|---|---:|---|"]
    for title, taken in figures.items():
        medians = {name: statistics.median(values) for name, values in taken.items()}
        if title.endswith("MiB/s"):
            value = medians[files.SHELL] / max(medians.values())
            lines.append(f"| {title}: at least 0.8 of the fastest | {value:.2f} | {'yes' if value >= 0.8 else 'no'} |")
        else:
            value = medians[files.SHELL]
            lines.append(f"| {title}: at most 2 s | {value:.2f} | {'yes' if value <= 2 else 'no'} |")
    return "\n".join(lines) + "\n"


def _report_pods(figures: Figures, cluster: str) -> str:
    if not figures:
        return ""
    names = (KUBECTL, POD, POD_BARE)
    digits = {row.title: row.digits for row in POD_ROWS}
    lines = ["", f"Into a pod of {cluster}:", "", f"| | {' | '.join(names)} |", "|---|---:|---:|---:|"]
    for title, taken in figures.items():
        cells = [_cell(taken.get(name), digits[title]) for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(taken: list[float] | None, digits: int) -> str:
    if not taken:
        return "–"
    return f"{statistics.median(taken):.{digits}f} ({min(taken):.{digits}f}–{max(taken):.{digits}f})"


def _machine() -> str:
    model = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": ?"
    )
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    return f"{cores} cores of {model.partition(': ')[2]}, Linux {platform.release()}"


def _openssh() -> str:
    return subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr.split(",")[0]


if __name__ == "__main__":
    main()
