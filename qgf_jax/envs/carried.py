"""The environment that a local dataset of Minari carries, by its metadata alone. No JAX.

It is kept by its Gymnasium id and options: metadata also name a function to call, which nobody calls.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import UserError
from qgf_jax.runtime import paths

_REFERENCES = ("ref_min_score", "ref_max_score")


class Carried(NamedTuple):
    """A local dataset by what it says of itself."""

    place: str
    folder: Path
    """Where its metadata and its data lie."""
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, place: str) -> "Carried":
        """By the dataset's id or folder. Raises `UserError` if there is none, or if it names no spaces.

        Without them Minari would make the environment that the file describes, by a function that the
        file names.
        """
        folder = _folder(place)
        return cls(place, folder, _metadata(f"minari:{place}", folder))

    @property
    def environment(self) -> dict[str, Any]:
        """`id`, `options` and `max_episode_steps` of its environment; `UserError` if there is none."""
        if "environment" not in (about := self.about):
            raise UserError(
                f"minari:{self.place} carries no environment: name one of Gymnasium's, as "
                "--config.env=Hopper-v5"
            )
        if wrappers := about["environment"].get("wrappers"):
            raise UserError(
                f"minari:{self.place} was recorded behind {', '.join(wrappers)}, and wrappers are not "
                "made by what data say: name a function that makes the environment with them, as "
                "--config.env=my_lab.envs:make_arm"
            )
        return about["environment"]

    @property
    def about(self) -> dict[str, Any]:
        """Its `environment`, and as `references` the returns that count as 0 and 1, if it has them."""
        found: dict[str, Any] = {}
        for key in ("eval_env_spec", "env_spec"):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                found["environment"] = _environment(json.loads(self.metadata[key]))
                break
        scores = [self.metadata.get(key) for key in _REFERENCES]
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            low, high = (float(x) for x in scores if isinstance(x, int | float))
            if low != high and math.isfinite(low) and math.isfinite(high):
                found["references"] = [low, high]
        return found


def _environment(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What Gymnasium's own record of an environment says of it, without what opens a window."""
    options = dict(spec.get("kwargs") or {})
    options.pop("render_mode", None)
    found = {"id": str(spec["id"]), "options": options}
    found["max_episode_steps"] = spec.get("max_episode_steps")
    wrappers = [str(one["name"]) for one in spec.get("additional_wrappers") or ()]
    return found | ({"wrappers": wrappers} if wrappers else {})


def _folder(place: str) -> Path:
    """Where the dataset's `data` lies: under a folder of that name, or where Minari keeps datasets."""
    root = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    here, kept = paths.expand(place), paths.expand(root) / place
    for folder in (here, here / "data", kept / "data"):
        if (folder / "metadata.json").is_file():
            return folder
    raise UserError(
        f"minari:{place}: there is no such dataset in {kept.parent if '/' not in place else root}: run "
        f"`minari download {place}`"
    )


def _metadata(where: str, folder: Path) -> Mapping[str, Any]:
    """What the dataset says of itself. Raises `UserError` unless it names its spaces.

    Without them Minari would make the environment that the file describes, by a function that the file
    names.
    """
    try:
        found = json.loads((folder / "metadata.json").read_bytes())
        texts = {key: found[key] for key in ("dataset_id", "minari_version", "data_format")}
        known = all(isinstance(text, str) for text in texts.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: metadata.json cannot be read ({error!r}): fetch it again"
        ) from None
    if not known or not isinstance(found.get("observation_space"), str):
        raise UserError(f"{where}: metadata.json says no observation_space: fetch it again")
    if not isinstance(found.get("action_space"), str):
        raise UserError(f"{where}: metadata.json says no action_space: fetch it again")
    return found
