"""Which messages are queued, by folder, and how much of their content is in memory. Pure bookkeeping, no IO."""

from collections.abc import Iterator

from appliance.queue.item import Folder, Item

#: Octets of content that are kept in memory; what comes beyond is read again from the page cache when it is sent.
RAM = 64 * 1024 * 1024


class Books:
    """`folders` maps each folder to its messages by queue id, `octets` to the sum of their sizes."""

    def __init__(self) -> None:
        self.folders: dict[Folder, dict[str, Item]] = {"intake": {}, "deferred": {}, "hold": {}, "quarantine": {}}
        self.octets: dict[Folder, int] = dict.fromkeys(self.folders, 0)
        self._ram = 0

    def __len__(self) -> int:
        return sum(map(len, self.folders.values()))

    def __iter__(self) -> Iterator[Item]:
        """All messages; the queue must not change meanwhile."""
        return (item for items in self.folders.values() for item in items.values())

    def get(self, queue_id: str) -> Item | None:
        """The message with this id, or None."""
        return next((items[queue_id] for items in self.folders.values() if queue_id in items), None)

    def has(self, item: Item) -> bool:
        """Is it queued, or gone meanwhile?"""
        return self.folders[item.folder].get(item.queue_id) is item

    def add(self, item: Item, data: bytes | None = None) -> Item:
        """Take a message in; `data` is its content if it is at hand (kept while memory for it is left)."""
        self.folders[item.folder][item.queue_id] = item
        self.octets[item.folder] += item.trailer.size
        if data is not None and self._ram + len(data) <= RAM:
            item.content = data
            self._ram += len(data)
        return item

    def forget(self, item: Item) -> None:
        """The message is gone, or about to get another place."""
        if self.folders[item.folder].pop(item.queue_id, None) is not None:
            self.octets[item.folder] -= item.trailer.size
        if item.content is not None:
            self._ram -= len(item.content)
            item.content = None
