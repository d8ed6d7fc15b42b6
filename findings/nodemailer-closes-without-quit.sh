#!/bin/bash
# Program: nodemailer 10.6.1 (npm), a sender; its default transport, and the one with `pool: true` once it is closed.
#
# RFC 5321 section 4.1.1.10: a sender does not close before it has sent QUIT and received the reply. nodemailer closes
# as soon as it has the verdict, after each mail of the default transport and at the close of a pool, and says no QUIT:
# what a receiver or a proxy logs as a lost connection is a mail that was delivered.
#
# Seen on 2026-11-28 (Node 20.20):
#   one mail: EHLO MAIL RCPT DATA, then FIN; nodemailer says: 250 taken
#   two mails in a pool: EHLO MAIL RCPT DATA MAIL RCPT DATA, then FIN; nodemailer says: 250 taken, 250 taken
#
# Needs node, npm, python3 and the npm registry. Exits with 0 if that is so, 1 if it is not, 2 if it could not be tried.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --prefix "$dir" --silent --no-fund --no-audit --ignore-scripts nodemailer@10.6.1 >&2 || exit 2

cat >"$dir/send.js" <<'NODE'
const nodemailer = require("nodemailer");
const [port, mails] = process.argv.slice(2).map(Number);
const transport = nodemailer.createTransport({
  host: "127.0.0.1", port, ignoreTLS: true, pool: mails > 1, maxConnections: 1,
});
(async () => {
  const verdicts = [];
  for (let mail = 0; mail < mails; mail++) {
    const sent = await transport.sendMail({ from: "a@example.org", to: "b@example.org", text: "text" });
    verdicts.push(sent.response);
  }
  transport.close();
  console.log(verdicts.join(", "));
})();
NODE

python3 - "$dir/send.js" <<'PYTHON'
import socket, subprocess, sys

REPLIES = {b"EHLO": b"250 receiver.example", b"DATA": b"354 go on", b".": b"250 taken", b"QUIT": b"221 bye"}


def seen(mails):
    """What a well-behaved receiver sees of so many mails, and what nodemailer says of them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        command = ["node", sys.argv[1], str(listener.getsockname()[1]), str(mails)]
        sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        leg, _ = listener.accept()
    leg.settimeout(60)
    leg.sendall(b"220 receiver.example ESMTP\r\n")
    verbs, in_data = [], False
    for line in leg.makefile("rb"):
        verb = line.split(b" ")[0].strip().upper()
        if in_data and verb != b".":
            continue
        in_data = verb == b"DATA"
        if verb != b".":
            verbs.append(verb.decode())
        leg.sendall(REPLIES.get(verb, b"250 OK") + b"\r\n")
    leg.close()
    return f"{' '.join(verbs)}, then FIN; nodemailer says: {sender.communicate(timeout=60)[0].strip()}"


one, two = seen(1), seen(2)
print("one mail:", one)
print("two mails in a pool:", two)
MAIL = "MAIL RCPT DATA"
as_said = f"EHLO {MAIL}, then FIN; nodemailer says: 250 taken", (
    f"EHLO {MAIL} {MAIL}, then FIN; nodemailer says: 250 taken, 250 taken"
)
sys.exit((one, two) != as_said)
PYTHON
