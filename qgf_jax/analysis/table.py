"""The analyses: what each is about, and which flags it heeds. No JAX."""

from typing import NamedTuple

from qgf_jax.runtime.plugins import ByModule

MEASURES, PICTURES = ByModule(), ByModule()
"""What a module declares: (subject) -> record, without a subject if it has no run; record -> figure."""
_OF_ACTIONS = ("states", "step")


class Analysis(NamedTuple):
    """A row; the module `qgf_jax.analysis.NAME` declares what it measures and draws."""

    about: str
    takes: tuple[str, ...] = ()
    """Flags of `qgf analyze`, beyond the run and --out, that change what is measured."""
    has_run: bool = True
    reads_data: bool = True
    """Whether states are drawn from the data that the run was trained on."""


ANALYSES = {
    "noise": Analysis(
        "how far each estimator of the critic's slope turns when the action is perturbed",
        _OF_ACTIONS,
    ),
    "reach": Analysis(
        "Q that guided actions reach, by the critic that guides and by one that does not",
        ("methods", "weights", "other", *_OF_ACTIONS),
    ),
    "distance": Analysis(
        "how far guided actions are from what the data did nearby, and how many are clipped",
        ("methods", "weights", *_OF_ACTIONS),
    ),
    "kl": Analysis(
        "KL divergence of guided actions from the reference, and success against it",
        ("methods", "weights", *_OF_ACTIONS),
    ),
    "sensitivity": Analysis(
        "success and Q by weight, and Q by the steps of the flow",
        ("methods", "weights", *_OF_ACTIONS),
    ),
    "compute": Analysis(
        "operations and kernels of one action, counted in the compiled programs",
        ("methods", "step"),
        reads_data=False,
    ),
    "toy": Analysis(
        "guided samples of known densities in one and two dimensions against the exact posterior",
        has_run=False,
        reads_data=False,
    ),
}
