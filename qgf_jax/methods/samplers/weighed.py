"""QGF under a weight that the run has chosen from its data."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from qgf_guide.bounds import Count
from qgf_jax.methods.parts import Names, Part, sampler
from qgf_jax.types import Array, Params, Sample, Staged

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(provides=("inpainting", "stages", "noise"), needs=("flow", "q", "weights"))
def _weighed(
    nets: "Networks",
    *,
    by: Annotated[str, Names("criterion"), "what the weight was chosen by"] = "near",
    num_steps: Annotated[Count, "steps of the flow"] = 10,
) -> Sample:
    """As `guided` under QGF's rule; the weight is a factor of the run's own, 1 being that."""
    guided = Part.named("sampler", "guided").make(nets, rule="one_step", num_steps=num_steps)

    def weighing(f: Callable[..., Any]) -> Callable[..., Any]:
        """`f`, whose last argument is the weight, under the factor of the run's own."""

        def weighed(params: Params, *rest: Array) -> Any:
            return f(params, *rest[:-1], rest[-1] * params["calibration"]["weights"][by])

        return weighed

    return Staged(*map(weighing, (guided.whole, guided.begin, guided.finish)))
