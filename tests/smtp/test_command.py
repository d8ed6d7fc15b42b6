"""The sender's commands: what verb a line has, and what of it may be forwarded (RFC 5321 4.1.1).

What must hold: a line is forwarded octet for octet, apart from a bare LF; nothing that one receiver might read as two
commands is forwarded; and the pieces in which the octets came decide nothing.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from shimproxy.smtp.catalogue import Violation
from shimproxy.smtp.command import (
    HELLOS,
    REFUSED_IN_LMTP,
    Chunk,
    Command,
    CommandReader,
    Verb,
    chunk_of,
    command_from_line,
    response_from_line,
)
from shimproxy.smtp.ehlo import NEVER_OFFERED
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIMIT_OCTETS = 40
KNOWN_VERBS = [verb for verb in Verb if verb is not Verb.OTHER]


def read(blocks: Iterable[bytes], limit_octets: int = LIMIT_OCTETS) -> list[Command]:
    """Every command in the blocks, each asked for as soon as it may be there."""
    reader = CommandReader(limit_octets)
    commands = []
    for block in blocks:
        reader.feed(block)
        while command := reader.next_command():
            commands.append(command)
    return commands


def segmentations(stream: bytes) -> Iterator[list[bytes]]:
    """Whole, octet by octet, and every cut in two."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    for at in range(1, len(stream)):
        yield [stream[:at], stream[at:]]


# -- verbs


@pytest.mark.parametrize("verb", KNOWN_VERBS)
@pytest.mark.parametrize("arguments", [b"", b" ", b" FROM:<a@example.org> SIZE=1", b"\tx", b"  x"])
def test_a_verb_is_known_in_any_case(verb: Verb, arguments: bytes) -> None:
    """RFC 5321 2.4: verbs are not case sensitive; the line is forwarded as it was written."""
    for word in (verb.value, verb.value.lower(), verb.value.title(), verb.value.swapcase()):
        line = word.encode() + arguments + b"\r\n"

        assert {verb} == {command.verb for blocks in segmentations(line) for command in read(blocks)}
        assert {line} == {command.line for blocks in segmentations(line) for command in read(blocks)}


@pytest.mark.parametrize("line", [b" DATA\r\n", b"\tDATA\r\n", b" \t DATA \r\n", b"DATA\t\r\n"])
def test_blanks_and_tabs_around_a_verb_do_not_hide_it(line: bytes) -> None:
    """Some receivers skip them: what may open mail data there must be known as DATA here."""
    (command,) = read([line])

    assert Command(Verb.DATA, line) == command
    assert command.forwardable


@pytest.mark.parametrize("word", [b"XYZZY", b"DATAX", b"DAT", b"ETRN", b"MAIL:", b"SEND", b"250", b"."])
def test_any_other_word_is_forwarded_as_it_came(word: bytes) -> None:
    """What the dialogue does not distinguish is the receiver's to answer."""
    line = word + b" argument\r\n"

    assert [Command(Verb.OTHER, line)] == read([line])


@pytest.mark.parametrize(
    "line",
    [b"\r\n", b" \r\n", b"  \r\n", b"\t\r\n", b" \t \r\n", b"\n", b" \n", b"\r\r\n", b" \r \r\n", b"\x0b\x0c\r\n"],
)
@pytest.mark.parametrize("newlines", Newlines)
@pytest.mark.parametrize("lf_ends_lines", [False, True])
def test_an_empty_line_is_a_command_to_be_answered_and_for_no_receiver(
    line: bytes, newlines: Newlines, *, lf_ends_lines: bool
) -> None:
    """Some receivers answer it, some say nothing: it may not get lost, or the replies are out of step."""
    empty = Command(Verb.OTHER, line, violation=Violation.EMPTY_LINE, forwardable=False)
    assert not empty.plain
    for blocks in segmentations(line + b"QUIT\r\n"):
        reader = CommandReader(LIMIT_OCTETS, newlines, lf_ends_lines)
        commands = []
        for block in blocks:
            reader.feed(block)
            while command := reader.next_command():
                commands.append(command)

        assert [empty, Command(Verb.QUIT, b"QUIT\r\n")] == commands


@pytest.mark.parametrize("word", sorted(NEVER_OFFERED), ids=bytes.decode)
def test_an_extension_that_is_not_offered_is_refused(word: bytes) -> None:
    """In any case, with and without arguments, blanks before it or not."""
    for line in (word, word.lower(), b" " + word.title() + b" 86 LAST", word + b"\t1"):
        for blocks in segmentations(line + b"\r\n"):
            (command,) = read(blocks)

            assert command.refused


def test_what_changes_the_reading_of_the_octets_behind_it_is_refused() -> None:
    """Whatever turns the legs round or tells the receiver who the sender is."""
    assert {b"TURN", b"ATRN", b"XCLIENT", b"XFORWARD", b"XEXCH50"} <= NEVER_OFFERED


@pytest.mark.parametrize("verb", [verb for verb in KNOWN_VERBS if verb not in (Verb.BDAT, Verb.LHLO)])
def test_the_commands_of_rfc_5321_are_not_refused(verb: Verb) -> None:
    """They are the receiver's to answer."""
    assert not command_from_line(verb.value.encode() + b"\r\n").refused


@pytest.mark.parametrize("verb", HELLOS)
def test_lmtp_has_a_hello_of_its_own(verb: Verb) -> None:
    """A receiver of the other protocol would give another number of replies to a mail (RFC 2033 4.1)."""
    line = verb.value.encode() + b" x\r\n"
    assert command_from_line(line, refused=REFUSED_IN_LMTP).refused == (verb is not Verb.LHLO)
    assert command_from_line(line).refused == (verb is Verb.LHLO)


# -- forms

FORMS: dict[str, tuple[bytes, bytes, Violation | None]] = {
    "well-formed": (b"NOOP\r\n", b"NOOP\r\n", None),
    "8-bit": ("RCPT TO:<jörg@example.org>\r\n".encode(), "RCPT TO:<jörg@example.org>\r\n".encode(), None),
    "ESC": (b"NOOP \x1b[0m\r\n", b"NOOP \x1b[0m\r\n", None),
    "bare LF": (b"NOOP\n", b"NOOP\r\n", Violation.BARE_NEWLINE),
    "bare LF behind a blank": (b"NOOP \n", b"NOOP \r\n", Violation.BARE_NEWLINE),
    "NUL": (b"NOOP \0\r\n", b"", Violation.UNKNOWN_OCTETS),
    "NUL first": (b"\0NOOP\r\n", b"", Violation.UNKNOWN_OCTETS),
    "NUL in the verb": (b"DA\0TA\r\n", b"", Violation.UNKNOWN_OCTETS),
    "NUL behind CR": (b"NOOP\r\0\n", b"", Violation.UNKNOWN_OCTETS),
    "NUL and bare LF": (b"NOOP\0\n", b"", Violation.UNKNOWN_OCTETS),
    "bare CR": (b"NOOP\rDATA\r\n", b"", Violation.UNKNOWN_OCTETS),
    "bare CR first": (b"\rNOOP\r\n", b"", Violation.UNKNOWN_OCTETS),
    "CR CRLF": (b"NOOP\r\r\n", b"", Violation.UNKNOWN_OCTETS),
    "bare CR and bare LF": (b"NO\rOP\n", b"", Violation.UNKNOWN_OCTETS),
    "a command behind a bare CR (CVE-2026-28753)": (b"EHLO a\rMAIL FROM:<>\r\n", b"", Violation.UNKNOWN_OCTETS),
}


@pytest.mark.parametrize(("came", "forwarded", "violation"), [*FORMS.values()], ids=[*FORMS])
def test_the_form_of_a_line(came: bytes, forwarded: bytes, violation: Violation | None) -> None:
    """Forwarded octet for octet, with CRLF for a bare LF, or not at all; the command behind it is unharmed."""
    for blocks in segmentations(came + b"QUIT\r\n"):
        command, following = read(blocks)

        assert violation is command.violation
        assert command.forwardable == bool(forwarded)
        if forwarded:
            assert forwarded == command.line
        assert Command(Verb.QUIT, b"QUIT\r\n") == following


PIECES = (b"DATA", b"x", b" ", b"\0", b"\r", b"\n", b"\r\n")


def short_streams(count: int) -> Iterator[bytes]:
    for length in range(1, count + 1):
        for pieces in itertools.product(PIECES, repeat=length):
            yield b"".join(pieces)


def test_whatever_comes_one_forwarded_line_is_one_command() -> None:
    """No CR, LF or NUL within a line that is forwarded, so that no two receivers see different commands."""
    wrong = [
        (stream, command)
        for stream in short_streams(5)
        for command in read([stream])
        if command.forwardable and (command.line[-2:] != b"\r\n" or set(command.line[:-2]) & set(b"\r\n\0"))
    ]

    assert wrong == []


def test_whatever_comes_there_is_one_command_for_each_line() -> None:
    """As many commands as LF, in order, none lost and none made."""
    wrong = []
    for stream in short_streams(5):
        lines = [line.removesuffix(b"\r") for line in stream.split(b"\n")[:-1]]
        commands = read([stream])
        expected = [line for line, command in zip(lines, commands, strict=False) if command.forwardable]
        if len(commands) != len(lines) or expected != [each.line[:-2] for each in commands if each.forwardable]:
            wrong.append(stream)

    assert wrong == []


@pytest.mark.parametrize("limit_octets", [LIMIT_OCTETS, 6])
def test_the_pieces_in_which_commands_come_decide_nothing(limit_octets: int) -> None:
    """All streams of up to four pieces: the same commands whole, octet by octet, and cut in two everywhere."""
    wrong = [
        (stream, blocks)
        for stream in short_streams(4)
        for blocks in segmentations(stream)
        if read([stream], limit_octets) != read(blocks, limit_octets)
    ]

    assert wrong == []


# -- the limit


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
def test_a_line_at_the_limit_is_forwarded(line_end: bytes) -> None:
    """The limit is what a line may have without its end."""
    came = b"NOOP ".ljust(LIMIT_OCTETS, b"x") + line_end
    for blocks in segmentations(came + b"QUIT\r\n"):
        command, following = read(blocks)

        assert command.forwardable
        assert came.removesuffix(line_end) + b"\r\n" == command.line
        assert Command(Verb.QUIT, b"QUIT\r\n") == following


@pytest.mark.parametrize("over_octets", [1, 2, 3, LIMIT_OCTETS - 1, LIMIT_OCTETS, LIMIT_OCTETS + 1, 200])
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
@pytest.mark.parametrize("verb", [b"NOOP ", b"DATA ", b"STARTTLS ", b"BDAT 5 "], ids=str)
def test_a_line_over_the_limit_is_one_refused_command(over_octets: int, line_end: bytes, verb: bytes) -> None:
    """Exactly one command to be answered, never forwarded, and the one behind it intact, at every segmentation.

    Its verb is known, as what follows behind it is for that to say; and how long it was.
    """
    came = verb.ljust(LIMIT_OCTETS + over_octets, b"x") + line_end
    for blocks in segmentations(came + b"QUIT\r\n"):
        command, following = read(blocks)

        assert command.violation is Violation.LONG_LINE
        assert (command.verb.value.encode(), command.dropped_octets) == (verb.split()[0], len(came))
        assert not command.forwardable
        assert Command(Verb.QUIT, b"QUIT\r\n") == following


def test_auth_over_the_limit_has_a_name_of_its_own() -> None:
    """RFC 4954 section 6 has a reply of its own for it; the limit is that of section 4, 12288 octets, at least."""
    for octets, violation in (LIMIT_OCTETS, None), (LIMIT_OCTETS + 1, Violation.AUTH_TOO_LONG):
        came = b"auth PLAIN ".ljust(octets, b"x") + b"\r\n"
        for blocks in segmentations(came + b"QUIT\r\n"):
            command, following = read(blocks)
            assert (command.verb, command.violation) == (Verb.AUTH, violation)
            assert command.forwardable is (violation is None)
            assert Command(Verb.QUIT, b"QUIT\r\n") == following


def test_long_lines_one_after_the_other_are_as_many_commands() -> None:
    """Each gets its own reply."""
    long_line = b"x" * 100 + b"\r\n"
    for blocks in segmentations(long_line + b"NOOP\r\n" + long_line + long_line + b"QUIT\r\n"):
        commands = read(blocks)

        assert [command.verb for command in commands] == [Verb.OTHER, Verb.NOOP, Verb.OTHER, Verb.OTHER, Verb.QUIT]
        assert [command.forwardable for command in commands] == [False, True, False, False, True]


def test_an_endless_line_takes_bounded_memory() -> None:
    """What is over the limit is dropped as it comes (guarantee 10), and the reader knows that it is not idle."""
    reader = CommandReader(512)
    for _ in range(1000):
        reader.feed(b"x" * 1448)
        assert reader.next_command() is None
        assert len(reader.ahead) <= 512
        assert not reader.empty
    reader.feed(b"\nNOOP\r\n")

    command = reader.next_command()
    assert command is not None
    assert command.violation is Violation.LONG_LINE
    assert Command(Verb.NOOP, b"NOOP\r\n") == reader.next_command()
    assert reader.empty


# -- what lies behind a command


def test_what_lies_behind_a_command_stays_until_it_is_taken() -> None:
    """Mail data or the next command: the reader looks at one line at a time."""
    reader = CommandReader(512)
    assert reader.empty
    reader.feed(b"DATA\r\nSubject: x\r\n\r\n.")

    assert Command(Verb.DATA, b"DATA\r\n") == reader.next_command()
    assert reader.ahead == b"Subject: x\r\n\r\n."
    assert reader.take_ahead() == b"Subject: x\r\n\r\n."
    assert reader.ahead == b""
    assert reader.take_ahead() == b""
    assert reader.empty


def test_a_part_of_a_command_is_not_nothing() -> None:
    """A reader that holds half a command is not idle."""
    reader = CommandReader(512)
    reader.feed(b"NO")

    assert reader.next_command() is None
    assert not reader.empty
    assert reader.ahead == b"NO"


def test_lines_come_with_their_end() -> None:
    """For AUTH responses, which are no commands: the line as it came; empty if it was over the limit."""
    reader = CommandReader(10)
    reader.feed(b"dXNlcg==\r\n*\n" + b"x" * 20 + b"\r\n\r\nrest")

    assert [reader.next_line() for _ in range(5)] == [b"dXNlcg==\r\n", b"*\n", b"", b"\r\n", None]
    assert reader.ahead == b"rest"


# -- BDAT


@pytest.mark.parametrize(
    ("line", "chunk"),
    [
        (b"BDAT 86\r\n", Chunk(86, last=False)),
        (b"BDAT 86 LAST\r\n", Chunk(86, last=True)),
        (b"bdat 86 last\r\n", Chunk(86, last=True)),
        (b"BDAT 0 LAST\r\n", Chunk(0, last=True)),
        (b"BDAT 0\r\n", Chunk(0, last=False)),
        (b"BDAT 007\r\n", Chunk(7, last=False)),
        (b"BDAT  86  LAST \r\n", Chunk(86, last=True)),
        (b"BDAT\t86\r\n", Chunk(86, last=False)),
        (b"BDAT 2147483647\r\n", Chunk(2**31 - 1, last=False)),
        (b"BDAT 2147483648\r\n", None),
        (b"BDAT 18446744073709551615 LAST\r\n", None),
        (b"BDAT 86 FIRST\r\n", None),
        (b"BDAT 86LAST\r\n", None),
        (b" BDAT 86\r\n", None),
        (b"BDAT\r\n", None),
        (b"BDAT LAST\r\n", None),
        (b"BDAT -1\r\n", None),
        (b"BDAT +1\r\n", None),
        (b"BDAT 1_000\r\n", None),
        (b"BDAT 1.5\r\n", None),
        (b"BDAT 0x10\r\n", None),
        (b"BDAT " + "\uff11".encode() + b"\r\n", None),
        (b"BDAT 1 LAST LAST\r\n", None),
        (b"BDAT " + b"9" * 500 + b"\r\n", None),
    ],
    ids=lambda value: value.decode("ascii", "replace").strip()[:24] if isinstance(value, bytes) else str(value),
)
def test_the_size_of_a_chunk(line: bytes, chunk: Chunk | None) -> None:
    """RFC 3030 section 2; what has no plain number, or one that overflows in some receivers, has no size."""
    assert chunk == chunk_of(line)


# -- AUTH


@pytest.mark.parametrize(
    ("came", "forwarded"),
    [
        (b"dXNlcg==\r\n", b"dXNlcg==\r\n"),
        (b"*\r\n", b"*\r\n"),
        (b"=\r\n", b"=\r\n"),
        (b"\r\n", b"\r\n"),
        (b" \r\n", b" \r\n"),
        (b"\n", b"\r\n"),
        (b"dXNlcg==\n", b"dXNlcg==\r\n"),
        (b"DATA\r\n", b"DATA\r\n"),
        (b"STARTTLS\r\n", b"STARTTLS\r\n"),
        (b"dXN\0lcg==\r\n", b"*\r\n"),
        (b"dXN\rQUIT\r\n", b"*\r\n"),
    ],
    ids=repr,
)
def test_a_response_within_auth(came: bytes, forwarded: bytes) -> None:
    """Forwarded whatever it says; one that is too long or has a CR or NUL in it cancels (RFC 4954 section 4)."""
    response = response_from_line(came)

    assert (response.violation is None) is (came == forwarded), "what is changed is told"
    assert (Verb.AUTH, forwarded, False) == (response.verb, response.line, response.refused)
    assert response.forwardable


def test_a_response_over_the_limit_cancels() -> None:
    """At every segmentation; what is at the limit is forwarded."""
    at_limit, over_limit = b"x" * LIMIT_OCTETS + b"\r\n", b"x" * (LIMIT_OCTETS + 1) + b"\r\n"
    for blocks in segmentations(at_limit + over_limit + b"*\r\n"):
        reader = CommandReader(LIMIT_OCTETS)
        responses = []
        for block in blocks:
            reader.feed(block)
            while response := reader.next_response():
                responses.append(response)
        assert [response.line for response in responses] == [at_limit, b"*\r\n", b"*\r\n"]
        assert [response.violation for response in responses] == [None, Violation.AUTH_TOO_LONG, None]
        assert responses[1].dropped_octets == len(over_limit)


# -- mail data or commands


@pytest.mark.parametrize(
    "word", sorted({verb.value.encode() for verb in KNOWN_VERBS} | NEVER_OFFERED), ids=bytes.decode
)
def test_a_command_looks_like_one(word: bytes) -> None:
    """In any case, with arguments or without."""
    for line in (
        word + b"\r\n",
        word.lower() + b"\r\n",
        word + b" x\r\n",
        word + b"\n",
        word + b" " + b"x" * 100 + b"\n",
    ):
        assert command_from_line(line).known


@pytest.mark.parametrize(
    "octets",
    [
        b"Received: from a by b\r\n",
        b"From: <a@example.org>\r\n",
        b"Subject: QUIT\r\n",
        b"Mail-From: x\r\n",
        b"HELP: me\r\n",
        b"Data: x\r\n",
        b"DATABASE\r\n",
        b"MAILER-DAEMON\r\n",
        b".\r\n",
        b"..\r\n",
        b"\r\n",
        b"\n",
        b"Dear reader,\r\n",
    ],
    ids=repr,
)
def test_the_beginning_of_a_mail_does_not_look_like_a_command(octets: bytes) -> None:
    """A header line, a text, a dot: not to be forwarded as commands (guarantee 6)."""
    assert not command_from_line(octets).known
