#!/bin/bash
# Program: simplesmtp 0.3.35 (npm), a receiver; as it comes.
#
# A notification of undelivered mail has the null reverse-path (RFC 5321 section 4.5.5), and the 250 to MAIL FROM:<>
# begins its transaction. simplesmtp gives that 250, and then refuses each recipient as if no MAIL had been given; a
# second MAIL, which is none with an open transaction, is accepted. The same with an address is as it should be.
#
# Seen on 2026-11-28 (Node 20.20):
#   MAIL FROM:<>: 250 2.1.0 Ok
#   RCPT TO:<b@example.org>: 503 5.5.1 Error: need MAIL command
#   MAIL FROM:<a@example.org>: 250 2.1.0 Ok
#   RCPT TO:<b@example.org>: 250 2.1.0 Ok
#
# Needs node, npm, python3 and the npm registry. Exits with 0 if that is so, 1 if it is not, 2 if it could not be tried.
set -eu
dir=$(mktemp -d)
pid=
trap 'test -z "$pid" || kill "$pid" 2>/dev/null || :; rm -rf "$dir"' EXIT
npm install --prefix "$dir" --silent --no-fund --no-audit --ignore-scripts simplesmtp@0.3.35 >&2 || exit 2

cat >"$dir/receive.js" <<'NODE'
const receiver = require("simplesmtp").createServer({ disableDNSValidation: true });
receiver.listen(0, "127.0.0.1", () => console.log(receiver.SMTPServer._server.address().port));
NODE
mkfifo "$dir/port"
node "$dir/receive.js" >"$dir/port" 2>"$dir/log" &
pid=$!
read -r port <"$dir/port"

python3 - "$port" >"$dir/seen" <<'PYTHON'
import smtplib, sys

with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), "sender.example", 60) as sender:
    sender.ehlo()
    for command in (
        "MAIL FROM:<>",
        "RCPT TO:<b@example.org>",
        "MAIL FROM:<a@example.org>",
        "RCPT TO:<b@example.org>",
    ):
        code, text = sender.docmd(command)
        print(f"{command}: {code} {text.decode()}")
PYTHON
cat "$dir/seen"
sed -n 's/^#   //p' "$0" | cmp -s - "$dir/seen" || exit 1
