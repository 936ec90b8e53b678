"""What was promised, what was measured, and the table of both."""

import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- make load writes from here -->", "<!-- to here -->"


@dataclass(frozen=True)
class Figure:
    """One figure of threats.md §4: its row, the promise, what was measured; `met` is None where nothing was."""

    row: str
    promise: str
    measured: str
    met: bool | None


def failed(row: str, promise: str, error: BaseException) -> Figure:
    """Return the figure of a part that could not be measured, with the reason."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Figure(row, promise, f"not measured: {reason[:160]}", None)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many percent of the values are below; infinity where there are none."""
    if len(values) < 2:
        return values[0] if values else float("inf")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def milliseconds(values: Sequence[float]) -> str:
    """Return the median, the 99th percentile and the largest of values in seconds, as text."""
    most = max(values, default=float("inf"))
    return (
        f"median {percentile(values, 50) * 1000:.1f}, p99 {percentile(values, 99) * 1000:.0f}, max {most * 1000:.0f} ms"
    )


def machine() -> str:
    """Name the machine: cores, processor, kernel, Python."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(": ")[2] for line in info.splitlines() if line.startswith("model name")), "?")
    cores = info.count("processor\t")
    return f"{cores} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"


def table(figures: Sequence[Figure], command: str, load_average: float) -> str:
    """Return the figures as Markdown, with where, when and how they were taken."""
    words = {True: "yes", False: "**no**", None: "–"}
    lines = [
        f"Taken by `{command}` on {datetime.now(UTC):%Y-%m-%d} on {machine()};",
        f"load average before it: {load_average:.1f}.",
        "",
        "| figure | promise | measured | met |",
        "|---|---|---|---|",
    ]
    lines += [f"| {one.row} | {one.promise} | {_cell(one.measured)} | {words[one.met]} |" for one in figures]
    return "\n".join(lines) + "\n"


def write(text: str) -> None:
    """Put the table between the marks of docs/reliability.md."""
    document = DOCUMENT.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    assert pattern.search(document), f"{DOCUMENT} has lost its marks"
    DOCUMENT.write_text(pattern.sub(lambda _: f"{_BEGIN}\n\n{text}\n{_END}", document), encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
