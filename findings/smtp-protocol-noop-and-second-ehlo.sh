#!/bin/bash
# Program: smtp-protocol 2.4.7 (npm), a receiver; as it comes.
#
# Every receiver supports NOOP (RFC 5321 section 4.5.1), and EHLO at any time, as if it were RSET (section 4.1.4).
# smtp-protocol says 502 to both, so that a sender or a proxy cannot ask whether it is still there, nor say EHLO again.
# Its reply to RSET is a code alone, without the text that a reply has (section 4.2).
#
# Seen on 2026-11-28 (Node 20.20):
#   EHLO sender.example: 250-sender.example / 250 STARTTLS
#   NOOP: 502 Not implemented.
#   EHLO sender.example: 502 Not implemented.
#   RSET: 250
#   QUIT: 221 Bye!
#
# Needs node, npm, python3 and the npm registry. Exits with 0 if that is so, 1 if it is not, 2 if it could not be tried.
set -eu
dir=$(mktemp -d)
pid=
trap 'test -z "$pid" || kill "$pid" 2>/dev/null || :; rm -rf "$dir"' EXIT
npm install --prefix "$dir" --silent --no-fund --no-audit --ignore-scripts smtp-protocol@2.4.7 >&2 || exit 2

cat >"$dir/receive.js" <<'NODE'
const receiver = require("smtp-protocol").createServer(() => {});
receiver.listen(0, "127.0.0.1", () => console.log(receiver.address().port));
NODE
mkfifo "$dir/port"
node "$dir/receive.js" >"$dir/port" 2>"$dir/log" &
pid=$!
read -r port <"$dir/port"

python3 - "$port" >"$dir/seen" <<'PYTHON'
import socket, sys

receiver = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60)
lines = receiver.makefile("rb")


def reply():
    said = [lines.readline().decode().rstrip("\r\n")]
    while said[-1][3:4] == "-":
        said.append(lines.readline().decode().rstrip("\r\n"))
    return " / ".join(said)


reply()
for command in ("EHLO sender.example", "NOOP", "EHLO sender.example", "RSET", "QUIT"):
    receiver.sendall(command.encode() + b"\r\n")
    print(f"{command}: {reply()}")
PYTHON
cat "$dir/seen"
sed -n 's/^#   //p' "$0" | cmp -s - "$dir/seen" || exit 1
