"""A Flower grid whose nodes run in this process, so that strategies and clients are tested without Ray."""

from __future__ import annotations

import flower_app
from flwr.app import Context, Error, Message, RecordDict

NODES = {11: 0, 22: 1}  # nodes, and the numbers of the clients on them
FUNCTIONS = {"train": flower_app.train, "evaluate": flower_app.evaluate}


class Here:
    """A grid whose nodes run in this process; `spoil` changes the answers of the second one."""

    def __init__(self, spoil=lambda reply, turn: reply, *, nodes=NODES, **functions):
        self.spoil, self.turn, self.asked, self.functions = spoil, 0, [], FUNCTIONS | functions
        self.contexts = {
            node: Context(1, node, {"partition-id": number}, RecordDict(), {}) for node, number in nodes.items()
        }

    def get_node_ids(self):
        return list(self.contexts)

    def send_and_receive(self, messages, *, timeout=None):
        replies, messages = [], list(messages)
        self.turn += any(message.metadata.message_type == "train" for message in messages)
        for message in messages:
            node, kind = message.metadata.dst_node_id, message.metadata.message_type
            self.asked.append((self.turn, kind, node, message))
            try:
                reply = self.functions[kind](message, self.contexts[node])
            except ValueError as error:
                reply = Message(Error(0, str(error)), reply_to=message)
            if node == 22 and kind == "train":
                reply = self.spoil(reply, self.turn)
            replies += [reply] if isinstance(reply, Message) else reply
        return replies
