"""`shimproxy explain`: every name has its texts and an example that shows it, and is found however it is asked for."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from shimproxy.cli import main
from shimproxy.help.explain.command import example_of
from shimproxy.help.explain.entries import Explanation, NameKind, UnknownName, entries, find, own_replies
from shimproxy.help.explain.page import explained, listed
from shimproxy.help.explain.transcript import Transcript, play
from shimproxy.help.explain.words import words
from shimproxy.help.text import Layout
from shimproxy.observe.events import Event
from shimproxy.observe.journal import Journal
from shimproxy.observe.lossy import log
from shimproxy.session.trace import OWN
from shimproxy.smtp.catalogue import Violation
from tests.memory import Stage, staged, up_to_mail_data
from tests.peers.here import run_here

if TYPE_CHECKING:
    from shimproxy.help.explain import stage

ENTRIES = entries()
BY_NAME = {entry.name: entry for entry in ENTRIES}
VIOLATIONS = [entry for entry in ENTRIES if entry.kind is NameKind.VIOLATION]
REPLIES = [entry for entry in ENTRIES if entry.kind is NameKind.REPLY]
EVENTS = [entry for entry in ENTRIES if entry.kind is NameKind.EVENT]
WORDS_OF_A_SENTENCE = 25
RULE = r"(RFC \d+ [\d., ]+|RFC \d+|Postfix XCLIENT_README|PROXY protocol, section 2)"

every_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
every_violation = pytest.mark.parametrize("entry", VIOLATIONS, ids=lambda entry: entry.name)
every_reply = pytest.mark.parametrize("entry", REPLIES, ids=lambda entry: entry.name)


def printed(entry: Explanation, columns: int = 80) -> list[str]:
    """The page of a name, as a terminal of that width has it."""
    return Layout(columns=columns).drawn(explained(entry, example_of(entry), columns))


# -- nothing is left out


def test_all_that_the_code_names_is_explained() -> None:
    """Each violation, each reply of shimproxy's own and each event of the log; and nothing that is none of them."""
    assert [entry.name for entry in VIOLATIONS] == [str(each) for each in Violation]
    assert [entry.name for entry in EVENTS] == [each.value for each in Event]
    assert [entry.name for entry in REPLIES] == [own.enhanced.octets.decode().strip() for own in own_replies().values()]
    assert len(BY_NAME) == len(ENTRIES), "no name means two things"


def test_what_is_told_of_nothing_is_an_error() -> None:
    """A text that is left over has lost its violation, reply or event to a change."""
    from shimproxy.help.explain import entries as module

    assert set(words()) == {*Violation}
    assert set(module._texts("replies")) == set(own_replies())
    assert set(module._texts("events")) == {each.value for each in Event}


@every_violation
def test_a_violation_has_all_its_texts(entry: Explanation) -> None:
    """What it means, the rule, what shimproxy does, and what to tell whom; the rule of the RFC stands in that."""
    assert entry.summary.endswith(".")
    assert len(entry.summary) <= 80
    assert entry.means
    assert re.match(RULE, entry.rule)
    assert entry.does
    assert entry.to
    assert len(entry.tell.split()) >= 20
    if entry.to.startswith("the vendor") and entry.name != "tls-failed":
        assert re.search(r"\b(RFC \d+|PROXY protocol)", entry.tell), "a vendor wants the rule"


@every_reply
def test_a_reply_says_what_leads_to_it_or_which_rule_it_follows(entry: Explanation) -> None:
    """So that a reader finds the rule and the peer from a reply alone."""
    assert entry.means
    assert entry.rule
    assert entry.violations or entry.name.split()[0] in ("220", "421")


@every_entry
def test_sentences_are_short(entry: Explanation) -> None:
    """As the rules of the documentation have it: some words more where a rule is in parentheses."""
    for text in (entry.summary, entry.means, entry.do, entry.tell):
        for sentence in re.split(r"(?<=[.:;]) ", re.sub(r"\([^)]*\)", "", text)):
            assert len(sentence.split()) <= WORDS_OF_A_SENTENCE, sentence


@every_entry
def test_programs_have_a_source(entry: Explanation) -> None:
    """Nobody is blamed without saying where that is known from."""
    for each in entry.programs:
        assert each.program
        assert each.does
        assert each.source


# -- examples


@every_entry
def test_an_example_shows_what_it_is_the_example_of(entry: Explanation) -> None:
    """It has the repair, or the reply as shimproxy's own, or a line of the log; or it is said why there is none."""
    if not entry.example:
        assert entry.kind is NameKind.EVENT or entry.no_example
        return

    def seen(stage: stage.Stage) -> tuple[list[str], list[bytes]]:
        assert stage.record.trace
        own = [each.text for each in stage.record.trace.entries if each.remark == OWN]
        return [str(each) for each in stage.repaired], own

    repairs, own = play(Transcript.named(entry.example), seen)
    match entry.kind:
        case NameKind.VIOLATION:
            assert entry.name in repairs
        case NameKind.REPLY:
            texts = [text.decode().strip().lower() for text in own]
            assert any(form in texts for form in entry.forms)
        case NameKind.EVENT:
            example = example_of(entry)
            assert example
            assert all(line.split()[1] == entry.name for line in example.log)
            assert example.log


@pytest.mark.parametrize("columns", [40, 80, 120])
@every_entry
def test_a_page_fits_a_terminal(entry: Explanation, columns: int) -> None:
    """But for a ladder in a terminal too narrow for one, and for words that are longer than a line."""
    lines = printed(entry, columns)

    assert entry.name in " ".join(lines[:4])
    if columns > 40:
        assert max(map(len, lines)) <= columns


def test_the_example_of_the_founding_case() -> None:
    """The rule, who does it, the log line, and the ladder with both replies where they came from."""
    text = "\n".join(printed(BY_NAME["early-reply"]))

    assert "The rule: RFC 5321 4.2, 4.3.2" in text
    assert "- mox, commit 1c958766: 451 for the size, then a reset (its source)" in text
    assert "    WARNING repair session=example sender=192.0.2.1:1 receiver=192.0.2.2:25\n" in text
    assert "|- RST ----------------------------->|\n" in text
    assert text.index("early (before the end") < text.index("* repair: early-reply") < text.index("|- QUIT")
    assert "Please read and discard the rest up to CRLF.CRLF" in " ".join(text.split())


def test_seconds_stand_in_a_ladder_where_they_pass() -> None:
    text = "\n".join(printed(BY_NAME["no-reply"]))

    assert re.search(r"^ +30\d \|<- 421 ", text, re.MULTILINE)


# -- a name is found


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("early-reply", "early-reply"),
        ("EARLY_REPLY", "early-reply"),
        (" Early-Reply ", "early-reply"),
        ("repair=early-reply", "early-reply"),
        ("2026-11-28T12:00:00.123Z WARNING repair session=1-2 repair=no-221 phase=QUIT", "no-221"),
        ('{"level": "WARNING", "event": "repair", "repair": "cut-off"}', "cut-off"),
        ('{"time": "2026-11-28T12:00:00.123Z", "level": "WARNING", "event": "worker_killed"}', "worker_killed"),
        ("worker-killed", "worker_killed"),
        ("2026-11-28T12:00:00.123Z WARNING worker_killed pid=12 reason=no_answer", "worker_killed"),
        ("552", "552 5.3.4 message size exceeds the limit"),
        ("552 5.3.4", "552 5.3.4 message size exceeds the limit"),
        ("5.3.4", "552 5.3.4 message size exceeds the limit"),
        ("552 Message size exceeds the LIMIT", "552 5.3.4 message size exceeds the limit"),
        ("message size", "552 5.3.4 message size exceeds the limit"),
        ("exceeds the", "552 5.3.4 message size exceeds the limit"),
    ],
)
def test_one_name_is_found(asked: str, name: str) -> None:
    assert [entry.name for entry in find(asked, ENTRIES)] == [name]


def test_a_code_of_several_replies_finds_all_of_them() -> None:
    """Those of the code, and of code and enhanced code; not those of another."""
    of_421 = [entry.name for entry in find("421", ENTRIES)]
    of_both = [entry.name for entry in find("421 4.4.2", ENTRIES)]

    assert of_421 == [entry.name for entry in REPLIES if entry.name.startswith("421 ")]
    assert of_both == [name for name in of_421 if name.startswith("421 4.4.2 ")]
    assert 1 < len(of_both) < len(of_421)


@every_entry
def test_each_name_finds_itself(entry: Explanation) -> None:
    assert find(entry.name, ENTRIES) == [entry]
    for form in entry.forms:
        assert entry in find(form, ENTRIES)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("erly-reply", "nothing is called 'erly-reply', did you mean early-reply?"),
        ("worker_kiled", "nothing is called 'worker_kiled', did you mean worker_killed?"),
        ("xyzzy", "nothing is called 'xyzzy'; shimproxy explain lists all names"),
        ("250 2.1.5", "'250 2.1.5' is not a reply of shimproxy's own, so the receiver gave it; "),
        ("452", "'452' is not a reply of shimproxy's own"),
    ],
)
def test_an_unknown_name_has_the_nearest_one(asked: str, said: str) -> None:
    with pytest.raises(UnknownName, match=re.escape(said)):
        find(asked, ENTRIES)


# -- the command


def explain(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_here("explain", *arguments, **environment)


def test_a_name_may_come_in_several_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "421", "4.4.2"]) == 0
    shown = capsys.readouterr().out

    assert shown.startswith("shimproxy gives 3 replies of its own that may be '421 4.4.2':\n")
    assert shown.count("\n- 421 4.4.2 ") == 3


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """In six groups, a line each where a terminal has room."""
    assert main(["explain"]) == 0
    shown = capsys.readouterr().out

    assert len(re.findall(r"^\S.*:$", shown, re.MULTILINE)) == 5
    for entry in ENTRIES:
        assert re.search(rf"^  {re.escape(entry.name)}(  |$)", shown, re.MULTILINE)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_list_fits_a_terminal(columns: int) -> None:
    lines = [line for line in listed(ENTRIES, columns) if line.strip() not in {entry.name for entry in REPLIES}]

    assert max(map(len, lines)) <= columns


def test_json_has_all_of_it() -> None:
    """One object for one name, with the dialogue; a list for several."""
    said = json.loads(explain("oversize", "--json").stdout)

    assert said["name"] == "oversize"
    assert said["kind"] == "violation"
    assert said["rule"] == "RFC 1870 6.1"
    assert said["log"][0].startswith(
        "WARNING repair session=example sender=192.0.2.1:1 receiver=192.0.2.2:25 repair=oversize "
    )
    replies = [each for each in said["dialogue"] if each["from"] == "shimproxy" and each["what"].startswith("552 ")]
    assert [each["to"] for each in replies] == ["Sender"]
    assert replies[0]["remark"] == OWN
    assert [each["name"] for each in json.loads(explain("--json").stdout)] == [entry.name for entry in ENTRIES]
    assert json.loads(explain("--json", "oversiz").stdout or "null") is None


def test_an_unknown_name_is_one_line_and_status_2() -> None:
    shown = explain("erly-reply")

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == "shimproxy: nothing is called 'erly-reply', did you mean early-reply?\n"


def test_output_that_is_no_terminal_has_no_styles() -> None:
    shown = explain("early-reply", COLUMNS="100", TERM="xterm")

    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert shown.stdout.isascii()


def test_a_shimproxy_that_runs_knows_nothing_of_it() -> None:
    """No mail pays for it: neither the modules nor the texts are loaded before somebody asks."""
    program = textwrap.dedent("""
        import sys, shimproxy, shimproxy.daemon.worker
        from shimproxy.cli.parser import parser_for
        parser_for(["run"])
        print([name for name in sys.modules if "explain" in name or name == "trio.testing"])
    """)

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


# -- the way there


def test_the_first_repair_in_a_log_says_what_explains_it(caplog: pytest.LogCaptureFixture) -> None:
    """Once in the life of a process: who reads the log needs it once."""

    async def script(stage: Stage) -> None:
        await up_to_mail_data(stage)
        await stage.feed(stage.receiver, b"552 no\r\n552 no\r\n")
        await stage.feed(stage.sender, b".\r\n")

    stage = staged(script)
    journal = Journal(leads_to_explanations=True)
    log.propagate = True
    with caplog.at_level(logging.WARNING, log.name):
        for _ in range(2):
            for repair in stage.account.repairs:
                journal.repaired(stage.record, repair)

    said = [line.__dict__["fields"].get("message") for line in caplog.records]
    assert len(said) > 1
    assert said[0] == f"`shimproxy explain {stage.repaired[0]}` says more"
    assert set(said[1:]) == {None}


def test_help_leads_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    assert "shimproxy explain NAME" in capsys.readouterr().out
