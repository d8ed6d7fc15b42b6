#!/bin/bash
# Program: Haraka 3.3.4 (npm), a receiver; with its plugins rcpt_to.in_host_list and queue/test, nothing else set.
#
# Its EHLO reply offers PIPELINING. RFC 2920 section 3.1 then lets a sender put the commands of its next mail into one
# group with the mail data before them. Haraka refuses each command that has come with the end of mail data before its
# verdict, so that the sender's second mail is lost, or deferred, for no fault of the sender. The same commands, sent
# after the verdict, are taken.
#
# Seen on 2026-11-28 (Node 20.20):
#   250-PIPELINING
#   the next mail together with the dot: 250 503 503 503
#   the next mail after the verdict: 250 250 250 354
#
# Needs node, npm, python3 and the npm registry. Exits with 0 if that is so, 1 if it is not, 2 if it could not be tried.
set -eu
dir=$(mktemp -d)
pid=
trap 'test -z "$pid" || kill "$pid" 2>/dev/null || :; rm -rf "$dir"' EXIT
export TMPDIR=$dir # where queue/test keeps the mail
npm install --prefix "$dir" --silent --no-fund --no-audit --ignore-scripts Haraka@3.3.4 >&2 || exit 2

port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$dir/node_modules/.bin/haraka" -i "$dir/haraka" >"$dir/log" 2>&1
printf '%s\n' "listen=127.0.0.1:$port" nodes=0 >"$dir/haraka/config/smtp.ini"
printf '%s\n' rcpt_to.in_host_list queue/test >"$dir/haraka/config/plugins"
echo example.org >"$dir/haraka/config/host_list"
node "$dir/node_modules/.bin/haraka" -c "$dir/haraka" >"$dir/log" 2>&1 &
pid=$!

python3 - "$port" <<'PYTHON'
import socket, sys, time

for _ in range(300):
    try:
        receiver = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
else:
    sys.exit("Haraka does not listen")
lines = receiver.makefile("rb")


def replies(count):
    """The codes of so many replies."""
    codes = []
    while len(codes) < count:
        line = lines.readline()
        if not line:
            sys.exit("Haraka has closed the connection")
        if b"PIPELINING" in line:
            print(line.decode().strip())
        if line[3:4] != b"-":
            codes.append(line[:3].decode())
    return " ".join(codes)


MAIL = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
TEXT = b"Subject: test\r\n\r\ntext\r\n.\r\n"
replies(1)
receiver.sendall(b"EHLO sender.example\r\n")
replies(1)
receiver.sendall(MAIL)
assert replies(3) == "250 250 354"
receiver.sendall(TEXT + MAIL)
together = replies(4)
print("the next mail together with the dot:", together)
receiver.sendall(MAIL)
after = replies(3)
assert after == "250 250 354"
receiver.sendall(TEXT)
after = replies(1)
receiver.sendall(MAIL)
after += " " + replies(3)
print("the next mail after the verdict:", after)
sys.exit((together, after) != ("250 503 503 503", "250 250 250 354"))
PYTHON
