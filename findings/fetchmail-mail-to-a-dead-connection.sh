#!/bin/bash
# Program: fetchmail 6.4.37-1 (Debian 12), a sender; it fetches by POP3, and keeps what is refused (its default).
#
# A receiver that is about to close may give any command a 421 (RFC 5321 section 4.2.2). fetchmail says RSET after a mail
# that was refused, does not take a 421 to that for the end, and gives its next mail to the connection that was closed.
# That mail stays in the mailbox, and the one after it goes to a new connection. As the refused mail is kept, too, the
# same happens at every poll: the mail that follows it is never delivered. Where the receiver closes without that 421,
# fetchmail connects again, and delivers it.
#
# Seen on 2026-11-28 (Debian 12), three polls of a mailbox of three mails, whose first one is always refused:
#   421 to RSET: the first poll delivers the mails 3, the second none, the third none
#   closed at RSET: the first poll delivers the mails 2 3, the second none, the third none
#
# Needs apt-get, dpkg, python3, the Debian archive, and the libraries of fetchmail (libkrb5-3, libssl3). Exits with 0 if
# that is so, 1 if it is not, 2 if it could not be tried.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
(cd "$dir" && apt-get -qq -o APT::Sandbox::User= download fetchmail=6.4.37-1 && dpkg -x fetchmail_*.deb "$dir") >&2 || exit 2
! ldd "$dir/usr/bin/fetchmail" | grep 'not found' >&2 || exit 2

python3 - "$dir" >"$dir/seen" <<'PYTHON'
import os, socket, socketserver, subprocess, sys, threading

FOLDER = sys.argv[1]
MAILS = {number: b"Return-Path: <>\r\nSubject: %d\r\n\r\ntext\r\n" % number for number in (1, 2, 3)}
kept, taken, at_rset = {}, [], b""


class Pop3(socketserver.StreamRequestHandler):
    def handle(self):
        numbers, marked = sorted(kept), []
        self.wfile.write(b"+OK\r\n")
        for line in self.rfile:
            verb, *argument = line.split()
            number = numbers[int(argument[0]) - 1] if argument and argument[0].isdigit() else 0
            if verb == b"DELE":
                marked.append(number)
            elif verb == b"QUIT":
                for each in marked:
                    del kept[each]
            said = {
                b"CAPA": b"\r\nUSER\r\n.",
                b"STAT": b" %d %d" % (len(numbers), sum(len(kept[each]) for each in numbers if each in kept)),
                b"LIST": b" %s %d" % (argument[0] if argument else b"", len(MAILS.get(number, b""))),
                b"RETR": b"\r\n" + MAILS.get(number, b"") + b".",
            }
            self.wfile.write(b"+OK" + said.get(verb, b"") + b"\r\n")
            if verb == b"QUIT":
                return


class Receiver(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 receiver.example ESMTP\r\n")
        for line in self.rfile:
            verb = line.split()[0].upper()
            if verb == b"RSET":
                self.wfile.write(at_rset)
                return
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                data = b"".join(iter(self.rfile.readline, b".\r\n"))
                number = int(data.split(b"Subject: ")[1].split()[0])
                if number > 1:
                    taken.append(number)
                self.wfile.write(b"250 taken\r\n" if number > 1 else b"552 5.3.4 too big\r\n")
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 receiver.example\r\n")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


def started(handler):
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def polled():
    """The mails that the receiver has taken in one poll."""
    taken.clear()
    settings = os.path.join(FOLDER, "fetchmailrc")
    with open(os.open(settings, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
        file.write(
            f'poll 127.0.0.1 protocol pop3 service {pop3} timeout 30 username "user" password "password"'
            f' smtphost "127.0.0.1/{smtp}" smtpname "b@receiver.example" sslproto "" fetchall nokeep\n'
        )
    command = [f"{FOLDER}/usr/bin/fetchmail", "-f", settings, "--nodetach", "--nosyslog", "--pidfile", f"{FOLDER}/pid"]
    subprocess.run(command, env={**os.environ, "HOME": FOLDER}, capture_output=True, timeout=120)
    return " ".join(map(str, taken)) or "none"


pop3, smtp = started(Pop3), started(Receiver)
for name, at_rset in ("421 to RSET", b"421 4.3.2 closing\r\n"), ("closed at RSET", b""):
    kept = dict(MAILS)
    first, second, third = polled(), polled(), polled()
    first = first if first == "none" else f"the mails {first}"
    print(f"{name}: the first poll delivers {first}, the second {second}, the third {third}")
PYTHON
cat "$dir/seen"
sed -n 's/^#   //p' "$0" | cmp -s - "$dir/seen" || exit 1
