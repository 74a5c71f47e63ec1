"""What selection with few episodes costs in success: regret on made-up tasks whose truth is known.

    python benchmarks/bandit.py --tasks 500

A task has a success probability for each weight, of one of these shapes:
`peak`: a weight is best, and each step away from it costs 3 to 30 points, on both sides;
`plateau`: weights below a threshold lose as much a step, those above it are alike;
`flat`: all are within 5 points.
Episodes have a difficulty that all weights meet, 20 to 80 % of the variance of a probit score. `steps`:
whether an easily solved episode is shorter, so that returns tell more than successes do; without it
each success is of the same length. Regret is the success of the best weight less that of the chosen one.

`all_N`: --select=all with N selection episodes of each weight; `bandit_B`: --select=bandit with B in
all; `--rules` names others, of at most 50 of a weight. Each is played by the package's own `Plan`.
Prints one JSON object. No JAX.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.sweep import Job, Plan

SHAPES = ("peak", "plateau", "flat")
RULES = ("all_4", "bandit_25", "bandit_50", "all_20", "all_50")
MOST, LIMIT = 50, 200
"""Selection episodes that a weight plays, and steps of a failure."""

Outcome = Callable[[Job], dict[str, float]]


def probabilities(shape: str, weights: int, rng: np.random.Generator) -> np.ndarray:
    """The success [W] of each weight."""
    best, top, fall = rng.integers(weights), rng.uniform(0.5, 0.98), rng.uniform(0.03, 0.3)
    away = np.arange(weights) - best
    lost = {
        "peak": fall * np.abs(away),
        "plateau": fall * np.maximum(-away, 0),
        "flat": rng.uniform(0, 0.05, weights),
    }[shape]
    return np.clip(top - lost, 0.01, 0.99)


def draw(truth: np.ndarray, rng: np.random.Generator, *, steps: bool) -> Outcome:
    """What becomes of an episode, by the arm's weight 1, 2, …; each is the same whoever asks, when."""
    shared = rng.uniform(0.2, 0.8)
    score = np.array([NormalDist().inv_cdf(p) for p in truth])[:, None]
    score = score + np.sqrt(shared) * rng.standard_normal(MOST)
    score = score + np.sqrt(1 - shared) * rng.standard_normal(score.shape)
    length = np.round(LIMIT * np.maximum(0.2, 1 - 0.25 * score)) if steps else LIMIT / 2

    def outcome(job: Job) -> dict[str, float]:
        at = int(job.acts_as.weight) - 1, job.episode // 2
        took = np.broadcast_to(length, score.shape)[at] if score[at] > 0 else LIMIT
        return {"success": float(score[at] > 0), "return": -float(took), "length": int(took)}

    return outcome


def _plan_of(rule: str) -> dict[str, Any]:
    """What a `Plan` is given by a rule, all_N or bandit_B."""
    kind, _, number = rule.partition("_")
    if kind == "all":
        return {"selection_episodes": int(number)}
    return {"selection_episodes": 0, "budget": int(number)}


def select(rule: str, weights: int, outcome: Outcome) -> tuple[int, int]:
    """The weight that a rule chooses, and the selection episodes that it has played."""
    arms = [Arm("qgf", float(1 + i), 1) for i in range(weights)]
    plan = Plan("made-up", (1,), 1, arms, episodes=1, report_selected=True, **_plan_of(rule))
    lines: list[dict[str, Any]] = []
    for jobs in plan.stages(0, lines):
        if jobs[0].episode % 2:
            return int(jobs[0].acts_as.weight), len(lines)
        lines += [line for job in jobs for line in job.lines("made-up", 0, outcome(job))]
    raise AssertionError("a plan ends with the report")


def regrets(
    shape: str, count: int, *, weights: int = 6, steps: bool = True, rules: Sequence[str] = RULES
) -> dict[str, np.ndarray]:
    """The regret [tasks] of each rule, on the same tasks."""
    found: dict[str, list[float]] = {name: [] for name in rules}
    for task in range(count):
        rng = np.random.default_rng((SHAPES.index(shape), task))
        truth = probabilities(shape, weights, rng)
        outcome = draw(truth, rng, steps=steps)
        for name, values in found.items():
            weight, _ = select(name, weights, outcome)
            values.append(float(truth.max() - truth[weight - 1]))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=500, help="of each case")
    parser.add_argument("--weights", type=int, default=6)
    parser.add_argument("--rules", type=lambda text: text.split(","), default=RULES)
    flags = parser.parse_args()
    cases = []
    for shape, steps in itertools.product(SHAPES, (True, False)):
        measured = regrets(
            shape, flags.tasks, weights=flags.weights, steps=steps, rules=flags.rules
        )
        cases.append({"shape": shape, "steps": steps})
        for name, values in measured.items():
            cases[-1][name] = {
                "mean_points": round(100 * float(values.mean()), 2),
                "standard_error": round(100 * float(values.std() / np.sqrt(len(values))), 2),
                "above_15_points": round(float((values > 0.15).mean()), 3),
            }
    print(json.dumps({"weights": flags.weights, "tasks": flags.tasks, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
