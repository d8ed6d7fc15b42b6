"""Settings, from files, flags and the environment (config/sources.py, config/parsers.py and what those call)."""

from __future__ import annotations

import json
import os
import re
import tomllib
from typing import TYPE_CHECKING, Final

from shimproxy.config import converters, parsers, settings, sources
from shimproxy.config.listener import SettingsError
from shimproxy.config.options import BY_NAME, OPTIONS
from shimproxy.config.settings import Settings
from shimproxy.config.sources import Sources
from tests.fuzz.addresses import text_of
from tests.fuzz.target import Target, joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NEEDED: Final = {"listen": ["127.0.0.1:2525"], "receiver": ["127.0.0.1:25"]}
_NAMES: Final = tuple(option.name.encode() for option in OPTIONS)
_VALUES: Final = (
    *(
        b'"127.0.0.1:25"',
        b'"[::1]:25,tproxy"',
        b'"unix:/run/x"',
        b"true",
        b"false",
        b"1",
        b"-1",
        b"0.5",
        b"nan",
        b"1e400",
    ),
    *(b'"original"', b'"10MiB"', b'"example.com=2MiB"', b'"192.0.2.0/24"', b'["a", "b"]', b"[]", b'""', b'"\\u0000"'),
    *(b"2026-01-01", b"{a = 1}", b"[[1]]", b'"v1"', b'"451 4.3.0 later"', b'"mail.example"', b"0x" + b"f" * 4000),
)
_WORDS: Final = (
    *_NAMES,
    *_VALUES,
    *(b" = ", b"\n", b"[deadline]\n", b"[limit]\n", b"[[listener]]\n", b"[listener.limit]\n", b"reply = 60\n", b"."),
    *(b"#", b'"""', b"'", b"\\", b"\xff", b"\xe9", b",", b"=", b" ", b"\r\n", b"\0", b"a." * 2000, b"[" * 60, b"]"),
)
_NEED = b'listen = "127.0.0.1:2525"\nreceiver = ["127.0.0.1:25"]\n'
_SEEDS = (
    _NEED,
    _NEED + b"[deadline]\nreply = 60\n[limit]\ntransactions = 5\n",
    _NEED + b'max-size = ["10MiB", "example.com=1KiB"]\ntidy = true\nnewlines = "reject"\n',
    b'receiver = "original"\n[[listener]]\nlisten = ":25,tproxy"\nsend-proxy = "v2"\n[listener.deadline]\nreply = 5\n',
    b"listen = a\n",
    _NEED + b"receiver." + b"a." * 40 + b"b = 1\n",
)


def _outcome(found: Sources) -> Settings | tuple[str, ...]:
    """The settings, or what is wrong with them: each a line that names its place."""
    try:
        return found.settings()
    except SettingsError as error:
        problems = error.problems
    assert problems
    assert all(each.strip() for each in problems), problems
    return problems


def of_file(octets: bytes) -> Sources:
    """What is gathered from a file with these octets."""
    descriptor = os.memfd_create("settings")
    try:
        os.write(descriptor, octets)
        return Sources.gather({}, {}, f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def check_file(octets: bytes, pieces: Sequence[bytes]) -> None:
    gathered = of_file(octets)
    found = _outcome(gathered)
    try:
        entries = tomllib.loads(re.sub(r"\r\n?", "\n", octets.decode("utf-8")))
    except (ValueError, RecursionError):
        assert gathered.problems
        return
    for name, entry in entries.items():
        if name not in BY_NAME and name != "listener":
            assert any(name in each for each in gathered.problems), name
        elif BY_NAME.get(name) and BY_NAME[name].switch and isinstance(entry, bool):
            assert gathered.given[name].texts == (str(entry).lower(),)
        elif isinstance(entry, str) and name in BY_NAME and not BY_NAME[name].table and not BY_NAME[name].switch:
            assert gathered.given[name].texts == (entry,), name
    told = Sources.of_json(json.loads(json.dumps(gathered.with_files().as_json())))
    if isinstance(found, Settings) and not gathered.problems:
        assert told.settings() == found
        written = "\n".join(gathered.as_file())
        again = of_file(written.encode())
        assert again.problems == [], (written, again.problems)
        assert _outcome(again) == found, written


def check_given(octets: bytes, pieces: Sequence[bytes]) -> None:
    """Lines of NAME=TEXT come to the same as flags, in the environment, and in a file."""
    given: dict[str, list[str]] = {}
    for line in text_of(octets).split("\n"):
        name, equals, text = line.partition("=")
        if equals and name in BY_NAME and not BY_NAME[name].file and name not in ("login-secret-file", "admin"):
            given.setdefault(name, []).append(text)
    for name, texts in _NEEDED.items():
        given.setdefault(name, texts)
    by_flags = _outcome(Sources.gather(given, {}))
    plain = {
        name: texts
        for name, texts in given.items()
        if all(text and text.isprintable() and not any(each.isspace() for each in text) for text in texts)
    }
    if plain != given:
        return
    environment = {
        BY_NAME[name].variable: " ".join(texts) if BY_NAME[name].many else texts[-1] for name, texts in plain.items()
    }
    _same(by_flags, _outcome(Sources.gather({}, environment)))
    if not any(BY_NAME[name].table or BY_NAME[name].switch for name in plain):
        lines = (f"{name} = {json.dumps(texts if BY_NAME[name].many else texts[-1])}" for name, texts in plain.items())
        _same(by_flags, _outcome(of_file("\n".join(lines).encode())))


def _same(first: Settings | tuple[str, ...], second: Settings | tuple[str, ...]) -> None:
    if isinstance(first, Settings) or isinstance(second, Settings):
        assert first == second, f"{first} and {second}"
    else:
        assert len(first) == len(second), f"{first} and {second}"


def _run_file(pieces: Sequence[bytes]) -> None:
    _outcome(of_file(joined(pieces)))


def _run_given(pieces: Sequence[bytes]) -> None:
    given: Mapping[str, Sequence[str]] = {"receiver": text_of(joined(pieces)).split("\n"), "listen": ["127.0.0.1:25"]}
    _outcome(Sources.gather(given, {}))


TARGETS = (
    Target(
        name="settings-file",
        parsers=(sources, parsers, converters, settings),
        check=check_file,
        run=_run_file,
        words=_WORDS,
        seeds=_SEEDS,
        most_octets=9000,
        most_steps=2000,
    ),
    Target(
        name="settings",
        parsers=(sources, parsers, converters, settings),
        check=check_given,
        run=_run_given,
        words=(
            *(name + b"=" for name in _NAMES),
            *(each.strip(b'"') for each in _VALUES),
            b"\n",
            b"reply=5",
            b"=",
            b",",
        ),
        seeds=(
            b"receiver=192.0.2.1:25\nmax-size=10MiB\nmax-size=a=1KiB\nnewlines=reject",
            b"deadline=reply=60\nlimit=transactions=5\ntidy=true\nworkers=auto",
            b"send-proxy=v2\ntrust=192.0.2.0/24\nsource=192.0.2.1\nlog-to=syslog",
        ),
        most_steps=2000,
    ),
)
