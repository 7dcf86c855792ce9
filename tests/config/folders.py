"""A folder with a wiring file and policies, as an operator has them."""

from pathlib import Path

WIRING = """\
[gateway]
hostname = "mx.example.com"
state_dir = "state"

[[listen]]
name = "public"
address = "127.0.0.1:2525"

[relay]
domains = ["example.com"]
next_hop = "smtp:[10.0.0.25]:25"
"""
STAGES = """\
[inbound]
connect = []
helo = []
mail = []
rcpt = ["relay", "recipient"]
message = []
[outbound]
connect = []
helo = []
mail = []
rcpt = []
message = []
[reinject]
mail = []
message = []
"""


class Folder:
    """Writes files below one folder; `main` is the wiring file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.main = str(path / "gateway.toml")
        self.write("gateway.toml", WIRING)
        self.write("policies/stages.toml", STAGES)

    def write(self, name: str, text: str | bytes) -> str:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    def wiring(self, text: str) -> str:
        return self.write("gateway.toml", text)
