"""How to get a dataset that is not there. No JAX."""

from collections.abc import Sequence
from pathlib import Path

from qgf_jax.data import collect, experts
from qgf_jax.errors import UserError


def missing(name: str, places: Sequence[Path]) -> UserError:
    """The error for a dataset that is in none of `places`, with advice that works for this one."""
    looked = " and ".join(str(place) for place in places)
    return UserError(f"dataset {name}.npz is not in {looked}: {_advice(name, places[0])}")


def _advice(name: str, place: Path) -> str:
    scene, kind = _parts(name)
    if scene.startswith(experts.NOT_SCRIPTED) and kind in experts.KINDS["maze"]:
        return (
            "no expert is shipped that could collect it; put OGBench's own file there, as by `python -c "
            f"\"import ogbench; ogbench.download_datasets(['{name}'], '{place}')\"`"
        )
    try:
        experts.check(scene, kind)
    except UserError as error:
        known = scene in (*experts.MAZES, *experts.STACKING)
        why = str(error) if known else "only OGBench's layout is read so far: docs/your_own.md"
        return f"put it there, or name another ({why})"
    return f"put it there, or run `qgf collect --env={name} --episodes=100 --out={place}`"


def _parts(name: str) -> tuple[str, str]:
    try:
        return collect.parse(name)[:2]
    except UserError:
        return "", ""
