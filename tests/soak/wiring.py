"""The configuration of the gateway of the soak: listeners, scanners, filters, and pieces of its policies."""

WIRING = """\
[limits]
connections_per_client = 2000
errors_soft = 1000
errors_hard = 2000
timeout_command = "10s"
timeout_data = "10s"
connections = 400
[queue]
retry_min = "1s"
retry_max = "2s"
dead_probe = "1s"
[[listen]]
name = "milter"
address = "127.0.0.1:{milter}"
workers = 1
[[listen]]
name = "milteropen"
address = "127.0.0.1:{milteropen}"
workers = 1
[[listen]]
name = "filter"
address = "127.0.0.1:{filter}"
workers = 1
content_filter = "smtp:[127.0.0.1]:{filter_peer}"
[[listen]]
name = "proxy"
address = "127.0.0.1:{proxy}"
workers = 1
proxy_filter = "before"
[filters.before]
next_hop = "smtp:[127.0.0.1]:{proxy_peer}"
timeout = "1s"
total_timeout = "4s"
[[listen]]
name = "pipe"
address = "127.0.0.1:{pipe}"
workers = 1
content_filter = "edit:"
[filters.edit]
command = ["{python}", "-I", "-S", "{filter_program}", "{filter_mode}"]
output = "message"
timeout = "2s"
[[listen]]
name = "reinject"
role = "reinject"
address = "127.0.0.1:{reinject}"
workers = 1
[[policyd]]
name = "policyd"
address = "inet:127.0.0.1:{policyd}"
workers = 1
connections = 300
deadline = "3s"
idle = "5s"
messages = 1000
[[milterd]]
name = "milterd"
address = "inet:127.0.0.1:{milterd}"
workers = 1
connections = 300
deadline = "3s"
idle = "5s"
[scanners.command]
kind = "command"
command = ["{python}", "-I", "-S", "{scan_program}", "{scan_mode}"]
exit_codes = {{ 0 = "clean", 1 = "infected" }}
timeout = "2s"
remember = "0s"
[scanners.yara]
kind = "yara"
remember = "0s"
[recipients.soak]
kind = "http"
source = "http://127.0.0.1:{source}/"
every = "2s"
timeout = "2s"
domains = ["source.example.com"]
"""
SERVER = '[scanners.{name}]\nkind = "{kind}"\naddress = "127.0.0.1:{port}"\ntimeout = "1s"\nremember = "0s"\n{more}'
LISTENERS = ("milter", "milteropen", "filter", "proxy", "pipe", "reinject", "policyd", "milterd")
RULES = 'rule Soak { strings: $a = "soak evil" condition: $a }\n'
EXCEPTION = '[[exception]]\nmatch = {{ recipient_domain = "{name}.example.com" }}\nset = {{ {set} }}\nreason = "soak"\n'
MILTER = (
    '{{ name = "{name}", address = "inet:127.0.0.1:{port}", listeners = ["{name}"], default = "{default}", '
    'connect_timeout = "1s", command_timeout = "1s", content_timeout = "2s", total_timeout = "4s" }}'
)
