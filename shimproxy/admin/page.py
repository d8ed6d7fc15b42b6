"""The status page: one page that needs nothing else, for a telephone and for the dark.

Whatever a peer sent was escaped where it was kept; here everything is escaped for HTML as well.
"""

from __future__ import annotations

import functools
import time
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from shimproxy.admin.status import MOST_RECENT
from shimproxy.records import text as record_text
from shimproxy.records.ladder_svg import svg
from shimproxy.smtp.catalogue import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shimproxy.admin.status import RepairedSession, Status, ViolationCount

_REFRESH_SECONDS: Final = 5
_MOST_SEARCHED: Final = 200
"""Characters of a text that is searched for."""
_NO_LADDER: Final = f"No ladder: the session is too long, or not among the last {MOST_RECENT} repaired ones."
_BAR: Final = 4
"""What a minute takes of a graph's width."""
_HEIGHT: Final = 40
_VIOLATIONS: Final = {violation.value: violation for violation in Violation}
_STYLE: Final = """
:root { color-scheme: light dark; --line: light-dark(#d8dce2, #3a3f47); --dim: light-dark(#5a6270, #a0a8b4);
  --box: light-dark(#f5f6f8, #1e2126); --mark: light-dark(#9a4a00, #ffb366); }
@media (prefers-color-scheme: dark) { :root { --line: #3a3f47; --dim: #a0a8b4; --box: #1e2126; --mark: #ffb366; } }
@media (prefers-color-scheme: light) { :root { --line: #d8dce2; --dim: #5a6270; --box: #f5f6f8; --mark: #9a4a00; } }
* { box-sizing: border-box; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
header p, .dim { color: var(--dim); margin: .2rem 0; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl div { background: var(--box); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .7rem; }
dt { color: var(--dim); font-size: .82rem; } dd { font-size: 1.35rem; font-variant-numeric: tabular-nums; margin: 0; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .35rem .5rem .35rem 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid var(--line); } th { color: var(--dim); font-weight: normal;
  font-size: .82rem; } td.number { font-variant-numeric: tabular-nums; text-align: right; padding-right: 1rem; }
details { background: var(--box); border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0;
  padding: .5rem .7rem; } summary { cursor: pointer; }
code { color: var(--mark); font-size: .95em; white-space: nowrap; }
.ladder { overflow-x: auto; } .ladder svg { max-width: 100%; height: auto; }
form { display: flex; flex-wrap: wrap; gap: .5rem; margin: .8rem 0; } form label { color: var(--dim);
  flex-basis: 100%; font-size: .82rem; } input, button { background: var(--box); border: 1px solid var(--line);
  border-radius: .5rem; color: inherit; font: inherit; padding: .4rem .7rem; } input { flex: 1; min-width: 0; }
.graphs, .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .6rem; }
.cards { margin: 1rem 0; } section p { margin: .1rem 0; } section code { white-space: normal; }
figure, section { background: var(--box); border: 1px solid var(--line); border-radius: .5rem; margin: 0;
  padding: .5rem .7rem; }
figure svg { display: block; height: 3rem; width: 100%; } figure rect { fill: var(--mark); }
figure line { stroke: var(--line); vector-effect: non-scaling-stroke; } figcaption { font-size: .82rem; }
.scale { color: var(--dim); display: flex; font-size: .75rem; justify-content: space-between; }
@media (max-width: 34rem) { .wide { display: none; } }
"""
# Without it the page is as it was when it was loaded; an open ladder is left alone.
_SCRIPT: Final = """
setInterval(async () => {
  const open = [...document.querySelectorAll("details[open]")].map(each => each.id);
  try {
    const answer = await fetch(location.href, {cache: "no-store"});
    if (!answer.ok) throw answer;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of open) fresh.getElementById(id)?.setAttribute("open", "");
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
  } catch { document.querySelector("#stale").hidden = false; }
}, SECONDS * 1000);
""".replace("SECONDS", str(_REFRESH_SECONDS))


def searched(query: str) -> str:
    """What is searched for by the query of a request: its `find`, in printable characters; nothing if it has none."""
    found = parse_qs(query, errors="replace").get("find", [""])[0] if query else ""
    return "".join(filter(str.isprintable, found[:_MOST_SEARCHED])).strip()


def rendered(status: Status, find: str = "") -> str:
    """The page, in HTML; with what has a text in it alone, if one is searched for."""
    return "".join(_page(status, find))


def _page(status: Status, find: str) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>shimproxy</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    yield f"<style>{_STYLE}</style></head><body><header><h1>shimproxy</h1>"
    yield '<form action="/" role="search"><label for="find">Search for an address in repaired sessions</label>'
    yield f'<input id="find" type="search" name="find" value="{escape(find)}" placeholder="192.0.2.1">'
    yield "<button>Search</button></form>"
    yield '<p id="stale" hidden>No answer from shimproxy: this page is out of date.</p></header><main>'
    if find:
        yield from _found(status, find.lower(), f"<code>{escape(find)}</code>")
    else:
        yield from _all(status)
    yield f"</main><script>{_SCRIPT}</script></body></html>\n"


def _found(status: Status, text: str, shown: str) -> Iterator[str]:
    """What has that text in it, in small letters."""
    sessions = [session for session in status.recent if session.has(text)]
    yield f"<h2>Repaired sessions with {shown}</h2>"
    yield f'<p class="dim">{len(sessions)} of the last {len(status.recent)}. <a href="/">Show everything</a></p>'
    for session in sessions:
        yield from _session(session)
    receivers = {receiver: habits for receiver, habits in status.habits.items() if text in receiver.lower()}
    if receivers:
        yield f"<h2>Violations by receivers with {shown}</h2>"
    for receiver, habits in receivers.items():
        yield from _habits(receiver, habits)


def _all(status: Status) -> Iterator[str]:
    yield f"<p>{_state(status)}</p>"
    yield f'<p class="dim">version {escape(status.version)}, {_workers(status.workers)}, '
    yield f"up since {_at(status.started_at)}</p>"
    yield from _listeners(status)
    yield from _figures(status)
    yield "<h2>The last hour</h2>"
    yield from _graphs(status.hour)
    yield "<h2>Recent repairs</h2>"
    if not status.recent:
        yield '<p class="dim">Nothing yet.</p>'
    for session in status.recent[:MOST_RECENT]:
        yield from _session(session)
    yield "<h2>Violations by receiver</h2>"
    if not status.habits:
        yield '<p class="dim">None yet.</p>'
    for receiver, habits in status.habits.items():
        yield from _habits(receiver, habits)


def _listeners(status: Status) -> Iterator[str]:
    yield '<div class="cards">'
    for each in status.listening:
        yield f"<section><p><strong>{_lines(each.addresses)}</strong></p><p>&rarr; {_lines(each.receivers)}</p>"
        if each.observes:
            yield "<p><strong>OBSERVING</strong>: violations are passed on as they come; nothing is repaired</p>"
        yield f'<p class="dim">TLS: {escape(each.sender_tls)} with senders, {escape(each.receiver_tls)} with receivers'
        yield "".join(f"<br><code>{escape(flag)}</code>" for flag in each.flags)
        yield "</p></section>"
    yield "</div>"


def _lines(texts: Sequence[str]) -> str:
    return "<br>".join(map(escape, texts))


def _graphs(hour: Mapping[str, Sequence[int]]) -> Iterator[str]:
    yield '<div class="graphs">'
    for name, minutes in hour.items():
        most = max(minutes, default=0)
        words = f"{name}: {sum(minutes):,} in the last hour, at most {most:,} a minute"
        yield f'<figure><figcaption>{escape(words)}</figcaption><svg viewBox="0 0 {_BAR * len(minutes)} {_HEIGHT}" '
        yield f'preserveAspectRatio="none" role="img" aria-label="{escape(words)}">'
        for index, count in enumerate(minutes):
            if count:
                height = max(1.0, round(_HEIGHT * count / most, 1))
                yield f'<rect x="{_BAR * index}" y="{_HEIGHT - height:g}" width="{_BAR - 1}" height="{height:g}">'
                yield f"<title>{count:,} {_minutes_ago(len(minutes) - 1 - index)}</title></rect>"
        yield f'<line x1="0" x2="{_BAR * len(minutes)}" y1="{_HEIGHT}" y2="{_HEIGHT}"/></svg>'
        yield '<div class="scale"><span>an hour ago</span><span>now</span></div></figure>'
    yield "</div>"


def _minutes_ago(count: int) -> str:
    return "in this minute" if not count else "a minute ago" if count == 1 else f"{count} minutes ago"


def _state(status: Status) -> str:
    return "stopping" if status.stopping else "serving" if status.serves else "no worker is ready"


def _workers(count: int) -> str:
    return "one worker" if count == 1 else f"{count} workers"


def _figures(status: Status) -> Iterator[str]:
    figures = status.figures
    repairs = sum(value for name, value in figures.items() if name.startswith("repairs_total"))
    shown = {
        "sessions now": figures.get("sessions_open", 0),
        "being drained": figures.get("drains_in_progress", 0),
        "sessions so far": figures.get("sessions_total", 0),
        "mails": figures.get("transactions_total", 0),
        "accepted": figures.get("accepted_total", 0),
        "repairs": repairs,
    }
    seen = sum(value for name, value in figures.items() if name.startswith("violations_seen_total"))
    shown |= {"violations seen": seen} if seen or any(each.observes for each in status.listening) else {}
    yield "<dl>"
    for name, value in shown.items():
        yield f"<div><dt>{name}</dt><dd>{value:,.0f}</dd></div>"
    yield "</dl>"


def _session(session: RepairedSession) -> Iterator[str]:
    names = ", ".join(
        f"<code>{escape(name)}</code>" for name in dict.fromkeys(each["violation"] for each in session.repairs)
    )
    yield f'<details id="s-{escape(session.id)}"><summary>{_at(session.ended_at)}: {names} '
    yield f'<span class="dim">for {escape(session.sender)}</span></summary>'
    yield f'<p class="dim">session {escape(session.id)} with {escape(session.receiver)}, {session.seconds:.3f} s, '
    yield f"ended by {escape(session.ended)}</p><table>"
    for each in session.repairs:
        yield f"<tr><td><code>{escape(each['violation'])}</code></td><td>{escape(each['phase'])}"
        yield f'<br><span class="dim">{escape(each["detail"])}</span></td>'
        yield f'<td class="wide">{escape(_done(each))}</td></tr>'
    yield "</table>"
    yield _ladder(session.record) if session.record else f'<p class="dim">{_NO_LADDER}</p>'
    yield "</details>"


def _done(repair: Mapping[str, str]) -> str:
    """What shimproxy did about a violation."""
    violation = _VIOLATIONS.get(repair["violation"])
    return "passed on as it came (observed)" if repair.get("seen") else violation.repair if violation else ""


@functools.lru_cache(MOST_RECENT)
def _ladder(record: str) -> str:
    return f'<div class="ladder">{svg(record_text.read(record))}</div>'


def _habits(receiver: str, habits: list[ViolationCount]) -> Iterator[str]:
    yield f"<h3>{escape(receiver)}</h3><table><tr><th>violation</th><th>times</th><th>since</th><th>last</th></tr>"
    for habit in habits:
        yield f'<tr><td><code>{escape(habit.violation)}</code></td><td class="number">{habit.count:,}</td>'
        yield f"<td>{_at(habit.first_at)}</td><td>{_at(habit.last_at)}</td></tr>"
    yield "</table>"


def _at(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "?"
