"""Weights & Biases: begun before a run has a folder, so that what it lacks leaves nothing behind."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgf_jax.errors import UserError
from qgf_jax.runs.checkpoint import write_atomically

_ID = "wandb.json"
"""In the run folder: which run of W&B it is."""


class Tracker:
    """A run of Weights & Biases, or nothing if the config names no project."""

    def __init__(self, config: Mapping[str, Any], workdir: Path):
        """Begins the run, or goes on with it under its id. Raises `UserError` if that cannot be."""
        self._run: Any = None
        self._file = workdir / _ID
        options = config["wandb"]
        if not options["project"]:
            return
        before = _read(self._file)
        try:
            wandb = importlib.import_module("wandb")  # an extra, which most do not install
            self._run = wandb.init(
                project=options["project"],
                mode=options["mode"],
                name=workdir.absolute().name,
                config=dict(config),
                **({"id": before, "resume": "allow"} if before else {}),
            )
        except ModuleNotFoundError as error:
            raise UserError(
                f"wandb.project is {options['project']} and {error.name} is not installed: "
                "pip install wandb, or leave --config.wandb.project out"
            ) from None
        except Exception as error:  # of many kinds, by what its service and its client say
            cause = " ".join(f"{error}".split())[:160] or type(error).__name__
            raise UserError(
                f"Weights & Biases could not begin: {cause}: run `wandb login`, or set "
                "--config.wandb.mode=offline"
            ) from None

    def keep(self) -> None:
        """Notes the id in the run folder, once that exists."""
        if self._run is not None:
            write_atomically(self._file, json.dumps({"id": self._run.id}) + "\n")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """The numbers of one step."""
        if self._run is not None:
            self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Flushes everything."""
        if self._run is not None:
            self._run.finish()


def _read(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["id"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not say which run of Weights & Biases it is ({error}): remove it, and the "
            "next one begins anew"
        ) from None
