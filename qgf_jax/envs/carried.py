"""The environment that a local dataset of Minari carries, by its metadata alone. No JAX.

It is kept by its Gymnasium id and options: metadata also name a function to call, which nobody calls.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgf_jax.errors import UserError

_REFERENCES = ("ref_min_score", "ref_max_score")


def environment_of(place: str) -> dict[str, Any]:
    """The `id`, `options` and `max_episode_steps` of the environment that a local dataset carries.

    Raises `UserError` if it carries none, or is not there.
    """
    found = described(metadata_of(f"minari:{place}", folder_of(place)))
    if "environment" not in found:
        raise UserError(
            f"minari:{place} carries no environment: name one of Gymnasium's, as --config.env=Hopper-v5"
        )
    return found["environment"]


def folder_of(place: str) -> Path:
    """Where the dataset's `data` lies: under a folder of that name, or where Minari keeps datasets."""
    root = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    here, kept = Path(place).expanduser(), Path(root).expanduser() / place
    for folder in (here, here / "data", kept / "data"):
        if (folder / "metadata.json").is_file():
            return folder
    raise UserError(
        f"minari:{place}: there is no such dataset in {kept.parent if '/' not in place else root}: run "
        f"`minari download {place}`"
    )


def metadata_of(where: str, folder: Path) -> Mapping[str, Any]:
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


def described(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The Gymnasium id and options, and the returns that count as 0 and 1, where it has them."""
    found: dict[str, Any] = {}
    for key in ("eval_env_spec", "env_spec"):
        try:
            spec = json.loads(metadata[key])
            found["environment"] = {
                "id": str(spec["id"]),
                "options": dict(spec.get("kwargs") or {}),
                "max_episode_steps": spec.get("max_episode_steps"),
            }
            break
        except (KeyError, TypeError, ValueError):
            continue
    scores = [metadata[key] for key in _REFERENCES if isinstance(metadata.get(key), (int, float))]
    if len({*scores}) == 2:
        found["references"] = [float(score) for score in scores]
    return found
