"""`shimproxy help`: what a reader sees, in a terminal, in a file, and as a man page."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from shimproxy.cli import main
from shimproxy.help.command import page, topics
from shimproxy.help.man import of_page
from shimproxy.help.markdown import Code, Heading, Item, Paragraph, Span, SpanStyle, Table, inline, parse_page, plain
from shimproxy.help.text import Layout
from tests.pages import DOCS
from tests.peers.here import run_here
from tests.peers.processes import need

if TYPE_CHECKING:
    from pathlib import Path

    from shimproxy.help.markdown import PageBlock

HELP = (sys.executable, "-m", "shimproxy", "help")
every_topic = pytest.mark.parametrize("topic", sorted(page.stem for page in DOCS.glob("*.md")))


def helped(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What it prints where its output is no terminal."""
    return run_here("help", *arguments, **environment)


def on_terminal(*arguments: str, **environment: str) -> tuple[str, int]:
    """What a terminal of 80 columns shows, and the exit status."""
    here, there = pty.openpty()
    ours = {name: text for name, text in os.environ.items() if name not in ("PAGER", "LESS", "NO_COLOR")}
    environment = {**ours, "TERM": "xterm", "COLUMNS": "80", "LINES": "9999", **environment}
    with subprocess.Popen([*HELP, *arguments], stdin=there, stdout=there, stderr=there, env=environment) as process:
        os.close(there)
        shown = b""
        with suppress(OSError):  # EIO: nobody has the other end open any more
            while octets := os.read(here, 65536):
                shown += octets
        os.close(here)
    return shown.decode().replace("\r\n", "\n"), process.returncode


# -- what there is


def test_all_pages_are_listed_with_their_titles() -> None:
    """One line each, for a terminal of 80 columns."""
    shown = helped()

    lines = shown.stdout.splitlines()
    assert shown.returncode == 0
    assert max(map(len, lines)) <= 80 + len("shimproxy COMMAND")
    for name, title in topics().items():
        assert [line for line in lines if line.split(maxsplit=1) == [name, title]]


@every_topic
def test_a_page_is_printed(topic: str) -> None:
    """At 80 columns, with nothing of Markdown's marks; only code and words that can't be broken stand out."""
    blocks = page(topic)
    code = {f"    {line}" for block in everything(blocks) if isinstance(block, Code) for line in block.lines}

    lines = Layout(columns=80).drawn(blocks)

    text = "\n".join(line for line in lines if line.strip() not in {each.strip() for each in code})
    assert not [mark for mark in ("<!--", "**", "](", "```") if mark in text]
    assert not [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()]


def everything(blocks: tuple[PageBlock, ...] | list[PageBlock]) -> list[PageBlock]:
    """The blocks with those inside them."""
    return [
        each for block in blocks for each in (block, *(everything(block.blocks) if isinstance(block, Item) else ()))
    ]


def test_a_page_is_printed_whole_where_there_is_no_terminal() -> None:
    """Without a pager and without escape sequences."""
    shown = helped("limits", PAGER="false", COLUMNS="80")

    assert shown.stdout.splitlines() == Layout(columns=80).drawn(page("limits"))
    assert shown.returncode == 0


@pytest.mark.parametrize("name", ["LIMITS", "limits.md"])
def test_a_page_is_found_by_its_files_name_too(name: str) -> None:
    assert helped(name).stdout == helped("limits").stdout


@pytest.mark.parametrize(
    ("word", "mend"),
    [
        pytest.param("limts", "did you mean limits?", id="nearly"),
        pytest.param("deadlines", "limits has 'Deadlines", id="heading"),
        pytest.param("xyzzy", "shimproxy help lists all", id="nothing"),
        pytest.param("", "shimproxy help lists all", id="empty"),
        pytest.param("../../__init__", "shimproxy help lists all", id="no-page-but-a-path"),
    ],
)
def test_an_unknown_page_is_one_line_with_the_mend(word: str, mend: str) -> None:
    shown = helped(word)

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.count("\n") == 1
    assert mend in shown.stderr


def test_a_command_that_has_no_page_shows_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["health", "--help"])
    flags = capsys.readouterr().out

    assert main(["help", "health"]) == 0
    assert capsys.readouterr().out == flags


# -- on a terminal


def test_a_pager_gets_the_page(tmp_path: Path) -> None:
    """$PAGER as the shell reads it."""
    shown, status = on_terminal("limits", PAGER=f"tr a-z A-Z >{tmp_path / 'paged'}")

    assert status == 0
    assert "DEADLINE THAT IS SHORTER" in (tmp_path / "paged").read_text()
    assert shown == ""


def test_less_shows_what_is_set_off_in_bold() -> None:
    """The default; a page that fits the screen is left there."""
    need("less")

    shown, status = on_terminal("limits")

    assert status == 0
    assert "\x1b[1mDEADLINES\x1b[" in shown


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"NO_COLOR": "1", "PAGER": "cat"}, id="no-colour"),
        pytest.param({"TERM": "dumb"}, id="dumb"),
        pytest.param({"PAGER": ""}, id="no-pager"),
        pytest.param({"PAGER": "no-such-program"}, id="pager-missing"),
    ],
)
def test_plain_text_where_bold_is_not_wanted_or_no_pager_is_there(environment: dict[str, str]) -> None:
    shown, status = on_terminal("limits", **environment)

    assert status == 0
    assert shown.splitlines() == Layout(columns=80).drawn(page("limits"))


def test_a_pager_that_is_left_early_is_no_error() -> None:
    shown, status = on_terminal("settings", PAGER="head -1")

    assert status == 0
    assert shown.count("\n") == 1


# -- as man pages


@pytest.mark.once
@pytest.mark.parametrize("arguments", [(), *((each,) for each in sorted(page.stem for page in DOCS.glob("*.md")))])
def test_a_man_page_is_good_roff(arguments: tuple[str, ...]) -> None:
    """groff has nothing to say about it, and it names itself as `man` wants it."""
    groff = need("groff")
    roff = helped("--man", *arguments)
    assert roff.returncode == 0

    made = subprocess.run(
        [groff, "-man", "-ww", "-Tutf8", "-rLL=200n"], input=roff.stdout, capture_output=True, text=True, check=False
    )

    name = "-".join(["shimproxy", *arguments])
    warnings = [line for line in made.stderr.splitlines() if "cannot break line" not in line and "adjust" not in line]
    assert (made.returncode, warnings) == (0, [])
    assert roff.stdout.splitlines()[1:3] == [".SH NAME", roff.stdout.splitlines()[2]]
    assert roff.stdout.splitlines()[2].startswith(name.replace("-", "\\-") + " \\- ")


def test_the_commands_man_page_has_every_flag() -> None:
    """Of every subcommand."""
    roff = helped("--man").stdout.replace("\\-", "-")

    for flag in ("--receiver-fingerprint", "--no-tidy", "--ready", "--patience", "--svg", "--man"):
        assert f"\\fB{flag}\\fR" in roff


def test_a_line_of_text_is_no_request() -> None:
    """What begins with a dot or a quote in the page, in code too."""
    lines = of_page("made-up", parse_page("# Title\n\n.so /etc/passwd\n\n    .so file\n    'br\n\n\\(bu back\n"), "1")

    assert not [line for line in lines if line.startswith((".so", "'"))]
    assert "\\&.so /etc/passwd" in lines
    assert "\\e(bu back" in lines


# -- Markdown


def test_blocks() -> None:
    """Each kind, and what ends one."""
    text = "# Title\ntext\nof two lines\n\n## Next\n\n    code\n\n      more\n"
    text += "\n```sh name\n# comment\n```\n<!-- no -->\nend\n"

    assert parse_page(text) == [
        Heading(1, (Span("Title"),)),
        Paragraph((Span("text of two lines"),)),
        Heading(2, (Span("Next"),)),
        Code(("code", "", "  more")),
        Code(("# comment",), "sh name"),
        Paragraph((Span("end"),)),
    ]


def test_a_list_holds_blocks() -> None:
    """As far to the right as its text, with lines that go on."""
    first, second, third = parse_page("- one\n  goes on\n\n  ```sh\n  code\n  ```\n- two\n3. three\n")

    assert first == Item("-", (Paragraph((Span("one goes on"),)), Code(("code",), "sh")))
    assert second == Item("-", (Paragraph((Span("two"),)),))
    assert isinstance(third, Item)
    assert third.mark == "3."


def test_a_table() -> None:
    """Whose cells may hold bars."""
    (table,) = parse_page("| a | b |\n| --- | --- |\n| `x\\|y` |  |\n")

    assert table == Table(((Span("a"),), (Span("b"),)), (((Span("x|y", SpanStyle.CODE),), ()),))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("see [it](tls.md#x)", "see it (shimproxy help tls)", id="page"),
        pytest.param("see ([TLS](tls.md))", "see (shimproxy help tls)", id="page-in-parentheses"),
        pytest.param("see ([it](tls.md))", "see (it: shimproxy help tls)", id="page-in-parentheses-by-another-name"),
        pytest.param("see [it](#x)", "see it", id="here"),
        pytest.param("see [it](../../README.md)", "see it", id="readme"),
        pytest.param("see [it](https://example.com/)", "see it (https://example.com/)", id="elsewhere"),
        pytest.param("**a `b`** *c* 2 * 3 * 4", "a b c 2 * 3 * 4", id="styles"),
        pytest.param("`a **b** [c](d)`", "a **b** [c](d)", id="code"),
    ],
)
def test_a_line_of_text(text: str, shown: str) -> None:
    assert plain(inline(text)) == shown


def test_a_table_that_is_too_wide_becomes_a_list() -> None:
    table = parse_page(f"| a | b | c |\n| --- | --- | --- |\n| one | two | {'long words ' * 40}|\n")

    lines = Layout(columns=60).drawn(table)

    assert lines[:2] == ["one", "    b: two"]
    assert max(map(len, lines)) <= 60


def test_a_list_of_a_table_says_whose_a_cell_is() -> None:
    """But of a last column that is of long texts, unless the table compares its columns: then the first has no head."""
    rows = f"| x | REDIRECT | TPROXY |\n| --- | --- | --- |\n| sees | {'a' * 30} | {'b' * 30} |\n"
    prose = rows.replace("b" * 30, "long words " * 20)

    assert Layout(columns=60).drawn(parse_page(rows)) == [
        "sees",
        f"    REDIRECT: {'a' * 30}; TPROXY:",
        f"    {'b' * 30}",
    ]
    assert Layout(columns=60).drawn(parse_page(prose))[:2] == ["sees", f"    REDIRECT: {'a' * 30}"]
    assert Layout(columns=60).drawn(parse_page(prose))[2].startswith("    long words")
    assert "TPROXY:" in "".join(Layout(columns=60).drawn(parse_page(prose.replace("x", " ", 1))))


def test_bold_ends_where_its_words_end() -> None:
    """At a line's end too, as less starts each line anew."""
    lines = Layout(columns=20, styled=True).drawn(parse_page("**" + "word " * 6 + "word** plain\n"))

    assert lines == ["\x1b[1mword word word word\x1b[0m", "\x1b[1mword word word\x1b[0m plain"]
