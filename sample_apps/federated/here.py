"""A grid whose clients run in this process, one after the other: the numbers of Flower's simulation, without Ray.

Ray needs half a minute to start, and most of the time of a round on a busy machine; these clients train for a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class InProcess(Grid):
    """Hand messages to a `ClientApp` in this process.

    Args:
        app: The clients.
        clients: How many there are.
    """

    def __init__(self, app: ClientApp, *, clients: int) -> None:
        for name in ("_run_id", "_node_id", "_task_id"):  # a message takes them from the process that runs an app
            setattr(TaskIdentity, name, 1)
        self.app = app
        self.contexts = {
            node: Context(1, node, {"partition-id": node - 1, "num-partitions": clients}, RecordDict(), {})
            for node in range(1, clients + 1)
        }

    def set_run(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """There is nothing to tell of the run."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Return the numbers of the nodes."""
        return list(self.contexts)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse it: strategies make their messages themselves."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse it: strategies send and wait."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse it: strategies send and wait."""
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the answers of the clients."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        try:
            return self.app(message, self.contexts[message.metadata.dst_node_id])
        except ValueError as error:
            return Message(Error(0, str(error)), reply_to=message)
