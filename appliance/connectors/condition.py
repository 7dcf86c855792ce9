"""What is wrong with a peer, in words, said once: the log as it begins and ends, status and metrics meanwhile."""

import time
from typing import Any

from appliance.observe import metrics, oplog, trouble

log = oplog.get("scanner")
_degraded = metrics.gauge("postgate_scanner_degraded", "1 while something is wrong with a scanner.", ["scanner"])
_scans = metrics.counter("postgate_scans_total", "Answers of scanners, by kind.", ["scanner", "kind"])
_seconds = metrics.histogram("postgate_scan_seconds", "Time of a scan, waiting included.", ["scanner"])
_waiting = metrics.gauge("postgate_scans_under_way", "Scans under way or waiting.", ["scanner"])


class Condition:
    """One scanner's. Times are wall-clock seconds; ages are made where they are shown."""

    def __init__(self, name: str, clock: Any = time.time) -> None:
        self.name, self._clock = name, clock
        self.wrong: dict[str, str] = {}
        self.kinds: dict[str, int] = {}
        self.last_answer = 0.0
        self.last_trouble = ""
        self._touched, self._what = trouble.Touched(), f"scanner {name} fails"

    def show(self, in_force: bool = True) -> None:
        """The metric is about this one from now on (of one name there may be several: a reload may only be prepared)."""
        _degraded.labels(self.name).set(int(in_force and bool(self.wrong)))

    def says(self, topic: str, text: str) -> None:
        """`topic` is wrong from now on, or still."""
        if topic not in self.wrong:
            log.error("scanner degraded", scanner=self.name, topic=topic, why=text)
        self.wrong[topic] = text
        _degraded.labels(self.name).set(1)

    def well(self, topic: str) -> None:
        """`topic` is right (again)."""
        if self.wrong.pop(topic, None) is not None:
            log.warning("scanner well again", scanner=self.name, topic=topic, messages_touched=self._told()["touched"])
            if not self.wrong:
                _degraded.labels(self.name).set(0)

    def answered(self) -> None:
        """The scanner answered a real scan in its protocol."""
        self.last_answer = self._clock()
        self.well("answers")

    def failed(self, why: str) -> None:
        """It did not."""
        self.last_trouble = why
        self.says("answers", f"scanner {self.name} fails: {why}")

    def degraded(self) -> list[trouble.Said]:
        """What is wrong; of answers that do not come, with the messages that were not scanned."""
        fails = self._told()
        return [fails if topic == "answers" else text for topic, text in self.wrong.items()]

    def _told(self) -> dict[str, Any]:
        return self._touched.told(self._what, self.last_trouble)

    def count(self, kind: str, seconds: float, transaction: str) -> None:
        """A message got this result; what was not scanned counts as touched."""
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        _scans.labels(self.name, kind).inc()
        _seconds.labels(self.name).observe(seconds)
        if kind in ("error", "oversize", "unscannable"):
            self._touched.touch(self._what, transaction)

    def under_way(self, change: int) -> None:
        _waiting.labels(self.name).inc(change)

    def facts(self) -> dict[str, Any]:
        """For status."""
        age = round(self._clock() - self.last_answer, 1) if self.last_answer else None
        facts: dict[str, Any] = {"state": "degraded" if self.wrong else "well" if self.last_answer else "not asked yet"}
        if age is not None:
            facts["last answer"] = f"{age:g} s ago"
        facts.update(self.kinds)
        told = self._told()
        if told["touched"]:
            facts["not scanned"] = f"{told['touched']} (last: {', '.join(told['last'])})"
        if self.last_trouble:
            facts["last trouble"] = self.last_trouble
        return facts
