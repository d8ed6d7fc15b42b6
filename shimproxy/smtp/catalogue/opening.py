"""The beginning of a session: connecting, greeting, TLS, and who may come."""

from __future__ import annotations

from shimproxy.smtp.catalogue.entry import CatalogueEntry


class ReceiversOpening:
    """What receivers do until they have greeted and taken the first command."""

    NO_GREETING = CatalogueEntry(
        "no-greeting",
        by="receiver",
        rule="RFC 5321 3.1",
        repair="the next receiver if there is one, otherwise 421 4.3.2 as greeting, close",
    )
    """The receiver did not greet in time, or refused to.

    A connection came about, and no 220 on it. shimproxy tries the next receiver, if there is another. If there is none,
    the sender gets 421 4.3.2 in place of the greeting and tries again later.

    Tell the vendor of the receiver:
    Your server accepts connections and does not greet within five minutes (RFC 5321 sections 3.1 and 4.5.3.2.1). Please
    greet, or say 421, or 554 if no mail is wanted.

    Example: no-greeting-in-time
    """

    GREETING_THEN_CLOSE = CatalogueEntry(
        "greeting-then-close",
        by="receiver",
        rule="RFC 5321 3.8",
        repair="the first command gets 421 4.4.2, close",
    )
    """The receiver greeted and then closed the connection.

    The receiver said 220 and disconnected before it had answered a command. The first command of the sender gets 421
    4.4.2. Where there is another receiver, the session continues with that one.

    Tell the vendor of the receiver:
    Your server greets with 220 and closes the connection at once (RFC 5321 section 3.8). Please greet with 421 or 554
    if you do not want the connection.

    Example: greeting-then-close
    """

    UNREACHABLE = CatalogueEntry(
        "unreachable",
        by="receiver",
        rule="RFC 5321 3.1",
        repair="the next receiver if there is one, otherwise 421 4.4.1 as greeting, close",
    )
    """No connection to the receiver came about.

    The name of the receiver was not found, or its host refused the connection or was silent. shimproxy tries the next
    receiver, if there is another. If there is none, the sender gets 421 4.4.1 and tries again later. The log says why.

    Tell the operator of the receiver:
    I cannot connect to your mail server: the attached line of the log names its address, the time and the error. Please
    check that it is running, that it listens there, and that no firewall drops the connection.

    Example: unreachable
    """

    LOOP = CatalogueEntry(
        "loop",
        by="receiver",
        rule="RFC 5321 6.3",
        repair="connections to the receiver come back to shimproxy: 421 4.4.6 as greeting, close",
    )
    """The receiver's address leads back to shimproxy.

    The receiver is a proxy that sends all mail to shimproxy, or NAT turns its address. Each connection would open
    another one without end. shimproxy has broken the loop, and the connection ended with it. The sender gets 421 4.4.6.

    Tell the operator of the receiver:
    Connections to your mail server come back to the proxy that made them (RFC 5321 section 6.3). Please give the proxy
    the address of the mail server itself. Please see to it that no NAT rule turns what the proxy sends there.

    No peer: it takes two proxies that lead to each other.

    Example: loop
    """

    XCLIENT_REFUSED = CatalogueEntry(
        "xclient-refused",
        by="receiver",
        rule="Postfix XCLIENT_README, server response",
        repair="the receiver offers XCLIENT but refuses it, or refuses the EHLO before it (--xclient): 421 4.7.0 "
        "or the receiver's own 421, close",
    )
    """The receiver offers XCLIENT and refused it.

    With --xclient, shimproxy tells the receiver who the sender is. A receiver that refuses would take every sender for
    shimproxy itself, and might relay for anybody. So the session ends with 421.

    Programs:
    - Postfix with inet_protocols = ipv4, 3.7.11: 501 to XCLIENT for a sender with an IPv6 address (shimproxy's tests)

    Tell the operator of the receiver:
    Your server offers XCLIENT and refuses it. Please allow XCLIENT for the address of the proxy (in Postfix:
    smtpd_authorized_xclient_hosts). Please enable IPv6 too (inet_protocols = all) if senders have such addresses.

    Example: xclient-refused
    """

    TLS_REFUSED = CatalogueEntry(
        "tls-refused",
        by="receiver",
        rule="RFC 3207 4, 4.1",
        repair="TLS is necessary (--receiver-tls required, or the sender used TLS); the receiver does not offer "
        "STARTTLS, refuses it, or disconnects: 421 4.7.4, close",
    )
    """TLS with the receiver is required, and the receiver does not start it.

    The settings, or a sender that used TLS, require TLS with the receiver. The receiver does not offer STARTTLS,
    refuses it or disconnects. shimproxy does not send the mail in the clear. The sender gets 421 4.7.4.

    Tell the operator of the receiver:
    Your server does not start TLS, which our mail requires (RFC 3207). Please configure a certificate, offer STARTTLS
    in the EHLO reply, and answer it with 220.

    Example: tls-refused
    """

    NOT_AS_BEFORE = CatalogueEntry(
        "not-as-before",
        by="receiver",
        rule="RFC 5321 3.1, 4.1.1.1",
        repair="on a new connection the receiver does not greet, or does not offer the same: the next receiver if "
        "there is one, otherwise 421, close",
    )
    """A new connection to the receiver does not offer what the sender was offered.

    A session was to continue with a new connection. Its receiver did not greet, or does not offer all that the sender
    has been offered. The next receiver is tried. If there is none, the sender gets 421.

    Tell the operator of the receivers:
    The servers at this address offer different extensions in their EHLO replies (RFC 5321 section 4.1.1.1). Please
    configure all of them alike, as one mail session may meet several of them.

    Example: resume-not-as-before
    """

    LOGIN_REFUSED = CatalogueEntry(
        "login-refused",
        by="receiver",
        rule="RFC 4954 6",
        repair="the receiver does not let shimproxy log in (--login): 421 4.7.0, close",
    )
    """The receiver did not let shimproxy log in.

    With --login, shimproxy logs in for senders that cannot. The receiver refused the password or token, offers no
    mechanism that shimproxy knows, or has no TLS. The sender gets 421 and keeps its mail. The log says why. For a token
    it has the reason of the provider too.

    Tell the operator of the receiver:
    Your server refuses the login of our proxy (RFC 4954 section 6): the attached line of the log has its reply. Please
    check the account, and offer AUTH PLAIN, LOGIN, XOAUTH2 or OAUTHBEARER inside TLS.

    Example: login-refused
    """


class SendersOpening:
    """What senders, and the proxies before them, do at the beginning."""

    PROXY_HEADER = CatalogueEntry(
        "proxy-header",
        by="sender",
        rule="PROXY protocol, section 2",
        repair="a trusted proxy sends no header, or one that is cut, wrong, too long or late: shimproxy closes "
        "without a reply",
    )
    """A trusted proxy sent no valid PROXY header.

    The address is in --trust, so each of its connections begins with a PROXY header. None came, or a broken or late
    one. shimproxy cannot know who the sender is, and closes the connection without a reply.

    Tell the operator of the proxy:
    Your proxy does not begin its connections with a valid PROXY header (PROXY protocol, section 2). Please enable the
    header for this backend (in HAProxy: send-proxy or send-proxy-v2). If it is a health check, please let that send one
    too.

    Example: proxy-header
    """

    DESTINATION_REFUSED = CatalogueEntry(
        "destination-refused",
        by="sender",
        rule="RFC 5321 3.8",
        repair="a direct connection to the listener, a loop, or a destination outside --allow-destination: 421 "
        "4.7.1 as greeting, close",
    )
    """A sender wanted to go to a destination that the gateway does not allow.

    On a gateway, the sender chooses the destination of its session. This destination is outside --allow-destination, is
    shimproxy itself, or would be a loop. The sender gets 421 4.7.1. The log has the destination and the reason.

    Tell the operator of the gateway:
    A sender was refused because of its destination: the attached line of the log has both. Please add the destination
    to --allow-destination if it is right. If the sender dialled the gateway itself, please give it the mail server's
    address.

    Example: destination-refused
    """

    EARLY_TALK = CatalogueEntry(
        "early-talk",
        by="sender",
        rule="RFC 5321 3.1",
        repair="shimproxy holds octets before the greeting until it has relayed that, or replies 554 5.5.1 "
        "instead, close (--early-talk)",
    )
    """The sender spoke before it was greeted.

    A sender waits for the 220. Receivers that greet late take others for robots and refuse them. shimproxy holds what
    the sender said until the greeting has come. With --early-talk refuse, the sender gets 554.

    Tell the vendor of the sender:
    Your program sends its first command before it has received the greeting (RFC 5321 section 3.1). Many servers refuse
    that. Please wait for the 220 first.

    Example: early-talk
    """

    NOT_SMTP = CatalogueEntry(
        "not-smtp",
        by="sender",
        rule="RFC 5321 3.1, 4.1.1",
        repair="an unexpected TLS ClientHello, HTTP request or PROXY header: 421 4.5.0, close; the log says how to "
        "correct the setup",
    )
    """The sender does not speak SMTP, or began with TLS where none is expected.

    The first octets are a TLS ClientHello, an HTTP request or a PROXY header. The log says which, and how to mend it.
    Often it is a client set to implicit TLS, a health check, or a proxy that is not in --trust. The connection gets 421
    and ends.

    Tell the operator of the sender:
    Your program connects to an SMTP port and does not speak SMTP there (RFC 5321 section 3.1). If it is a mail client,
    please set it to STARTTLS or no encryption for this port. If it is a health check, please use the admin port.

    Example: not-smtp-http
    """

    LIMIT_REACHED = CatalogueEntry(
        "limit-reached",
        by="sender",
        rule="RFC 5321 3.8, 7.8",
        repair="421 4.7.0 as greeting (4.3.2 without file descriptors), or to the next command after open mail "
        "data have their verdict; close",
    )
    """A limit of sessions, connections, mails or commands was reached.

    One of shimproxy's own limits: the log names it. A sender that is over a limit gets 421 and may come again. Mail
    that is on its way gets its verdict first. `shimproxy help limits` says how to change each limit.

    Tell the operator of the sender:
    Your program opens more connections, or sends more in one session, than this server allows (421 4.7.0). Please use
    fewer connections at a time, or a new connection for further mails.

    Example: limit-reached
    """


class StartOfTls:
    """What either peer does where TLS begins."""

    PLAINTEXT_BEHIND_STARTTLS = CatalogueEntry(
        "plaintext-behind-starttls",
        by="receiver or sender",
        rule="RFC 3207 4.2",
        repair="octets after STARTTLS or its 220 and before TLS: discarded",
    )
    """A peer sent more in the clear after STARTTLS.

    After STARTTLS, and its 220, the next octets are TLS. What came in the clear could be from another peer. shimproxy
    discards it, and never takes it for part of the encrypted session.

    Tell the vendor of the receiver or sender:
    Your program sends octets in the clear after STARTTLS or its 220, before the TLS handshake (RFC 3207 section 4.2).
    Please wait: STARTTLS is the last command of a group, and nothing follows it before TLS.

    Example: plaintext-behind-starttls
    """

    TLS_FAILED = CatalogueEntry(
        "tls-failed",
        by="receiver or sender",
        rule="RFC 3207 4.1",
        repair="the sender: close; the receiver: another try without TLS (--receiver-tls opportunistic), otherwise "
        "421 4.7.4",
    )
    """A TLS handshake failed.

    The two sides found no common version or cipher, or one did not accept the other's certificate. The log has the
    reason. A receiver is tried in the clear if --receiver-tls is opportunistic. Otherwise the sender gets 421 4.7.4.

    Programs:
    - OpenSMTPD of Debian 12, 6.8.0p2: offers STARTTLS and has no TLS with OpenSSL 3 (shimproxy's tests)
    - Exim with tls_verify_hosts, 4.96: ends the connection after a handshake without a certificate (shimproxy's tests)
    - an HP device, docker-mailserver issue 1145: speaks SSLv3 only (issue 1145)

    Tell the vendor of the receiver or sender:
    The TLS handshake with your program fails: the attached line of the log has the reason. Please check that it speaks
    TLS 1.2 or 1.3. Please check also that its certificate is valid and names the host that is dialled.

    Example: tls-failed
    """
