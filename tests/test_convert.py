"""Converting: all or nothing, the source untouched, and damage found."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from conftest import MAZE

from qgf_jax import cli
from qgf_jax.data import converted
from qgf_jax.data.convert import convert
from qgf_jax.data.converted import Manifest
from qgf_jax.data.formats import Rows
from qgf_jax.data.shards import Source, _find
from qgf_jax.errors import SaveError, UserError
from qgf_jax.runs.files import fingerprint


def digests(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_fields_are_plain_arrays_with_a_manifest(maze_data, tmp_path):
    before = digests(maze_data)
    made = convert(maze_data / f"{MAZE}.npz", tmp_path)
    assert made == [tmp_path / MAZE, tmp_path / f"{MAZE}-val"]
    assert digests(maze_data) == before
    rows = Rows.read(maze_data / f"{MAZE}.npz")
    mapped = {p.stem: np.load(p, mmap_mode="r") for p in made[0].glob("*.npy")}
    assert mapped.keys() == {"observations", "actions", "terminals", "qpos"}
    assert mapped["terminals"].dtype == bool and mapped["observations"].dtype == np.float32
    np.testing.assert_array_equal(mapped["observations"], rows.observations)
    np.testing.assert_array_equal(mapped["terminals"], rows.ends)
    np.testing.assert_array_equal(mapped["qpos"], rows.info["qpos"])
    assert mapped["qpos"].dtype == rows.info["qpos"].dtype
    record = json.loads((made[0] / "manifest.json").read_text())
    assert record["trajectories"] == 6 and record["slices"] == {MAZE: 1206}
    assert record["source"] == before[maze_data / f"{MAZE}.npz"]
    with pytest.raises(UserError, match="is there already"):
        convert(maze_data / f"{MAZE}.npz", tmp_path)


@pytest.mark.parametrize("when", ["in a slice", "before the manifest"])
def test_what_is_cut_short_does_not_count(slices_data, tmp_path, monkeypatch, when):
    """Even where nobody could clear up: a killed process leaves a folder that nothing looks at."""

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(converted.shutil, "rmtree", lambda *_, **__: None)
    with monkeypatch.context() as patch:
        if when == "in a slice":
            calls, real = [], Rows.read
            patch.setattr(
                Rows,
                "read",
                lambda path: dies() if calls.append(path) or len(calls) > 2 else real(path),
            )
        else:
            patch.setattr(converted, "write_atomically", dies)
        with pytest.raises(KeyboardInterrupt):
            convert(slices_data / MAZE, tmp_path)
    assert list(tmp_path.glob(".*.partial")) and not (tmp_path / MAZE).exists()
    with pytest.raises(UserError, match="is not in"):
        _find(MAZE, str(tmp_path))
    monkeypatch.undo()
    convert(slices_data / MAZE, tmp_path)
    assert Manifest.read(tmp_path / MAZE).why_invalid() == "" and not list(tmp_path.glob(".*"))


def test_a_folder_of_somebody_else_stays(maze_data, tmp_path):
    """Named like the dataset by chance: `--out` was one too high."""
    notes = tmp_path / MAZE / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        convert(maze_data / f"{MAZE}.npz", tmp_path)
    assert notes.read_text() == "mine"
    notes.unlink()
    notes.parent.rmdir()
    notes.parent.symlink_to(tmp_path / "another disk")
    with pytest.raises(UserError, match="is there already"):
        convert(maze_data / f"{MAZE}.npz", tmp_path)


def test_two_processes_do_not_write_one_folder(maze_data, tmp_path):
    """The second one says so, and the first one's files stay."""
    rows = Rows.read(maze_data / f"{MAZE}.npz")

    def slices():
        yield "a", rows
        with pytest.raises(UserError, match=r"\.x\.partial: another process is writing there"):
            Manifest.write(tmp_path / "x", [("b", rows)])
        yield "b", rows

    made = Manifest.write(tmp_path / "x", slices())
    assert not made.why_invalid() and [*made.record["slices"]] == ["a", "b"]


def test_what_is_in_the_place_of_a_partial_folder_stays(maze_data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    (tmp_path / ".x.partial").symlink_to(tmp_path / "mine")
    with pytest.raises(SaveError, match="x could not be written"):
        Manifest.write(tmp_path / "x", [("a", Rows.read(maze_data / f"{MAZE}.npz"))])
    assert (tmp_path / "mine" / "thesis").exists()


def test_bad_slices_leave_nothing(slices_data, tmp_path):
    for path in (slices_data / MAZE).glob("*[0-9].npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with np.load(path) as file:
        bad = {k: file[k] for k in file.files}
    bad["observations"][7] = np.nan
    np.savez(tmp_path / "z.npz", **bad)
    with pytest.raises(UserError, match=r"z\.npz: observations is NaN or infinite in row 7"):
        convert(tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_damage_is_found(maze_data, tmp_path, capsys):
    folder = convert(maze_data / f"{MAZE}.npz", tmp_path)[0]
    cli.main(["verify", str(folder)])
    assert json.loads(capsys.readouterr().out)["sound"]
    path = folder / "observations.npy"
    sound = path.read_bytes()
    path.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
    with pytest.raises(UserError, match=r"observations\.npy: bytes 0 to 9776 were altered"):
        Source.open(folder)  # reads the header, and the damage is in its piece
    with pytest.raises(SystemExit) as left:
        cli.main(["verify", str(folder)])
    assert left.value.code == 2 and "observations.npy: it was altered" in capsys.readouterr().err
    path.write_bytes(sound[:-1])
    with pytest.raises(UserError, match=r"observations\.npy: it is missing or not of"):
        Source.open(folder)
    path.write_bytes(sound)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("1206", "1205"))
    with pytest.raises(UserError, match=r"manifest\.json: it was altered"):
        Source.open(folder)


@pytest.mark.parametrize("key", ["slices", "summary", "trajectories", "fields", "about"])
def test_a_manifest_sealed_anew_is_checked_too(key, maze_data, tmp_path, capsys):
    (folder,) = convert(maze_data / f"{MAZE}.npz", tmp_path)[:1]
    record = json.loads((folder / "manifest.json").read_text())
    del record["sha256"]
    record[key] = [1]
    record["sha256"] = fingerprint(record)
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(folder)])
    assert stop.value.code == 2 and "manifest.json: it was altered" in capsys.readouterr().err


def test_verify_opens_what_it_calls_sound(maze_data, tmp_path, capsys):
    (folder,) = convert(maze_data / f"{MAZE}.npz", tmp_path)[:1]
    record = json.loads((folder / "manifest.json").read_text())
    del record["sha256"]
    record["slices"] = dict.fromkeys(record["slices"], 10)
    record["sha256"] = fingerprint(record)
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit):
        cli.main(["verify", str(folder)])
    assert "terminals.npy: it was altered" in capsys.readouterr().err


def test_data_from_before_there_were_checksums_go_on(maze_data, tmp_path, capsys):
    """Their files are as they were, and one line says what is not seen."""
    folder = convert(maze_data / f"{MAZE}.npz", tmp_path)[0]
    new = Source.open(folder).read(0, 1206)
    assert not capsys.readouterr().err.count("checksums")
    path = folder / "manifest.json"
    record = json.loads(path.read_text())
    for key in ("checksums", "sha256"):
        del record[key]
    path.write_text(json.dumps(record | {"sha256": fingerprint(record)}))
    old = Source.open(folder)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{folder} was converted before there were checksums" in said
    for a, b in zip(new[:3], old.read(0, 1206)[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    terminals = folder / "terminals.npy"
    raw = bytearray(terminals.read_bytes())
    raw[200] ^= 1
    terminals.write_bytes(raw)
    with pytest.raises(UserError, match=r"terminals\.npy: it was altered"):
        Source.open(folder)


def test_an_unknown_kind_of_checksum_is_refused(maze_data, tmp_path, monkeypatch):
    monkeypatch.setattr(converted, "_ALGORITHM", "crc99")
    folder = convert(maze_data / f"{MAZE}.npz", tmp_path)[0]
    monkeypatch.undo()
    with pytest.raises(UserError, match="checksums are crc99, which this version does not know"):
        Source.open(folder)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["convert", str(tmp_path / "x.npz"), f"--out={tmp_path}"])
    assert left.value.code == 2 and "x.npz: no such file or folder" in capsys.readouterr().err


def test_validation_data_that_a_killed_call_left_are_read_once(maze_data, tmp_path, monkeypatch):
    convert(maze_data / f"{MAZE}.npz", tmp_path)
    shutil.rmtree(tmp_path / MAZE)
    whole, real = [], Manifest.why_invalid

    def why_invalid(manifest):
        whole.append(manifest.folder.name)
        return real(manifest)

    monkeypatch.setattr(Manifest, "why_invalid", why_invalid)
    convert(maze_data / f"{MAZE}.npz", tmp_path)
    assert whole == [f"{MAZE}-val"] and real(Manifest.read(tmp_path / MAZE)) == ""
