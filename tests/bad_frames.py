"""Frames that no client of `qgf serve` should send, for a policy with observations [2]."""

import random

import msgpack
import numpy as np

from qgf_jax.serving import protocol

OBS = np.array([0.5, -0.25], np.float32)


def array(dtype, shape, data):
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}


def observed(value):
    return msgpack.packb({"observation": value})


DEEP = b"\x81\xabobservation" + b"\x91" * 3000
MALFORMED = {
    "text": ("hello", "text frame"),
    "nothing": (b"", "msgpack"),
    "truncated": (protocol.encode({"observation": OBS})[:-3], "msgpack"),
    "trailing": (protocol.encode({"observation": OBS}) + b"\x00", "msgpack"),
    "no dictionary": (msgpack.packb([1, 2]), "list: send a dictionary"),
    "no observation": (msgpack.packb({"weight": 1.0}), "no observation"),
    "goal of parts": (
        msgpack.packb({"observation": [1.0, 2.0], "goal": {"a": [1.0]}}),
        "goal is a dictionary",
    ),
    "previous of no box": (
        protocol.encode(
            {
                "observation": OBS,
                "method": "qgf:execute=1:delay=1",
                "previous": np.full((3, 2), 1e9, np.float32),
            }
        ),
        "outside the box",
    ),
    "unknown key": (msgpack.packb({"observation": [1.0, 2.0], "wieght": 1}), "did you mean 'weight'"),
    "objects": (observed(array("|O", [2], bytes(16))), "dtype '|O'"),
    "pickled": (observed(array("|V9", [1], b"cos\nsystem")), "dtype"),
    "structured": (observed(array([["a", "<f4"]], [2], bytes(8))), "dtype"),
    "texts": (observed(["a", "b"]), "not of numbers"),
    "a gigabyte": (observed(array("<f4", [2**28], bytes(8))), "needs 1073741824 bytes, and has 8"),
    "a list of a billion": (b"\x81\xabobservation\xdd\x40\x00\x00\x00", "msgpack"),
    "negative": (observed(array("<f4", [-1, -2], bytes(8))), "whole numbers"),
    "too deep": (DEEP, "msgpack"),
    "wrong width": (observed([1.0, 2.0, 3.0]), r"wants \[2\]"),
    "three axes": (observed(array("<f4", [1, 1, 2], bytes(8))), r"wants \[2\]"),
    "ragged": (observed([[1.0], [1.0, 2.0]]), "differ in length"),
    "none of them": (observed(array("<f4", [0, 2], b"")), "send 1 to 6"),
    "too many": (observed(array("<f4", [7, 2], bytes(56))), "send 1 to 6"),
    "NaN": (observed([float("nan"), 0.0]), "not finite"),
    "too large": (observed([1e300, 0.0]), "not finite"),
    "weight": (msgpack.packb({"observation": [1.0, 2.0], "weight": float("inf")}), "weight"),
    "method": (msgpack.packb({"observation": [1.0, 2.0], "method": "qgff"}), "did you mean 'qgf'"),
    "not compiled": (msgpack.packb({"observation": [1.0, 2.0], "best_of": 9}), "not served"),
    "seed": (msgpack.packb({"observation": [1.0, 2.0], "seed": -1}), "seed"),
    "long seed": (msgpack.packb({"observation": [1.0, 2.0], "seed": [1, 2, 3, 4]}), "1 to 3"),
    "previous": (msgpack.packb({"observation": [1.0, 2.0], "previous": [[0.0, 0.0]]}), "execute"),
    "goal": (msgpack.packb({"observation": [1.0, 2.0], "goal": [1.0]}), "goal of shape"),
    "code": (msgpack.packb(msgpack.ExtType(4, b"import os")), "msgpack"),
}  # fmt: skip


def hostile(count, seed):
    """Frames that were altered, cut, joined or made up."""
    rng, whole = random.Random(seed), [f for f, _ in MALFORMED.values() if isinstance(f, bytes)]
    whole += [protocol.encode({"observation": OBS, "weight": 1.0, "seed": [1, 2], "method": "qgf"})]
    for _ in range(count):
        frame = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(4)):
            if frame:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
        if rng.random() < 0.3:
            frame = frame[: rng.randrange(len(frame) + 1)]
        if rng.random() < 0.1:
            frame += rng.choice(whole)
        yield bytes(frame if rng.random() < 0.9 else rng.randbytes(rng.randrange(80)))
