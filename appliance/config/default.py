"""What `postgate run` without --config starts with: a gateway for example.com on this machine, mail into a demo inbox.

Contract: the text is an ordinary wiring file, read by the same code as any other; relative paths begin in the
working folder.
"""

from pathlib import Path

LABEL = "(embedded default)"
ZONE = Path(__file__).with_name("demo.zone")
#: Policies that differ from the shipped ones.
POLICIES = Path(__file__).with_name("demo")

TEXT = f"""\
[gateway]
hostname = "mx.example.com"
state_dir = "run"
policies = "{POLICIES}"     # as shipped, but a first mail of this machine does not wait
drop = "auto"

[[listen]]
name = "public"
protocol = "smtp"
role = "inbound"
address = "127.0.0.1:2525"

[relay]
domains = ["example.com"]   # no next_hop: the demo inbox takes the mail

[dns]
zone = "{ZONE}"

[logging]
events = false              # they are in the journal; on a terminal they would drown the log
"""
