"""miltertest (an MTA's side scripted in Lua) walks through milterd: negotiation, macros, every step, edits, aborts,
several messages, what it must refuse."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.interop.test_milterd_postfix import HEADER_RULES
from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import free_port

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("miltertest") is None, reason="Debian package miltertest is not installed"),
]
#: Connects, agrees, and gives the functions that the scripts below are made of.
START = """
function fail(text) mt.echo("FAILED: " .. text) error(text) end
conn = mt.connect("%s")
if conn == nil then fail("connect failed") end
function want(reply, what)
  if mt.getreply(conn) ~= reply then fail(what .. ": got " .. mt.getreply(conn)) end
end
function envelope(subject, extra)
  if mt.conninfo(conn, "client.example.org", "127.0.0.1") ~= nil then fail("conninfo") end
  mt.macro(conn, SMFIC_HELO, "tls_version", "TLSv1.3")
  if mt.helo(conn, "client.example.org") ~= nil then fail("helo") end
  mt.macro(conn, SMFIC_MAIL, "i", "mt-1")
  if mt.mailfrom(conn, "<a@example.org>", "SIZE=100") ~= nil then fail("mailfrom") end
  want(SMFIR_CONTINUE, "MAIL")
  if mt.rcptto(conn, "<user@example.com>") ~= nil then fail("rcptto") end
  want(SMFIR_CONTINUE, "RCPT")
end
function content(subject)
  if mt.header(conn, "From", "a@example.org") ~= nil then fail("From") end
  if mt.header(conn, "Subject", subject) ~= nil then fail("Subject") end
  if mt.header(conn, "X-Postgate-Mark", "dkim=pass") ~= nil then fail("Mark") end
  if mt.eoh(conn) ~= nil then fail("eoh") end
  if mt.bodystring(conn, "secret word\\r\\n") ~= nil then fail("body") end
  if mt.eom(conn) ~= nil then fail("eom") end
end
"""
SCRIPTS = {
    "accepted with edits": """
envelope() content("prepend me")
want(SMFIR_ACCEPT, "the end")
if not mt.eom_check(conn, MT_HDRINSERT, "X-Seen", " yes") then fail("X-Seen") end
if not mt.eom_check(conn, MT_HDRDELETE, "X-Postgate-Mark") then fail("the forged mark stays") end
if not mt.eom_check(conn, MT_BODYCHANGE, "hidden word\\r\\n") then fail("body") end
""",
    "refused": """
envelope() content("refuse me")
want(SMFIR_REPLYCODE, "the end")
""",
    "quarantined": """
envelope() content("hold me")
want(SMFIR_ACCEPT, "the end")
if not mt.eom_check(conn, MT_QUARANTINE) then fail("quarantine") end
""",
    "discarded": """envelope() content("drop me") want(SMFIR_DISCARD, "the end")""",
    "copied and redirected": """
envelope() content("copy me") want(SMFIR_ACCEPT, "the end")
if not mt.eom_check(conn, MT_RCPTADD, "<audit@example.com>") then fail("copy") end
mt.mailfrom(conn, "<a@example.org>") mt.rcptto(conn, "<user@example.com>") content("redirect me")
if not mt.eom_check(conn, MT_RCPTADD, "<abuse@example.com>") then fail("redirect") end
if not mt.eom_check(conn, MT_RCPTDELETE, "<user@example.com>") then fail("redirected still") end
""",
    "a recipient refused, an abort, and again": """
envelope()
mt.rcptto(conn, "<nobody@example.com>") want(SMFIR_REPLYCODE, "unknown")
mt.abort(conn)
mt.mailfrom(conn, "<>") want(SMFIR_CONTINUE, "null sender")
mt.rcptto(conn, "<user@example.com>") want(SMFIR_CONTINUE, "RCPT behind an abort")
content("plain") want(SMFIR_ACCEPT, "the end")
""",
    "older versions": """
mt.disconnect(conn)
for version = 2, 5 do
  conn = mt.connect("%s")
  if mt.negotiate(conn, version, nil, nil) ~= nil then
    fail("version " .. version)
  end
  if mt.conninfo(conn, "client.example.org", "127.0.0.1") ~= nil then fail("conninfo") end
  if mt.helo(conn, "client.example.org") ~= nil then fail("helo") end
  mt.mailfrom(conn, "<a@example.org>") want(SMFIR_CONTINUE, "MAIL")
  mt.rcptto(conn, "<user@example.com>") want(SMFIR_CONTINUE, "RCPT")
  mt.header(conn, "Subject", "hold me") want(SMFIR_CONTINUE, "header")
  mt.eoh(conn) mt.bodystring(conn, "x\\r\\n") mt.eom(conn) want(SMFIR_ACCEPT, "the end")
  if not mt.eom_check(conn, MT_QUARANTINE) then fail("quarantine") end
  if version < 5 then mt.disconnect(conn) end
end
""",
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> object:
    number = free_port()
    policies = plain(message='["size", "loop", "content"]', content='header = ["pcre:header"]\nbody = ["pcre:body"]\n')
    policies |= {"header": HEADER_RULES, "body": "/^secret (.*)$/ REPLACE hidden $1\n"}
    policies["recipient.toml"] = 'tables = ["inline:{ user@example.com=known }"]\ncallahead = false\n'
    made = Gateway(
        tmp_path_factory.mktemp("gateway"),
        9,
        policies=policies,
        more=f'[[milterd]]\naddress = "inet:127.0.0.1:{number}"\nworkers = 1\n',
    ).start()
    yield number
    log = made.log()
    made.stop()
    assert "internal error" not in log and "not the milter protocol" not in log


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(port: int, tmp_path: Path, name: str) -> None:
    socket = f"inet:{port}@127.0.0.1"
    script = tmp_path / "script.lua"
    script.write_text(START % socket + SCRIPTS[name].replace("%s", socket) + '\nmt.disconnect(conn)\nmt.echo("done")\n')
    run = subprocess.run(["miltertest", "-s", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0 and "done" in run.stdout, run.stdout + run.stderr
