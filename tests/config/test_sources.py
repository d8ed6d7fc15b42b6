"""Settings from flags, the environment and a file: which goes first, and every problem in words, all at once."""

from __future__ import annotations

import itertools
import json
import re
import socket
import tomllib
from typing import TYPE_CHECKING

import attrs
import pytest

from shimproxy import EarlyTalk, Listener, SettingsError
from shimproxy.config.options import OPTIONS
from shimproxy.config.settings import Settings
from shimproxy.config.sources import Given, Sources
from shimproxy.net.address import Address
from shimproxy.observe.journal import _MESSAGES
from shimproxy.session.limits import Deadlines, Limits
from tests.peers.here import run_here
from tests.peers.tls import make_certificate

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path

    from shimproxy.config.options import Option

NEEDED = {"receiver": ["mail.example:25"], "listen": ["127.0.0.1:2525"]}
IN_A_FILE = 'receiver = "mail.example:25"\nlisten = "127.0.0.1:2525"\n'


def gathered(
    flags: Mapping[str, list[str]] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Sources:
    return Sources.gather(flags or {}, environment or {}, str(file or ""))


def problems_of(sources: Sources) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        sources.settings()
    return caught.value.problems


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shimproxy.toml"


# -- which goes first


def test_a_flag_goes_before_the_environment_and_that_before_the_file(file: Path) -> None:
    file.write_text(IN_A_FILE + "sessions = 1\ngrace = 1\ntidy = true\nresume = true\n")
    environment = {"SHIMPROXY_GRACE": "2", "SHIMPROXY_SESSIONS": "2", "SHIMPROXY_TIDY": "off", "SHIMPROXY_NEWLINES": ""}
    settings = gathered({"sessions": ["3", "4"]}, environment, file).settings()
    assert (settings.sessions, settings.grace_seconds, settings.tidy, settings.resume) == (4, 2.0, False, True)
    assert settings.newlines == Settings(receiver="a:1").newlines


def test_a_list_is_taken_whole_from_one_place(file: Path) -> None:
    file.write_text(IN_A_FILE + "[deadline]\nreply = 1\ngreeting = 2.5\n")
    environment = {"SHIMPROXY_LISTEN": "127.0.0.1:1 [::1]:2,lf-only-devices"}
    settings = gathered({"deadline": ["reply=7"]}, environment, file).settings()
    listeners = Listener(Address("127.0.0.1", 1)), Listener(Address("::1", 2), lf_only_devices=True)
    assert settings.listen == listeners
    assert (settings.deadlines.reply, settings.deadlines.greeting) == (7.0, 300.0)


def test_each_of_several_problems_of_a_setting_names_its_place() -> None:
    problems = problems_of(gathered({**NEEDED, "hide": ["DATA,x y"]}, {}))
    assert [problem.partition(" is ")[0] for problem in problems] == ["--hide: 'DATA'", "--hide: 'x y'"]


def test_rules_are_lines_in_the_environment() -> None:
    """There are blanks in them."""
    rules = ["data: 451 a b => 552", "mail: 552 => 451 4.3.0 try again"]
    found = gathered(NEEDED, {"SHIMPROXY_REWRITE": f" {rules[0]}\n\n{rules[1]} \n"}).settings()
    assert [str(rule) for rule in found.rewrite] == rules
    assert found.rewrite == gathered({**NEEDED, "rewrite": rules}).settings().rewrite


def test_the_environment_may_name_the_file(file: Path) -> None:
    file.write_text(IN_A_FILE)
    assert gathered(environment={"SHIMPROXY_CONFIG": str(file)}).settings().receiver == (Address("mail.example", 25),)


def test_variables_of_others_are_left_alone() -> None:
    """A Kubernetes service of the name shimproxy makes variables of this form in every container."""
    others = {
        "SHIMPROXY_SERVICE_HOST": "10.0.0.1",
        "SHIMPROXY_SERVICE_PORT_SMTP": "25",
        "SHIMPROXY_PORT": "tcp://10.0.0.1:25",
        "SHIMPROXY_PORT_25_TCP_ADDR": "10.0.0.1",
        "SHIMPROXY_REQUIRE_PEERS": "1",
    }
    assert gathered(NEEDED, others).problems == []


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_default_that_is_named_is_what_is_used(option: Option) -> None:
    """What the help says a default is, given, changes nothing."""
    if option.default:
        flags = {**NEEDED, option.name: list(option.default)}
        assert gathered(flags).settings() == gathered(NEEDED).settings()


# -- what is wrong


BAD_TEXTS = [
    ("receiver", ["mail.example"], "write HOST:PORT"),
    ("receiver", [":25"], "names no host and port; write HOST:PORT, as in 127.0.0.1:25"),
    ("receiver", ["mail.example:0"], "names no host and port"),
    ("receiver", ["mail.example:smtp"], "the port must be a number from 0 to 65535"),
    ("receiver", ["mail.example:65536"], "65535"),
    ("receiver", ["::1:25"], "in brackets, as in [::1]:25"),
    ("receiver", ["[::1"], "write an IPv6 address in brackets"),
    ("receiver", [""], "write HOST:PORT"),
    ("listen", ["2525"], "write HOST:PORT"),
    ("listen", ["127.0.0.1:2525,lf"], "',lf-only-devices'"),
    ("listen", ["127.0.0.1:2525,least-tls=1.4"], "1.0, 1.1, 1.2, 1.3"),
    ("listen", ["127.0.0.1:1", "::1:25"], "in brackets"),
    ("listen", ["127.0.0.1:-1"], "the port must be a number from 0 to 65535"),
    ("lmtp", ["maybe"], "write true or false"),
    ("early-talk", ["drop"], "choose from hold, refuse"),
    ("newlines", ["keep"], "choose from normalise, reject, pass"),
    ("newlines", ["Normalise"], "choose from"),
    ("max-size", ["10XB"], "write a size as in 10MiB, 500KiB or 1000, or example.com=2MiB"),
    ("max-size", ["0"], "write a size"),
    ("max-size", ["-5"], "write a size"),
    ("max-size", ["10 MiB"], "write a size"),
    ("max-size", ["example.com"], "write a size"),
    ("max-size", ["example.com="], "write a size"),
    ("max-size", ["1.5MiB"], "write a size"),
    ("max-size", ["10mib"], "write a size"),
    ("max-size", ["\u0661MiB"], "write a size"),
    ("hide", ["CHUNKING,"], "'' is not a keyword; write one, as in CHUNKING, or one parameter, as in AUTH:XOAUTH2"),
    (
        "observe",
        ["early-success"],
        "'early-success' cannot be passed on by itself; these can be: early-reply, missing-text, mixed-codes, "
        "not-a-reply, reply-bare-newline, reply-long-line; with repairs = observe all are",
    ),
    ("observe", ["early-replies"], "'early-replies' is not the name of a violation; these can be: early-reply, "),
    ("hide", ["DATA"], "'DATA' is a command that every receiver has"),
    (
        "rewrite",
        ["data: 451 => 250"],
        "'250' is not a reply that a rule may make; write a 4yz or 5yz code other than 421",
    ),
    ("record-what", ["some"], "choose from all, repaired"),
    ("record-most", ["many"], "write a size as in 10MiB, 500KiB or 1000"),
    ("record-most", ["example.com=1MiB"], "write a size"),
    ("record-days", ["0"], "must be a number above 0"),
    ("record-days", ["long"], "write a number"),
    ("record-mail-data", ["some"], "write true or false"),
    ("tidy", ["2"], "write true or false"),
    ("helo-name", ["a_b"], "is not a valid host name; write one as in mail.example.com"),
    ("helo-name", ["-a.example"], "is not a valid host name"),
    ("helo-name", ["m\u00fcller.example"], "is not a valid host name"),
    ("pipelining", [""], "write true or false"),
    ("resume", ["yes!"], "write true or false"),
    ("early-success", ["250 OK"], "is not a refusal; write a code and a text, as in '451 4.3.0 try again later'"),
    ("early-success", ["451"], "write a code and a text"),
    ("early-success", ["try again"], "write a code and a text"),
    ("early-success", ["451 a\nb"], "write a code and a text"),
    ("early-success", ["451 \u00e4"], "write a code and a text"),
    ("sender-tls", ["tls"], "choose from starttls, implicit, opaque, off"),
    ("sender-tls", ["STARTTLS"], "choose from"),
    ("receiver-tls", ["requred"], "choose from off, opportunistic, required, implicit"),
    ("receiver-verify", ["sometimes"], "write true or false"),
    ("allow-clear", ["x"], "write true or false"),
    ("login-secret-file", ["/no/such/file"], "No such file or directory"),
    ("login-secret-file", ["/"], "Is a directory"),
    ("login-secret-file", ["/dev/null"], "the first line is empty"),
    ("login-in-clear", ["x"], "write true or false"),
    ("deadline", ["reply"], "write reply=NUMBER"),
    ("deadline", ["reply="], "write reply=NUMBER"),
    ("deadline", ["reply=soon"], "write reply=NUMBER"),
    ("deadline", ["reply=0"], "reply must be a number above 0"),
    ("deadline", ["reply=-1"], "reply must be a number above 0"),
    ("deadline", ["reply=nan"], "reply must be a number above 0"),
    ("deadline", ["reply=inf"], "reply must be a number above 0"),
    ("deadline", ["greetings=1"], "did you mean greeting?; there are connect, greeting,"),
    ("deadline", ["=1"], "no such name"),
    ("deadline", ["end_of_data_reply=1"], "did you mean end-of-data-reply?"),
    ("limit", ["held-octets=many"], "write held-octets=NUMBER"),
    ("limit", ["held-octets=1.5"], "write held-octets=NUMBER"),
    ("limit", ["held-octets=511"], "held-octets must be a whole number from 512 on"),
    ("limit", ["command-octets=0"], "command-octets must be a whole number from 512 on"),
    ("limit", ["block-octets=1"], "block-octets must be a whole number from 65536 on"),
    ("limit", ["least-octets-per-second=-1"], "must be a number from 0 on"),
    ("limit", ["sessions=1"], "no such name"),
    ("sessions", ["0"], "must be a whole number from 1 on"),
    ("sessions", ["-1"], "from 1 on"),
    ("sessions", ["many"], "write a whole number"),
    ("sessions", ["1.5"], "write a whole number"),
    ("sessions", [""], "write a whole number"),
    ("grace", ["soon"], "write a number"),
    ("grace", ["-1"], "must be a number from 0 on"),
    ("grace", ["inf"], "must be a number from 0 on"),
    # What Python takes for a number, and nobody else does: other scripts' digits, underscores, blanks and signs.
    ("sessions", ["\u0661\u0662"], "write a whole number"),
    ("sessions", ["1_000"], "write a whole number"),
    ("sessions", ["+12"], "write a whole number"),
    ("sessions", ["9" * 5000], "write a whole number"),
    ("ipv4-prefix", ["\uff12\uff14"], "write a whole number"),
    ("log-repeats", ["\u0663"], "write a whole number"),
    ("workers", ["\u0661"], "write a whole number from 1 on, or auto"),
    ("workers", ["1_0"], "write a whole number from 1 on, or auto"),
    ("workers", ["9" * 5000], "write a whole number from 1 on, or auto"),
    ("grace", ["\u0663.\u0661"], "write a number"),
    ("grace", ["1_0"], "write a number"),
    ("grace", ["0x10"], "write a number"),
    ("deadline", ["reply=\u0663"], "write reply=NUMBER"),
    ("deadline", ["reply=1_0"], "write reply=NUMBER"),
    ("limit", ["held-octets=\u0661000"], "write held-octets=NUMBER"),
    ("limit", ["held-octets=1_000"], "write held-octets=NUMBER"),
    ("max-size", ["\u0661MiB"], "write a size as in 10MiB"),
    ("record-most", ["\u00b2MiB"], "write a size as in 10MiB"),
    ("record-days", ["\u0663"], "write a number"),
    ("listen", ["127.0.0.1:\u0662\u0665"], "the port must be a number from 0 to 65535"),
    ("receiver", ["127.0.0.1:\u00b2"], "the port must be a number from 0 to 65535"),
    ("log-level", ["loud"], "choose from debug, info, warning, error"),
    ("log-format", ["xml"], "choose from text, json"),
]
BAD_FILES = [
    ("receiver = ", "not TOML: "),
    ("receiver = mail.example", "not TOML: "),
    ("receiver = 'a:1'\nreceiver = 'b:1'", "not TOML: Cannot overwrite a value"),
    ("recever = 'a:1'", "recever: there is no such setting, did you mean receiver?"),
    ("max_size = '1MiB'", "max_size: there is no such setting, did you mean max-size?"),
    ("[deadlines]\nreply = 1", "deadlines: there is no such setting, did you mean deadline?"),
    ("zzz = 1", "zzz: there is no such setting"),
    ("receiver = 25", "receiver: '25' has no port: write HOST:PORT"),
    ("receiver = ['a:1', 'original']", "receiver: 'original' must be the only receiver; remove it or the others"),
    ("receiver = true", "receiver: true: write a text in quotes"),
    ("receiver = 2026-01-01", 'receiver: "2026-01-01": write a text in quotes'),
    ("[receiver]\nhost = 'a'", "write a text in quotes"),
    ("listen = 2525", "listen: '2525' has no port: write HOST:PORT"),
    ("listen = [true]", "write a text in quotes, or a list of them"),
    ("listen = [['127.0.0.1:1']]", "write a text in quotes, or a list of them"),
    ("tidy = 'yes'", 'tidy: "yes": write true or false'),
    ("tidy = 1", "tidy: 1: write true or false"),
    ("sessions = true", "sessions: true: write a text in quotes"),
    ("sessions = 1.5", "sessions: '1.5': write a whole number"),
    ("sessions = [1]", "write a text in quotes"),
    ("deadline = 5", "deadline: 5: write a table: [deadline], and lines of NAME = NUMBER after it"),
    ("deadline = ['reply=5']", "write a table"),
    ("[deadline]\nreply = true", "write a table"),
    ("[deadline.reply]\nseconds = 1", "write a table"),
    ("[deadline]\nreply = 'soon'", "'reply=soon': write reply=NUMBER"),
    ("[deadline]\nreplly = 1", "did you mean reply?"),
    ("[limit]\nheld-octets = 1.0", "'held-octets=1.0': write held-octets=NUMBER"),
    ("max-size = {general = 1}", "write a text in quotes, or a list of them"),
    ("login-secret = ['hunter2']", "login-secret: write a text in quotes"),
    ("receiver = 0x" + "f" * 4000, "receiver: the number has too many digits; write a smaller one"),
    ("[deadline]\nreply = 0x" + "f" * 4000, "deadline: the number has too many digits; write a smaller one"),
    ("receiver." + "a." * 3000 + "b = 1", "write a text in quotes, or a list of them"),
]
BAD_TOGETHER = [
    ({"sender-tls": "starttls"}, "{sender-tls}: starttls needs a certificate; give one with its key ({cert}, {key})"),
    ({"sender-tls": "implicit"}, "{sender-tls}: implicit needs a certificate"),
    ({"sender-tls": "off", "cert": "c"}, "{cert}: {sender-tls} is off, which uses none"),
    ({"key": "k"}, "{key}: no certificate for this key; give one ({cert})"),
    (
        {"sender-tls": "opaque", "receiver-tls": "required"},
        "{sender-tls}: with opaque, TLS is between sender and receiver; set it to off, or to starttls with a "
        "certificate ({cert}), or remove {receiver-tls} and {login}",
    ),
    (
        {"cert": "c"},
        "{receiver-tls}: mail that arrives with TLS would leave without it; set it to required, implicit or "
        "opportunistic, or allow this ({allow-clear})",
    ),
    ({"record-mail-data": "true"}, "{record-mail-data}: no directory for records; give one ({record})"),
    ({"admin-name": "a.example"}, "{admin-name}: no admin address to know by these names; give one ({admin})"),
    ({"spoof-sender": "true", "source": "192.0.2.1"}, "{spoof-sender}: conflicts with {source}, as connections have"),
    (
        {"hide": "STARTTLS", "sender-tls": "starttls", "cert": "c", "allow-clear": "true"},
        "{hide}: STARTTLS is shimproxy's own where {sender-tls} is starttls; remove it from {hide}, or set "
        "{sender-tls} to off",
    ),
    ({"login": "user", "receiver-tls": "required"}, "{login}: no secret; give one ("),
    (
        {"login": "user"},
        "{login}: shimproxy would send the secret without TLS; set {receiver-tls} to required or implicit, or allow "
        "this ({login-in-clear})",
    ),
    (
        {"receiver": "original", "login": "user", "receiver-tls": "required"},
        "{login}: with receiver 'original' any receiver that a sender chooses would get the secret; name the networks "
        "that may get it ({allow-destination})",
    ),
    (
        {"allow-destination": "192.0.2.0/24"},
        "{allow-destination}: needs {receiver} 'original'; set that, or remove {allow-destination}",
    ),
    ({"listen": "127.0.0.1:1,lf-only-devices", "newlines": "pass"}, "{newlines} is pass; set {newlines} to normalise"),
]
FORMS = ("flag", "variable", "key")


def given_as(form: str, texts: Mapping[str, list[str]], file: Path) -> Sources:
    """These texts, by the name of their setting, all of them from one place."""
    options = {option.name: option for option in OPTIONS}
    if form == "flag":
        return gathered(dict(texts))
    if form == "variable":
        between = {name: "\n" if options[name].lines else " " for name in texts}
        return gathered(
            environment={options[name].variable: between[name].join(given) for name, given in texts.items()}
        )
    lines = []
    for name, given in texts.items():
        option = options[name]
        if option.table:
            values = ", ".join(" = ".join(change.split("=", 1)) for change in given)
            lines.append(f"{name} = {{{values}}}")
        elif option.switch:
            lines.append(f"{name} = {given[-1]}")
        else:
            quoted = [json.dumps(text) for text in given]
            lines.append(f"{name} = [{', '.join(quoted)}]" if option.many else f"{name} = {quoted[-1]}")
    file.write_text("\n".join(lines))
    return gathered(file=file)


def name_in(form: str, option: Option) -> str:
    return dict(zip(FORMS, option.names, strict=True))[form]


@pytest.mark.parametrize(("name", "texts", "mend"), BAD_TEXTS, ids=[f"{name}-{texts}" for name, texts, _ in BAD_TEXTS])
@pytest.mark.parametrize("place", ["flag", "variable"])
def test_a_text_that_cannot_be_used_is_named_with_its_place_and_the_mend(
    name: str, texts: list[str], mend: str, place: str
) -> None:
    (option,) = [each for each in OPTIONS if each.name == name]
    if place == "flag":
        sources = Sources.gather({**NEEDED, name: texts}, {})
        begins = f"--{name}:"
    else:
        if (option.many and not option.lines and any(" " in text for text in texts)) or not all(texts):
            pytest.skip("blanks part the values there, and an empty one is none")
        sources = Sources.gather(
            {key: NEEDED[key] for key in NEEDED if key != name},
            {option.variable: ("\n" if option.lines else " ").join(texts)},
        )
        begins = f"{option.variable}:"
    (problem,) = problems_of(sources)
    assert problem.startswith(begins)
    assert mend in problem


@pytest.mark.parametrize(("text", "mend"), BAD_FILES, ids=[text[:60] for text, _ in BAD_FILES])
def test_a_file_that_cannot_be_used_is_named_with_the_key_and_the_mend(text: str, mend: str, file: Path) -> None:
    file.write_text(text)
    flags = {name: texts for name, texts in NEEDED.items() if not text.strip("[").startswith(name)}
    problem, *_ = problems_of(gathered(flags, file=file))
    assert problem.startswith(f"{file}: ")
    assert mend in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("own", [True, False])
def test_a_unix_socket_has_no_original_destination(own: bool, file: Path) -> None:
    file.write_text('receiver = "original"\n[[listener]]\nlisten = "unix:/run/smtp"\n' + 'receiver = "h:25"' * own)
    found = gathered({"listen": ["127.0.0.1:0"]}, file=file)
    if own:
        found.settings()
    else:
        (problem,) = problems_of(found)
        assert problem == "listener unix:/run/smtp: receiver 'original' is for TCP; give it a receiver of its own"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("texts", "mend"), BAD_TOGETHER, ids=[str(texts) for texts, _ in BAD_TOGETHER])
def test_what_does_not_go_together_is_said_in_the_names_of_its_place(
    texts: dict[str, str], mend: str, form: str, file: Path
) -> None:
    """A flag on the command line, a variable in the environment, and a key in a file."""
    said = mend.format_map({option.name: name_in(form, option) for option in OPTIONS})

    problems = problems_of(given_as(form, NEEDED | {name: [text] for name, text in texts.items()}, file))

    assert any(said in problem for problem in problems), problems
    assert not [problem for problem in problems if names_of_programs(problem)]


def names_of_programs(problem: str) -> set[str]:
    """The names in a message that a program writes, and no operator."""
    fields = {field.name for of in (Settings, Deadlines, Limits) for field in attrs.fields(of)}
    return {word for word in re.findall(r"\b[a-z_]+\b", problem) if "_" in word} & fields


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_message_names_a_setting_as_it_was_written(option: Option, form: str, file: Path) -> None:
    """Whatever is wrong with it, of every setting and in every place."""
    if not (name := name_in(form, option)):
        pytest.skip("a secret is no flag")
    text = "a=1" if option.table else "false" if option.switch else "\0"

    found = given_as(form, {option.name: [text]}, file)
    problems = problems_of(found)

    assert found.names()[option.field] == name
    assert found.problems == []
    if not option.switch:
        assert any(problem.removeprefix(f"{file}: ").startswith(f"{name}: ") for problem in problems), problems
    assert not [problem for problem in problems if names_of_programs(problem)]


@pytest.mark.parametrize(("name", "texts", "_"), BAD_TEXTS, ids=[f"{name}-{texts}" for name, texts, _ in BAD_TEXTS])
def test_no_message_about_a_text_has_the_name_of_a_field(name: str, texts: list[str], _: str) -> None:
    """As a program would write it, which is refused in a file."""
    problems = problems_of(gathered({**NEEDED, name: texts}))
    assert not [each for each in problems if names_of_programs(each) - names_of_programs(" ".join(texts))]


@pytest.mark.parametrize("usual", FORMS)
def test_what_was_not_given_is_named_as_most_of_what_was(usual: str, file: Path) -> None:
    """The operator of a container sets variables, and is told of a variable."""
    found = given_as(usual, {**NEEDED, "sessions": ["5"], "cert": ["c"], "tidy": ["true"]}, file)
    found.given["key"] = Given(("k",), "--key")
    names = found.names()

    by_name = {option.name: option for option in OPTIONS}
    assert names["key"] == "--key"
    assert names["clear_allowed"] == name_in(usual, by_name["allow-clear"])


@pytest.mark.parametrize(("form", "name"), [("flag", "--login-secret-file"), ("variable", "SHIMPROXY_LOGIN_SECRET")])
def test_a_secret_is_asked_for_where_it_can_be_given(form: str, name: str, file: Path) -> None:
    problems = problems_of(given_as(form, {**NEEDED, "login": ["user"], "login-in-clear": ["true"]}, file))
    assert any(problem.endswith(f"no secret; give one ({name})") for problem in problems), problems


def test_what_is_wrong_with_a_listener_of_a_file_has_the_names_of_a_file(file: Path) -> None:
    """Even if all else was given in flags."""
    file.write_text("[[listener]]\nlisten = '127.0.0.1:1'\nsource = '192.0.2.1'\nspoof-sender = true")
    (problem,) = problems_of(gathered(NEEDED, file=file))
    assert problem.startswith("listener 127.0.0.1:1: spoof-sender: conflicts with source, as ")


@pytest.mark.parametrize("variable", ["SHIMPROXY_RECEIVERS", "SHIMPROXY_LISTN", "SHIMPROXY_LOGIN_SECRET_FIEL"])
def test_a_variable_that_is_nearly_one_of_ours_is_an_error(variable: str) -> None:
    (problem,) = problems_of(gathered(NEEDED, {variable: "x"}))
    assert problem.startswith(f"{variable}: there is no such setting, did you mean ")


def test_a_file_that_is_not_there_or_not_text(file: Path) -> None:
    (problem,) = problems_of(gathered(NEEDED, file=file))
    assert problem == f"{file}: No such file or directory; check the path and its permissions"
    file.write_bytes(b"receiver = '\xff'")
    (problem,) = problems_of(gathered(NEEDED, file=file))
    assert problem == f"{file}: not UTF-8; save it as UTF-8"


def test_all_that_is_wrong_is_told_at_once(file: Path) -> None:
    file.write_text("sesions = 1\nnewlines = 'keep'\n[deadline]\nreply = 0\ngreting = 1\n")
    environment = {"SHIMPROXY_GRACE": "soon", "SHIMPROXY_LISTN": "x"}
    problems = problems_of(gathered({"max-size": ["x", "1", "y=z"]}, environment, file))
    assert [problem.split(": ")[0] for problem in problems] == [
        str(file), "SHIMPROXY_LISTN", str(file), "--max-size", "--max-size", str(file), str(file),
        "SHIMPROXY_GRACE", "receiver", "listen",
    ]  # fmt: skip


# -- check


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_here("check", *arguments, **environment)


def test_check_shows_a_file_that_says_the_same(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    arguments = (
        *("--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0,least-tls=1.0", "--receiver", "127.0.0.1:25"),
        *("--cert", str(certificate.certificate), "--key", str(certificate.key), "--receiver-tls", "required"),
        *(
            "--login",
            'a "user"',
            "--tidy",
            "--max-size",
            "1MiB",
            "--deadline",
            "reply=7",
            "--grace",
            "1.5",
            "--allow-sender",
            "::1",
        ),
    )
    done = check(*arguments, SHIMPROXY_LOGIN_SECRET="hunter2", SHIMPROXY_RESUME="yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    assert 'receiver = ["127.0.0.1:25"]  # --receiver' in done.stdout.splitlines()
    assert "resume = true  # SHIMPROXY_RESUME" in done.stdout.splitlines()
    file = tmp_path / "same.toml"
    file.write_text(done.stdout)
    secret = {"SHIMPROXY_LOGIN_SECRET": "hunter2"}
    expected = Sources.gather(flags_of(arguments), secret | {"SHIMPROXY_RESUME": "yes"}).settings()
    assert Sources.gather({}, secret, str(file)).settings() == expected
    assert set(tomllib.loads(done.stdout)["deadline"]) >= {"connect", "reply"}


def flags_of(arguments: tuple[str, ...]) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = {}
    words = [*arguments, "--"]
    for word, behind in itertools.pairwise(words):
        if word.startswith("--") and word != "--":
            flags.setdefault(word[2:], []).append("true" if behind.startswith("--") else behind)
    return flags


def test_check_tries_files_names_and_addresses() -> None:
    done = check(
        *("--listen", "192.0.2.1:2525", "--receiver", "no.such.host.invalid:25"),
        *("--cert", "/no/cert.pem", "--receiver-tls", "required", "--receiver-ca", "/no/ca.pem"),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    problems = done.stderr.splitlines()
    assert [problem.startswith("shimproxy: ") for problem in problems] == [True] * 4
    for words in ("/no/ca.pem: No such file", "/no/cert.pem: No such file", "no.such.host.invalid", "192.0.2.1:2525"):
        assert sum(words in problem for problem in problems) == 1, problems


def test_check_remarks_that_a_port_is_taken_as_it_may_be_by_the_one_that_runs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = check("--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--receiver", "127.0.0.1:25")
    assert done.returncode == 0
    assert "the port is taken" in done.stderr


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("", "127.0.0.1", "--listen: :{port} and 127.0.0.1:{port} overlap; remove one of them"),
        ("127.0.0.1", "0.0.0.0", "--listen: 127.0.0.1:{port} and 0.0.0.0:{port} overlap; remove one of them"),
        ("localhost", "127.0.0.1", "--listen: localhost:{port} and 127.0.0.1:{port} overlap; remove one of them"),
        ("localhost", "localhost", "--listen: localhost:{port} is given twice; remove one of them"),
        ("[::1]", "[::1]", "--listen: [::1]:{port} is given twice; remove one of them"),
        ("127.0.0.1", "127.1", "cannot listen on 127.1:{port}: the port is taken"),
    ],
)
def test_check_knows_listeners_that_are_in_each_others_way(one: str, other: str, said: str) -> None:
    """As far as that is known without a resolver, it is said so, and nothing else."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = check("--listen", f"{one}:{port}", "--listen", f"{other}:{port}", "--receiver", "127.0.0.1:25")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"shimproxy: {said.format(port=port)}")


@pytest.mark.parametrize(
    ("admin", "said"),
    [
        (
            "127.0.0.1",
            "--admin: 127.0.0.1:{port} is where senders connect (--listen 127.0.0.1:{port}); give it",
        ),
        (
            "localhost",
            "--admin: localhost:{port} is where senders connect (--listen 127.0.0.1:{port}); give it",
        ),
        ("192.0.2.1", "cannot listen on 192.0.2.1:{port}"),
    ],
)
def test_check_knows_an_admin_page_in_a_listeners_place(admin: str, said: str) -> None:
    """And one at an address of another host, as `run` ends at either."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = check("--listen", f"127.0.0.1:{port}", "--admin", f"{admin}:{port}", "--receiver", "127.0.0.1:25")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"shimproxy: {said.format(port=port)}")


@pytest.mark.parametrize(
    "listen",
    [
        ["127.0.0.1:0", "127.0.0.1:0"],
        ["127.0.0.1:2525", "127.0.0.2:2525"],
        ["0.0.0.0:2525", "[::1]:2525"],
        ["127.0.0.1:2525", "127.0.0.1:2526"],
        ["unix:/run/a", "unix:/run/b"],
        ["systemd:a", "systemd:b"],
    ],
    ids=str,
)
def test_listeners_that_are_not_in_each_others_way_pass(listen: list[str]) -> None:
    assert len(gathered({**NEEDED, "listen": listen, "admin": ["127.0.0.1:2527"]}).settings().listen) == 2


# -- one round tells all

FAULTY = """\
listen = "127.0.0.1:0"
receiver = 127.0.0.1:25
tidy = yes
login-secret = hunter2
sesions = 3
cert = "/no/cert.pem"
key = "/no/key.pem"

[deadline
reply = 2
"""


def test_check_tells_all_that_is_wrong_after_a_syntax_error_too(file: Path) -> None:
    """Each faulty line with its mend, what other lines say, and the files that they name; and never a secret."""
    file.write_text(FAULTY)
    done = check("--config", str(file), "--record", "/dev/null/records", "--receiver-ca", "/no/ca.pem")
    assert (done.returncode, done.stdout) == (2, "")
    said = [line.removeprefix("shimproxy: ").removeprefix(f"{file}: ") for line in done.stderr.splitlines()]
    beginnings = [
        "not TOML: Expected newline or end of document after a statement (at line 2, column 17); write "
        'receiver = "127.0.0.1:25"',
        "not TOML: Invalid value (at line 3, column 8); write tidy = true",
        "not TOML: Invalid value (at line 4, column 16)",
        "not TOML: Expected ']' at the end of a table declaration (at line 9, column 10)",
        "sesions: there is no such setting, did you mean sessions?",
        "receiver-tls: mail that arrives with TLS would leave without it",
        "/no/cert.pem: No such file or directory; check the path and its permissions",
        "--record: /dev/null/records: ",
        "key: /no/key.pem: No such file or directory; check the path and its permissions",
        "--receiver-ca: /no/ca.pem: No such file or directory; check the path and its permissions",
    ]
    assert [line for line, begins in zip(said, beginnings, strict=True) if not line.startswith(begins)] == []
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("line", ["receiver = mail.example:25", "tidy = on", "sender-tls = off", "record = /var/x"])
def test_the_mend_of_a_line_is_one(line: str, file: Path) -> None:
    """The file with it can be read, and says what the operator wanted to say."""
    file.write_text(line)
    (problem,) = gathered(NEEDED, file=file).problems
    mend = problem.partition("; write ")[2]
    file.write_text(mend)
    found = gathered(NEEDED, file=file)
    assert (found.problems, mend.partition(" = ")[0]) == ([], line.partition(" = ")[0])
    found.settings()


@pytest.mark.parametrize(
    "text",
    [
        "receiver = [\n'a:1'\n'b:1'\n]\n",
        "receiver = ['a:1'",
        "a = 1\n" * 100,
        "x" * 1_000_000,
        "receiver = '\x1b[31m\x00'\n",
        "= = =\n" * 1000,
        "[" * 1_000_000,
        "[[listener]]\nlisten = 127.0.0.1:1\n",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_file_of_any_form_is_told_of_in_few_lines(text: str, file: Path) -> None:
    """What it would have set is not missed, and nothing in it reaches a terminal."""
    file.write_text(text)
    problems = problems_of(gathered(file=file))
    assert 1 <= len(problems) <= 12
    assert all(len(problem) < 1000 and problem.isprintable() for problem in problems)
    assert not [problem for problem in problems if "receiver: say where" in problem and "receiver" in text]


# -- a mend leads to no other complaint

MENDED = [
    ({"cert": "c", "sender-tls": "off"}, {"cert": "c", "sender-tls": "starttls", "receiver-tls": "required"}),
    ({"key": "k"}, {"key": "k", "cert": "c", "receiver-tls": "required"}),
    (
        {"sender-tls": "opaque", "receiver-tls": "required"},
        {"sender-tls": "starttls", "receiver-tls": "required", "cert": "c"},
    ),
    ({"sender-tls": "opaque", "receiver-tls": "required"}, {"sender-tls": "off", "receiver-tls": "required"}),
]


@pytest.mark.parametrize(("given", "mended"), MENDED, ids=lambda texts: str(texts))
def test_what_a_mend_names_is_all_that_is_needed(given: dict[str, str], mended: dict[str, str]) -> None:
    """Each setting that has to be added or changed stands in the message, and with it there is no other one."""
    problem = " ".join(problems_of(gathered(NEEDED | {name: [text] for name, text in given.items()})))
    changed = {name: text for name, text in mended.items() if given.get(name) != text}
    assert all(f"--{name}" in problem or text in problem for name, text in changed.items())
    gathered(NEEDED | {name: [text] for name, text in mended.items()}).settings()


def test_what_the_log_proposes_is_usable() -> None:
    """Of settings with which shimproxy repairs less."""
    tried = 0
    for message in _MESSAGES.values():
        flags = re.findall(r"--([a-z-]+)(?: (FILE|[a-z]+))?", message)
        if flags:
            cert, *others = [(name, [text if text else "true"]) for name, text in flags]
            for other in others:
                gathered(NEEDED | dict([cert, other])).settings()
                tried += 1
    assert tried == 2


@pytest.mark.parametrize("name", ["session", "gracee", "log-levl"])
def test_what_is_near_a_name_in_a_table_of_a_listener_may_stand_there(name: str, file: Path) -> None:
    """No setting that applies to all listeners is proposed there, as it would be refused."""
    file.write_text(f"[[listener]]\nlisten = '127.0.0.1:1'\n{name} = 1\n")
    (problem,) = gathered(NEEDED, file=file).problems
    proposed = re.findall(r"did you mean ([\w-]+)", problem)
    assert all({option.name: option for option in OPTIONS}[each].of_listener for each in proposed)


def test_check_does_not_take_one_that_runs_for_another_of_its_own() -> None:
    """Which listens at the one address, and is to listen at another one, too."""
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        done = check("--listen", f"127.0.0.1:{port}", "--listen", f"127.0.0.2:{port}", "--receiver", "127.0.0.1:25")
    assert done.returncode == 0
    assert "the port is taken" in done.stderr


def test_check_remarks_where_connections_cannot_come_from_now() -> None:
    done = check(*("--listen", "127.0.0.1:0", "--receiver", "[::1]:25", "--source", "192.0.2.77"))
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "shimproxy: warning: --source: 192.0.2.77 is not an address of this machine now; 'ip address' shows those it "
        "has",
        "shimproxy: warning: --receiver: [::1]:25 cannot be reached from 192.0.2.77 (--source)",
    ]


def test_a_file_that_is_no_socket_cannot_be_listened_on(file: Path) -> None:
    file.write_text("precious")
    done = check("--listen", f"unix:{file}", "--receiver", "127.0.0.1:25")
    assert done.returncode == 2
    assert "the file there is not a socket; check the path" in done.stderr
    assert file.read_text() == "precious"


@pytest.mark.parametrize("leads_to", ["nowhere", "socket"])
def test_nor_can_a_link(leads_to: str, file: Path, tmp_path: Path) -> None:
    file.symlink_to(leads_to)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "socket"))
    done = check("--listen", f"unix:{file}", "--receiver", "127.0.0.1:25")
    assert done.returncode == 2
    assert "the file there is not a socket; check the path" in done.stderr
    assert file.is_symlink()


# -- listeners with settings of their own

TWO_LISTENERS = """
listen = "127.0.0.1:2525"
receiver = "mail.example:25"
max-size = "10MiB"

[deadline]
reply = 60

[[listener]]
listen = ["127.0.0.1:2526", "127.0.0.1:2527,lf-only-devices"]
receiver = ["a.example:25", "unix:/run/smtp"]
balance = "round-robin"
max-size = "1MiB"

[[listener]]
listen = "unix:/run/shimproxy/smtp"
trust = "192.0.2.0/24"

[listener.deadline]
reply = 5
"""


def test_a_listener_may_have_settings_of_its_own(file: Path) -> None:
    """What its table does not say is as it is for all; a deadline's table is taken whole."""
    file.write_text(TWO_LISTENERS)
    settings = gathered(file=file).settings()
    assert [str(each.address) for each in settings.listen] == [
        "127.0.0.1:2525", "127.0.0.1:2526", "127.0.0.1:2527", "unix:/run/shimproxy/smtp",
    ]  # fmt: skip
    assert settings.listen[2].lf_only_devices
    said = [
        (str(its.receiver[0]), its.balance.value, its.max_size, its.deadlines.reply, [str(each) for each in its.trust])
        for its in map(settings.of, settings.listen)
    ]
    mebi = 1024 * 1024
    assert said == [
        ("mail.example:25", "first", 10 * mebi, 60.0, []),
        ("a.example:25", "round-robin", mebi, 60.0, []),
        ("a.example:25", "round-robin", mebi, 60.0, []),
        ("mail.example:25", "first", 10 * mebi, 5.0, ["192.0.2.0/24"]),
    ]


def test_a_listener_may_refuse_senders_that_speak_early(file: Path) -> None:
    """As any other setting of the sort: by a flag, in the environment, in the file, and for one listener."""
    file.write_text(
        IN_A_FILE.replace("listen", "early-talk = 'hold'\nlisten", 1)
        + "[[listener]]\nlisten = '127.0.0.1:2526'\nearly-talk = 'refuse'\n"
    )
    for flags, environment, general in (
        ({}, {}, EarlyTalk.HOLD),
        ({}, {"SHIMPROXY_EARLY_TALK": "refuse"}, EarlyTalk.REFUSE),
        ({"early-talk": ["hold"]}, {"SHIMPROXY_EARLY_TALK": "refuse"}, EarlyTalk.HOLD),
    ):
        settings = gathered(flags, environment, file).settings()
        *_, its_own = settings.listen
        assert (settings.early_talk, settings.of(its_own).early_talk) == (general, EarlyTalk.REFUSE)


def test_what_is_shown_of_listeners_says_the_same(file: Path) -> None:
    file.write_text(TWO_LISTENERS)
    expected = gathered(file=file).settings()
    file.write_text("\n".join(gathered(file=file).as_file()))
    assert gathered(file=file).settings() == expected
    assert Sources.of_json(gathered(file=file).as_json()).settings() == expected


def test_what_is_shown_can_be_read_whatever_stands_in_it(file: Path) -> None:
    reply = '451 4.3.0 a \x7f, a \\ and a " in it'
    file.write_text("\n".join(gathered(NEEDED | {"early-success": [reply]}).as_file()))
    assert gathered(file=file).settings().early_success == reply


def test_a_file_of_tables_alone_needs_nothing_else(file: Path) -> None:
    file.write_text('[[listener]]\nlisten = "127.0.0.1:1"\nreceiver = "a.example:25"\n')
    settings = gathered(file=file).settings()
    assert settings.receiver == ()
    assert settings.receivers_of_all == (Address("a.example", 25),)
    file.write_text('[[listener]]\nlisten = "127.0.0.1:1"\n')
    (problem,) = problems_of(gathered(file=file))
    assert problem.startswith("receiver: say where mail goes: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listener = 1", "listener: write tables: [[listener]]"),
        ("[listener]\nlisten = 'a:1'", "listener: write tables: [[listener]]"),
        ("[[listener]]\nreceiver = 'a:1'", 'listener 1: say where it listens: listen = "HOST:PORT"'),
        ("[[listener]]\nlisten = 'a'\n", "listener 1: listen: 'a' has no port"),
        ("[[listener]]\nlisten = 'a:1'\nreciever = 'a:1'", "listener 1: reciever: there is no such setting, did you"),
        ("[[listener]]\nlisten = 'a:1'\nworkers = 2", "listener 1: workers applies to all listeners; write it before"),
        ("[[listener]]\nlisten = 'a:1'\n[[listener]]\nlisten = 'a:2'\ntidy = 1", "listener 2: tidy: 1: write true or"),
        ("[[listener]]\nlisten = 'a:1'\nsender-tls = 'starttls'", "listener a:1: sender-tls: starttls needs a cert"),
    ],
)
def test_what_is_wrong_with_a_listener_is_told_with_its_number(text: str, problem: str, file: Path) -> None:
    file.write_text(text)
    assert any(problem in each for each in problems_of(gathered(NEEDED, file=file)))
