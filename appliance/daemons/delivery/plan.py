"""What is known of a message that is scheduled. Pure data, no IO."""

from appliance.daemons.delivery.routing import Routing


class Plan:
    """When it came (monotonic; `before`: how many seconds it took until then), and who goes where if not all go one way,
    as `routing` said. `lost`: that could not tell all of it."""

    __slots__ = ("before", "entered", "lost", "routing", "split")

    def __init__(
        self, entered: float, before: float, split: dict[str, list[int]] | None, lost: bool, routing: Routing
    ) -> None:
        self.entered, self.before, self.split, self.lost, self.routing = entered, before, split, lost, routing

    def those(self, destination: str, todo: list[int]) -> list[int]:
        """The recipients, of those that are to do, that go this way."""
        if self.split is None:
            return todo
        return [index for index in self.split.get(destination, ()) if index in todo]
