"""Run an app on this machine: in this process, one client after the other, or in Flower's simulation, on Ray.

Ray needs half a minute to start, and most of the time of a round on a busy machine; these clients train for a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
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


def start(server: ServerApp, clients_app: ClientApp, *, clients: int, with_ray: bool) -> None:
    """Run server and clients on this machine.

    Args:
        server: The server.
        clients_app: The clients.
        clients: How many there are.
        with_ray: Whether clients run in separate processes, in Flower's simulation, or in this one.
    """
    if not with_ray:
        server(InProcess(clients_app, clients=clients), Context(1, 0, {}, RecordDict(), {}))
        return
    from flwr.simulation import run_simulation

    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # the processes of the clients find these modules, too
    cores = os.cpu_count() or 1
    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": cores, "include_dashboard": False}}
    run_simulation(server, clients_app, num_supernodes=clients, backend_config=resources)
