"""A real rspamd with a few rules of our own and no network: GTUBE, a rule by header, milter headers, soft reject, and
what the field X-Wish names of all else that a rule can ask rspamd's milter for (X-Action: the action)."""

import shutil
import signal
from pathlib import Path

from tests.peers.ports import free_port, says, wait_for
from tests.peers.process import Process, stand_still

CONFIG = """\
options {{
  pidfile = "{root}/rspamd.pid"; tempdir = "{root}"; cache_file = "{root}/symbols"; hs_cache_dir = "{root}";
  history_file = "{root}/history"; stats_file = "{root}/stats"; control_socket = "{root}/control mode=0600"; rrd = "";
  url_tld = "{root}/suffixes"; filters = ""; local_addrs = ["203.0.113.254"];
  dns {{ nameserver = ["127.0.0.1:1"]; timeout = 0.1s; retransmits = 1; sockets = 1; }}
}}
logging {{ type = "file"; filename = "{root}/rspamd.log"; level = "warning"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; bind_socket = "{root}/rspamd.sock mode=0666"; count = 1; }}
worker "controller" {{ bind_socket = "127.0.0.1:{controller}"; count = 1; password = "geheim"; secure_ip = ""; }}
modules {{ path = "/usr/share/rspamd/plugins/"; }}
lua = "{root}/own.lua";
actions {{ reject = 15; "add header" = 6; greylist = 4; }}
"""
#: Of the whole list of public suffixes it makes a machine first, which takes it many seconds of a processor.
SUFFIXES = "com\norg\nnet\nexample\n"
#: It listens before it is able to answer.
PONG = (b"GET /ping HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 ")
RULES = """\
local function header(task, name) return task:get_header(name) end
local function rule(name, score, callback)
  rspamd_config:register_symbol({name = name, score = score, callback = callback})
  rspamd_config:set_metric_symbol({name = name, score = score})
end
rule('LOUD', 7.0, function(task) return (header(task, 'Subject') or ''):find('LOUD') ~= nil end)
rule('TOLD', 0.1, function(task)
  local from = task:get_from('smtp')
  local rcpt = task:get_recipients('smtp')
  if not from or not rcpt then return false end
  task:set_milter_reply({
    add_headers = {['X-Told'] = table.concat({from[1].addr, rcpt[#rcpt].addr, tostring(task:get_ip()),
      task:get_helo() or '', task:get_hostname() or '', task:get_queue_id() or ''}, ' ')},
    remove_headers = {['X-Remove-Me'] = 0},
  })
  return true
end)
rule('LATER', 0.2, function(task)
  if (header(task, 'Subject') or ''):find('LATER') then
    task:set_pre_result('soft reject', 'Come back later', 'own')
    return true
  end
  return false
end)
local wishes = {
  envelope = {change_from = 'new@example.org', add_rcpt = {'more@example.com', '<even@example.com>'},
    del_rcpt = {'eve@example.com'}},
  numbers = {add_headers = {
    ['X-Whole'] = 5, ['X-Part'] = 5.5, ['X-True'] = true, ['X-Top'] = {value = 'top', index = 0}}},
  nobody = {change_from = '', add_rcpt = {}, del_rcpt = {}, spam_header = {}},
  discard = {reject = 'discard'}, quarantine = {reject = 'quarantine'}, text = {reject = 'my own text'},
  nothing = {no_action = true}, word = {spam_header = 'really'},
  fields = {spam_header = {['X-One'] = '1', ['X-Two'] = '2'}},
}
rule('WISHES', 0.1, function(task)
  local wish = wishes[header(task, 'X-Wish') or '']
  if not wish then return false end
  if header(task, 'X-Action') then task:set_pre_result(header(task, 'X-Action'), 'No thanks', 'own') end
  task:set_milter_reply(wish)
  return true
end)
"""


def available() -> bool:
    return shutil.which("rspamd") is not None


class Rspamd:
    """`addresses`: what `[scanners.X] address` takes; `controller`: the port that wants a password ("geheim")."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self.root, self.port, self.controller = root, free_port(), free_port()
        (root / "rspamd.conf").write_text(CONFIG.format(root=root, port=self.port, controller=self.controller))
        (root / "own.lua").write_text(RULES)
        (root / "suffixes").write_text(SUFFIXES)
        self.addresses = (f"127.0.0.1:{self.port}", f"unix:{root}/rspamd.sock")
        self.process: Process | None = None

    def start(self) -> "Rspamd":
        argv = ["rspamd", "-f", "-i", "-c", str(self.root / "rspamd.conf")]
        self.process = Process(argv, self.root / "out")
        try:
            wait_for(lambda: says(self.port, *PONG), 100, f"rspamd: see {self.root}/rspamd.log and {self.root}/out")
        except BaseException:
            self.stop()
            raise
        return self

    def hang(self) -> None:
        assert self.process
        stand_still(self.process.pid)

    def stop(self) -> None:
        if self.process:
            self.process.signal(signal.SIGCONT)
            self.process.stop(0.5)  # it has nothing to lose, and takes its time
