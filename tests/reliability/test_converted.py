"""Damage to converted data: refused in one line that names the file, or the same values."""

import itertools
import shutil

import numpy as np
import pytest
from conftest import LONG, MAZE, tiny

from qgf_jax.data import converted as layout
from qgf_jax.data.convert import convert
from qgf_jax.data.converted import MANIFEST
from qgf_jax.data.load import Loaded
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError


@pytest.fixture(scope="module")
def converted(slices_data, tmp_path_factory):
    """In pieces of 1000 bytes, so that reads begin and end within one."""
    out = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "PIECE", 1000)
        convert(slices_data / MAZE, out)
    return out


def damaged(raw, others, rng):
    """`raw` with one fault of a kind that disks, copies and people make; `None`: gone."""
    raw, n = bytearray(raw), len(raw)
    at, size = int(rng.integers(n)), int(rng.integers(1, 600))
    kind = rng.integers(10)
    if kind < 4:
        raw[at] ^= 1 << rng.integers(8)
    elif kind == 4:
        raw[at] = rng.integers(256)
    elif kind == 5:
        raw[at : at + size] = bytes(len(raw[at : at + size]))
    elif kind == 6:
        raw[at : at + size] = rng.bytes(len(raw[at : at + size]))
    elif kind == 7:
        raw = [raw[:at], raw + raw[:size], raw[size:], raw[size:] + raw[:size]][rng.integers(4)]
    elif kind == 8:
        other = int(rng.integers(n))
        raw[at : at + size], raw[other : other + size] = (
            raw[other : other + size],
            raw[at : at + size],
        )
    else:
        return [None, *others][rng.integers(1 + len(others))]
    return bytes(raw)


def ranges(rows, rng):
    """All of it at once, and in parts that begin and end anywhere, in any order."""
    cuts = [0, *np.sort(rng.integers(1, rows, 5)).tolist(), rows]
    return [[(0, rows)], rng.permutation(list(itertools.pairwise(cuts))).tolist()]


def numbers(rows):
    return (*rows[:3], *(rows.info[key] for key in sorted(rows.info)))


@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_damage_is_refused_by_name_or_changes_nothing(converted, tmp_path, seed):
    folder = shutil.copytree(converted / MAZE, tmp_path / MAZE)
    sound = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    whole = numbers(Source.open(folder).read(0, 1206))
    rng, refused = np.random.default_rng(seed), 0
    for _ in range(100):
        name = sorted(sound)[rng.integers(len(sound))]
        others = [raw for other, raw in sound.items() if other not in (name, MANIFEST)]
        bad = damaged(sound[name], others, rng)
        path = folder / name
        path.write_bytes(bad) if bad is not None else path.unlink()
        for parts in ranges(1206, rng):
            try:
                if name == MANIFEST and bad is None:
                    break  # no such dataset any more: `Source.find` says so
                source = Source.open(folder)
                for start, stop in parts:
                    for got, all_of_it in zip(
                        numbers(source.read(start, stop)), whole, strict=True
                    ):
                        np.testing.assert_array_equal(got, all_of_it[start:stop])
            except UserError as error:
                refused += 1
                assert str(folder) in str(error) and "\n" not in str(error)
                assert name in str(error) or MANIFEST in str(error), (name, error)
        path.write_bytes(sound[name])
    assert refused > 150  # of 200: a turned bit that is turned back, say, is none


@pytest.mark.parametrize("mode", ["resident", "streamed"])
@pytest.mark.parametrize("name", ["observations", "actions", "terminals", "qpos"])
def test_training_is_told(converted, tmp_path, name, mode):
    """Resident before it begins, streamed when a block of it is read."""
    path = shutil.copytree(converted, tmp_path / "data") / MAZE / f"{name}.npy"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    options = {"data.mode": mode, "data.block": 150, "data.dir": str(tmp_path / "data")}
    with pytest.raises(UserError, match=rf"{name}\.npy: bytes \d+ to {len(raw)} were altered"):
        stream = Loaded.of(tiny(**options)).take()
        for index in range(len(stream)):
            stream.read(index)
