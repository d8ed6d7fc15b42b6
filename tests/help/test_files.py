"""`shimproxy files`: what it lists is there and in order, as the programs that read these files say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from shimproxy.config.options import OPTIONS
from shimproxy.help.files import MADE_WHEN_PRINTED, READY_FILES, InstalledProgram, text_of
from shimproxy.observe.metrics import FAMILIES
from shimproxy.smtp.catalogue import Violation
from tests.blocks import blocks
from tests.completion import FOLDER, SHELLS, completion
from tests.pages import FILE_BLOCKS
from tests.peers.here import run_here
from tests.peers.processes import missing, need, need_root, run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once

ON_NO_PAGE: Final = {"shimproxy.bash", "_shimproxy", "shimproxy.1", "prometheus-rules.yml", "grafana-dashboard.json"}
"""They are for programs alone, and long."""


def printed(name: str) -> str:
    done = run_here("files", name)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the command


def test_every_file_is_listed_and_is_there() -> None:
    listed = run_here("files").stdout

    assert {path.name for path in FOLDER.iterdir()} == {*READY_FILES} - MADE_WHEN_PRINTED
    assert [name for name in READY_FILES if not re.search(rf"^  {re.escape(name)} +\w", listed, re.MULTILINE)] == []


@pytest.mark.parametrize("name", sorted({*READY_FILES} - MADE_WHEN_PRINTED))
def test_a_file_is_printed_as_it_is(name: str) -> None:
    """All of it, and but for the place of the command."""
    expected = text_of(name).replace("/usr/local/bin/shimproxy", shlex.join(InstalledProgram.here().words))

    assert printed(name).replace(f"Environment=PYTHONPATH={FOLDER.parents[1]}\n", "") == expected
    assert text_of(name).endswith("\n")


@pytest.mark.parametrize("name", READY_FILES)
def test_the_pages_show_the_same_files(name: str) -> None:
    """`tests/tools/test_pages.py` holds each block of FILE_BLOCKS equal to its file."""
    assert (name in FILE_BLOCKS) != (name in ON_NO_PAGE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shimproxy.sevice", "'shimproxy.sevice', did you mean shimproxy.service?; shimproxy files lists all"),
        ("SHIMPROXY.SERVICE", "'SHIMPROXY.SERVICE', did you mean shimproxy.service?; shimproxy files lists all"),
        ("../__init__.py", "'../__init__.py'; shimproxy files lists all"),
        ("\x1b[31m", r"'\x1b[31m'; shimproxy files lists all"),
        ("x" * 1_000_000, f"'{'x' * 100}'; shimproxy files lists all"),
        ("", "''; shimproxy files lists all"),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_file_that_there_is_not_is_one_line(name: str, said: str) -> None:
    done = run_here("files", name)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"shimproxy: no file is called {said}\n"


# -- the place of the command


def exec_start(unit: str) -> tuple[dict[str, str], list[str]]:
    """The environment and the words of a unit's command, as systemd reads them."""
    environment = re.search(r"^Environment=(.*)$", unit, re.MULTILINE)
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    variables = dict(word.split("=", 1) for word in shlex.split(environment[1])) if environment else {}
    words = shlex.split(command)
    return _read(variables), [_unescaped(word) for word in words]


def _read(variables: dict[str, str]) -> dict[str, str]:
    return {name: _unescaped(value) for name, value in variables.items()}


def _unescaped(word: str) -> str:
    return word.replace("%%", "%").replace("$$", "$")


@pytest.fixture(params=["a command", "a link", "python -m", "a copy without pip", "a copy, told of"])
def started_as(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], Path]:
    """How shimproxy is started, and where."""
    command = Path(sysconfig.get_path("scripts")) / "shimproxy"
    odd = tmp_path / "a b%c"
    odd.mkdir()
    match request.param:
        case "python -m":
            return [sys.executable, "-m", "shimproxy"], Path("/")
        case "a copy without pip":
            (odd / "shimproxy").symlink_to(FOLDER.parent)
            return [sys.executable, "-m", "shimproxy"], odd
        case "a copy, told of":
            (odd / "shimproxy").symlink_to(FOLDER.parent)
            monkeypatch.setenv("PYTHONPATH", str(odd))
            return [sys.executable, "-m", "shimproxy"], Path("/")
    if not command.exists():
        missing("shimproxy is not installed as a command", "pip install -e .")
    if request.param == "a command":
        return [str(command)], tmp_path
    (odd / "shimproxy").symlink_to(command)
    return [str(odd / "shimproxy")], odd


def test_the_unit_starts_the_shimproxy_that_prints_it(started_as: tuple[list[str], Path], tmp_path: Path) -> None:
    """From anywhere; and its words are as systemd reads them, blanks and specifiers among them."""
    command, folder = started_as
    done = subprocess.run([*command, "files", "shimproxy.service"], cwd=folder, capture_output=True, text=True)
    unit = tmp_path / "shimproxy.service"
    unit.write_text(done.stdout)
    variables, words = exec_start(done.stdout)
    assert words[-3:] == ["run", "--config", "/etc/shimproxy/shimproxy.toml"]
    assert Path(words[0]).is_absolute()

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    shown = subprocess.run([*words[:-3], "--version"], cwd="/", env=environment, capture_output=True, text=True)
    assert shown.stdout.startswith("shimproxy "), shown.stderr
    for each in ("shimproxy.socket", "shimproxy-devices.socket"):
        (tmp_path / each).write_text(text_of(each))
    verified = run([need("systemd-analyze"), "verify", "--man=no", str(unit)])
    assert "ExecStart" not in verified.account
    assert "Unknown" not in verified.account


def test_a_command_that_the_service_cannot_read_is_told() -> None:
    assert InstalledProgram(("/opt/shimproxy/bin/shimproxy",)).remarks() == []
    for home in ("home/me", "root", "run/user/1000"):
        command = f"/{home}/.local/bin/shimproxy"
        (remark,) = InstalledProgram((command,)).remarks()
        assert remark.startswith(f"{command}: the service cannot read this directory; install shimproxy for")
    assert InstalledProgram(("/usr/bin/python3", "-m", "shimproxy"), "/home/me/shimproxy").remarks()


def test_the_units_are_installed_as_the_page_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = blocks("install", "install-units")["install-units"].replace("/etc/systemd/system", str(tmp_path))
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    assert run(["sh", "-e", "-c", script]).status == 0
    installed = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert installed.keys() == {"shimproxy.service", "shimproxy.socket", "shimproxy-devices.socket"}
    assert installed["shimproxy.socket"] == text_of("shimproxy.socket")


def test_sysusers_makes_the_user_of_the_drop_in(tmp_path: Path) -> None:
    need_root()
    (tmp_path / "etc").mkdir()
    (tmp_path / "shimproxy.conf").write_text(text_of("shimproxy.sysusers"))
    ended = run([need("systemd-sysusers"), f"--root={tmp_path}", str(tmp_path / "shimproxy.conf")])
    assert ended.status == 0, ended.account
    (user,) = re.findall(r"^User=(\w+)$", text_of("user.conf"), re.MULTILINE)
    assert re.search(rf"^{user}:", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)


# -- shells and man


@pytest.mark.parametrize("name", SHELLS)
def test_completion_is_what_the_parser_says(name: str) -> None:
    try:
        made = completion(name)
    except ImportError:
        missing("shtab is not installed", "pip install -e '.[test]'")
    assert text_of(name) == made, "run python -m tests.pages"


COMPLETED: Final = """
source "$0"
words=(shimproxy "$@")
COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
$(complete -p shimproxy | sed 's/.*-F \\([^ ]*\\).*/\\1/') shimproxy "${words[-1]}" "${words[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ch"], {"check"}),
        (["run", "--newlines", ""], {"normalise", "reject", "pass"}),
        (["run", "--receiver-na"], {"--receiver-name"}),
        (["explain", "early-r"], {"early-reply"}),
        (["files", "grafana"], {"grafana-dashboard.json"}),
        (["help", "gatew"], {"gateway"}),
    ],
    ids=str,
)
def test_bash_completes(words: list[str], expected: set[str]) -> None:
    ended = run(["bash", "-c", COMPLETED, str(FOLDER / "shimproxy.bash"), *words])
    assert {*ended.said.split()} == expected, ended.account


def test_zsh_loads_its_completion() -> None:
    script = (
        f"fpath=({FOLDER} $fpath); autoload -U compinit; compinit -u -D; autoload -U +X _shimproxy; "
        "print $_comps[shimproxy]"
    )
    ended = run([need("zsh"), "-f", "-c", script])
    assert (ended.status, ended.said, ended.complained) == (0, "_shimproxy\n", "")


def test_the_man_page_is_that_of_help() -> None:
    assert printed("shimproxy.1") == run_here("help", "--man").stdout


# -- manifests


def documents(name: str) -> dict[str, Any]:
    """Kind -> document."""
    return {each["kind"]: each for each in yaml.safe_load_all(text_of(name))}


def test_the_documents_for_kubernetes_belong_together() -> None:
    """Each selects the Pods of the Deployment, by ports that they have."""
    of_all = documents("kubernetes.yaml") | documents("kubernetes-podmonitor.yaml")
    pod = of_all["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    selectors = [
        of_all["Deployment"]["spec"]["selector"]["matchLabels"],
        of_all["Service"]["spec"]["selector"],
        of_all["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        of_all["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        of_all["PodMonitor"]["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * 5
    named = [
        *(port["targetPort"] for port in of_all["Service"]["spec"]["ports"]),
        *(port["port"] for rule in of_all["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]),
        *(each["port"] for each in of_all["PodMonitor"]["spec"]["podMetricsEndpoints"]),
        *(container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("readiness", "liveness")),
    ]
    assert {*named} == {*ports}
    assert container["resources"].keys() == {"requests", "limits"}
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables.keys() <= {option.variable for option in OPTIONS}
    assert variables["SHIMPROXY_ADMIN"] == f":{ports['admin']}"
    receiver, _, port = variables["SHIMPROXY_RECEIVER"].rpartition(":")
    egress = of_all["NetworkPolicy"]["spec"]["egress"][0]
    assert (egress["to"][0]["ipBlock"]["cidr"], egress["ports"][0]["port"]) == (f"{receiver}/32", int(port))
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    assert grace >= float(variables["SHIMPROXY_GRACE"]) + 5 + 7  # the preStop, and what a stop may take more


def test_the_service_of_compose_has_time_to_stop() -> None:
    service = yaml.safe_load(text_of("compose.yaml"))["services"]["shimproxy"]
    assert int(service["stop_grace_period"].removesuffix("s")) >= service["environment"]["SHIMPROXY_GRACE"] + 7
    assert service["read_only"]


# -- monitors

SUFFIXES: Final = {"histogram": ("_bucket", "_sum", "_count")}


def series_in(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each series of shimproxy's own in an expression: its family, and the labels that are matched."""
    for name, matched in re.findall(r"\bshimproxy_(\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)[=!]~?", matched))


def expressions() -> Iterator[tuple[str, str]]:
    """All that the rules and the dashboard ask, each with where it stands."""
    for group in yaml.safe_load(text_of("prometheus-rules.yml"))["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    dashboard = json.loads(text_of("grafana-dashboard.json"))
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def about(name: str) -> str:
    """The family of a series. Raises StopIteration if there is none."""
    return next(
        family
        for family, made in FAMILIES.items()
        if name in [family + suffix for suffix in SUFFIXES.get(made.kind, ("",))]
    )


@pytest.mark.parametrize(("place", "expression"), [*expressions()], ids=[place for place, _ in expressions()])
def test_what_monitors_ask_for_is_declared(place: str, expression: str) -> None:
    """Families, the labels that are matched or summed by, and the names of violations."""
    found = [*series_in(expression)]
    assert found or expression.startswith("up{")
    labels = {"job", "instance"}
    for name, matched in found:
        its = {*FAMILIES[about(name)].labels, "job", "instance"}
        assert matched <= its
        labels |= its
    for by in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {*by.replace(" ", "").split(",")} <= labels
    for violation in re.findall(r'violation="([^"]*)"', expression):
        assert violation in {each.value for each in Violation}


def test_the_alerts_name_labels_that_they_have() -> None:
    for group in yaml.safe_load(text_of("prometheus-rules.yml"))["groups"]:
        for rule in group["rules"]:
            by = re.search(r"\bby \(([^)]*)\)", rule["expr"])
            families = [FAMILIES[about(name)] for name, _ in series_in(rule["expr"])]
            its = {"instance", *(label for family in families for label in family.labels)}
            own = {*by[1].replace(" ", "").split(",")} if by else its
            words = " ".join(rule["annotations"].values())
            assert {*re.findall(r"\$labels\.(\w+)", words)} <= own


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    """And each question of the dashboard, as a rule."""
    (tmp_path / "shimproxy-rules.yml").write_text(text_of("prometheus-rules.yml"))
    questions = [
        re.sub(r"\$__(?:rate_interval|range)", "5m", target["expr"])
        for panel in json.loads(text_of("grafana-dashboard.json"))["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"question:{number}", "expr": text} for number, text in enumerate(questions)]
    (tmp_path / "dashboard.yml").write_text(yaml.safe_dump({"groups": [{"name": "questions", "rules": rules}]}))
    config = text_of("prometheus.yml").replace("/etc/prometheus/", f"{tmp_path}/")
    (tmp_path / "prometheus.yml").write_text(config)

    ended = run([need("promtool"), "check", "rules", f"{tmp_path}/shimproxy-rules.yml", f"{tmp_path}/dashboard.yml"])
    assert ended.status == 0, ended.account
    ended = run([need("promtool"), "check", "config", f"{tmp_path}/prometheus.yml"])
    assert ended.status == 0, ended.account


MINUTES: Final = 180


def fires(alert: str, series: dict[str, str], labels: dict[str, str], at: str = f"{MINUTES}m") -> dict[str, Any]:
    """A test of promtool's: that an alert fires with these labels alone, of these series."""
    rules = yaml.safe_load(text_of("prometheus-rules.yml"))["groups"][0]["rules"]
    (rule,) = (rule for rule in rules if rule["alert"] == alert)
    its = {"instance": "a:8025", **labels}
    annotations = {
        name: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: its[found[1]], text).replace("{{ $value }}", "150")
        for name, text in rule["annotations"].items()
    }
    expected = {"exp_labels": {**rule["labels"], **its}, "exp_annotations": annotations}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": "0m", "alertname": alert},
            {"eval_time": at, "alertname": alert, "exp_alerts": [expected]},
        ],
    }


def test_promtool_sees_each_alert_fire(tmp_path: Path) -> None:
    """Not at once, and with its labels in its words; and none of them while all is well."""
    own = 'instance="a:8025"'
    repairs = 'violation="early-reply",receiver="r:25"'
    expiry = "shimproxy_certificate_expiry_timestamp_seconds"
    firing = [
        fires("ShimproxyDown", {f'up{{job="shimproxy",{own}}}': f"0x{MINUTES}"}, {"job": "shimproxy"}),
        fires("ShimproxyWithoutWorker", {f"shimproxy_workers{{{own}}}": f"0x{MINUTES}"}, {}),
        fires(
            "ShimproxyAcceptsNothing",
            {
                f"shimproxy_transactions_total{{{own}}}": f"0+5x{MINUTES}",
                f"shimproxy_accepted_total{{{own}}}": f"7x{MINUTES}",
            },
            {},
        ),
        fires(
            "ShimproxyManyTemporaryFailures",
            {
                f'shimproxy_replies_total{{{own},code="4"}}': f"0+3x{MINUTES}",
                f'shimproxy_replies_total{{{own},code="2"}}': f"0+7x{MINUTES}",
            },
            {},
        ),
        fires("ShimproxyEarlyReplies", {f"shimproxy_repairs_total{{{own},{repairs}}}": f"0+1x{MINUTES}"},
              {"receiver": "r:25"}),
        fires("ShimproxyLimitReached", {f'shimproxy_limits_reached_total{{{own},limit="sessions"}}': f"0+9x{MINUTES}"},
              {"limit": "sessions"}),
        fires("ShimproxyManyDrains", {f"shimproxy_drains_in_progress{{{own}}}": f"150x{MINUTES}"}, {}),
        fires(
            "ShimproxySlowSessions",
            {
                f'shimproxy_session_seconds_bucket{{{own},le="600"}}': f"0+1x{MINUTES}",
                f'shimproxy_session_seconds_bucket{{{own},le="3600"}}': f"0+9x{MINUTES}",
                f'shimproxy_session_seconds_bucket{{{own},le="+Inf"}}': f"0+9x{MINUTES}",
            },
            {},
        ),
        fires("ShimproxyReceiverDown", {f'shimproxy_receiver_up{{{own},receiver="r:25"}}': f"0x{MINUTES}"},
              {"receiver": "r:25"}),
        fires("ShimproxyWorkersEnd", {f'shimproxy_worker_exits_total{{{own},reason="crashed"}}': f"0+1x{MINUTES}"}, {}),
        fires("ShimproxyReloadFailed", {f"shimproxy_config_last_reload_successful{{{own}}}": f"0x{MINUTES}"}, {}),
        fires(
            "ShimproxyCertificateExpires",
            {f'{expiry}{{{own},certificate="/c.pem"}}': f"{30 * 86_400}-{86_400}x{MINUTES}"},
            {"certificate": "/c.pem"},
        ),
        fires("ShimproxyLogLinesLost", {f"shimproxy_log_lines_lost_total{{{own}}}": f"0+1x{MINUTES}"}, {}),
        fires("ShimproxyRecordsFail", {f"shimproxy_record_failures_total{{{own}}}": f"0+1x{MINUTES}"}, {}),
    ]  # fmt: skip
    rules = [rule["alert"] for rule in yaml.safe_load(text_of("prometheus-rules.yml"))["groups"][0]["rules"]]
    assert [test["alert_rule_test"][0]["alertname"] for test in firing] == rules
    well = {
        f'up{{job="shimproxy",{own}}}': f"1x{MINUTES}",
        f"shimproxy_workers{{{own}}}": f"2x{MINUTES}",
        f"shimproxy_transactions_total{{{own}}}": f"0+5x{MINUTES}",
        f"shimproxy_accepted_total{{{own}}}": f"0+5x{MINUTES}",
        f'shimproxy_replies_total{{{own},code="4"}}': f"0+1x{MINUTES}",
        f'shimproxy_replies_total{{{own},code="2"}}': f"0+50x{MINUTES}",
        f"shimproxy_repairs_total{{{own},{repairs}}}": f"5x{MINUTES}",
        f'shimproxy_limits_reached_total{{{own},limit="sessions"}}': f"5x{MINUTES}",
        f"shimproxy_drains_in_progress{{{own}}}": f"3x{MINUTES}",
        f'shimproxy_session_seconds_bucket{{{own},le="600"}}': f"0+9x{MINUTES}",
        f'shimproxy_session_seconds_bucket{{{own},le="+Inf"}}': f"0+9x{MINUTES}",
        f'shimproxy_receiver_up{{{own},receiver="r:25"}}': f"1x{MINUTES}",
        f'shimproxy_worker_exits_total{{{own},reason="retired"}}': f"0+1x{MINUTES}",
        f"shimproxy_config_last_reload_successful{{{own}}}": f"1x{MINUTES}",
        f'{expiry}{{{own},certificate="/c.pem"}}': f"{90 * 86_400}x{MINUTES}",
        f"shimproxy_log_lines_lost_total{{{own}}}": f"5x{MINUTES}",
        f"shimproxy_record_failures_total{{{own}}}": f"5x{MINUTES}",
    }
    silent = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in well.items()],
        "alert_rule_test": [{"eval_time": f"{MINUTES}m", "alertname": rule} for rule in rules],
    }
    (tmp_path / "rules.yml").write_text(text_of("prometheus-rules.yml"))
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [*firing, silent]}))

    ended = run([need("promtool"), "test", "rules", f"{tmp_path}/test.yml"])

    assert ended.status == 0, ended.account


def test_the_dashboard_has_no_panel_twice_nor_over_another() -> None:
    panels = json.loads(text_of("grafana-dashboard.json"))["panels"]
    places = [panel["gridPos"] for panel in panels]
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len({*covered})
    assert max(x for x, _ in covered) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
