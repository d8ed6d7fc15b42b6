"""`shimproxy files`: files that are ready to use, for systemd, containers, gateways and monitors.

They are package data, so that a wheel and a container have them. The pages show the same files. What depends on where
shimproxy is installed is filled in when a file is printed.
"""

from __future__ import annotations

import os
import site
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from shimproxy.config.parsers import nearest
from shimproxy.program.process import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_UNITS: Final = "/etc/systemd/system/"
_DROP_INS: Final = f"{_UNITS}shimproxy.service.d/"
_PROGRAM: Final = "/usr/local/bin/shimproxy"
"""What stands for the command in the files."""
_HIDDEN: Final = tuple(f"/{each}/" for each in ("home", "root", "run/user"))
"""Where the unit's ProtectHome= lets the service see nothing (systemd.exec(5))."""


@attrs.frozen
class ReadyFile:
    """A file that is ready to use."""

    name: str
    group: str
    about: str
    place: str = ""
    """Where it belongs; nothing where that is the operator's to choose."""


_SYSTEMD, _CONTAINER, _KUBERNETES = "systemd", "a container", "Kubernetes"
_REDIRECT, _TPROXY, _OWN = "a gateway, by REDIRECT", "a gateway, by TPROXY", "a gateway's own programs, by REDIRECT"
_MONITOR, _SHELL = "monitors", "a shell"
READY_FILES: Final = {
    each.name: each
    for each in (
        ReadyFile("shimproxy.service", _SYSTEMD, "the service", _UNITS),
        ReadyFile("shimproxy.socket", _SYSTEMD, "its socket on port 25", _UNITS),
        ReadyFile("shimproxy-devices.socket", _SYSTEMD, "a second socket, for devices that know LF alone", _UNITS),
        ReadyFile("shimproxy.toml", _SYSTEMD, "settings for these units", "/etc/shimproxy/"),
        ReadyFile("shimproxy-tproxy.socket", _SYSTEMD, "the socket of a gateway with TPROXY", _UNITS),
        ReadyFile("gateway.conf", _SYSTEMD, "what the service needs for --spoof-sender", _DROP_INS),
        ReadyFile("shimproxy.sysusers", _SYSTEMD, "a user", "/etc/sysusers.d/shimproxy.conf"),
        ReadyFile("user.conf", _SYSTEMD, "makes the service run as that user", _DROP_INS),
        ReadyFile("compose.yaml", _CONTAINER, "a service of Docker Compose"),
        ReadyFile("kubernetes.yaml", _KUBERNETES, "Deployment, Service, PodDisruptionBudget and NetworkPolicy"),
        ReadyFile("kubernetes-podmonitor.yaml", _KUBERNETES, "a PodMonitor for the Prometheus operator"),
        ReadyFile("redirect.nft", _REDIRECT, "rules of nftables: nft -f FILE"),
        ReadyFile("redirect-nft-undo.sh", _REDIRECT, "undoes them; run it as root"),
        ReadyFile("redirect-iptables.sh", _REDIRECT, "the same rules, of iptables; run it as root"),
        ReadyFile("redirect-iptables-undo.sh", _REDIRECT, "undoes them; run it as root"),
        ReadyFile("tproxy-routes.sh", _TPROXY, "routes that all rules of TPROXY need; run it as root"),
        ReadyFile("tproxy-routes-undo.sh", _TPROXY, "undoes them; run it as root"),
        ReadyFile("tproxy.nft", _TPROXY, "rules of nftables: nft -f FILE"),
        ReadyFile("tproxy-nft-undo.sh", _TPROXY, "undoes them; run it as root"),
        ReadyFile("tproxy-iptables.sh", _TPROXY, "the same rules, of iptables; run it as root"),
        ReadyFile("tproxy-iptables-undo.sh", _TPROXY, "undoes them; run it as root"),
        ReadyFile("redirect-output.nft", _OWN, "rules of nftables: nft -f FILE"),
        ReadyFile("redirect-output-nft-undo.sh", _OWN, "undoes them; run it as root"),
        ReadyFile("redirect-output-iptables.sh", _OWN, "the same rules, of iptables; run it as root"),
        ReadyFile("redirect-output-iptables-undo.sh", _OWN, "undoes them; run it as root"),
        ReadyFile("prometheus.yml", _MONITOR, "how Prometheus asks shimproxy; add it to yours"),
        ReadyFile("prometheus-rules.yml", _MONITOR, "alerts", "/etc/prometheus/shimproxy-rules.yml"),
        ReadyFile("grafana-dashboard.json", _MONITOR, "a dashboard, to be imported into Grafana"),
        ReadyFile("fail2ban-filter.conf", _MONITOR, "a filter for fail2ban", "/etc/fail2ban/filter.d/shimproxy.conf"),
        ReadyFile("fail2ban-jail.conf", _MONITOR, "a jail that uses it", "/etc/fail2ban/jail.d/shimproxy.conf"),
        ReadyFile("shimproxy.bash", _SHELL, "completion for bash", "/etc/bash_completion.d/"),
        ReadyFile("_shimproxy", _SHELL, "completion for zsh", "/usr/local/share/zsh/site-functions/"),
        ReadyFile("shimproxy.1", _SHELL, "the man page", "/usr/local/share/man/man1/"),
    )
}
MADE_WHEN_PRINTED: Final = frozenset({"shimproxy.1"})
"""Made of the parser, as `shimproxy help --man` makes it, and no file of the package."""


class UnknownFile(ValueError):
    """No file is called that."""


def text_of(name: str) -> str:
    """A file of the package as it is kept, whatever the place where shimproxy is installed."""
    return resources.files("shimproxy").joinpath("files", name).read_text(encoding="utf-8")


def run(name: str | None, man_page: Callable[[], Iterable[str]]) -> Callable[[], int]:
    """What lists the files, or prints one. Raises UnknownFile."""
    if name is None:
        return lambda: _show(_listed())
    if name not in READY_FILES:
        near = nearest(name[:_MOST_CHARACTERS].lower(), [*READY_FILES])
        raise UnknownFile(f"no file is called {name[:_MOST_CHARACTERS]!r}{near}; shimproxy files lists all")
    if name in MADE_WHEN_PRINTED:
        return lambda: _show(man_page())
    return lambda: _show_file(text_of(name))


_MOST_CHARACTERS: Final = 100


def _listed() -> list[str]:
    width = max(map(len, READY_FILES))
    lines = ["shimproxy files NAME prints a file. Its place is in brackets."]
    group = ""
    for each in READY_FILES.values():
        if each.group != group:
            group = each.group
            lines += ["", f"For {group}:"]
        lines.append(f"  {each.name:{width}}  {each.about}" + (f" [{each.place}]" if each.place else ""))
    return lines


def _show(lines: Iterable[str]) -> int:
    for line in lines:
        say(line)
    return 0


def _show_file(text: str) -> int:
    if _PROGRAM in text:
        program = InstalledProgram.here()
        text = program.filled_in(text)
        for remark in program.remarks():
            print(f"shimproxy: {remark}", file=sys.stderr)
    return _show(text.removesuffix("\n").split("\n"))


@attrs.frozen
class InstalledProgram:
    """How this shimproxy is started again."""

    words: tuple[str, ...]
    """The command without its arguments; paths are absolute."""
    code: str = ""
    """The directory that Python must be told of to find the package; nothing where it finds it by itself."""

    @classmethod
    def here(cls) -> InstalledProgram:
        """That of this process."""
        script = Path(sys.argv[0])
        if script.name == _PROGRAM.rpartition("/")[2] and script.is_file() and os.access(script, os.X_OK):
            return cls((os.path.abspath(script),))
        package = Path(str(resources.files("shimproxy"))).parent
        known = str(package) in site.getsitepackages()
        return cls((sys.executable, "-m", "shimproxy"), "" if known else str(package))

    def filled_in(self, text: str) -> str:
        """A unit of systemd with this command in it."""
        command = " ".join(map(_quoted, self.words))
        return text.replace(f"ExecStart={_PROGRAM} ", f"{self._environment}ExecStart={command} ")

    @property
    def _environment(self) -> str:
        return f"Environment={_quoted(f'PYTHONPATH={self.code}')}\n" if self.code else ""

    def remarks(self) -> list[str]:
        """Why the service may not find it."""
        paths = [self.words[0], str(Path(self.words[0]).resolve()), self.code]
        hidden = [path for path in paths if path.startswith(_HIDDEN)]
        if not hidden:
            return []
        return [
            f"{hidden[0]}: the service cannot read this directory; install shimproxy for all users: shimproxy help "
            "install"
        ]


def _quoted(word: str) -> str:
    """A word of a unit's command line (systemd.service(5))."""
    word = word.replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if _needs_quotes(word) else word


def _needs_quotes(word: str) -> bool:
    return any(each.isspace() or each in "\"'\\;" for each in word)
