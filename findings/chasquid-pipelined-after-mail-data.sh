#!/bin/bash
# Program: chasquid 1.11-2+b2 (Debian 12), a receiver; with one domain and one alias, nothing else set.
#
# Its EHLO reply offers PIPELINING. RFC 2920 section 3.1 then lets a sender put the commands of its next mail into one
# group with the mail data before them, and section 3.2 forbids a receiver to lose what it has read. chasquid answers the
# mail, and none of the commands that came with its end: the sender waits for replies that never come. The same
# commands, sent after the verdict, are answered.
#
# Seen on 2026-11-29:
#   250-PIPELINING
#   the next mail together with the dot: 250 and no more; to NOOP after it: 250
#   the next mail after the verdict: 250 250 250 354
#
# Needs apt-get, openssl and python3. Exits with 0 if that is so, 1 if it is not, 2 if it could not be tried.
set -eu
dir=$(mktemp -d)
pid=
trap 'test -z "$pid" || kill "$pid" 2>/dev/null || :; rm -rf "$dir"' EXIT
chmod 777 "$dir" # for apt-get, which downloads as a user of its own
(cd "$dir" && apt-get -qq download chasquid=1.11-2+b2) >&2 || exit 2
dpkg -x "$dir"/chasquid_*.deb "$dir/package"

port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir -p "$dir/domains/example.org" "$dir/certs/example.org"
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=example.org -keyout "$dir/certs/example.org/privkey.pem" \
  -out "$dir/certs/example.org/fullchain.pem" 2>/dev/null
echo 'b: | /bin/true' >"$dir/domains/example.org/aliases"
printf '%s\n' 'hostname: "example.org"' "smtp_address: \"127.0.0.1:$port\"" "data_dir: \"$dir/data\"" \
  'mail_delivery_agent_bin: "/bin/true"' "mail_log_path: \"$dir/mail.log\"" >"$dir/chasquid.conf"
"$dir/package/usr/bin/chasquid" "-config_dir=$dir" >"$dir/log" 2>&1 &
pid=$!

python3 - "$port" <<'PYTHON'
import socket, sys, time

for _ in range(300):
    try:
        receiver = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
else:
    sys.exit("chasquid does not listen")


offered = []


def replies(count):
    """The codes of so many replies, or of those that come within 10 s."""
    codes, lines = [], b""
    try:
        while len(codes) < count:
            octets = receiver.recv(4096)
            if not octets:
                sys.exit("chasquid has closed the connection")
            lines += octets
            *whole, lines = lines.split(b"\r\n")
            for line in whole:
                if b"PIPELINING" in line and not offered:
                    offered.append(line)
                    print(line.decode())
                if line[3:4] != b"-":
                    codes.append(line[:3].decode())
    except TimeoutError:
        codes.append("and no more")
    return " ".join(codes)


MAIL = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
TEXT = b"From: <a@example.net>\r\nSubject: test\r\n\r\ntext\r\n.\r\n"
replies(1)
receiver.sendall(b"EHLO sender.example\r\n")
replies(1)
receiver.sendall(MAIL)
assert replies(3) == "250 250 354"
receiver.sendall(TEXT + MAIL)
together = replies(4)
receiver.sendall(b"NOOP\r\n")
together += "; to NOOP after it: " + replies(1)
print("the next mail together with the dot:", together)
receiver.close()

receiver = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
replies(1)
receiver.sendall(b"EHLO sender.example\r\n")
replies(1)
receiver.sendall(MAIL)
assert replies(3) == "250 250 354"
receiver.sendall(TEXT)
after = replies(1)
receiver.sendall(MAIL)
after += " " + replies(3)
print("the next mail after the verdict:", after)
sys.exit((together, after) != ("250 and no more; to NOOP after it: 250", "250 250 250 354"))
PYTHON
