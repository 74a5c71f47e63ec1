"""Sources of other formats that must be refused, and odd ones that must not, by name.

Each is a function of a fresh folder that gives FORMAT:PLACE, and the words of the message.
"""

import io
import json
import os
import zipfile

import numpy as np
import recordings

PLAYED = recordings.episodes()


def _d4rl(spoil, **options):
    def make(folder):
        columns = recordings.d4rl_columns(PLAYED, **options)
        spoil(columns)
        return f"d4rl:{recordings.write_hdf5(folder / 'hopper.hdf5', columns)}"

    return make


def _robomimic(spoil, attributes=recordings.ENV_ARGS, **options):
    def make(folder):
        tree = recordings.robomimic_tree(PLAYED, **options)
        spoil(tree)
        return f"robomimic:{recordings.write_hdf5(folder / 'lift.hdf5', tree, attributes)}"

    return make


def _npz(spoil, **how):
    """`spoil(columns)` of a file of steps; `how`: keywords of the function that saves it."""

    def make(folder):
        columns = recordings.steps_columns(PLAYED)
        spoil(columns)
        np.savez_compressed(folder / "steps.npz", **columns, **how)
        return f"npz:{folder / 'steps.npz'}"

    return make


def _npz_bytes(spoil):
    """`spoil(bytes)` gives the bytes of the file instead."""

    def make(folder):
        place = _npz(lambda columns: None)(folder)
        path = folder / "steps.npz"
        path.write_bytes(spoil(path.read_bytes()))
        return place

    return make


def _claims(raw):
    """A file of steps whose rewards say to be of 2**40 rows."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with zipfile.ZipFile(io.BytesIO(raw)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, content in {**members, "rewards.npy": array}.items():
            new.writestr(name, content)
    return buffer.getvalue()


def _minari(spoil, **options):
    """`spoil(folder)` of a sound dataset's data."""

    def make(folder):
        recordings.write_minari("hop-v0", PLAYED, **options)
        spoil(folder / "minari" / "hop-v0" / "data")
        return "minari:hop-v0"

    return make


def _lerobot(spoil=lambda folder: None, **options):
    def make(folder):
        place = recordings.write_lerobot(folder / "lift", PLAYED, **options)
        spoil(place)
        return f"lerobot:{place}"

    return make


def _raw(form, name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return f"{form}:{folder / name}"

    return make


def _set(*path):
    """A spoiler that sets or, with `None`, removes what lies at `path[:-1]`."""

    def spoil(tree):
        *outer, last, value = path
        for key in outer:
            tree = tree[key]
        if value is None:
            del tree[last]
        else:
            tree[last] = value

    return spoil


def _at(key, row, value, *, group=()):
    def spoil(tree):
        for name in group:
            tree = tree[name]
        tree[key] = np.array(tree[key], float)
        tree[key][row] = value

    return spoil


def _cut(name, keep=0.6):
    def spoil(folder):
        path = folder / name
        os.truncate(path, int(path.stat().st_size * keep))

    return spoil


def _json(name, **changes):
    """A spoiler of a JSON file's fields; `None` removes one."""

    def spoil(folder):
        record = json.loads((folder / name).read_text())
        for key, value in changes.items():
            record[key] = value
            if value is None:
                del record[key]
        (folder / name).write_text(json.dumps(record))

    return spoil


def _hdf5(change):
    """A spoiler of Minari's file of episodes."""

    def spoil(folder):
        import h5py

        with h5py.File(folder / "main_data.hdf5", "a") as file:
            change(file)

    return spoil


def _replace(name, make):
    def change(file):
        array = np.asarray(file[name])
        del file[name]
        file[name] = make(array)

    return _hdf5(change)


def _external(group, key):
    import h5py

    group[key] = h5py.ExternalLink("other.hdf5", "/x")


def _linked_out(group, key):
    import h5py

    recordings.write_hdf5(f"{group.file.filename}.other", {"x": np.ones((30, 2))})
    group["out"] = h5py.ExternalLink(f"{group.file.filename}.other", "/x")
    group[key] = h5py.SoftLink("/out")


def _group_elsewhere(group, key):
    import h5py

    tree = {"g": {"qpos": np.ones((30, 2)), "qvel": np.ones((30, 2))}}
    recordings.write_hdf5(f"{group.file.filename}.other", tree)
    group[key] = h5py.ExternalLink(f"{group.file.filename}.other", "/g")


def _virtual(group, key):
    import h5py

    layout = h5py.VirtualLayout((30, 3), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "x", (30, 3))
    group.create_virtual_dataset(key, layout)


def _episode_elsewhere(file):
    import h5py

    with h5py.File(f"{file.filename}.other", "w") as other:
        file.copy("episode_1", other, "x")
    del file["episode_1"]
    file["episode_1"] = h5py.ExternalLink(f"{file.filename}.other", "/x")


def _huge(group, key):
    group.create_dataset(key, (2**40, 3), "f4", chunks=(1024, 3), compression="gzip")


def _bomb(group, key):
    group.create_dataset(
        key, data=np.zeros((2**23, 3), "f4"), chunks=(2**16, 3), compression="gzip"
    )


def _column(key, make, episode=1):
    """A change of one column of the frames of an episode."""

    def change(number, columns):
        if number == episode:
            columns[key] = make(columns[key])

    return change


def _with(column, value, at=2):
    array = np.array(column, copy=True)
    array[at] = value
    return array


def _lists(rows):
    import pyarrow as pa

    return pa.array(rows, pa.list_(pa.float32()))


def _large(lists):
    import pyarrow as pa

    return pa.array(lists, pa.large_list(pa.float32()))


def _structs(lists):
    import pyarrow as pa

    return pa.array([{"x": x, "y": y} for x, y in lists.to_pylist()])


def _wordless(folder):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"task_index": [0]}), folder / "meta" / "tasks.parquet")


def _features(spoil):
    def change(folder):
        path = folder / "meta" / "info.json"
        info = json.loads(path.read_text())
        spoil(info["features"])
        path.write_text(json.dumps(info))

    return change


_ENV = recordings.ENV_ARGS["data"]["env_args"]
_DEMO = ("data", "demo_1")

BAD = {
    # D4RL
    "d4rl: no file": (lambda folder: f"d4rl:{folder / 'x.hdf5'}", "no such file"),
    "d4rl: a folder": (lambda folder: f"d4rl:{folder}", "no such file"),
    "d4rl: empty": (_raw("d4rl", "x.hdf5", b""), "h5py cannot read it"),
    "d4rl: text": (_raw("d4rl", "x.hdf5", b"observations"), "h5py cannot read it"),
    "d4rl: no observations": (_d4rl(_set("observations", None)), "/observations is missing"),
    "d4rl: no actions": (_d4rl(_set("actions", None)), "/actions is missing"),
    "d4rl: no rewards": (_d4rl(_set("rewards", None)), "/rewards is missing"),
    "d4rl: no terminals": (_d4rl(_set("terminals", None)), "/terminals is missing"),
    "d4rl: no timeouts": (_d4rl(_set("timeouts", None)), "where episodes were cut off"),
    "d4rl: no end": (
        _d4rl(lambda c: c.update(terminals=0 * c["timeouts"], timeouts=0 * c["timeouts"])),
        "no step ends an episode",
    ),
    "d4rl: half an end": (_d4rl(_at("terminals", 5, 0.5)), "must be 0 or 1"),
    "d4rl: fewer rewards": (_d4rl(_set("rewards", np.zeros(7))), "rewards has 7 rows"),
    "d4rl: flat observations": (_d4rl(_set("observations", np.zeros(30))), "must have 2 axes"),
    "d4rl: images": (_d4rl(_set("observations", np.zeros((30, 4, 4)))), "must have 2 axes"),
    "d4rl: text for actions": (_d4rl(_set("actions", np.array([b"a"] * 30))), "plain numbers"),
    "d4rl: NaN": (_d4rl(_at("observations", 3, np.nan)), "NaN or infinite in row 3"),
    "d4rl: infinite action": (_d4rl(_at("actions", 2, np.inf)), "actions is NaN or infinite"),
    "d4rl: too large": (_d4rl(_at("rewards", 2, 1e30)), "larger than 1e+09"),
    "d4rl: shuffled": (
        _d4rl(lambda c: c.update(observations=c["observations"][::-1].copy()), following=True),
        "not in the order of time",
    ),
    "d4rl: a link out": (_d4rl(_set("observations", _external)), "link to another file"),
    "d4rl: a link to a link out": (_d4rl(_set("actions", _linked_out)), "link to another file"),
    "d4rl: a group elsewhere": (_d4rl(_set("infos", _group_elsewhere)), "link to another file"),
    "d4rl: infinite in float16": (
        _d4rl(lambda c: c.update(rewards=np.full(30, np.inf, np.float16))),
        "rewards is NaN or infinite",
    ),
    "d4rl: too large an integer": (
        _d4rl(lambda c: c.update(observations=np.full((30, 3), -(2**63)))),
        "observations is larger than 1e+09",
    ),
    "d4rl: single steps": (
        _d4rl(lambda c: c.update(terminals=0 * c["terminals"], timeouts=np.ones(30))),
        "one transition and no observation after it",
    ),
    "d4rl: numbers elsewhere": (_d4rl(_set("observations", _virtual)), "lies in another file"),
    "d4rl: a group for an array": (_d4rl(_set("actions", {"a": np.zeros(3)})), "is a group"),
    "d4rl: more than there is": (_d4rl(_set("terminals", _huge)), "has shape"),
    "d4rl: no rows": (
        _d4rl(lambda c: c.update({k: v[:0] for k, v in c.items()})),
        "it has no rows",
    ),
    # npz files of steps
    "npz: no file": (lambda folder: f"npz:{folder / 'x.npz'}", "no such file"),
    "npz: no place": (lambda folder: "npz:", "says no place"),
    "npz: no observations": (_npz(_set("observations", None)), "'observations' is missing"),
    "npz: terminated alone": (_npz(_set("truncated", None)), "'truncated' is missing"),
    "npz: truncated alone": (_npz(_set("terminated", None)), "'terminated' is missing"),
    "npz: masks too": (_npz(lambda c: c.update(masks=1 - c["terminated"])), "'masks' would not be"),
    "npz: text for actions": (_npz(_set("actions", np.array(["a"] * 30))), "plain numbers"),
    "npz: objects": (_npz(_set("rewards", np.array([{}] * 30))), "has type object"),
    "npz: flat observations": (_npz(_set("observations", np.zeros(30))), "must have 2 axes"),
    "npz: flags in a column": (
        _npz(lambda c: c.update(truncated=c["truncated"][:, None])),
        "must have 1 axis",
    ),
    "npz: half an end": (_npz(_at("terminated", 5, 0.5)), "must be 0 or 1"),
    "npz: no end": (
        _npz(lambda c: c.update(terminated=0 * c["rewards"], truncated=0 * c["rewards"])),
        "no step ends an episode",
    ),
    "npz: fewer rewards": (_npz(_set("rewards", np.zeros(7))), "rewards has 7 rows"),
    "npz: NaN": (_npz(_at("observations", 3, np.nan)), "in the order of time"),
    "npz: infinite reward": (_npz(_at("rewards", 2, np.inf)), "rewards is NaN or infinite"),
    "npz: shuffled": (
        _npz(lambda c: c.update(observations=c["observations"][::-1].copy())),
        "not in the order of time",
    ),
    "npz: an end is missing": (
        _npz(lambda c: c.update(truncated=0 * c["truncated"])),
        "an end is missing there",
    ),
    "npz: next of other widths": (
        _npz(lambda c: c.update(next_observations=c["next_observations"][:, :2])),
        "next_observations has shape",
    ),
    "npz: no motion": (_npz(lambda c: c.update(actions=0 * c["actions"])), "actions are all 0"),
    "npz: cut": (_npz_bytes(lambda raw: raw[: len(raw) // 2]), "cut off"),
    "npz: altered": (
        _npz_bytes(lambda raw: raw[:150] + bytes([raw[150] ^ 255]) + raw[151:]),
        "cut off",
    ),
    "npz: more than there is": (_npz_bytes(_claims), "says it holds 8796093022208 bytes"),
    "npz: a bomb": (
        _npz(lambda c: c.update(qpos=np.zeros((30, 2**20)))),
        "which no trajectories do",
    ),
    # robomimic
    "robomimic: D4RL's": (
        lambda folder: _d4rl(lambda c: None)(folder).replace("d4rl", "robomimic"),
        "it is not robomimic's layout",
    ),
    "robomimic: no env_args": (_robomimic(lambda t: None, {}), "env_args is missing"),
    "robomimic: env_args no JSON": (
        _robomimic(lambda t: None, {"data": {"env_args": "Lift"}}),
        "env_args cannot be read",
    ),
    "robomimic: no episodes": (_robomimic(_set("data", {})), "/data has no episodes"),
    "robomimic: another group": (
        _robomimic(_set("data", "rest", {"a": np.zeros(3)})),
        "none of the",
    ),
    "robomimic: no observations": (
        _robomimic(_set("data", "demo_0", "obs", None)),
        "obs is missing",
    ),
    "robomimic: no dones": (_robomimic(_set(*_DEMO, "dones", None)), "dones is missing"),
    "robomimic: odd dones": (_robomimic(_at("dones", 2, 7, group=_DEMO)), "must be 0 or 1"),
    "robomimic: dones at the end of shaped rewards": (
        _robomimic(_at("rewards", 0, 0.5, group=("data", "demo_0"))),
        "give --ends=terminated or --ends=truncated",
    ),
    "robomimic: dones without a reward": (
        _robomimic(_at("rewards", -1, 0, group=("data", "demo_0"))),
        "its rewards do not say whether that is a success",
    ),
    "robomimic: no steps": (_robomimic(_set(*_DEMO, "dones", np.zeros(0))), "has no steps"),
    "robomimic: fewer actions": (
        _robomimic(_set(*_DEMO, "actions", np.zeros((3, 2)))),
        "actions has 3 rows, dones have 7",
    ),
    "robomimic: an observation is missing": (
        _robomimic(_set(*_DEMO, "obs", "arm", None)),
        "arm is missing",
    ),
    "robomimic: other widths": (
        _robomimic(_set(*_DEMO, "actions", np.zeros((7, 5)))),
        "episodes of two datasets",
    ),
    "robomimic: NaN": (_robomimic(_at("arm", 2, np.nan, group=(*_DEMO, "obs"))), "NaN or infinite"),
    "robomimic: images alone": (
        _robomimic(
            lambda t: t["data"]["demo_0"].update(obs={"top": np.zeros((6, 4, 4, 3), np.uint8)})
        ),
        "are images",
    ),
    "robomimic: a link out": (
        _robomimic(_set(*_DEMO, "actions", _external)),
        "link to another file",
    ),
    "robomimic: parts of other widths": (
        _robomimic(
            lambda t: [
                t["data"]["demo_1"][key].update(arm=np.ones((7, 1)), object=np.ones((7, 2)))
                for key in ("obs", "next_obs")
            ]
        ),
        "obs/arm is 1 wide, in the first episode 2",
    ),
    "robomimic: an episode in both masks": (
        _robomimic(lambda t: t["mask"].update(valid=t["mask"]["train"])),
        "demo_0 is in both masks train and valid",
    ),
    # Minari
    "minari: none": (lambda folder: "minari:hop-v7", "run `minari download hop-v7`"),
    "minari: too long a name": (lambda folder: "minari:" + "x" * 5000, "too long a path"),
    "minari: no place": (lambda folder: "minari:", "says no place"),
    "minari: no metadata": (_minari(lambda f: (f / "metadata.json").unlink()), "no such dataset"),
    "minari: metadata no JSON": (_minari(_cut("metadata.json")), "metadata.json cannot be read"),
    "minari: no space": (
        _minari(_json("metadata.json", observation_space=None)),
        "observation_space",
    ),
    "minari: no action space": (_minari(_json("metadata.json", action_space=None)), "action_space"),
    "minari: another version": (_minari(_json("metadata.json", minari_version="0.1")), "0.1"),
    "minari: another format": (_minari(_json("metadata.json", data_format="zarr")), "zarr"),
    "minari: a space of text": (
        _minari(
            _json("metadata.json", observation_space='{"type": "Discrete", "start": 0, "n": 3}')
        ),
        "Discrete is not supported",
    ),
    "minari: discrete actions": (
        _minari(_json("metadata.json", action_space='{"type": "Discrete", "start": 0, "n": 3}')),
        "actions are a space Discrete",
    ),
    "minari: cut": (_minari(_cut("main_data.hdf5")), "cannot read it"),
    "minari: no file": (_minari(lambda f: (f / "main_data.hdf5").unlink()), "No data found"),
    "minari: no rewards": (
        _minari(_hdf5(lambda f: f["episode_1"].__delitem__("rewards"))),
        "missing",
    ),
    "minari: an episode is missing": (
        _minari(_hdf5(lambda f: f.__delitem__("episode_1"))),
        "cannot",
    ),
    "minari: fewer observations": (
        _minari(_replace("episode_1/observations", lambda x: x[:-1])),
        "one observation more",
    ),
    "minari: other widths": (
        _minari(_replace("episode_1/observations", lambda x: x[:, :2])),
        "its space says 3",
    ),
    "minari: other actions": (
        _minari(
            _json(
                "metadata.json",
                action_space='{"type": "Box", "dtype": "float32", "shape": [3], '
                '"low": [-1, -1, -1], "high": [1, 1, 1]}',
            )
        ),
        "actions are 2 wide, bounds have shape (3,)",
    ),
    "minari: NaN": (_minari(_replace("episode_1/observations", lambda x: x * np.nan)), "NaN"),
    "minari: ends and goes on": (
        _minari(_replace("episode_1/terminations", lambda x: ~x)),
        "ends in step 0 and goes on",
    ),
    "minari: fewer ends": (
        _minari(_replace("episode_1/truncations", lambda x: x[:2])),
        "not as many as rewards",
    ),
    "minari: a link out": (
        _minari(
            _hdf5(
                lambda f: (
                    f["episode_1"].__delitem__("actions"),
                    _external(f["episode_1"], "actions"),
                )
            )
        ),
        "link to another file",
    ),
    "minari: a bomb": (
        _minari(
            _hdf5(
                lambda f: (f["episode_1"].__delitem__("actions"), _bomb(f["episode_1"], "actions"))
            )
        ),
        "which no trajectories do",
    ),
    "minari: fewer episodes by its metadata": (
        _minari(_json("metadata.json", total_episodes=2)),
        "it has 4 episodes, metadata.json says 2",
    ),
    "minari: an episode elsewhere": (_minari(_hdf5(_episode_elsewhere)), "episode_1 is a link"),
    # LeRobot
    "lerobot: no folder": (lambda folder: f"lerobot:{folder / 'x'}", "not LeRobot's layout"),
    "lerobot: info no JSON": (_lerobot(_cut("meta/info.json")), "info.json cannot be read"),
    "lerobot: a future version": (_lerobot(_json("meta/info.json", codebase_version="v9")), "v9"),
    "lerobot: no features": (_lerobot(_json("meta/info.json", features=None)), "cannot be read"),
    "lerobot: no episodes": (_lerobot(_json("meta/info.json", total_episodes=0)), "0 episodes"),
    "lerobot: more episodes": (_lerobot(_json("meta/info.json", total_episodes=9)), "says 9"),
    "lerobot: more frames": (_lerobot(_json("meta/info.json", total_frames=99)), "says 99"),
    "lerobot: no states": (
        _lerobot(_features(lambda f: f.pop("observation.state"))),
        "no observation.state",
    ),
    "lerobot: no actions": (_lerobot(_features(lambda f: f.pop("action"))), "unknown action"),
    "lerobot: no meaning of ends": (_lerobot(success=False), "give --ends="),
    "lerobot: cut": (_lerobot(_cut("data/chunk-000/file-001.parquet")), "pyarrow cannot read it"),
    "lerobot: no data": (
        _lerobot(lambda f: [x.unlink() for x in (f / "data").glob("*/*")]),
        "no parquet files",
    ),
    "lerobot: a file is missing": (
        _lerobot(lambda f: (f / "data/chunk-000/file-001.parquet").unlink()),
        "and not in data/",
    ),
    "lerobot: NaN": (
        _lerobot(
            change=_column("action", lambda x: _lists([[np.nan, 0]] * len(x)), 1), version="v2.1"
        ),
        "NaN or infinite",
    ),
    "lerobot: ragged": (
        _lerobot(
            change=_column(
                "observation.state",
                lambda x: _lists([[0, 0, 0, 0], [0, 0], *[[0, 0, 0]] * (len(x) - 2)]),
            ),
            version="v2.1",
        ),
        "lists of different lengths",
    ),
    "lerobot: ragged large lists": (
        _lerobot(
            change=lambda i, c: c.update(
                action=_large([[0], *[[0, 1]] * (len(c["action"]) - 2), [0, 1, 2]])
            )
        ),
        "action has lists of different lengths",
    ),
    "lerobot: structures": (
        _lerobot(change=lambda i, columns: columns.update(action=_structs(columns["action"]))),
        "action has type struct",
    ),
    "lerobot: success in words": (
        _lerobot(change=lambda i, c: c.update({"next.success": ["False"] * len(c["index"])})),
        "next.success has values that are no numbers",
    ),
    "lerobot: success is NaN": (
        _lerobot(change=lambda i, c: c.update({"next.success": c["timestamp"] * np.nan})),
        "next.success must be 0 or 1",
    ),
    "lerobot: two rewards": (
        _lerobot(change=lambda i, c: c.update({"next.reward": _lists([[0, 1]] * len(c["index"]))})),
        "next.reward has 2 numbers a frame",
    ),
    "lerobot: wider actions": (
        _lerobot(change=lambda i, c: c.update(action=_lists([[0, 1, 2]] * len(c["index"])))),
        "action is 3 wide, info.json says 2",
    ),
    "lerobot: tasks without words": (_lerobot(_wordless), "cannot read it"),
    "lerobot: another width": (
        _lerobot(
            change=_column("observation.state", lambda x: _lists([[0, 0]] * len(x))), version="v2.1"
        ),
        "is 2 wide, info.json says 3",
    ),
    "lerobot: a frame twice": (
        _lerobot(change=_column("frame_index", lambda x: _with(x, 1))),
        "not numbered 0, 1, 2",
    ),
    "lerobot: an episode twice": (
        _lerobot(change=_column("episode_index", lambda x: np.zeros_like(x), 2)),
        "is there twice",
    ),
    "lerobot: ends and goes on": (
        _lerobot(change=_column("next.done", lambda x: _with(x, True))),
        "before its last frame",
    ),
    "lerobot: a column is missing": (
        _lerobot(change=lambda i, columns: columns.pop("next.reward")),
        "column next.reward is missing",
    ),
}


def _unended(columns):
    columns["timeouts"][-1] = False


def _frameless(folder):
    from pyarrow import parquet

    data = folder / "data" / "chunk-000"
    parquet.write_table(
        parquet.read_table(data / "file-000.parquet")[:0], data / "file-009.parquet"
    )


def _timed(tree):
    for demo in tree["data"].values():
        for key in ("obs", "next_obs"):
            demo[key]["time"] = np.zeros(len(demo["dones"]))


GOOD = {
    "d4rl: still running at the end": _d4rl(_unended),
    "d4rl: further columns": _d4rl(_set("metadata", {"algorithm": np.zeros(3)})),
    "d4rl: float64": _d4rl(lambda c: c.update(observations=c["observations"].astype(float))),
    "d4rl: terminated and timed out": _d4rl(
        lambda c: c.update(timeouts=c["timeouts"] | c["terminals"])
    ),
    "d4rl: float flags": _d4rl(lambda c: c.update(terminals=c["terminals"].astype(np.float32))),
    "npz: no next observations": _npz(_set("next_observations", None)),
    "npz: state of the simulator": _npz(lambda c: c.update(qpos=c["observations"][:, :2])),
    "npz: further columns": _npz(lambda c: c.update(logprob=0 * c["rewards"])),
    "npz: integer flags": _npz(lambda c: c.update(truncated=c["truncated"].astype(int))),
    "robomimic: no masks": _robomimic(lambda t: None, masks=False),
    "robomimic: images beside": _robomimic(
        _set("data", "demo_0", "obs", "top", np.zeros((6, 4, 4, 3), np.uint8))
    ),
    "robomimic: a scalar observation": _robomimic(_timed),
    "minari: nothing ended": _minari(_replace("episode_1/truncations", lambda x: 0 * x)),
    "minari: integer rewards": _minari(_replace("episode_1/rewards", lambda x: x.astype(int))),
    "robomimic: one next_obs is missing": _robomimic(_set("data", "demo_2", "next_obs", None)),
    "lerobot: an episode over two files": _lerobot(),
    "lerobot: numbers of episodes as text": _lerobot(_json("meta/info.json", total_episodes="4")),
    "lerobot: a file without frames": _lerobot(_frameless),
    "lerobot: large lists": _lerobot(
        change=lambda i, columns: columns.update(action=_large(columns["action"].to_pylist()))
    ),
    "lerobot: float64": _lerobot(
        change=lambda i, columns: columns.update({"next.reward": np.float64(columns["next.reward"])})
    ),
}  # fmt: skip
