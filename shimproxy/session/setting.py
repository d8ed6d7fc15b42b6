"""How a setting is declared: one attrs field has its type, default and checks, and in its metadata what is here.

config/options.py makes the flag, the variable of the environment, the key of a file, `--help` and the page of settings
of these declarations. docs/adding.md has the steps.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Read = Callable[[Sequence[str]], dict[str, Any]]


class Group(enum.Enum):
    """A heading that settings stand under, in the order of the pages."""

    ROUTE = "senders and receiver"
    MAIL = "what is done with mail"
    TLS = "TLS and logins"
    BOUNDS = "deadlines and limits"
    RUNNING = "running"
    LOG = "the log"
    RECORDS = "records of sessions (see also: shimproxy ladder)"

    @property
    def of_listener(self) -> bool:
        """Whether its settings can be different for a listener."""
        return self in (Group.ROUTE, Group.MAIL, Group.TLS)


@attrs.frozen(kw_only=True)
class Setting:
    """What an operator is told of a field of Settings."""

    name: str
    """The flag without its dashes, which is also the key in a file; the variable is made of it."""
    group: Group
    help: str
    metavar: str
    """What `--help` has for the value; empty if that is one of `choices`."""
    choices: tuple[str, ...]
    """The only texts that it accepts, if these are fewer than all. They follow from a default that is of an enum."""
    read: Read | None
    """What its texts come to, as fields of Settings; None if that follows from the field's annotation."""
    default: str | None
    """The default as an operator would write it; None if that follows from the field's default."""
    many: bool
    """Whether it takes any number of texts although its field is not a tuple."""
    lines: bool
    """Of several texts, whether each is a line in the environment: they have blanks in them."""
    after: str
    """The name of the setting that it follows on the pages, if not the one that is declared before it."""
    of_listener: bool
    """Whether it can be different for a listener."""
    secret: bool
    """Whether it is never shown, and is not a flag, because everyone sees those."""
    file: bool
    """Whether its text is the path of a file with certificates or a key."""


def setting(
    name: str,
    group: Group,
    help: str,
    *,
    metavar: str = "",
    choices: Sequence[str] | type[enum.StrEnum] = (),
    read: Read | None = None,
    default: str | None = None,
    many: bool = False,
    lines: bool = False,
    after: str = "",
    of_listener: bool | None = None,
    secret: bool = False,
    file: bool = False,
) -> dict[str, Setting]:
    """The metadata of a field that operators can set; see `Setting`. Two ways to set a field are joined by |."""
    made = Setting(
        name=name,
        group=group,
        help=help,
        metavar=metavar,
        choices=tuple(choices),
        read=read,
        default=default,
        many=many,
        lines=lines,
        after=after,
        of_listener=group.of_listener if of_listener is None else of_listener,
        secret=secret,
        file=file,
    )
    return {name: made}


def settings_of(field: attrs.Attribute[Any]) -> tuple[Setting, ...]:
    """What operators can set of a field: most have one setting, some none or two."""
    return tuple(each for each in field.metadata.values() if isinstance(each, Setting))
