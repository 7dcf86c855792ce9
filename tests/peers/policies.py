"""Policy folders for tests: the gates with everything known, and what a test adds."""

STAGES = """\
[inbound]
connect = {connect}
helo = []
mail = ["size"]
rcpt = {rcpt}
data = []
message = {message}
"""
RECIPIENTS = 'tables = ["texthash:recipients"]\ncallahead = false\n'


def plain(
    connect: str = "[]",
    rcpt: str = '["relay", "recipient"]',
    message: str = '["size", "loop"]',
    **files: str,
) -> dict[str, str]:
    """Relay and recipient with every address of example.com known; `files` maps "greylist" to greylist.toml's text."""
    made = {
        "stages.toml": STAGES.format(connect=connect, rcpt=rcpt, message=message),
        "recipient.toml": RECIPIENTS,
        "recipients": "@example.com known\n",
    }
    return made | {f"{name}.toml": text for name, text in files.items()}
