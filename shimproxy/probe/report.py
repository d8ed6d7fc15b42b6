"""The account of a probe in words: a line for each part, and what is wrong under its name in the catalogue.

Pure. What is not in the account is not said, and what was not tried is said to be so.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from shimproxy.probe.account import MAIL_PATIENCES, MOST_UNASKED, ConnectionEnd
from shimproxy.probe.plan import Tls
from shimproxy.smtp.ehlo import NEVER_OFFERED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shimproxy.probe.account import Account, Aside, ChunkSeen, Heard, KeywordsSeen

Line = tuple[str, str]
"""A label, empty to go on under the last one, and what is said."""

_LABEL_COLUMNS: Final = 13
_MOST_REPLIES: Final = 3
_MOST_NAMES: Final = 5
_TO_NO_COMMAND: Final = (500, 501, 502, 503)
"""What a line gets that is no command, or no command here (RFC 5321 4.2.4)."""
_NO_SUCH_COMMAND: Final = (500, 502)


def drawn_line(line: Line, columns: int) -> list[str]:
    """A line as it is printed, in as many as it needs."""
    label, text = line
    return _wrapped(text, columns, label.ljust(_LABEL_COLUMNS), " " * _LABEL_COLUMNS)


def _wrapped(text: str, columns: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(text, columns, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def not_tried(why: str) -> str:
    """The words for what was left out."""
    return f"not tried: {why}"


def of_dialogue(account: Account) -> list[Line]:
    """The session without a mail."""
    seen = account.dialogue
    lines: list[Line] = [("Receiver", account.address)]
    lines.append(("Greeting", str(seen.greeting or _no_greeting(account))))
    if account.greets_after_header:
        version = account.greets_after_header
        lines.append(("", f"it greets after a PROXY header: run shimproxy with --send-proxy {version}"))
    if seen.hello_reply:
        lines.append((seen.hello, _hello(seen.hello_reply)))
    if withheld := sorted(NEVER_OFFERED.intersection(keyword.encode() for keyword in seen.keywords)):
        lines.append(("", f"not offered through shimproxy: {b', '.join(withheld).decode()}"))
    lines += _tls(account)
    if seen.hello_reply and not seen.left_out:
        lines.append(("SIZE", _size(account)))
        lines.append(("NOOP", str(seen.noop or "no reply")))
    if seen.left_out:
        lines.append(("Session", seen.left_out))
    other = account.other_hello
    if other.reply and other.reply.code // 100 == 2:
        is_lmtp = other.command.startswith("LHLO")
        hint = "this may be LMTP: probe it with --lmtp" if is_lmtp else "this may be SMTP: probe it without --lmtp"
        lines.append(("", f"{other.command} is answered by {_hello(other.reply)}; {hint}"))
    if seen.quit:
        lines.append(("QUIT", f"{seen.quit}; {_closing(seen.end)}"))
    return lines


def _tls(account: Account) -> list[Line]:
    """How TLS began, and whom the certificate is for."""
    seen, of = account.tls, account.tls.certificate
    if not seen.how:
        lines = [("TLS", f"none: {seen.left_out}")]
        if "STARTTLS" in account.dialogue.keywords:
            lines.append(("", "it offers STARTTLS; all results are without TLS"))
        if seen.reply and seen.reply.code // 100 == 5:
            lines.append(("", f"senders that want STARTTLS are refused for good: {_hide('STARTTLS')}"))
        if account.speaks_tls:
            lines.append(("", "a connection that begins with TLS succeeds: probe it with --tls implicit"))
        return lines
    begins = f"STARTTLS: {seen.reply}" if seen.reply else "before the greeting"
    lines = [("TLS", f"{begins}; {seen.version} with {seen.cipher}; all else is asked inside it")]
    if of.days_left is None:
        return [*lines, ("Certificate", of.problem)]
    names = ", ".join(of.names[:_MOST_NAMES]) or f"no name (its subject is {of.subject or 'empty'})"
    if more := of.names[_MOST_NAMES:]:
        names += f" and {len(more)} more"
    day = of.not_after.partition("T")[0]
    holds = f"{of.days_left} days left (until {day})" if of.days_left >= 0 else f"it has expired ({day})"
    accepted = f"shimproxy would refuse it: {of.problem}" if of.problem else "shimproxy would accept it"
    lines.append(("Certificate", f"for {names}; {holds}; {accepted}{f'; {of.mend}' if of.mend else ''}"))
    return lines


def _no_greeting(account: Account) -> str:
    seen, patience = account.dialogue, account.patience_seconds
    if seen.without_end:
        return f"none that ended within {patience:g} s: {seen.without_end}"
    return f"none: {seen.end or f'silence for {patience:g} s'}"


def _hello(reply: Heard) -> str:
    first, *others = reply.lines
    offers = ", ".join(line[4:] for line in others if line[4:])
    return f"{reply.code} {first[4:]}" + (f"; offers {offers}" if offers else "")


def _size(account: Account) -> str:
    seen = account.dialogue
    if seen.size_octets is None:
        offered = f"SIZE {seen.keywords['SIZE']}".rstrip() if "SIZE" in seen.keywords else "SIZE is not offered"
        return f"without a limit ({offered})"
    asked = account.larger_mail
    answer = not_tried(asked.left_out) if asked.left_out else asked.reply or no_reply(account, asked)
    return f"{seen.size_octets:,} octets; to a MAIL that declares one more: {answer}"


def of_pipelining(account: Account) -> list[Line]:
    """The commands in one write."""
    seen = account.pipelining
    if seen.left_out:
        text = not_tried(seen.left_out)
        if seen.offered:
            text = f"offered; {text}"
        elif not account.dialogue.left_out:
            text += "; a sender that does it is served one command at a time (unoffered-pipelining)"
        return [("Pipelining", text)]
    group, together = ", ".join(command.split()[0] for command in seen.commands), _codes(seen.together)
    if seen.same and len(seen.together) < len(seen.commands):
        return [("Pipelining", f"offered; {group}: {together} and no more, in one write as one by one")]
    if seen.same:
        order = "" if seen.shows_order else ", whose order is not visible in their texts"
        return [("Pipelining", f"offered; {group} in one write: a reply each, as one by one ({together}){order}")]
    text = f"offered; {group} one by one: {_codes(seen.one_by_one)}; in one write: {together}"
    lost = len(seen.commands) - len(seen.together)
    remark = f"{lost} without a reply; run shimproxy with --no-pipelining" if lost else "not the same"
    return [("Pipelining", f"{text}; {remark}")]


def _codes(replies: Iterable[Heard]) -> str:
    return " ".join(f"{each.code:03}" for each in replies) or "no reply"


def of_second_hello(account: Account) -> list[Line]:
    """The hello once more in a session."""
    seen, first = account.second_hello, account.dialogue
    if seen.left_out:
        text = not_tried(seen.left_out)
    elif not seen.reply:
        text = f"{no_reply(account, seen)}; a sender that repeats {first.hello} gets no answer"
    elif seen.reply.code // 100 != 2:
        text = f"{seen.reply}; it takes one {first.hello} in a session"
    elif first.hello_reply and seen.reply.lines[1:] == first.hello_reply.lines[1:]:
        text = "accepted, with the same answer as the first one"
    else:
        text = f"accepted, but with another answer than the first one: {_hello(seen.reply)}"
    return [(f"{first.hello} again", text)]


def of_keywords(account: Account) -> list[Line]:
    """The keywords that a short command uses."""
    seen = account.keywords
    if seen.left_out:
        return [("Keywords", not_tried(seen.left_out))]
    denied = [each.keyword for each in seen.denied]
    texts = [
        f"{each.keyword} is offered, but {each.command}: {each.reply or no_reply(account, seen)}"
        for each in seen.denied
    ]
    if kept := [each for each in seen.tried if each not in denied]:
        texts.append(f"{', '.join(kept)}: accepted as offered")
    if denied:
        texts.append(_hide(*denied))
    return [("Keywords" if text is texts[0] else "", text) for text in texts]


def _hide(*keywords: str) -> str:
    return f"run shimproxy with --hide {','.join(keywords)}"


def of_chunk(account: Account) -> list[Line]:
    """BDAT without a mail."""
    seen = account.chunk
    if seen.left_out:
        return [("Chunks", not_tried(seen.left_out))]
    if not seen.replies:
        return [("Chunks", f"BDAT without a mail: {no_reply(account, seen)}; {_hide('CHUNKING')}")]
    text = f"BDAT without a mail: {seen.replies[0]}"
    if seen.replies[0].code in _NO_SUCH_COMMAND:
        text += f"; it offers CHUNKING, and knows no BDAT: {_hide('CHUNKING')}"
    if seen.further:
        text += "; it reads the chunk as commands"
    elif len(seen.replies) == 1:
        text += f"; then {seen.end or 'nothing'} instead of a reply to NOOP"
    else:
        text += "; it discards the chunk, as it should"
    return [("Chunks", text)]


def of_half_close(account: Account) -> list[Line]:
    """A command with the end of the probe's direction."""
    seen = account.half_close
    if seen.left_out:
        return [("Half-close", not_tried(seen.left_out))]
    said = f"{seen.command}, then {'close_notify and FIN' if account.tls.how else 'FIN'}"
    if not seen.reply:
        return [("Half-close", f"{said}: {no_reply(account, seen)}; a sender that does it gets no reply")]
    return [("Half-close", f"{said}: {seen.reply}; {_closing(seen.end)}")]


def _closing(end: ConnectionEnd) -> str:
    return "closes" if end is ConnectionEnd.FIN else "resets" if end else "does not close"


def no_reply(account: Account, seen: Aside | ChunkSeen | KeywordsSeen) -> str:
    """The words for a reply that did not come."""
    return str(seen.end) or f"no reply within {account.patience_seconds:g} s"


def of_early_talk(account: Account) -> list[Line]:
    """The hello before the greeting."""
    seen, hello = account.early_talk, account.dialogue.hello
    if seen.left_out:
        return [("Early talk", not_tried(seen.left_out))]
    text = f"{hello} before the greeting: {_all(seen.replies)}"
    if len(seen.replies) == 2 and all(each.code // 100 == 2 for each in seen.replies):
        text = f"{hello} before the greeting is accepted, and answered after it"
    elif seen.end:
        text += f"; {seen.end}"
    elif len(seen.replies) < 2:
        text += f"; nothing more for {account.patience_seconds:g} s"
    if account.tls.how == Tls.STARTTLS:
        text = f"before STARTTLS, {text}"
    return [("Early talk", f"{text}; shimproxy holds such early commands of senders (early-talk)")]


def _all(replies: Iterable[Heard]) -> str:
    return ", then ".join(map(str, replies)) or "no reply"


def of_bare_newline(account: Account) -> list[Line]:
    """A command that ends in LF."""
    seen = account.bare_newline
    if seen.left_out:
        return [("Bare LF", not_tried(seen.left_out))]
    if seen.reply:
        end = f"; {seen.end}" if seen.end else ""
        text = f"NOOP that ends in LF alone: {seen.reply}{end}; "
        text += "it accepts LF as a line end" if seen.reply.code // 100 == 2 else "it refuses it"
    else:
        text = f"NOOP that ends in LF alone: {no_reply(account, seen)}; it does not accept LF as a line end"
    return [
        ("Bare LF", text),
        ("", "in mail data: only a complete mail could show it; shimproxy replaces it by CRLF (bare-newline)"),
    ]


# -- the mail


def question(account: Account) -> str:
    """What is asked before the mail."""
    data = account.mail_data
    return (
        f"Send MAIL FROM:{data.reverse_path}, RCPT TO:{data.recipient}, DATA and {data.octets_planned:,} octets of\n"
        "mail data, and reset the connection before their end? A receiver that keeps to RFC 5321 delivers\n"
        "nothing of it. [y/N]"
    )


def of_mail_data(account: Account) -> list[Line]:
    """The large mail."""
    data, patience = account.mail_data, account.patience_seconds
    if data.left_out:
        return [("Large mail", not_tried(data.left_out))]
    size_octets = account.dialogue.size_octets
    more_than_size = bool(size_octets and data.octets_taken > size_octets)
    taken = f"it took {data.octets_taken:,} octets" + (", more than its SIZE" if more_than_size else "")
    end = f"{data.end}, and RST to what came after it" if data.reset_behind_fin else str(data.end)
    lines = [f"to {data.recipient}, from {data.reverse_path}"]
    if data.replies:
        lines += [f"after {each.after_octets:,} octets: {each.reply}" for each in data.replies[:_MOST_REPLIES]]
        if further := data.replies[_MOST_REPLIES:]:
            lines.append(f"and {len(further)} more" + (" at least" if len(data.replies) >= MOST_UNASKED else ""))
        more_octets = data.octets_taken - data.replies[0].after_octets
        none = ", then none" if data.stalled else ""
        lines.append(f"{end or 'no close'}; after its first reply it took {more_octets:,} octets more{none}")
    elif data.end:
        lines.append(f"{taken}; {end} without a reply")
    elif data.stalled:
        lines.append(f"{taken}, then none for {patience:g} s, and said nothing")
    elif data.too_slow:
        lines.append(f"{taken} in {MAIL_PATIENCES * patience:g} s and said nothing; --patience says how long it may")
    else:
        lines.append(f"{taken}; no reply before the end, as it should be")
    if sum(each.reply.code in _TO_NO_COMMAND for each in data.replies) > 1:
        lines.append("it seems to read the rest of a mail as commands: shimproxy sends it no further octet")
    if data.verdict and data.verdict.reply.code // 100 == 2:
        lines.append("it replied that it accepts the mail, and may deliver the part that it has")
    else:
        lines.append("reset before its end: a receiver that obeys RFC 5321 delivers nothing of it")
    if size_octets and not (data.replies or data.end or data.stalled or data.too_slow or more_than_size):
        lines.append(f"its SIZE was not reached; --octets {size_octets + 1} would")
    return [("Large mail", lines[0]), *(("", line) for line in lines[1:])]


# -- the atlas


def of_likeness(account: Account) -> list[Line]:
    """Which receiver of the atlas it may be."""
    found = account.looks_like
    if account.dialogue.left_out:
        return [("Looks like", not_tried(account.dialogue.left_out))]
    if not found:
        text = "no receiver of the atlas, which holds few of all that there are (shimproxy/docs/atlas.md)"
        return [("Looks like", text)]
    best = found[0]
    names = " or ".join(f"{each.name} {_short(each.version)}" for each in found)
    if len(found) == 1:
        text = f"{names}, or a version near it"
    elif len({each.base for each in found}) == 1:
        text = f"what is built on {best.base}, as {names}"
    else:
        text = f"{names}; what was tried can't tell them apart"
    text += f": {best.agreeing} of {best.tried} habits agree" + (" with the first" if len(found) > 1 else "")
    lines = [("Looks like", text)]
    if best.differing:
        lines.append(("", f"other than there: {', '.join(best.differing)}"))
    return lines


def _short(version: str) -> str:
    """Without the revision that Debian adds."""
    return version.rpartition(":")[2].partition("-")[0].partition("+")[0]


# -- the catalogue


def _none_seen(account: Account) -> str:
    if account.dialogue.left_out:
        return f"The probe could try nothing: {account.dialogue.left_out}. It cannot say what shimproxy would repair."
    if account.mail_data.left_out:
        return (
            "The probe saw no violation without a mail. It tried nothing in mail data, where most "
            "violations are, so it cannot say what shimproxy would repair there."
        )
    return "The probe saw no violation in what it tried: shimproxy would repair nothing there."


def of_violations(account: Account, columns: int) -> list[str]:
    """What was wrong, under the names of the catalogue, and what the shim would do about it."""
    if not account.violations:
        return ["", *_wrapped(_none_seen(account), columns, "", "")]
    lines = ["", "Violations that the probe saw, and what shimproxy does about them:"]
    for violation, seen in account.violations.items():
        lines += ["", f"{violation} ({violation.rule})"]
        for each in seen:
            lines += _wrapped(each, columns, "  seen      ", " " * 12)
        lines += _wrapped(violation.repair, columns, "  repair    ", " " * 12)
    return lines
