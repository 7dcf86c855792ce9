"""The queue on disk: intake segments, entries that stay, schedule. docs/queue.md gives every state and crash point."""
