"""What an operator can set, validated once: all groups of settings in one, and what does not go together.

The command line and an embedding program make the same Settings. A setting is declared once, in the class of its group:
session/policy.py for what a session goes by as it was given, else route.py, mail.py, tls.py and running.py beside this.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from shimproxy.config.fields import checked
from shimproxy.config.listener import SettingsError, in_each_others_way
from shimproxy.config.mail import MailSettings
from shimproxy.config.route import RouteSettings
from shimproxy.config.running import RunningSettings
from shimproxy.config.tls import TlsSettings
from shimproxy.net.address import UnixPath, is_in
from shimproxy.net.origin import LOOPBACK, Allowed
from shimproxy.net.tls import ReceiverSecurity, Verification, fingerprint
from shimproxy.session.policy import ReceiverTls, Repairs, SenderTls, SessionSettings
from shimproxy.session.setting import settings_of
from shimproxy.smtp.ehlo import HiddenKeyword
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shimproxy.config.converters import ReceiverAddress
    from shimproxy.config.listener import Listener
    from shimproxy.net.address import Network

_SHARED: Final = ("sessions", "sessions_per_network", "connections_per_minute", "receiver_connections")
"""What counts over sessions, and so over the workers that serve them."""


@attrs.frozen(kw_only=True, slots=False, field_transformer=checked)
class Settings(RunningSettings, SessionSettings, TlsSettings, MailSettings, RouteSettings):
    """Everything that `serve` goes by. Addresses may be given as text, HOST:PORT.

    `shimproxy help settings` has what each field does. Raises AddressError, SettingsError or ValueError for what can't
    be used.
    """

    names: Mapping[str, str] = attrs.field(factory=dict, repr=False, eq=False)
    """Field -> the name that an operator wrote, or would write, for it; messages have the field's own name if none."""

    def named(self, field: str) -> str:
        """The name of a field in a message: the flag, variable or key of an operator, or the field of a program."""
        return self.names.get(field, field)

    are_checked: ClassVar[bool] = True
    """Whether they go together."""

    @property
    def has_certificates(self) -> bool:
        """Whether senders are shown one, at any listener."""
        return any(its.certificate for its in (self, *map(self.of, self.listen)))

    @property
    def admin_allowed(self) -> tuple[Network, ...]:
        """Where clients of the admin address may come from, beside loopback; none for everywhere."""
        return self.allow_admin or self.allow_sender

    def admits_client(self, peer: object) -> bool:
        """Whether a client of the admin address may come from there; one on a Unix socket may."""
        allowed = self.admin_allowed
        return not (allowed and isinstance(peer, tuple)) or is_in(peer[0], (*allowed, *LOOPBACK))

    @property
    def sender_tls_used(self) -> SenderTls:
        """What `sender_tls` comes to: starttls with a certificate; else opaque, or off where shimproxy makes TLS."""
        if self.sender_tls is not None:
            return self.sender_tls
        if self.certificate:
            return SenderTls.STARTTLS
        own = self.receiver_tls is not ReceiverTls.OFF or bool(self.login_user)
        return SenderTls.OFF if own else SenderTls.OPAQUE

    @property
    def sender_tls_of_all(self) -> tuple[SenderTls, ...]:
        """What is done about TLS on sender legs, at any listener."""
        its = [self.of(listener) for listener in self.listen] or [self]
        return tuple(dict.fromkeys(each.sender_tls_used for each in its))

    @property
    def observed_at(self) -> tuple[str, ...]:
        """Where violations are only observed: the listeners, or all that a program may pass."""
        if not self.listen:
            return ("all listeners",) if self.repairs is Repairs.OBSERVE else ()
        return tuple(str(each.address) for each in self.listen if self.of(each).repairs is Repairs.OBSERVE)

    @property
    def receivers_of_all(self) -> tuple[ReceiverAddress, ...]:
        """The receivers of all sessions, with those of single listeners."""
        own = chain.from_iterable(self.of(listener).receiver for listener in self.listen if listener.own)
        return tuple(dict.fromkeys((*self.receiver, *own)))

    @classmethod
    def unchecked(cls, values: Mapping[str, Any]) -> Settings:
        """Settings that may not go together, of values that are in order each: for `check`, which tries them."""
        made = cls.__new__(cls)
        for field in attrs.fields(cls):
            factory = getattr(field.default, "factory", None)
            default = factory() if factory else field.default
            object.__setattr__(made, field.name, values.get(field.name, default))
        object.__setattr__(made, "are_checked", False)
        return made

    def of(self, listener: Listener) -> Settings:
        """What the senders of a listener go by. Raises SettingsError and the like."""
        if not listener.own:
            return self
        if not self.are_checked:
            return self.unchecked({**vars(self), "listen": (), **listener.own})
        fields = attrs.fields_dict(Settings)
        # An operator writes what is a listener's own into a file, by its keys.
        keys = {name: each.name for name in listener.own for each in settings_of(fields[name])}
        names = {**self.names, **keys} if self.names else {}
        return attrs.evolve(self, listen=(), names=names, **listener.own)

    def of_one_worker(self) -> Settings:
        """What each worker goes by: where sessions are counted, its share."""
        share = {name: math.ceil(most / self.workers_used) for name in _SHARED if (most := getattr(self, name))}
        return attrs.evolve(self, **share)

    def receiver_security(self) -> ReceiverSecurity | None:
        """The TLS of receiver legs, if there is to be any. Raises TlsUnusable."""
        how = self.receiver_tls
        if how is ReceiverTls.OFF:
            return None
        said = bool(self.receiver_name or self.receiver_authorities or self.receiver_fingerprint)
        verified = self.receiver_verified
        return ReceiverSecurity.make(
            Verification(
                name=self.receiver_name,
                authorities=self.receiver_authorities,
                fingerprint=fingerprint(self.receiver_fingerprint) if self.receiver_fingerprint else None,
                required=(said or how is not ReceiverTls.OPPORTUNISTIC) if verified is None else verified,
            ),
            self.files_read,
            self.key_log,
        )

    def __attrs_post_init__(self) -> None:
        of_all = self._problems_of_tls(), self._problems_of_login(), self._problems_of_observing(), self._problems()
        if problems := [*chain.from_iterable(of_all)]:
            raise SettingsError(*problems)

    def _problems_of_tls(self) -> Iterator[str]:
        """What of TLS does not go together."""
        named, used = self.named, self.sender_tls_used
        terminated = used in (SenderTls.STARTTLS, SenderTls.IMPLICIT)
        in_clear = self.receiver_tls is ReceiverTls.OFF
        if terminated and self.certificate is None:
            yield (
                f"{named('sender_tls')}: {used} needs a certificate; give one with its key "
                f"({named('certificate')}, {named('key')})"
            )
        # A mend is no mend if it leads to the next complaint.
        onward = f", with {named('receiver_tls')} required" if in_clear and not self.clear_allowed else ""
        if not terminated and self.certificate is not None:
            yield (
                f"{named('certificate')}: {named('sender_tls')} is {used}, which uses none; remove it, or set "
                f"{named('sender_tls')} to starttls{onward}"
            )
        if self.key is not None and self.certificate is None:
            alone = "" if terminated else onward
            yield f"{named('key')}: no certificate for this key; give one ({named('certificate')}){alone}"
        if used is SenderTls.OPAQUE and (not in_clear or self.login_user):
            with_one = "" if self.certificate else f" with a certificate ({named('certificate')})"
            yield (
                f"{named('sender_tls')}: with opaque, TLS is between sender and receiver; set it to off, or to "
                f"starttls{with_one}, or remove {named('receiver_tls')} and {named('login_user')}"
            )
        if terminated and in_clear and not self.clear_allowed:
            yield (
                f"{named('receiver_tls')}: mail that arrives with TLS would leave without it; set it to required, "
                f"implicit or opportunistic, or allow this ({named('clear_allowed')})"
            )

    def _problems_of_login(self) -> Iterator[str]:
        """What of shimproxy's own login does not go together."""
        named = self.named
        if not self.login_user:
            return
        if self.goes_to_original and any(each.network is None for each in self.allow_destination):
            yield (
                f"{named('login_user')}: with receiver 'original' any receiver that a sender chooses would get the "
                f"secret; name the networks that may get it ({named('allow_destination')})"
            )
        token = self.login_token_file is not None
        if not (self.login_secret or token):
            yield f"{named('login_user')}: no secret; give one ({named('login_secret')})"
        if token and self.login_secret:
            yield f"{named('login_token_file')}: conflicts with {named('login_secret')}; remove one of them"
        if token and self.receiver_tls is ReceiverTls.OFF:
            yield (
                f"{named('login_token_file')}: a token never goes without TLS; set {named('receiver_tls')} to required "
                "or implicit"
            )
            return
        if self.receiver_tls is ReceiverTls.OFF and not self.login_in_clear:
            yield (
                f"{named('login_user')}: shimproxy would send the secret without TLS; set {named('receiver_tls')} to "
                f"required or implicit, or allow this ({named('login_in_clear')})"
            )

    def _problems_of_observing(self) -> Iterator[str]:
        """What cannot be where octets pass as they come."""
        if self.repairs is not Repairs.OBSERVE:
            return
        named, used = self.named, self.sender_tls_used
        changes = {
            "sender_tls": (used is SenderTls.STARTTLS, f"is {used}", "set it to opaque or implicit"),
            "receiver_tls": (
                self.receiver_tls in (ReceiverTls.OPPORTUNISTIC, ReceiverTls.REQUIRED),
                f"is {self.receiver_tls}",
                "set it to off or implicit",
            ),
            "login_user": (bool(self.login_user), "is given", "remove it"),
            "xclient": (self.xclient, "is on", "turn it off"),
        }
        for field, (is_so, how, mend) in changes.items():
            if is_so:
                yield (
                    f"{named('repairs')}: with observe, shimproxy says nothing of its own, and {named(field)} {how}; "
                    f"{mend}, or set {named('repairs')} to repair"
                )

    def _problems(self) -> Iterator[str]:
        """What else does not go together."""
        named = self.named
        yield from in_each_others_way(self.listen, self.admin, named("listen"), named("admin"))
        if self.record_mail_data and self.record is None:
            yield f"{named('record_mail_data')}: no directory for records; give one ({named('record')})"
        if self.admin_names and not self.admin:
            yield f"{named('admin_names')}: no admin address to know by these names; give one ({named('admin')})"
        if self.sender_tls_used is SenderTls.STARTTLS and HiddenKeyword(b"STARTTLS") in self.hide:
            yield (
                f"{named('hide')}: STARTTLS is shimproxy's own where {named('sender_tls')} is starttls; remove it from "
                f"{named('hide')}, or set {named('sender_tls')} to off"
            )
        if self.spoof_sender and self.source:
            yield (
                f"{named('spoof_sender')}: conflicts with {named('source')}, as connections have one source address; "
                "remove one of them"
            )
        if not self.receiver and not (self.listen and all("receiver" in listener.own for listener in self.listen)):
            yield f"{named('receiver')}: missing; write HOST:PORT, as in 127.0.0.1:25"
        of_all: list[Settings] = []
        for listener in self.listen:
            try:
                its = self.of(listener)
            except SettingsError as error:
                yield from (f"listener {listener.address}: {problem}" for problem in error.problems)
                continue
            of_all.append(its)
            if its.goes_to_original and isinstance(listener.address, UnixPath):
                yield f"listener {listener.address}: receiver 'original' is for TCP; give it a receiver of its own"
            if listener.lf_only_devices and its.repairs is Repairs.OBSERVE:
                yield (
                    f"listener {listener.address}: what lf-only-devices send is always made canonical, and "
                    f"{its.named('repairs')} is observe; set it to repair there, or remove lf-only-devices"
                )
            if listener.lf_only_devices and its.newlines is not Newlines.NORMALISE:
                newlines = its.named("newlines")
                yield (
                    f"listener {listener.address}: what lf-only-devices send is always made canonical, and {newlines} "
                    f"is {its.newlines}; set {newlines} to normalise there, or remove lf-only-devices"
                )
        if self.allow_destination != (Allowed(),) and of_all and not any(its.goes_to_original for its in of_all):
            allowed = named("allow_destination")
            yield f"{allowed}: needs {named('receiver')} 'original'; set that, or remove {allowed}"
