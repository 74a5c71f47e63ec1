"""Datasets that must be refused, and odd ones that must not. Run as a program it tries them all.

    python tests/bad_datasets.py GOOD.npz FOLDER

calls `qgf train` on each, in one process without JAX, and prints one JSON line a case.
"""

import contextlib
import io
import json
import os
import resource
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

from qgf_jax.data import formats

NAME = "pointmaze-medium-stitch-v0"
FLOATS = ("observations", "actions", "qpos")


def packed(arrays, save=np.savez, **how):
    """The bytes of an npz file."""
    buffer = io.BytesIO()
    save(buffer, **arrays, **how)
    return buffer.getvalue()


def member(array, header=None):
    """The bytes of an npy file, its header replaced by the dict `header`."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=True)
    if header is None:
        return buffer.getvalue()
    text = header if isinstance(header, bytes) else repr(header).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + np.asarray(array).tobytes()


def with_member(good, name, content, compress=zipfile.ZIP_STORED):
    """`good` with the member `name` replaced by raw bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as file:
        for key, array in good.items():
            file.writestr(f"{key}.npy", content if key == name else member(array))
    return buffer.getvalue()


def at(good, key, row, value, dtype=None):
    array = good[key].astype(dtype or (np.float32 if good[key].dtype == bool else good[key].dtype))
    array[row] = value
    return good | {key: array}


def twice(good):
    raw = io.BytesIO(packed(good))
    with warnings.catch_warnings(), zipfile.ZipFile(raw, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("actions.npy", member(np.zeros_like(good["actions"])))
    return raw.getvalue()


def flipped(good, key):
    raw = bytearray(packed(good, np.savez_compressed))
    with zipfile.ZipFile(io.BytesIO(bytes(raw))) as file:
        info = file.getinfo(f"{key}.npy")
    raw[info.header_offset + 60 + info.compress_size // 2] ^= 0x10
    return bytes(raw)


def encrypted(good):
    raw = bytearray(packed(good))
    place = raw.find(b"PK\x01\x02")
    while place >= 0:  # the flag of each entry of the directory, and of the entry itself
        raw[place + 8] |= 1
        place = raw.find(b"PK\x01\x02", place + 4)
    return bytes(raw)


def method_unknown(good):
    raw = bytearray(packed(good))
    place = raw.find(b"PK\x01\x02")
    while place >= 0:
        raw[place + 10] = 99
        place = raw.find(b"PK\x01\x02", place + 4)
    return bytes(raw)


def claims(shape, descr="<f4"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def malformed(good):
    """{name: arrays or bytes of a file that must be refused}."""
    n, last = len(good["terminals"]), len(good["terminals"]) - 1
    good = {k: v for k, v in good.items() if k in (*FLOATS, "qvel", "terminals")}
    npz = packed(good, np.savez_compressed)
    found = {}
    # Contents that are not an npz file.
    found["nothing in it"] = b""
    found["a web page"] = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    found["json"] = b'{"error": "quota"}'
    found["a git-lfs pointer"] = (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    found["random bytes"] = np.random.default_rng(0).bytes(5000)
    found["only zeros"] = bytes(5000)
    found["a bare array"] = member(good["observations"])
    found["a pickle"] = b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07nothing\x94."
    found["gzip"] = b"\x1f\x8b\x08\x00" + npz[:500]
    found["an empty zip"] = packed({})
    for share in (1, 10, 50, 90, 99):
        found[f"cut at {share} %"] = npz[: len(npz) * share // 100]
    found["without its first bytes"] = npz[10:]
    found["without its last bytes"] = npz[:-30]
    for key in good:
        found[f"a bit of {key} turned"] = flipped(good, key)
    found["packed with a password"] = encrypted(good)
    found["packed by an unknown method"] = method_unknown(good)
    # Keys.
    for key in ("observations", "actions", "terminals", "qpos"):
        found[f"no {key}"] = {k: v for k, v in good.items() if k != key}
    found["keys in capitals"] = {k.upper(): v for k, v in good.items()}
    found["actions twice"] = twice(good)
    # Lengths and axes.
    for key in good:
        found[f"{key} one row short"] = good | {key: good[key][:-1]}
        found[f"{key} one row too many"] = good | {key: np.concatenate([good[key], good[key][-1:]])}
    found["no rows"] = {k: v[:0] for k, v in good.items()}
    found["one row"] = {k: v[last:] for k, v in good.items()}
    found["observations on one axis"] = good | {"observations": good["observations"][:, 0]}
    found["observations on three axes"] = good | {"observations": good["observations"][None]}
    found["actions on one axis"] = good | {"actions": good["actions"][:, 0]}
    found["terminals on two axes"] = good | {"terminals": good["terminals"][:, None]}
    found["a number for observations"] = good | {"observations": np.float32(1)}
    found["actions without width"] = good | {"actions": good["actions"][:, :0]}
    found["observations too wide"] = good | {"observations": np.tile(good["observations"], 2)}
    found["observations too narrow"] = good | {"observations": good["observations"][:, :1]}
    found["actions too wide"] = good | {"actions": np.tile(good["actions"], 2)}
    found["actions too narrow"] = good | {"actions": good["actions"][:, :1]}
    found["qpos too narrow"] = good | {"qpos": good["qpos"][:, :1]}
    # Types.
    for key in FLOATS:
        found[f"{key} as text"] = good | {key: good[key].astype(str)}
        found[f"{key} as integers"] = good | {key: good[key].astype(np.int64)}
        found[f"{key} as complex"] = good | {key: good[key].astype(complex)}
        found[f"{key} as objects"] = with_member(good, key, member(good[key].astype(object)))
    found["actions as bytes"] = good | {"actions": good["actions"].astype(np.uint8)}
    found["terminals as text"] = good | {"terminals": good["terminals"].astype(str)}
    found["terminals as dates"] = good | {"terminals": np.zeros(n, "datetime64[s]")}
    record = np.zeros(n, [("a", "f4"), ("b", "f4")])
    found["observations as records"] = good | {"observations": record}
    # Values.
    for key in FLOATS:
        for word, value in (("NaN", np.nan), ("infinity", np.inf), ("-infinity", -np.inf)):
            found[f"{word} in {key}"] = at(good, key, 7, value)
    found["NaN in qvel"] = at(good, "qvel", 0, np.nan)
    found["NaN in terminals"] = at(good, "terminals", 3, np.nan)
    found["more than float32 holds"] = at(good, "observations", 5, 1e300, np.float64)
    found["an enormous observation"] = at(good, "observations", 5, 1e12)
    found["an action of 50"] = at(good, "actions", 9, 50.0)
    found["an action of -1.01"] = at(good, "actions", 9, -1.01)
    found["only zeros for actions"] = good | {"actions": np.zeros_like(good["actions"])}
    found["a terminal of 7"] = at(good, "terminals", 3, 7)
    found["a terminal of -1"] = at(good, "terminals", 3, -1)
    found["a terminal of a half"] = at(good, "terminals", 3, 0.5)
    found["no terminal"] = good | {"terminals": np.zeros(n, bool)}
    found["the last row is no terminal"] = at(good, "terminals", last, 0)
    found["only terminals"] = good | {"terminals": np.ones(n, bool)}
    found["no trajectory as long as a chunk"] = good | {"terminals": every(good, 3)}
    # Other layouts.
    once = np.zeros(n, np.float32)
    for key in formats._LAYOUTS:
        found[f"{key} beside terminals"] = good | {key: once}
    found["timeouts in place of terminals"] = {
        "timeouts" if k == "terminals" else k: v for k, v in good.items()
    }
    found["Truncations, in another spelling"] = good | {"Truncations": once}
    for key in formats._SETTLED_BY_THE_TASK:
        found[f"a column of {key}"] = good | {key: once}
    found["saved from load_dataset"] = regular(good)
    found["saved from load_dataset, compact"] = compact(good)
    found["the same without valids"] = {k: v for k, v in compact(good).items() if k != "valids"}
    images = np.zeros((n, 64, 64, 3), np.uint8)
    found["images for observations"] = packed(good | {"observations": images}, np.savez_compressed)
    # Headers that lie.
    raw = good["observations"]
    lies = {
        "a terabyte": claims((2**38, 2)),
        "a row too many": claims((n + 1, 2)),
        "a row too few": claims((n - 1, 2)),
        "negative rows": claims((-n, 2)),
        "rows beyond any integer": claims((10**30, 2)),
        "another type": claims((n, 2), "<f8"),
        "no known type": claims((n, 2), "<q9"),
        "an object": claims((n, 2), "|O"),
        "no shape": {"descr": "<f4", "fortran_order": False},
        "a shape of text": {"descr": "<f4", "fortran_order": False, "shape": "n"},
        "code": b"__import__('os').system('touch executed')",
        "deep brackets": b"(" * 9000,
        "nothing": b"",
    }
    for word, header in lies.items():
        found[f"a header that says {word}"] = with_member(good, "observations", member(raw, header))
    found["a header of version 9"] = with_member(
        good, "observations", b"\x93NUMPY\x09\x00" + member(raw)[8:]
    )
    found["no header"] = with_member(good, "observations", raw.tobytes())
    found["nothing for observations"] = with_member(good, "observations", b"")
    found["more bytes than it says"] = with_member(good, "observations", member(raw) + b"more")
    found["a thousand times what it is"] = bomb(good)
    return found


def every(good, rows):
    """Terminals after so many rows, whatever the trajectories are."""
    n = len(good["terminals"])
    return np.append(np.arange(1, n) % rows == 0, True)


def regular(good):
    """As ogbench.utils.load_dataset returns it: the last state stands among the next ones alone."""
    ends = good["terminals"]
    columns = ("observations", "actions", "qpos", "qvel")
    found = {k: good[k][~ends] for k in columns} | {"terminals": np.append(ends[1:], True)[~ends]}
    return found | {"next_observations": good["observations"][np.append(False, ~ends[:-1])]}


def compact(good):
    """As it returns it with compact_dataset=True."""
    ends = good["terminals"]
    return good | {"valids": 1.0 - ends, "terminals": ends | np.append(ends[1:], True)}


def bomb(good, size=2**29):
    """Half a gigabyte of zeros in half a megabyte."""
    header = member(np.zeros(0, np.float32), claims((size // 8, 2)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for key, array in good.items():
            with file.open(f"{key}.npy", "w") as stream:
                stream.write(header if key == "observations" else member(array))
                for _ in range(64 if key == "observations" else 0):
                    stream.write(bytes(size // 64))
    return buffer.getvalue()


def legitimate(good):
    """{name: arrays or bytes of an odd file that must be taken}."""
    need = {k: good[k] for k in ("observations", "actions", "terminals", "qpos")}
    halves = good["terminals"].copy()
    halves[len(halves) // 3] = True
    return {
        "stored": packed(good),
        "deflated": packed(good, np.savez_compressed),
        "double precision": {k: v.astype(np.float64) for k, v in good.items()},
        "half precision": good | {"qvel": good["qvel"].astype(np.float16)},
        "big-endian": {k: v.astype(v.dtype.newbyteorder(">")) for k, v in good.items()},
        "Fortran order": {k: np.asfortranarray(v) for k, v in good.items()},
        "only what is needed": need,
        "more keys": good | {"rewards": np.zeros(3), "notes": np.array(["a"])},
        "more columns": good | {"control": np.zeros((len(good["actions"]), 7), np.float32)},
        "mostly starts that weigh 0": good | {"terminals": every(good, 5)},
        "an object nobody reads": with_member(
            good | {"extra": np.zeros(1)}, "extra", member(np.array([{}], object))
        ),
        "terminals as floats": good | {"terminals": good["terminals"].astype(np.float32)},
        "terminals as integers": good | {"terminals": good["terminals"].astype(np.int64)},
        "trajectories of other lengths": good | {"terminals": halves},
        "actions at the bounds": good | {"actions": np.sign(good["actions"]).astype(np.float32)},
        "one dimension that never moves": good | {"observations": good["observations"] * [1, 0]},
        "bytes after the end": packed(good) + b"\n",
        "a newer kind of header": newer(good),
        "states of buttons, which pack well": packed(many_buttons(good), np.savez_compressed),
    }


def many_buttons(good, rows=600_000):
    """As the puzzles have them: over 64 MB of whole numbers that hardly change."""
    rng = np.random.default_rng(0)
    many = {k: rng.uniform(-1, 1, (rows, good[k].shape[1])).astype("f4") for k in (*FLOATS, "qvel")}
    many["terminals"] = np.arange(rows) % 1000 == 999
    presses = np.arange(rows)[:, None] // 60 + np.arange(16)
    return many | {"button_states": (presses % 2).astype(np.int64)}


def newer(good):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for key, array in good.items():
            with file.open(f"{key}.npy", "w") as stream:
                np.lib.format.write_array(stream, array, version=(2, 0))
    return buffer.getvalue()


def try_all(good_file, folder):
    from qgf_jax import cli
    from qgf_jax import config as configs
    from qgf_jax.data.load import Loaded

    with np.load(good_file, allow_pickle=False) as file:
        good = {key: file[key] for key in file.files}
    os.chdir(folder)
    path = Path("d", f"{NAME}.npz")
    path.parent.mkdir()
    config = Path(__file__).with_name("tiny_config.py")
    arguments = ["train", f"--config={config}", "--config.data.dir=d", "--workdir=run"]
    for kind, cases in (("malformed", malformed(good)), ("legitimate", legitimate(good))):
        for name, content in cases.items():
            path.write_bytes(content if isinstance(content, bytes) else packed(content))
            said, code = io.StringIO(), 0
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            started = time.process_time()
            if kind == "legitimate":
                Loaded.of(configs.plain(configs.load(str(config), {"data.dir": "d"})))
            else:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                    try:
                        cli.main(arguments)
                    except SystemExit as leave:
                        code = leave.code
            print(
                json.dumps(
                    {
                        "kind": kind,
                        "name": name,
                        "code": code,
                        "said": said.getvalue(),
                        "seconds": time.process_time() - started,
                        "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
                        "jax": "jax" in sys.modules,
                        "left": Path("run").exists() or Path("executed").exists(),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    try_all(Path(sys.argv[1]).resolve(), sys.argv[2])
