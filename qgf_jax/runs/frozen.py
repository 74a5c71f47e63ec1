"""A run that learns one more part beside those of another run's checkpoint, which stand still.

The config's section `frozen` names the run and the part; `Frozen.resolved` adds the checkpoint's step
and the SHA-256 of its numbers, so that they are part of what the new run is. Its checkpoints hold all
parameters, so the other run is read once, before the first step. JAX is imported by `Frozen.read` alone.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from qgf_jax import config as configs
from qgf_jax.errors import UserError
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.table import Method
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.run import Run
from qgf_jax.runs.tree import ArrayTree
from qgf_jax.runtime import backend
from qgf_jax.types import Params

_OWN_SECTIONS = ("train", "optimizer", "eval", "wandb", "frozen", "sampler")
_OWN_KEYS = ("algorithm", "critic", "devices", "parallel", "data.dir", "data.name", "data.mode")
_SHARED_KEYS = ("sampler.num_steps",)


class Frozen(NamedTuple):
    """What stands still in a run of a config."""

    config: Mapping[str, Any]

    @staticmethod
    def further(source: Path, name: str, texts: Mapping[str, str]) -> ConfigDict:
        """The config of a run that learns the part `name` beside those of the run in `source`.

        It is the source's own, of the method that has the part too, with `{"a.b": "text"}` applied over
        it. Raises `UserError` for a part that is there already or cannot be added.
        """
        run = Run.open(source)
        if given := {"algorithm", "critic", "preset"} & texts.keys():
            raise UserError(
                f"config key {min(given)} follows from {source} and {name}: leave it out, or "
                "give another part to add"
            )
        old = configs.flatten(run.config)
        method, critics = _method_with(run, name)
        row = Method.named(method)
        config = configs.make(method, old["preset"], critics)
        known = configs.flatten(config)
        kept = {
            key: value
            for key, value in old.items()
            if key in known and (_is_shared(key) or (_is_setting(key) and key not in row.settings))
        }
        configs.update(config, kept)
        config.frozen.update(run=str(source), add=name)
        return configs.override(config, texts, kept)

    def resolved(self, workdir: Path) -> dict[str, Any]:
        """The config with step and numbers of the checkpoint whose parts stand still, if any do.

        A run that is resumed keeps the checkpoint that it began with, and does without the other run
        once it has a checkpoint of its own. Raises `UserError` unless the parts fit beside the one that
        is added, and if there is no such checkpoint. Imports no JAX.
        """
        config = self.config
        asked = config.get("frozen", {})
        if not asked.get("add"):
            return dict(config)
        chosen = _as_begun(asked, workdir)
        source, resumed = Path(asked["run"]), bool(Checkpoints(workdir).steps())
        if resumed and not (source / "config.json").exists():
            return {**config, "frozen": chosen}
        run = Run.open(source)
        _check(run, config)
        checkpoints = Checkpoints(run.trained_in, identity=run.identity)
        if resumed and chosen["step"] not in checkpoints.steps():
            return {**config, "frozen": chosen}
        step = checkpoints.newest_sound(chosen["step"] or None)
        if step is None:
            raise UserError(
                f"{source} has no checkpoint yet: let `qgf train` come to its first save"
            )
        state = checkpoints.digest(step)
        if chosen["state"] not in ("", state):
            raise UserError(
                f"{source} has other numbers at step {step} than frozen.state says: give the run that "
                "it is of, or choose another --workdir"
            )
        return {**config, "frozen": {**chosen, "step": step, "state": state}}

    def read(self, template: Any) -> tuple[Params, Params]:
        """Groups and target copies that stand still, of a `resolved` config, on one device.

        `template` is the new run's state or its shapes. Raises `UserError` for other networks.
        """
        frozen = self.config["frozen"]
        run = Run.open(frozen["run"])
        here = jax.sharding.SingleDeviceSharding(backend.devices(local=True)[0])
        checkpoints = Checkpoints(run.trained_in, identity=run.identity)
        restored = checkpoints.restore_part(("params", "target_params"), here, frozen["step"])
        if restored is None:
            raise UserError(f"{run.workdir} has no checkpoint: its parts are needed once more")
        found = restored.state
        expected = {
            entry: {
                name: group for name, group in getattr(template, entry).items() if name in groups
            }
            for entry, groups in found.items()
        }
        where = checkpoints.root / str(frozen["step"])
        ArrayTree(expected).check_same(where, ArrayTree(found).describe())
        # A slow copy that the new part alone asks for begins, and stays, as what it is a copy of.
        copies = {
            name: jax.tree.map(jnp.copy, found["params"][name])
            for name in template.target_params.keys() - found["target_params"].keys()
            if name in found["params"]
        }
        return found["params"], copies | found["target_params"]


def _is_setting(key: str) -> bool:
    """Whether a new run begins with its source's value, and may have another."""
    return key not in _OWN_KEYS[:2] and not key.startswith(("frozen.", "wandb."))


def _is_shared(key: str) -> bool:
    """Whether parts that stand still need the value that they were trained with."""
    own = key in _OWN_KEYS or key.split(".")[0] in _OWN_SECTIONS
    return not own or key in _SHARED_KEYS


def _method_with(run: Run, name: str) -> tuple[str, str]:
    """Method and critics that are what the run has and the part `name`."""
    algorithm, critic = run.config["algorithm"], run.config["critic"]
    row = Method.named(algorithm)
    if name in (*row.policies, *critic.split(",")):
        raise UserError(f"{run.workdir} has {name!r} already: add another part")
    known = row.further(critic)
    if name not in known:
        raise UserError.unknown(f"part to add to a run of {algorithm!r},", name, known)
    return known[name]


def _as_begun(asked: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """The section `frozen`, where it says no checkpoint with that of the run in `workdir`, if any."""
    exists = (workdir / "config.json").exists()
    begun = Run.open(workdir).config.get("frozen", {}) if exists else {}
    return {**asked, **{k: asked[k] or begun.get(k, asked[k]) for k in ("step", "state")}}


def _check(run: Run, config: Mapping[str, Any]) -> None:
    """Raises `UserError` unless a config is of the run's parts and the one that is added."""
    added = config["frozen"]["add"]
    method, critics = _method_with(run, added)
    mine = Method.named(config["algorithm"])
    if {*mine.policies} != {*Method.named(method).policies} or config["critic"] != critics:
        raise UserError(
            f"config keys algorithm and critic are {mine.name} and {config['critic']}; {added} beside "
            f"the parts of {run.workdir} is {method} and {critics}"
        )
    for key, old, new in _differences(run.config, config):
        raise UserError(
            f"config key {key} is {new!r}, and the parts of {run.workdir} were trained with {old!r}: "
            "leave it as it was"
        )


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Key and both values where what the parts need is not the same."""
    old, new = configs.flatten(before), configs.flatten(after)
    for key in sorted(old.keys() & new.keys()):
        if _is_shared(key) and old[key] != new[key]:
            yield key, old[key], new[key]
