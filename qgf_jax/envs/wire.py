"""Messages between processes: a JSON header and plain arrays. Nothing is ever unpickled."""

import json
import socket
import struct
from typing import Any

import numpy as np


def send(channel: socket.socket, header: dict[str, Any], **arrays: np.ndarray) -> None:
    """Sends one message."""
    described = {name: [a.dtype.str, list(a.shape)] for name, a in arrays.items()}
    head = json.dumps({"header": header, "arrays": described}).encode()
    parts = [struct.pack("<I", len(head)), head]
    parts += [np.ascontiguousarray(a).tobytes() for a in arrays.values()]
    channel.sendall(b"".join(parts))


def receive(channel: socket.socket) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Waits for one message: (header, arrays). Raises `EOFError` if the other side is gone."""
    (size,) = struct.unpack("<I", _exactly(channel, 4))
    message = json.loads(_exactly(channel, size))
    arrays = {}
    for name, (kind, shape) in message["arrays"].items():
        dtype = np.dtype(kind)
        raw = _exactly(channel, dtype.itemsize * int(np.prod(shape)))
        arrays[name] = np.frombuffer(raw, dtype).reshape(shape)
    return message["header"], arrays


def _exactly(channel: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while len(view):
        got = channel.recv_into(view)
        if not got:
            raise EOFError("the other side has closed the channel")
        view = view[got:]
    return bytes(buffer)
