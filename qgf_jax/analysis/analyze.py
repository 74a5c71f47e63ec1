"""One analysis of a run, or of none: a JSON file and a picture."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qgf_jax
from qgf_jax.analysis.subject import Subject
from qgf_jax.analysis.table import ANALYSES, MEASURES, PICTURES
from qgf_jax.data.load import Loaded
from qgf_jax.errors import UserError, saving
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import write_atomically
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.runtime import backend

_ELSEWHERE = "give --out=FOLDER"


@backend.standardized
def analyze(
    name: str,
    workdir: Path | None,
    out: Path,
    *,
    data: Loaded | None = None,
    other: Path | None = None,
    states: int = 128,
    methods: Sequence[str] = (),
    weights: Sequence[float] = (),
    step: int | None = None,
) -> list[Path]:
    """Writes NAME.json and NAME.png to `out`, which are returned.

    `data` are those of the run, which are taken. Raises `UserError` for what the run cannot say,
    `SaveError` for files that cannot be written.
    """
    module = f"qgf_jax.analysis.{name}"
    measure, draw = MEASURES.of(module), PICTURES.of(module)
    about: dict[str, Any] = {"analysis": name, "qgf_jax": qgf_jax.__version__}
    subject = None
    if workdir is not None:
        loaded = LoadedRun.open(workdir, step)
        if ANALYSES[name].reads_data:
            loaded.sampler("qgf")  # a flow and a critic, or a line says what is lacking
        judge = None if other is None else _alike(loaded, LoadedRun.open(other))
        subject = Subject(loaded, data, states, tuple(methods), tuple(weights), judge)
        about |= _about(loaded, states if ANALYSES[name].reads_data else None)
    record = about | (measure() if subject is None else measure(subject))
    picture = io.BytesIO()
    draw(record).savefig(picture, format="png", dpi=100, bbox_inches="tight")
    paths = [out / f"{name}.json", out / f"{name}.png"]
    with saving(out, _ELSEWHERE):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(paths[0], json.dumps(record, indent=1) + "\n", _ELSEWHERE)
    write_atomically(paths[1], picture.getvalue(), _ELSEWHERE)
    return paths


def _about(loaded: LoadedRun, states: int | None) -> dict[str, Any]:
    """Which run and checkpoint, and what it was measured with."""
    run, config = loaded.run, loaded.run.config
    return {
        "env": run.env.label,
        "algorithm": config["algorithm"],
        "critic": config["critic"],
        "step": loaded.step,
        "checkpoint": Checkpoints(run.trained_in).digest(loaded.step),
        "dataset": run.dataset["sha256"],
        "seeds": loaded.seeds,
        **({} if states is None else {"states": states}),
        "versions": Run.versions(config["env"]),
    }


def _alike(loaded: LoadedRun, other: LoadedRun) -> LoadedRun:
    """`other`, if its critic can judge the actions of `loaded`. Raises `UserError`."""
    ours, theirs = (x.spec._replace(n_step=0).unscaled() for x in (loaded, other))
    scales = [(x.spec.action_shift, x.spec.action_scale) for x in (loaded, other)]
    if ours != theirs or scales[0] != scales[1]:
        raise UserError(
            f"--other={other.run.workdir}: its observations or action chunks are others than those "
            f"of {loaded.run.workdir}: give a run of the same data and data.chunk"
        )
    if "critic" not in other.params:
        raise UserError(f"--other={other.run.workdir}: it has no critic: give a run with one")
    return other
