"""The form of replies and commands: lines, codes, texts, addresses and names."""

from __future__ import annotations

from shimproxy.smtp.catalogue.entry import CatalogueEntry


class FormOfReplies:
    """What receivers write that is not a reply in good form."""

    REPLY_BARE_NEWLINE = CatalogueEntry(
        "reply-bare-newline",
        by="receiver",
        rule="RFC 5321 2.3.8",
        repair="shimproxy relays the reply with CRLF; a bare CR or NUL in it becomes a blank",
    )
    """The receiver ended a reply line with LF or CR alone.

    Reply lines end with CRLF. Some senders wait for the CR, others see two lines in one. shimproxy relays the reply
    with CRLF and makes a blank of a stray CR or NUL.

    Tell the vendor of the receiver:
    Your server ends reply lines with LF or CR alone (RFC 5321 section 2.3.8: CRLF, and nothing else). Please end each
    reply line with CRLF.

    Example: replies-in-bad-form
    """

    MISSING_TEXT = CatalogueEntry(
        "missing-text",
        by="receiver",
        rule="RFC 5321 4.2",
        repair="shimproxy adds a text to a code alone, or omits that line after others; a challenge (334) stays empty",
    )
    """The receiver sent a reply code without a text.

    A reply is a code, a blank and a text. Some senders reject a code alone. shimproxy adds a text, or leaves the line
    out where others follow. An empty AUTH challenge (334) stays empty, because a text would be decoded.

    Programs:
    - smtp-protocol (npm), 2.4.7: a code alone to RSET (findings/smtp-protocol-noop-and-second-ehlo.sh)
    - smtp-sink (Postfix), 3.7.11: an EHLO reply whose last line has no text (shimproxy's tests)

    Tell the vendor of the receiver:
    Your server sends reply codes without a text (RFC 5321 section 4.2: a code, a blank, a text). Please add a text, or
    at least the blank.

    Example: replies-in-bad-form
    """

    REPLY_LONG_LINE = CatalogueEntry(
        "reply-long-line",
        by="receiver",
        rule="RFC 5321 4.5.3.1.5",
        repair="folded into lines of at most 512 octets (a challenge: 12,288); text beyond the limit of a reply is cut",
    )
    """The receiver sent a reply line of more than 512 octets.

    A reply line has at most 512 octets. A sender with a buffer of that size may cut the line or end the session.
    shimproxy folds the line into several of the same code.

    Tell the vendor of the receiver:
    Your server sends reply lines of more than 512 octets (RFC 5321 section 4.5.3.1.5). Please send several lines with
    the same code, each but the last with a hyphen after it.

    Example: reply-long-line
    """

    MIXED_CODES = CatalogueEntry(
        "mixed-codes",
        by="receiver",
        rule="RFC 5321 4.2.1",
        repair="every line gets the last line's code; a success among refusals is not a usable code",
    )
    """The receiver used different codes in one reply.

    All lines of a reply carry the same code. Senders take the first one or the last one, and so may disagree. shimproxy
    puts the code of the last line on every line. A success among refusals is not a usable code.

    Tell the vendor of the receiver:
    Your server sends one reply with different codes in its lines (RFC 5321 section 4.2.1). Senders read such a reply in
    different ways. Please use one code in all lines.

    Example: 354-within-another-reply
    """

    CUT_OFF = CatalogueEntry(
        "cut-off",
        by="receiver",
        rule="RFC 5321 4.2",
        repair="no CRLF before the end of the connection: shimproxy completes the reply and keeps its code",
    )
    """The receiver closed the connection in the middle of a reply.

    The last reply has no CRLF before the end of the connection. Its code is there, and shimproxy completes the reply
    with it. A success that was cut off does not count.

    Tell the vendor of the receiver:
    Your server closes the connection before its last reply is complete (RFC 5321 section 4.2). Please send the whole
    line with its CRLF, and close after that.

    Example: early-reply-cut-off
    """

    NOT_A_REPLY = CatalogueEntry(
        "not-a-reply",
        by="receiver",
        rule="RFC 5321 4.2",
        repair="no blank after the code (250OK): shimproxy adds it; no code: the code of the reply's other lines, "
        "otherwise 421 (451 to mail data)",
    )
    """The receiver sent a line that is not a reply.

    The line has no code, or nothing between code and text. With a code, shimproxy puts the blank in. Without a code
    there is no reply to relay, and the sender gets 421, or 451 for a mail.

    Tell the vendor of the receiver:
    Your server sends lines that are not replies (RFC 5321 section 4.2: three digits, a blank or hyphen, a text). Please
    keep other output, such as error messages of the program, off the connection.

    Example: garbage-in-data
    """


class FormOfCommands:
    """What senders write that is not a command in good form."""

    BARE_NEWLINE = CatalogueEntry(
        "bare-newline",
        by="sender",
        rule="RFC 5321 2.3.8",
        repair="in a command or AUTH response: forwarded with CRLF; in mail data: replaced like bare CR and NUL "
        "(--newlines)",
    )
    """The sender ended lines with LF or CR alone.

    Lines of SMTP end with CRLF. Many receivers refuse other line ends since 2023, because they allow one mail to be
    hidden in another. shimproxy makes them canonical, or refuses them with --newlines reject.

    Programs:
    - Domoticz, issue 5993: its provider began to refuse a bare CR (issue 5993)
    - mailsend, issue 52: a bare LF in mail data (issue 52)
    - VernissageServer, issue 28: 521 5.5.2 for a bare LF (issue 28)
    - Swift-SMTP, issue 128: a bare LF in mail data (issue 128)
    - SmtpClient-for-Qt, issue 185: a bare LF in mail data (issue 185)
    - PacketFence, issue 5380: 550 5.6.11 for a bare LF (issue 5380)

    Tell the vendor of the sender:
    Your program ends lines with LF or CR alone (RFC 5321 section 2.3.8: senders send CRLF only). More and more servers
    refuse such mail. Please convert all line ends to CRLF before you send, in commands and in the mail.

    Example: commands-in-bad-form
    """

    UNKNOWN_OCTETS = CatalogueEntry(
        "unknown-octets",
        by="sender",
        rule="RFC 5321 4.1.1",
        repair="a NUL or bare CR in a command: 500 5.5.2, never forwarded; in an AUTH response: shimproxy cancels "
        "AUTH with *",
    )
    """The sender put a NUL or a bare CR into a command.

    Receivers read such a line in different ways: some cut it at the NUL, some see two lines. The sender gets 500 5.5.2.
    The receiver never sees the line. Within AUTH, the exchange is cancelled.

    Tell the vendor of the sender:
    Your program sends commands with a NUL or a bare CR in them (RFC 5321 section 4.1.1). Please remove control
    characters from addresses and names before you put them into a command.

    Example: commands-in-bad-form
    """

    EMPTY_LINE = CatalogueEntry(
        "empty-line",
        by="sender",
        rule="RFC 5321 4.1.1",
        repair="only blanks instead of a command: 500 5.5.2, never forwarded, because some receivers do not answer it",
    )
    """The sender sent an empty line where a command is due.

    An empty line is not a command. Some receivers do not answer it, and the sender would wait for minutes. shimproxy
    answers 500 5.5.2 and forwards nothing.

    Tell the vendor of the sender:
    Your program sends an empty line between commands (RFC 5321 section 4.1.1). Please check what it sends after the end
    of mail data: a line end after CRLF.CRLF is one too many.

    Example: empty-line
    """

    LONG_LINE = CatalogueEntry(
        "long-line",
        by="sender",
        rule="RFC 5321 4.5.3.1.4",
        repair="a command over the limit: 500 5.5.2, never forwarded; BDAT: 421 4.5.0, close",
    )
    """The sender sent a command line over the limit.

    Servers accept command lines of 512 octets, and extensions allow more. This one was longer than --limit
    command-octets. The sender gets 500 5.5.2. After a BDAT the session ends, as the size of its chunk is not known.

    Tell the vendor of the sender:
    Your program sends command lines that are too long (RFC 5321 section 4.5.3.1.4). Please check the address and the
    parameters of the command in the attached line of the log.

    Example: long-line
    """

    AUTH_TOO_LONG = CatalogueEntry(
        "auth-too-long",
        by="sender",
        rule="RFC 4954 4, 6",
        repair="AUTH over the limit: 500 5.5.6, never forwarded; an AUTH response: shimproxy cancels AUTH with * "
        "(--limit command-octets)",
    )
    """The sender sent an AUTH line over the limit.

    RFC 4954 allows AUTH lines of 12,288 octets. This one was longer than --limit command-octets. An AUTH command gets
    500 5.5.6. A response within the exchange is replaced by `*`, which cancels it.

    Tell the vendor of the sender:
    Your program sends AUTH lines that are longer than RFC 4954 section 4 allows (12,288 octets). Please use a shorter
    token, or a mechanism that needs several responses.

    Example: auth-too-long
    """

    UNTIDY_PATH = CatalogueEntry(
        "untidy-path",
        by="sender",
        rule="RFC 5321 4.1.2, 4.1.1.2",
        repair="with --tidy: shimproxy corrects MAIL or RCPT with stray blanks or without brackets",
    )
    """The sender wrote MAIL or RCPT with stray blanks or without brackets.

    Strict receivers refuse `MAIL FROM: <x>` and `RCPT TO:x@y`. With --tidy, shimproxy puts blanks and brackets in order
    before it forwards the command.

    Tell the vendor of the sender:
    Your program writes MAIL and RCPT in a form that RFC 5321 section 4.1.1.2 does not allow. Please write the address
    in angle brackets, with no blank after the colon.

    Example: untidy-path
    """

    IMPOSSIBLE_NAME = CatalogueEntry(
        "impossible-name",
        by="sender",
        rule="RFC 5321 4.1.1.1",
        repair="with --tidy: shimproxy forwards HELO or EHLO without a valid name with --helo-name",
    )
    """The sender gave no name, or an impossible one, in HELO or EHLO.

    The name must be a domain or an address in brackets. Devices send none, or one with an underscore, and strict
    receivers refuse that. With --tidy, shimproxy gives --helo-name instead.

    Tell the vendor of the sender:
    Your program gives HELO or EHLO no valid name (RFC 5321 section 4.1.1.1). Please send the host's domain name, or its
    address in brackets, as in [192.0.2.1].

    Example: untidy-path
    """
