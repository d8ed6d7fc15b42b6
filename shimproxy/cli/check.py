"""`shimproxy check`: validate the settings and show them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

import trio

from shimproxy.admin.relay import FOREIGN_DOMAIN, relaying
from shimproxy.cli.settings import add_with_settings, sources_of
from shimproxy.daemon.check import check
from shimproxy.daemon.upgrade import HandoverState
from shimproxy.program.process import complain
from shimproxy.smtp.tidy import is_possible_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from shimproxy.cli.parser import Subcommands
    from shimproxy.config.settings import Settings
    from shimproxy.daemon.check import Remarks

_WARNED: Final = 2


def _check(options: argparse.Namespace) -> Callable[[], int]:
    sources = sources_of(options)
    settings, problems = sources.as_far_as_usable()

    async def checked() -> Remarks:
        HandoverState.rehearse()
        remarks = await check(settings, problems)
        if options.relay:
            await _ask_for_relaying(settings, options.relay, remarks)
        return remarks

    def command() -> int:
        remarks = trio.run(checked)
        for remark in remarks.notes:
            complain(remark)
        for warning in remarks.warnings:
            complain(f"warning: {warning}")
        print("\n".join(sources.as_file()))
        return _WARNED if remarks.warnings and options.strict else 0

    return command


async def _ask_for_relaying(settings: Settings, domain: str, remarks: Remarks) -> None:
    async for relays, words in relaying(settings, domain):
        if relays:
            allowed = settings.named("allow_sender")
            mend = f"then it does so for all that reach shimproxy; name the networks of your senders ({allowed})"
            its = all(settings.of(listener).allow_sender for listener in settings.listen)
            (remarks.notes if its else remarks.warnings).append(words if its else f"{words}; {mend}")
        else:
            remarks.notes.append(words)


def _domain(text: str) -> str:
    """A domain that an operator names. Raises ArgumentTypeError."""
    if not is_possible_name(text.encode("utf-8", "replace")) or text.startswith("["):
        raise argparse.ArgumentTypeError(f"{text!r} is not a domain; write one as in example.com")
    return text


def add(commands: Subcommands) -> None:
    """Add the command."""
    command = add_with_settings(
        commands,
        "check",
        _check,
        "check the settings and show them",
        "Report every mistake in the settings. If there is none, print the settings in the form of a settings file, "
        "with the source of each. Exit status: 0 if the settings are usable, with warnings or without; 2 if not.",
    )
    command.add_argument("--strict", action="store_true", help="exit with 2 also if there is a warning")
    command.add_argument(
        "--relay",
        nargs="?",
        const=FOREIGN_DOMAIN,
        type=_domain,
        metavar="DOMAIN",
        help="ask the receivers whether they relay to another domain for this host; shimproxy says MAIL, RCPT, RSET "
        f"and QUIT, and sends no mail (default: {FOREIGN_DOMAIN})",
    )
