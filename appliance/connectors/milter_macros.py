"""What a milter is told beside the events: macros, by the names and with the values that Postfix gives them.

Contract: pure. What is not known is not there. Of these the protocol sends at each step those that the filter asked for.
"""

from appliance.mail.context import Client, Context
from appliance.mail.login import Login
from appliance.mail.policy_service import internal
from appliance.protocol.milter.packets import Connect
from appliance.protocol.smtp.address import Address


def macros(ctx: Context, hostname: str, daemon_name: str = "", version: str = "Postgate") -> dict[str, str]:
    """All of them that are known at this stage."""
    client = ctx.client
    told = {
        "j": hostname,
        "v": version,
        "_": f"{_name(client)} [{_address(client)}]" + (" (may be forged)" if client.proof == "fail" else ""),
        "daemon_name": daemon_name or hostname,
        "client_addr": _address(client),
        "client_name": client.name,
        "client_port": str(client.port),
        "client_ptr": client.reverse_name,
        "client_resolve": {"pass": "OK", "fail": "FORGED", "temperror": "TEMP"}.get(client.proof, "FAIL"),
    }
    told |= _server(client, hostname)
    if client.tls is not None:
        told |= {"tls_version": client.tls.version, "cipher": client.tls.cipher, "cipher_bits": str(client.tls.bits)}
        told |= {"cert_subject": client.tls.subject} if client.tls.subject else {}
        told |= {"cert_issuer": client.tls.issuer} if client.tls.issuer else {}
    if ctx.sender is not None:
        told |= {"mail_mailer": "smtp", **_mail("mail", ctx.sender), **_id(ctx), **_login(ctx.login)}
    if ctx.recipient is not None:
        told |= {"rcpt_mailer": "smtp", **_mail("rcpt", ctx.recipient.address)}
    return told


def of_recipient(known: dict[str, str], address: Address) -> dict[str, str]:
    """The same about another recipient."""
    return known | {"rcpt_mailer": "smtp", **_mail("rcpt", address)}


def _mail(kind: str, address: Address) -> dict[str, str]:
    return {f"{kind}_addr": internal(address), f"{kind}_host": address.domain}


def _id(ctx: Context) -> dict[str, str]:
    """That of the MTA in front, which the milter's log is searched for. One that has none yet at MAIL (Postfix) has one
    later: libmilter believes the first that it hears, so none is said until then, and ours only if none ever came."""
    found = ctx.transaction if ctx.mta_id is None or ctx.stage in ("data", "message") else ""
    return {"i": ctx.mta_id or found} if ctx.mta_id or found else {}


def _login(login: Login | None) -> dict[str, str]:
    if login is None:
        return {}
    told = {"auth_authen": login.user, "auth_type": login.method, "auth_author": login.author, "auth_ssf": login.strength}
    return {name: value for name, value in told.items() if value}


def _server(client: Client, hostname: str) -> dict[str, str]:
    """Our end of the connection. {if_addr} and {if_name} are Sendmail's: not there for loopback, IPv6 marked; the name
    that we give to every address of ours is our own."""
    address = "127.0.0.1" if client.server_address == "local" else client.server_address
    if not address:
        return {}
    told = {"daemon_addr": address}
    if client.server_port:
        told["daemon_port"] = str(client.server_port)
    if not address.startswith("127.") and address != "::1":
        told |= {"if_addr": f"IPv6:{address}" if ":" in address else address, "if_name": hostname}
    return told


def _address(client: Client) -> str:
    return "127.0.0.1" if client.address == "local" else client.address


def _name(client: Client) -> str:
    return client.reverse_name if client.proof == "fail" else client.name


def connection(client: Client) -> Connect:
    """The client as CONNECT has it; one without a proven name is "[address]"."""
    if client.address == "local":
        return Connect(b"localhost", "4", 0, b"127.0.0.1")
    address = client.address.encode("ascii", "replace")
    name = b"[%b]" % address if client.name == "unknown" else client.name.encode("utf-8", "replace")
    return Connect(name, "6" if ":" in client.address else "4", client.port, address)
