#!/bin/bash
# Program: s-nail 14.9.24-2 (Debian 12), a sender; as it comes, with mta=smtp and sendwait.
#
# A receiver may lose the connection while mail data are sent. RFC 5321 section 3.8 has the sender then treat the mail as
# if it had got a 451: without a 250 it keeps the mail, or says that it was not sent. With sendwait the exit status is that
# of the delivery, and s-nail ends with status 4 then. If lines of the mail begin with a dot (section 4.5.2), it complains
# of each line that it cannot write, ends with status 0, and the mail is nowhere: a script takes it for sent.
#
# Seen on 2026-11-29:
#   the connection is reset in a mail of plain lines: status 4
#   the connection is reset in a mail whose lines begin with a dot: status 0
#
# Needs apt-get and python3. Exits with 0 if that is so, 1 if it is not, 2 if it could not be tried.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 777 "$dir" # for apt-get, which downloads as a user of its own
(cd "$dir" && apt-get -qq download s-nail=14.9.24-2) >&2 || exit 2
dpkg -x "$dir"/s-nail_*.deb "$dir/package"

python3 - "$dir" >"$dir/seen" <<'PYTHON'
import os, pathlib, socket, struct, subprocess, sys, threading

place = pathlib.Path(sys.argv[1])


def receive(listener):
    """One session: reset the connection once 64 KiB of the mail data have come."""
    sock, _ = listener.accept()
    sock.sendall(b"220 receiver.example ready\r\n")
    lines = sock.makefile("rb")
    while line := lines.readline():
        if line.startswith(b"DATA"):
            sock.sendall(b"354 go on\r\n")
            lines.read(65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            break
        sock.sendall(b"250 ok\r\n")
    lines.close()
    sock.close()


for what, form in (("of plain lines", b"%07d one line\n"), ("whose lines begin with a dot", b"...%07d one line\n")):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = threading.Thread(target=receive, args=(listener,))
        receiver.start()
        mta = f"mta=smtp://127.0.0.1:{listener.getsockname()[1]}"
        settings = ["v15-compat", mta, "smtp-auth=none", "sendwait", "hostname=sender.example"]
        ended = subprocess.run(
            [place / "package/usr/bin/s-nail", "-n", *(word for each in settings for word in ("-S", each))]
            + ["-r", "a@sender.example", "-s", "test", "b@receiver.example"],
            input=b"".join(form % number for number in range(400_000)),
            env={"HOME": str(place), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
        receiver.join(10)
    print(f"the connection is reset in a mail {what}: status {ended.returncode}")
PYTHON
cat "$dir/seen"
sed -n 's/^#   //p' "$0" | cmp -s - "$dir/seen" || exit 1
