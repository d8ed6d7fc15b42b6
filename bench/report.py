"""What a run says: the machine, the table of medians, and the targets.

1. A median is that of the rounds; a ratio is the median of the rounds' own ratios, so that a slow minute, which meets
   both, does not move it.
2. Every target stands in TARGETS, and nowhere else.
"""

from __future__ import annotations

import os
import platform
import re
import ssl
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

import shimproxy
from bench import programs
from bench.figures import FIGURES, groups, median, number, spread
from bench.measures import BEFORE, DIRECT, HAPROXY, PASSING, SHIMPROXY, Setup
from bench.peers import TLS_CIPHER
from shimproxy.net.block import BLOCK_OCTETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.figures import Samples


# -- targets


@attrs.frozen
class Target:
    """What the median of shimproxy has to be: `least` or `most`, as it is or as a ratio to another path's."""

    figure: str
    least: float | None = None
    most: float | None = None
    to: str = HAPROXY
    """The path that it is a ratio to; none if empty."""

    def __str__(self) -> str:
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return f"{self.figure} {bound}" + (f" x {self.to}" if self.to else "")

    def met_by(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


TARGETS: Final = (
    Target("base64 MiB/s", least=1.2),
    Target("base64 MiB/s", least=0.6, to=PASSING),
    Target("CPU s/1000 sessions", most=2.5),
    Target("CPU s/1000 kept mails", most=2.5),
    Target("sessions/s", least=0.5),
    Target("kept mails/s", least=0.5),
    Target("pipelined mail, receiver 20 ms away, ms", most=1.2, to=DIRECT),
    Target("peak MiB, mail passes", most=64, to=""),
    Target("peak MiB, mail drained", most=64, to=""),
    Target("idle session KiB", most=40, to=""),
)


def verdicts(samples: Samples) -> Iterator[tuple[Target, float | None, bool | None]]:
    """Each target, the median that it is about, and whether that meets it; None for what was not measured."""
    for target in TARGETS:
        paths = samples.get(target.figure, {})
        value = ratio(paths, SHIMPROXY, target.to) if target.to else median(paths.get(SHIMPROXY, []))
        yield target, value, None if value is None else target.met_by(value)


# -- figures


def ratio(paths: dict[str, list[float]], path: str, to: str = HAPROXY) -> float | None:
    """The median of a path's values divided by those of `to` in the same rounds, if that can be said."""
    pairs = list(zip(paths.get(path, []), paths.get(to, []), strict=False))
    if any(theirs <= 0 for _, theirs in pairs):
        return None
    return median([ours / theirs for ours, theirs in pairs])


def as_json(samples: Samples, machine: dict[str, str], setup: Setup) -> dict[str, Any]:
    """Everything that was measured, for other programs."""
    return {
        "machine": machine,
        "rounds": setup.rounds,
        "sizes": attrs.asdict(setup.sizes),
        "better": {figure: FIGURES[figure].better.value for figure in samples},
        "figures": {
            figure: {
                path: {
                    "rounds": values,
                    "median": median(values),
                    "min": min(values),
                    "max": max(values),
                    "ratio_to_haproxy": ratio(paths, path),
                }
                for path, values in paths.items()
            }
            for figure, paths in samples.items()
        },
        "targets": [{"target": str(target), "value": value, "met": met} for target, value, met in verdicts(samples)],
    }


# -- the machine


def host_lines() -> dict[str, str]:
    """The machine, the interpreter and the package: name, value."""
    return {
        "machine": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} CPUs, Linux {platform.release()}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": f"{platform.python_version()}, trio {trio.__version__}, {ssl.OPENSSL_VERSION}",
        "shimproxy": f"{shimproxy.__version__} in {Path(shimproxy.__file__).parent}",
    }


def machine_lines(setup: Setup) -> dict[str, str]:
    """What was measured where: name, value."""
    lines = host_lines() | {
        "read size": f"{BLOCK_OCTETS // 1024} KiB",
        "haproxy": _haproxy_version() if HAPROXY in setup.paths else "not measured",
        "small mails": _small_mail_peers(setup),
    }
    if setup.certificate:
        lines["TLS"] = f"{TLS_CIPHER}, P-256, each handshake a full one; small mails by bench.peers"
    if setup.before:
        lines["before"] = str(setup.before)
    return lines


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _haproxy_version() -> str:
    said = programs.run("haproxy", [programs.need("haproxy"), "-vv"])
    library = re.search(r"^Running on OpenSSL version : (.*)$", said, re.MULTILINE)
    return said.partition(" - ")[0] + (f", {library[1]}" if library else "")


def _small_mail_peers(setup: Setup) -> str:
    if not setup.postfix:
        return "bench.peers (no smtp-source and smtp-sink: apt-get install postfix)"
    postconf = programs.find("postconf")
    version = programs.run("postconf", [postconf, "-d", "-h", "mail_version"]).strip() if postconf else "?"
    return f"smtp-source, smtp-sink of Postfix {version}"


# -- the table

MOST_COLUMNS: Final = 109


def table(samples: Samples, setup: Setup, columns: int = MOST_COLUMNS) -> list[str]:
    """A heading, then a line for each figure: which way is better, each path's median, and shimproxy beside others.

    How far the rounds are apart stands with each median, where `columns` are enough for that.
    """
    lines = _table(samples, setup, with_spread=True)
    if max(map(len, lines)) > min(columns, MOST_COLUMNS):
        lines = _table(samples, setup, with_spread=False)
    return lines


def legend(rows: Sequence[str]) -> str:
    """What the cells of a table say."""
    spread_words = "; ± says how far the farthest round was from it" if any("±" in row for row in rows) else ""
    return f"A cell is the median of the rounds{spread_words}. A ratio is the median of the rounds' own ratios."


def _table(samples: Samples, setup: Setup, *, with_spread: bool) -> list[str]:
    beside = [path for path in (HAPROXY, BEFORE) if path in setup.paths]
    shown = [path for path in setup.paths if any(path in by_path for by_path in samples.values())]
    rows = [["", "better", *shown, *(f"vs {path}" for path in beside)]]
    for _, figures in groups(samples):
        rows.append([])
        for figure in figures:
            paths = samples[figure.name]
            cells = [_cell(paths.get(path, []), with_spread) for path in shown]
            rows.append(
                [
                    figure.short,
                    figure.better.value,
                    *cells,
                    *(_ratio_cell(ratio(paths, SHIMPROXY, to)) for to in beside),
                ]
            )
    widths = [max(len(row[column]) for row in rows if row) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]


def _cell(values: list[float], with_spread: bool) -> str:
    if not values:
        return "-"
    apart = f" ±{spread(values):.0%}" if with_spread and len(values) > 1 else ""
    return number(statistics.median(values)) + apart


def _ratio_cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


def check_lines(samples: Samples) -> list[str]:
    """One line for each target."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    return [
        f"{words[met]:>12}  {target}" + ("" if value is None else f": {number(value)}")
        for target, value, met in verdicts(samples)
    ]
