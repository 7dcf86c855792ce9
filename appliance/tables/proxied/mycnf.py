"""The option files of MySQL and MariaDB (my.cnf), read for mysql tables as Postfix's client library reads them.

Contract: the groups [client], [client-server], [client-mariadb] and the one that `option_group` names, in the order of
the file; the last one of a name counts. `!include FILE` is followed, of `!includedir FOLDER` the file my.cnf in it, as in
MariaDB's library. Without `option_file` the system's files are read, but not with an empty `option_group`. What changes
with whom is spoken and is not supported here is a mistake with its file and line. Files that were read are followed like
the .cf file. A password there is not used: Postfix hands over that of the .cf file, an empty one as well (tried).
"""

import os

from appliance.tables.proxied.cf import Settings

#: Those of Debian's libmariadb; of no home folder: Postfix's daemons have none.
SYSTEM = ("/etc/my.cnf", "/etc/mysql/my.cnf")
SOCKET = "/run/mysqld/mysqld.sock"
DEEPEST = 16
_GROUPS = ("client", "client-server", "client-mariadb")
_NAMES = {
    "servername": "host", "unix-socket": "socket", "tls-key": "ssl-key", "tls-cert": "ssl-cert", "tls-ca": "ssl-ca",
    "tls-capath": "ssl-capath", "tls-cipher": "ssl-cipher", "tls-verify-peer": "ssl-verify-server-cert",
    "tls-enforce": "ssl-enforce", "tls-fp": "ssl-fp", "tls-fplist": "ssl-fp-list", "ssl-fplist": "ssl-fp-list",
    "tls-crl": "ssl-crl", "tls-crlpath": "ssl-crlpath", "tls-passphrase": "ssl-passphrase",
}  # fmt: skip
_NOT_HERE = ("connection", "ssl-fp", "ssl-fp-list", "ssl-crl", "ssl-crlpath", "ssl-passphrase", "tls-version")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " ", '"': '"', "'": "'", "\\": "\\"}


class Options:
    """What the files say, by the names of their options (with dashes)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._values: dict[str, tuple[str, int, str]] = {}
        file, group = settings.text("option_file"), settings.text("option_group", "client")
        self._groups = {*_GROUPS, group} - {""}
        if file:
            self._file(file, 1, (settings.path, settings.line("option_file"), "option_file"))
        elif group:
            for path in SYSTEM:
                if os.access(path, os.R_OK):
                    self._file(path, 1, (settings.path, 1, "option_file"))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        return self._values[name][2] if name in self._values else default

    def port(self, default: int) -> int:
        text = self.text("port") or str(default)
        if not text.isdecimal() or not 0 < int(text) < 65536:
            self.wrong("port", f'"{text}" is no port')
            return default
        return int(text)

    def flag(self, name: str) -> bool:
        """An option without a value says yes."""
        return name in self._values and self.text(name).lower() not in ("0", "off", "no", "false")

    def wrong(self, name: str, text: str) -> None:
        path, line, _ = self._values[name]
        self._settings.wrong_at(path, line, f"{name}: {text}")

    def _file(self, path: str, depth: int, named: tuple[str, int, str]) -> None:
        """`named`: file, line and word that name it."""
        try:
            if depth > DEEPEST:
                raise OSError(0, f"is included {DEEPEST} deep")
            data = self._settings.read(path)
        except OSError as error:
            self._settings.wrong_at(*named[:2], f"{named[2]}: {path}: {error.strerror or error}")
            return
        group: str | None = None
        for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
            text = line.strip()
            if text.startswith("!"):
                self._include(text, depth, path, number)
            elif text.startswith("["):
                group = text[1:].partition("]")[0].rstrip()
            elif text and text[0] not in "#;":
                if group is None:
                    self._settings.wrong_at(path, number, "an option before the first [group]")
                    return
                if group in self._groups:
                    self._option(path, number, text)

    def _include(self, text: str, depth: int, path: str, number: int) -> None:
        word, _, name = text[1:].partition(" ")
        name = name.strip()
        if word == "includedir":
            name = f"{name.rstrip('/')}/my.cnf"
            if not os.access(name, os.R_OK):
                return
        elif word != "include":
            return
        self._file(name, depth + 1, (path, number, f"!{word}"))

    def _option(self, path: str, number: int, text: str) -> None:
        name, _, value = text.partition("=")
        name = name.rstrip().replace("_", "-")
        name = _NAMES.get(name, name)
        if name in _NOT_HERE:
            self._settings.wrong_at(path, number, f"{name} is not supported here")
        self._values[name] = path, number, unquoted(value.strip())


def unquoted(text: str) -> str:
    """Without quotes around it, with its escapes resolved."""
    if text[:1] in ("'", '"') and text:
        text = text[1:-1] if text[-1] in ("'", '"') and len(text) > 1 else text[1:]
    found, letters = [], iter(text)
    for letter in letters:
        if letter == "\\":
            escaped = next(letters, None)
            found.append("\\" if escaped is None else _ESCAPES.get(escaped, "\\" + escaped))
        else:
            found.append(letter)
    return "".join(found)
