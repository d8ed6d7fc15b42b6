"""The Debian packages of the real peers: what a test needs, and what of it is not here.

`python3 -m tests.peers.packages` prints the packages that are missing on this machine, one a line; with `--all`, all of
them. It needs nothing but Python, so that .ci/run can ask before anything is installed.

Exim and OpenSMTPD are not among them, as Debian's packages conflict with Postfix; see exim.py and opensmtpd.py.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

APT: Final = "apt-get install"

PROGRAMS: Final = {
    "chromium": "chromium",
    "curl": "curl",
    "dovecot": "dovecot-core",
    "fail2ban-client": "fail2ban",
    "fail2ban-regex": "fail2ban",
    "fetchmail": "fetchmail",
    "groff": "groff-base",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "ip6tables": "iptables",
    "iptables": "iptables",
    "less": "less",
    "msmtp": "msmtp",
    "nft": "nftables",
    "nginx": "nginx libnginx-mod-mail",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "perl": "perl",
    "postconf": "postfix",
    "postfix": "postfix",
    "promtool": "prometheus",
    "rsyslogd": "rsyslog",
    "saslpasswd2": "sasl2-bin libsasl2-modules",
    "sendmail": "postfix",
    "setpriv": "util-linux",
    "smtp-sink": "postfix",
    "smtp-source": "postfix",
    "strace": "strace",
    "swaks": "swaks",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "systemd-socket-activate": "systemd",
    "tshark": "tshark",
    "unshare": "util-linux",
    "valgrind": "valgrind",
    "zsh": "zsh",
}
"""What tests run -> the packages that have it, with blanks between."""

PERL_MODULES: Final = {"Net::SSLeay": "libnet-ssleay-perl"}
"""What makes swaks able to do TLS."""

_LOADED: Final = {
    "nginx": "usr/lib/nginx/modules/ngx_mail_module.so",
    "saslpasswd2": "usr/lib/*/sasl2/libscram.so",
}
"""What is loaded where a program's packages are all here: a pattern below the root."""

_SBIN: Final = "/usr/sbin:/sbin:/usr/local/sbin"


def path_of(program: str) -> str | None:
    """Where a program is, also for a user without /usr/sbin in the path; None if it is not installed."""
    return shutil.which(program) or shutil.which(program, path=_SBIN)


@functools.cache
def has_perl(module: str) -> bool:
    """Whether Perl finds a module."""
    perl = path_of("perl")
    return perl is not None and not subprocess.run([perl, f"-M{module}", "-e1"], capture_output=True).returncode


def line(packages: str) -> str:
    """The command that installs them."""
    return f"{APT} {packages}"


def packages_in(texts: Iterable[str]) -> list[str]:
    """The packages that commands at the end of these texts install, none twice, by name."""
    return sorted({name for text in texts if APT in text for name in text.rpartition(APT)[2].split()})


def all_packages() -> list[str]:
    """Each of them once, by name."""
    return sorted({name for each in (*PROGRAMS.values(), *PERL_MODULES.values()) for name in each.split()})


def missing_packages() -> list[str]:
    """Those that are not installed on this machine."""
    missing = [packages for program, packages in PROGRAMS.items() if path_of(program) is None]
    missing += [package for module, package in PERL_MODULES.items() if not has_perl(module)]
    missing += [PROGRAMS[program] for program, pattern in _LOADED.items() if not any(Path("/").glob(pattern))]
    return sorted({name for each in missing for name in each.split()})


if __name__ == "__main__":
    for name in all_packages() if sys.argv[1:] == ["--all"] else missing_packages():
        print(name)
