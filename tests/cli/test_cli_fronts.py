"""`postgate check` says what policy clients see, `postgate postfix-config` prints lines also where nothing runs."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.checks import NAMES, catalogue
from appliance.cli import main
from appliance.engine.plan import compile_plan, of_envelope
from appliance.protocol.policy import ATTRIBUTES
from tests.peers.policy import RCPT

CONFIG = """\
[gateway]
hostname = "mx.example.com"
state_dir = "state"
[relay]
domains = ["example.com"]
next_hop = "smtp:[127.0.0.1]:25"
"""
FRONTS = (
    '[[policyd]]\nname = "p"\ndeadline = "40s"\ndefault = "dunno"\n[[policyd]]\nname = "u"\naddress = "unix:p.sock"\n'
)


def run(tmp_path: Path, more: str, *words: str) -> Result:
    path = tmp_path / "postgate.toml"
    path.write_text(CONFIG + more)
    return CliRunner().invoke(main, [*words, "--config", str(path)])


def test_check_says_which_stages_a_policy_client_sees(tmp_path: Path) -> None:
    done = run(tmp_path, FRONTS, "check")
    assert done.exit_code == 0, done.output
    (line,) = [
        line for line in done.output.splitlines() if line.startswith('policy clients of "p", "u" see of inbound mail: ')
    ]
    assert "CONNECT (access, rdns, ratelimit)" in line and "EHLO/HELO (access, helo);" in line
    assert "RCPT (relay, access, recipient," in line and line.endswith("END-OF-MESSAGE (size, suspicion)")
    assert "policy clients" not in run(tmp_path, "", "check").output


def test_check_says_at_which_stage_a_check_is_left_out_for_a_policy_client(tmp_path: Path) -> None:
    """dnsbl, identity and own_domain are asked there, but not about the content."""
    lines = run(tmp_path, FRONTS, "check").output.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith('policy clients of "p", "u"'))
    seen = stages(lines[at].split(" see of inbound mail: ")[1])
    assert lines[at + 1].startswith("  left out there, as the protocol does not tell the content: END-OF-MESSAGE (")
    left = stages(lines[at + 1].split(" the content: ")[1])
    for name, stage in (("dnsbl", "RCPT"), ("identity", "MAIL"), ("own_domain", "MAIL")):
        assert name in left["END-OF-MESSAGE"] and name in seen[stage]
    assert {"dkim", "antivirus", "attachments"} <= left["END-OF-MESSAGE"]
    assert not seen["END-OF-MESSAGE"] & left["END-OF-MESSAGE"]


def test_check_tells_of_the_session_and_of_both_roles(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "milters.toml").write_text(
        'milters = [ { name = "m", address = "inet:127.0.0.1:9", roles = ["inbound"] } ]\n'
    )
    (tmp_path / "policies" / "early_talker.toml").write_text('wait = "3s"\n')
    lines = run(tmp_path, '[[policyd]]\nname = "p"\n', "check").output.splitlines()
    inbound, outbound = (index for index, line in enumerate(lines) if line.startswith('policy clients of "p" see of '))
    assert " see of inbound mail: " in lines[inbound] and " see of outbound mail: " in lines[outbound]
    [session] = [line for line in lines[inbound:outbound] if "the session itself" in line]
    assert all("milters" in names for names in stages(session.split(" the session itself: ")[1]).values())
    assert "early_talker" in str(stages(session.split(" the session itself: ")[1]))
    assert not [line for line in lines[outbound:] if "the session itself" in line], "no milter hears of outbound mail"
    assert "greylist" in lines[inbound] and "greylist" not in lines[outbound]
    front = '[[policyd]]\nname = "p"\nauthenticated = "inbound"\n'
    one = run(tmp_path, front, "check").output
    assert one.count('policy clients of "p" see: ') == 1 and "outbound mail" not in one
    several = run(tmp_path, front + 'outbound = ["192.0.2.0/24"]\n', "check").output
    assert several.count('policy clients of "p" see of ') == 2


def stages(text: str) -> dict[str, set[str]]:
    """What `postgate check` prints, by state."""
    found = (part.removesuffix(")").split(" (") for part in text.split("; "))
    return {state: set(names.split(", ")) for state, names in found}


def test_a_plan_without_content_asks_no_check_that_needs_it() -> None:
    plan, _ = compile_plan({}, catalogue())
    left = of_envelope(plan, catalogue())
    asked = {(stage, name) for (_, stage), steps in left.steps.items() for step in steps for name in step}
    assert {name for stage, name in asked if stage == "message"} == {"size", "suspicion", "policy_services"}
    assert not {name for _, name in asked} & {"early_talker", "dkim", "antivirus", "attachments"}
    for key, steps in plan.steps.items():
        if key[1] in ("connect", "mail", "rcpt"):
            assert left.steps[key] == tuple(step for step in steps if step != ("milters",))  # they hear whole sessions
    assert set(NAMES) >= {name for _, name in asked}


def test_the_lines_for_postfix(tmp_path: Path) -> None:
    done = run(tmp_path, FRONTS, "postfix-config")
    assert done.exit_code == 0, done.output
    service = (
        "check_policy_service { inet:127.0.0.1:10040, timeout=50s, try_limit=2, retry_delay=1s, default_action=DUNNO }"
    )
    assert done.output.count(service) == 5
    assert "reject_unlisted_recipient,\n    check_policy_service" in done.output, "before greylisting"
    assert f"further addresses, for other servers: unix:{tmp_path}/state/p.sock" in done.output
    assert "smtp inet n - n - - smtpd" not in done.output, "that socket is for others"
    assert "no gateway runs" in done.output
    jail = run(tmp_path, '[[policyd]]\naddress = "unix:/var/spool/postfix/postgate/p.sock"\n', "postfix-config").output
    assert "check_policy_service { unix:postgate/p.sock, timeout=30s," in jail and "no jail" not in jail
    milter = run(tmp_path, '[[milterd]]\ndeadline = "20s"\n', "postfix-config").output
    assert "{ inet:127.0.0.1:10041, connect_timeout=10s, command_timeout=30s, content_timeout=250s," in milter
    none = run(tmp_path, "", "postfix-config")
    assert none.exit_code == 1 and "[[policyd]]" in none.output


def test_a_probe_says_when_nobody_is_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["probe", "policy", f"unix:{tmp_path}/nobody.sock"])
    assert done.exit_code == 2 and "cannot connect" in done.output
    wrong = CliRunner().invoke(main, ["probe", "smtp", "nonsense"])
    assert wrong.exit_code == 2 and "nonsense" in wrong.output
    bad = CliRunner().invoke(main, ["probe", "policy", "127.0.0.1:1", "-a", "novalue"])
    assert bad.exit_code == 2 and "NAME=VALUE" in bad.output


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_probe_sends_every_attribute(name: str) -> None:
    from appliance.cli.probe.policy import request

    told = dict.fromkeys(("client_address", "client_name", "helo_name", "sender", "recipient"), "x")
    assert name in {"request", *request("RCPT", told, ())}
    assert name in RCPT
