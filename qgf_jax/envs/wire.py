"""Messages between processes: a JSON header and plain arrays. Nothing is ever unpickled."""

import json
import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Message(NamedTuple):
    """What one process says to another."""

    header: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = MappingProxyType({})

    @classmethod
    def receive(cls, channel: socket.socket) -> "Message":
        """Waits for one message. Raises `EOFError` if the other side is gone."""
        (size,) = struct.unpack("<I", _exactly(channel, 4))
        message = json.loads(_exactly(channel, size))
        arrays = {}
        for name, (kind, shape) in message["arrays"].items():
            dtype = np.dtype(kind)
            raw = _exactly(channel, dtype.itemsize * int(np.prod(shape)))
            arrays[name] = np.frombuffer(raw, dtype).reshape(shape)
        return cls(message["header"], arrays)

    def send(self, channel: socket.socket) -> None:
        """Sends it. Raises `OSError` if the other side is gone."""
        described = {name: [a.dtype.str, list(a.shape)] for name, a in self.arrays.items()}
        head = json.dumps({"header": self.header, "arrays": described}).encode()
        parts = [struct.pack("<I", len(head)), head]
        parts += [np.ascontiguousarray(a).tobytes() for a in self.arrays.values()]
        channel.sendall(b"".join(parts))


def _exactly(channel: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while len(view):
        got = channel.recv_into(view)
        if not got:
            raise EOFError("the other side has closed the channel")
        view = view[got:]
    return bytes(buffer)
