"""Commands and the replies to them, outside of mail data."""

from __future__ import annotations

from shimproxy.smtp.catalogue.entry import CatalogueEntry


class RepliesToCommands:
    """What receivers do instead of one reply to each command."""

    EXTRA_REPLY = CatalogueEntry(
        "extra-reply",
        by="receiver",
        rule="RFC 5321 4.2",
        repair="dropped; a 421 answers the next command; a 354, endless replies, or a refusal within a "
        "transaction: 421 4.5.0, close",
    )
    """The receiver replied although no command was waiting for a reply.

    A reply that answers nothing would be taken for the reply to the next command. shimproxy drops it. A 421 says that
    the receiver leaves, so it answers the next command. After a 354 nothing more goes to the receiver.

    Programs:
    - SmtpServer (C#), before pull request 258: 554 and then 552 for one mail (pull request 258)

    Tell the vendor of the receiver:
    Your server sends replies that no command has asked for (RFC 5321 section 4.2: one reply for each command). The
    sender takes each for the reply to its next command. Please send one reply for each command, and 421 only when you
    close.

    Example: extra-reply
    """

    IMPLAUSIBLE_REPLY = CatalogueEntry(
        "implausible-reply",
        by="receiver",
        rule="RFC 5321 4.3.2",
        repair="the code cannot answer the command, or the reply has no end: 421 4.5.0, close",
    )
    """The receiver gave a reply that cannot answer the command.

    A 354 to RCPT or a 250 to DATA shows that the two sides are out of step. So does a 221 to a mail. Nothing that the
    receiver says after that can be trusted. shimproxy accepts nothing, answers 421 and closes.

    Tell the vendor of the receiver:
    Your server gives a command a reply code that RFC 5321 section 4.3.2 does not list for it. Its replies seem to be
    out of step with the commands. Please check that each command has exactly one reply, in order.

    Example: implausible-250-to-data
    """

    CLOSED_WITH_COMMANDS_OPEN = CatalogueEntry(
        "closed-with-commands-open",
        by="receiver",
        rule="RFC 5321 3.8",
        repair="451 4.4.2 for each unanswered command, 421 4.4.2 for the last; close",
    )
    """The receiver closed the connection and owed a reply.

    The receiver disconnected after a command and did not answer it. The sender gets 451 for each such command, and 421
    for the last one.

    Tell the vendor of the receiver:
    Your server closes the connection instead of answering a command (RFC 5321 section 3.8). Please reply 421 before you
    close, so that the sender knows why and when to come again.

    Example: closed-with-command-open
    """

    CLOSED_WHILE_IDLE = CatalogueEntry(
        "closed-while-idle",
        by="receiver",
        rule="RFC 5321 3.8",
        repair="the next command gets the receiver's 421, or 421 4.4.2; close (see --resume for a new connection "
        "instead)",
    )
    """The receiver closed the connection between two commands.

    No command was waiting, and the receiver disconnected. The next command of the sender gets the 421 that the receiver
    gave, or 421 4.4.2. With --resume, and after a refused mail, the session continues with a new connection instead.

    Tell the vendor of the receiver:
    Your server closes an idle connection without a word (RFC 5321 section 3.8). Please send 421 first, and wait at
    least five minutes for the next command (section 4.5.3.2.7).

    Example: closed-while-idle
    """

    NO_REPLY = CatalogueEntry(
        "no-reply",
        by="receiver",
        rule="RFC 5321 4.5.3.2",
        repair="421 4.4.2 after the deadline (451 4.4.2 to mail data), close",
    )
    """The receiver did not reply in time.

    The deadline for a reply passed. RFC 5321 gives most commands five minutes and the end of a mail ten. The sender
    gets 421, or 451 for a mail, whose verdict stays unknown.

    Programs:
    - Courier, 1.0: waits 8 s before it refuses a command, and 16 s before the next (shimproxy's probe)

    Tell the vendor of the receiver:
    Your server does not reply within the time of RFC 5321 section 4.5.3.2. After the end of a mail, a late reply
    doubles mails: the sender has given up and sends it again. Please reply first, and do slow work after that.

    Example: no-reply
    """

    NO_221 = CatalogueEntry(
        "no-221",
        by="receiver",
        rule="RFC 5321 4.1.1.10",
        repair="shimproxy replies 221 2.0.0, close",
    )
    """The receiver did not answer QUIT.

    The receiver closed the connection at QUIT, or said something other than 221. No mail is at stake. shimproxy gives
    the sender its 221.

    Tell the vendor of the receiver:
    Your server closes the connection at QUIT and does not reply 221 (RFC 5321 section 4.1.1.10). Some senders log an
    error for that, or take the mail before it for lost. Please reply 221, and close then.

    Example: no-221
    """

    NO_CLOSE = CatalogueEntry(
        "no-close",
        by="receiver or sender",
        rule="RFC 5321 4.1.1.10",
        repair="the peer stays open after 221 or 421: shimproxy waits for a moment, then resets the connection",
    )
    """A peer kept its connection open after the end of the session.

    The receiver had said 221 or 421, or the sender had heard it, and the connection stayed open; or the receiver did
    not take QUIT. Each one holds memory and a descriptor. shimproxy waits a little, then resets the connection.

    Tell the vendor of the receiver or sender:
    Your program keeps the TCP connection open after the 221 or 421 that ends the session (RFC 5321 section 4.1.1.10).
    Please close it then.

    Example: sender-stays-open
    """


class SenderCommands:
    """What senders do instead of one command at a time, and QUIT at the end."""

    WITHHELD_COMMAND = CatalogueEntry(
        "withheld-command",
        by="sender",
        rule="RFC 5321 2.2.1, 4.2.4",
        repair="a command that shimproxy does not offer: 502 5.5.1, never forwarded (504 5.5.4 for a hidden AUTH "
        "mechanism); 503 5.5.1 until the sender repeats EHLO after STARTTLS",
    )
    """The sender used a command that it was not offered.

    shimproxy offers only what it can repair, and not what --hide names. The sender gave a command of an extension that
    is not in its EHLO reply. It gets 502, which means that it must do without. The log has the verb.

    Programs:
    - nginx mail proxy, 1.22.1: says XCLIENT unasked, and ends the session at the 502 (shimproxy's tests; `xclient off`
      mends it)

    Tell the vendor of the sender:
    Your program uses a command that the server has not offered in its EHLO reply (RFC 5321 section 2.2.1). Please look
    for the keyword in that reply before you use an extension.

    Example: chunks-not-offered
    """

    UNOFFERED_PIPELINING = CatalogueEntry(
        "unoffered-pipelining",
        by="sender",
        rule="RFC 5321 4.3.1, RFC 2920",
        repair="shimproxy holds the commands and forwards them one at a time",
    )
    """The sender did not wait for replies, and PIPELINING was not offered.

    The sender sent several commands at once. Some receivers discard what comes too early, or close the connection.
    shimproxy holds the commands and gives the receiver one at a time.

    Programs:
    - nymea-plugins, issue 724: OpenSMTPD answered '500 Pipelining not supported' (issue 724)

    Tell the vendor of the sender:
    Your program sends commands before it has the replies to earlier ones (RFC 5321 section 4.3.1, RFC 2920). The server
    did not offer PIPELINING. Please wait for each reply unless PIPELINING was offered.

    Example: early-talk
    """

    OUTRUN = CatalogueEntry(
        "outrun",
        by="sender",
        rule="RFC 5321 4.3.1",
        repair="the sender sent more ahead of a reply than shimproxy holds: 421 4.5.0, close",
    )
    """The sender sent more ahead of a reply than shimproxy holds.

    While the receiver makes up its mind, shimproxy holds what the sender sends ahead, up to --limit held-octets. This
    sender sent more. It gets 421 4.5.0, after the replies that it is owed.

    Tell the vendor of the sender:
    Your program sends commands without waiting for replies (RFC 5321 section 4.3.1). A server needs to hold only some.
    Please read replies while you send, and wait for the reply to each mail.

    Example: outrun
    """

    CLOSED_WITHOUT_QUIT = CatalogueEntry(
        "closed-without-quit",
        by="sender",
        rule="RFC 5321 4.1.1.10",
        repair="shimproxy sends QUIT to the receiver, close; after a verdict this is a habit of some senders, "
        "logged at INFO",
    )
    """The sender disconnected without QUIT.

    The sender closed its connection and did not say QUIT. After a verdict nothing is lost. It is the habit of some
    programs, and the log has it at INFO. Before a verdict, a mail may be lost. shimproxy says QUIT to the receiver.

    Programs:
    - nodemailer (npm), 10.6.1: closes after each mail, or at the end of its pool
      (findings/nodemailer-closes-without-quit.sh)
    - emailjs (npm), 5.0.3: closes after each mail (shimproxy's history)

    Tell the vendor of the sender:
    Your program closes the connection without QUIT (RFC 5321 section 4.1.1.10). Servers log that as a lost connection.
    Please send QUIT and wait for the 221.

    Example: closed-without-quit
    """
