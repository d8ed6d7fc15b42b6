"""The keywords of the EHLO reply (RFC 5321 4.1.1.1) that are not offered through the shim."""

from __future__ import annotations

from shimproxy.smtp.reply import Reply

REMOVED_KEYWORDS = frozenset(
    {
        # Understood, but not yet relayed: each changes how the sender's octets are to be read.
        b"PIPELINING",
        b"CHUNKING",
        b"BINARYMIME",
        b"STARTTLS",
        # More than one reply to mail data, or octets that are not lines; most of them Exchange's own.
        b"PRDR",
        b"XEXCH50",
        b"X-LINK2STATE",
        b"X-EXPS",
        b"X-ANONYMOUSTLS",
        # The roles of the two sides change, so that the shim would stand the wrong way round.
        b"TURN",
        b"ATRN",
        # A sender that is not trusted must not tell the receiver who it is.
        b"XCLIENT",
        b"XFORWARD",
    }
)


def without_removed_keywords(reply: Reply) -> Reply:
    """The EHLO reply without the keywords in REMOVED_KEYWORDS; the same object if it has none of them."""
    lines = reply.octets.splitlines(keepends=True)
    kept = lines[:1] + [line for line in lines[1:] if _keyword(line) not in REMOVED_KEYWORDS]
    if len(kept) == len(lines):
        return reply
    kept[-1] = kept[-1][:3] + b" " + kept[-1][4:]
    return Reply(reply.code, b"".join(kept))


def _keyword(line: bytes) -> bytes:
    # "AUTH=LOGIN" is how receivers of the 1990s wrote it: the keyword ends there too.
    words = line[4:].replace(b"=", b" ").split(None, 1)
    return words[0].upper() if words else b""
