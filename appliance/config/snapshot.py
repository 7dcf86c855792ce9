"""One hashed blob of all files in force, and the values built from it. The master reads the files; every other process
builds its Snapshot from the blob's octets, so no process but the master opens a configuration or policy path.

Contract: build() raises ConfigError with every mistake at once; a wrong file never replaces a running Snapshot. It takes
milliseconds, with a table of a million lines seconds: call it from a thread where an event loop runs.
"""

import errno
import os
from collections.abc import Iterator, Mapping

import msgspec

from appliance import tables
from appliance.checks import milters
from appliance.config import actions, addresses, entries, yara
from appliance.config import wiring as wirings
from appliance.config.blob import Blob
from appliance.config.mistakes import ConfigError, Mistake, did_you_mean
from appliance.config.model import Wiring
from appliance.config.positions import Path
from appliance.config.references import Layout, Reference, texts
from appliance.config.syntax import Parsed, parse
from appliance.config.terms import Terms
from appliance.engine.policy import PolicySet, compile_policies
from appliance.tables import Remote

__all__ = ["Blob", "ConfigError", "Mistake", "Snapshot", "build"]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force: the wiring (paths absolute), the compiled policies, the lookup tables. `tables`: by the spec that
    stands in `wiring` (absolute) or, for policies, by the spec that operators wrote. `table_files`: their paths.
    `remotes`: those that are asked through proxymap, also within others."""

    blob: Blob
    wiring: Wiring
    policies: PolicySet
    tables: Mapping[str, tables.Opened]
    warnings: tuple[Mistake, ...] = ()
    table_files: tuple[str, ...] = ()
    remotes: tuple[Remote, ...] = ()

    @property
    def proxied(self) -> tuple[str, ...]:
        """The tables that only proxymap can open."""
        return tuple(sorted({table.spec for table in self.remotes}))

    @property
    def rules(self) -> dict[str, bytes]:
        """YARA rules in force: name of the file to octets."""
        return {name: self.blob.files[path] for name, path in self.blob.rules.items()}

    @property
    def hash(self) -> str:
        return self.blob.hash

    @property
    def terms(self) -> Terms:
        """For a process that is told no more."""
        logging, host = self.wiring.logging, self.wiring.gateway.hostname
        return Terms(
            hash=self.hash,
            host=host,
            facility=logging.facility,
            level=logging.level,
            scand=self.wiring.limits.scand,
            rules=self.rules,
        )


def build(blob: Blob, previous: Snapshot | None = None, *, rules: bool = True) -> Snapshot:
    """The values of `blob`. Tables whose octets did not change are taken from `previous`. `rules`: YARA rules are looked
    through as well (the master does, once for all). Raises ConfigError."""
    found = _Build(blob, previous)
    if rules:
        found.rules()
    return found.run()


class _Build:
    """One build: collects mistakes from every file before it gives up."""

    def __init__(self, blob: Blob, previous: Snapshot | None) -> None:
        self.blob = blob
        self.previous = previous
        self.mistakes: list[Mistake] = []
        self.tables: dict[str, tables.Opened] = {}
        self.table_files: set[str] = set()
        self.layout = Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main])
        self.parsed: dict[str, Parsed] = {}
        self._noted: set[tuple[str, str]] = set()
        self._wiring = Wiring()

    def run(self) -> Snapshot:
        wiring, found = wirings.load(self.blob.label, self.layout.parsed, self.blob.folder)
        self._wiring = wiring
        self.mistakes += [mistake._replace(file=self.blob.label) for mistake in found]
        policies = self._policies(wiring)
        self._scanners(policies, wiring)
        self._listeners(policies, wiring)
        self._references()
        self._specs(wiring, policies)
        self._actions(policies)
        self._unused(wiring, policies)
        mistakes = sorted(set(self.mistakes), key=lambda item: (item.file != self.blob.label, item))
        if any(mistake.fatal for mistake in mistakes):
            raise ConfigError(mistakes)
        return Snapshot(
            blob=self.blob,
            wiring=wiring,
            policies=policies,
            tables=self.tables,
            warnings=tuple(mistakes),
            table_files=tuple(sorted(self.table_files)),
            remotes=tuple(table for opened in self.tables.values() for table in tables.remotes(opened)),
        )

    def rules(self) -> None:
        """YARA rules, and whether there is a library for them."""
        for name, entry in self.layout.section("scanners").items():
            if isinstance(entry, dict) and entry.get("kind") == "yara" and yara.is_missing():
                self._at("", ("scanners", name, "kind"), yara.MISSING)
        if not yara.is_missing():
            files = {name: (path, self.blob.files[path]) for name, path in self.blob.rules.items()}
            self.mistakes += yara.complaints(files)

    def _policies(self, wiring: Wiring) -> PolicySet:
        for name, path in self.blob.policies.items():
            if path in self.blob.files:
                self.parsed[name] = parse(path, self.blob.files[path])
                self.mistakes += self.parsed[name].mistakes
            else:
                self.mistakes.append(Mistake(path, 1, 1, f"cannot be read: {self.blob.missing.get(path, 'missing')}"))
        folder = self.layout.policies_folder
        if why := self.blob.missing.get(folder):
            text = f"the policies folder {folder} cannot be read ({why}): the shipped policies apply"
            self._at("", ("gateway", "policies"), text, fatal=why != os.strerror(errno.ENOENT))
        readable = {name: found.values for name, found in self.parsed.items() if found.values is not None}
        policies, complaints = compile_policies(readable, delay_reject=wiring.gateway.delay_reject)
        for complaint in complaints:
            self._at(complaint.file, complaint.path, complaint.text, fatal=complaint.fatal)
        return policies

    def _at(self, policy: str, path: Path, text: str, *, fatal: bool = True) -> None:
        """Note a mistake at a TOML path of a policy file ("" = the wiring)."""
        where = self.parsed[policy].where if policy in self.parsed else self.layout.parsed.where
        file = self.blob.policies.get(policy, f"{self.layout.policies_folder}/{policy}") if policy else self.blob.label
        line, column = where.value(path) if not policy or policy in self.parsed else (1, 1)
        self.mistakes.append(Mistake(file, line, column, text, fatal))

    def _scanners(self, policies: PolicySet, wiring: Wiring) -> None:
        """A scanner that a policy names must be configured: else mail would pass that nobody scanned."""
        configured = {*wiring.scanners, *self.layout.section("scanners")}
        for name in sorted(policies.scanners - configured):
            text = f'scanner "{name}" is not configured: [scanners.{name}] is missing{did_you_mean(name, configured)}'
            for file, path in self._written(name, "scanners"):
                self._at(file, path, text)

    def _listeners(self, policies: PolicySet, wiring: Wiring) -> None:
        """A milter of listeners that are not there would be asked by nobody."""
        if any(mistake.fatal for mistake in self.mistakes):
            return  # of a wiring that cannot be read nobody knows the listeners
        known = {one.name for one in wiring.listen}
        known |= {one.name for one in wiring.policyd} | {one.name for one in wiring.milterd}
        for knobs in actions.knobs_of(policies, milters.NAME):
            named = {name for entry in getattr(knobs, "milters", ()) for name in entry.listeners}
            for name in sorted(named - known):
                for file, path in self._written(name, "listeners"):
                    self._at(file, path, f'no listener is called "{name}"{did_you_mean(name, known)}')

    def _written(self, text: str, key: str = "") -> Iterator[tuple[str, Path]]:
        """Where the policies write `text` (below a `key`)."""
        for file, parsed in self.parsed.items():
            for path, found in texts(parsed.values or {}, ()):
                if found == text and (not key or key in path):
                    yield file, path

    def _references(self) -> None:
        parsed = {name: found.values for name, found in self.parsed.items() if found.values}
        for reference in [*self.layout.wiring(), *self.layout.of_policies(parsed)]:
            path = reference.found(self.blob.files, self.blob.missing)
            why = self.blob.missing.get(path)
            if name := tables.synced_name(reference.spec):
                self._synced(reference, name, why)
            elif why is not None:
                # what only a built-in value names may be absent: it is an empty list then
                shipped = bool(reference.policy) and not reference.path
                made = _made_by(reference.spec, path, why) if reference.is_table else ""
                self._at(reference.policy, reference.path, f"{path} cannot be read: {why}{made}", fatal=not shipped)
            if reference.is_table:
                self._open(reference, path)

    def _synced(self, reference: Reference, name: str, why: str | None) -> None:
        """A list that is yet to be fetched is no mistake; one that nobody fetches is."""
        known = self.layout.section("recipients")
        if name not in known:
            text = f'"{reference.spec}": there is no [recipients.{name}]{did_you_mean(name, known)}'
            self._at(reference.policy, reference.path, text)
        elif why is not None:
            what = "is not there yet" if why == os.strerror(errno.ENOENT) else f"cannot be read ({why})"
            text = f"the list {name} {what}: whom nothing else knows is put off (postgate recipients sync)"
            self._at(reference.policy, reference.path, text, fatal=False)

    def _unused(self, wiring: Wiring, policies: PolicySet) -> None:
        """A list that is fetched and that nobody asks."""
        used = {tables.synced_name(leaf) for spec in policies.tables for leaf in tables.leaves(spec)}
        known = wiring.recipients if not any(mistake.fatal for mistake in self.mistakes) else {}
        for name in known.keys() - used:
            text = f'no policy asks this list: write tables = ["synced:{name}"] into recipient.toml'
            self._at("", ("recipients", name), text, fatal=False)

    def _open(self, reference: Reference, path: str) -> None:
        data = self.blob.files.get(path, b"")
        fixed = not reference.policy and entries.names_transports(reference.path)
        spec = tables.with_paths(reference.spec, lambda _: path.removesuffix(tables.suffix_of(reference.spec)))
        key = reference.spec if reference.policy else spec
        table = self._unchanged(key, path) or tables.open_table(spec, lambda _: data, substitution=not fixed)
        if isinstance(table, Remote) and path in self.blob.apart:
            table.pattern = True
        self.tables[key] = table
        if not reference.secret:
            self.table_files.add(path)
        self._flaws(table, reference.policy, reference.path, reference.final)

    def _unchanged(self, key: str, path: str) -> tables.Opened | None:
        """The table as it was opened for the previous Snapshot, if it is the same file with the same octets."""
        before = self.previous
        table = before.tables.get(key) if before else None
        if before is None or table is None or isinstance(table, tables.Remote) or table.source.path != path:
            return None
        return table if before.blob.files.get(path) == self.blob.files.get(path) else None

    def _flaws(self, table: tables.Opened, policy: str, path: Path, final: bool = True) -> None:
        for flaw in table.source.flaws:
            if flaw.path:
                self.mistakes.append(Mistake(flaw.path, flaw.line, flaw.column, flaw.text, flaw.fatal))
            else:
                self._at(policy, path, f"item {flaw.line}: {flaw.text}", fatal=flaw.fatal)
        if not final or policy:
            return
        for wrong in entries.complaints(path, table.entries(), self._wiring, self.layout.section("filters")):
            if table.source.path:
                self.mistakes.append(Mistake(table.source.path, wrong.line, 1, wrong.text, wrong.fatal))
            else:
                self._at(policy, path, wrong.text, fatal=wrong.fatal)

    def _specs(self, wiring: Wiring, policies: PolicySet) -> None:
        """Tables that stand in their specification (inline, static), and specifications that are none."""
        for path, spec in wiring.relay.tables():
            if spec not in self.tables:
                self._in_place(spec, "", path)
        for at, spec in addresses.specs(wiring.addresses):
            if spec not in self.tables:
                self._in_place(spec, "", ("addresses", *at))
        for spec in sorted(policies.tables - self.tables.keys()):
            file, path = next(self._written(spec), ("stages.toml", ()))
            self._in_place(spec, file, path)

    def _in_place(self, spec: str, policy: str, path: Path) -> None:
        try:
            fixed = not policy and entries.names_transports(path)
            table = tables.open_table(spec, lambda _: b"", opened=self.tables, substitution=not fixed)
        except tables.TableError as why:
            self._at(policy, path, str(why))
            return
        self.tables[spec] = table
        self._flaws(table, policy, path)

    def _actions(self, policies: PolicySet) -> None:
        """Values of access tables. Those that were in force already, unchanged, have been looked through."""
        before = self.previous
        known = {use.spec: before.tables.get(use.spec) for use in actions.named(before.policies)} if before else {}
        fresh = {spec: table for spec, table in self.tables.items() if known.get(spec) is not table}
        for wrong in actions.complaints(policies, fresh):
            path = fresh[wrong.spec].source.path
            if path:
                self.mistakes.append(Mistake(path, wrong.line, 1, wrong.text, wrong.fatal))
            else:
                file, place = next(self._written(wrong.spec), (wrong.file, ()))
                self._at(file, place, f"item {wrong.line}: {wrong.text}", fatal=wrong.fatal)


def _made_by(spec: str, path: str, why: str) -> str:
    """How a compiled table that is not there comes into being."""
    ending = tables.suffix_of(spec)
    if not ending or not path.endswith(ending) or why != os.strerror(errno.ENOENT):
        return ""
    return f" (postmap {spec.removeprefix('proxy:').partition(':')[0]}:{path.removesuffix(ending)} makes it)"
