"""How often intervals hold the truth, and how wide they are.

    python benchmarks/coverage.py [--before]
    python benchmarks/coverage.py --paired

Episodes are drawn whose true mean is known. `p`: mean success. `spread`: SD between seeds, which are
Beta-distributed. `difficulty`: 0, or k of episodes whose chances of success are
Beta(k p, k (1 - p)), the same episodes for all seeds: 1 is Beta(.5, .5) at p = .5, 0.4 is
Beta(.2, .2). Returns are normal with the same chances as means and as much noise as successes have.
With one seed the truth is that seed's own mean. Prints one JSON object, the same at every call but for
the processor seconds. NumPy only. `after` is what the package has; with `--before` the nested intervals
until commit 70b9720 beside it.

With `--paired` instead: differences of two arms that share seeds and episodes, of equal and of
different means, against a two-way percentile bootstrap; `spread` is then between seeds within an arm.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qgf_jax.evaluation import statistics
from qgf_jax.evaluation.statistics import Difference, Interval


class Case(NamedTuple):
    """What is simulated."""

    p: float
    spread: float
    difficulty: float
    seeds: int
    episodes: int


Tables = tuple[np.ndarray, np.ndarray, float]
"""Successes [S, E], returns [S, E], the true mean of both."""


def draw(case: Case, rng: np.random.Generator) -> Tables:
    """One evaluation, whose mean over seeds and episodes is `case.p`."""
    p, spread, k, seeds, episodes = case
    of_seed = np.full((seeds, 1), p)
    if spread:
        size = p * (1 - p) / spread**2 - 1
        of_seed = rng.beta(p * size, (1 - p) * size, (seeds, 1))
    of_episode = rng.beta(p * k, (1 - p) * k, episodes) if k else np.full(episodes, p)
    # A worse seed loses, and a better one gains, its share in every episode: the mean stays of_seed.
    worse, better = of_episode * of_seed / p, 1 - (1 - of_episode) * (1 - of_seed) / (1 - p)
    chance = np.where(of_seed <= p, worse, better)
    success = (rng.uniform(size=chance.shape) < chance).astype(float)
    returns = chance + np.sqrt(p * (1 - p)) * rng.standard_normal(chance.shape)
    return success, returns, float(of_seed[0, 0]) if seeds == 1 else p


def nested(table: np.ndarray, resamples: int, *, success: bool) -> statistics.Interval:
    """The intervals until 70b9720: episodes drawn within drawn seeds; Wilson of seeds x episodes."""
    rng, (seeds, episodes) = np.random.default_rng(0), table.shape
    draws = [
        x[rng.integers(episodes, size=(resamples, seeds, episodes))].mean(axis=2) for x in table
    ]
    chosen = rng.integers(seeds, size=(resamples, seeds))
    rows, columns = np.arange(resamples)[:, None], np.arange(seeds)[None]
    means = np.stack(draws)[chosen, rows, columns].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(table.mean())
    if success:
        least = statistics._wilson(mean, float(table.size), statistics._Z)
        low, high = max(min(low, least[0]), 0.0), min(max(high, least[1]), 1.0)
    return Interval(mean, float(low), float(high))


def crossed(table: np.ndarray, resamples: int, *, success: bool) -> statistics.Interval:
    """The package's intervals."""
    of = Interval.of_success if success else Interval.of_mean
    return of([table], resamples=resamples)


HOW = {"before": nested, "after": crossed}


def measure(
    case: Case, repeats: int, resamples: int, when: Sequence[str] = tuple(HOW)
) -> dict[str, dict[str, float]]:
    """For each of `when`: coverage of `success` and of `return`, and the mean `width` of success."""
    rng = np.random.default_rng(0)
    sums = {name: {"success": 0.0, "return": 0.0, "width": 0.0} for name in when}
    for _ in range(repeats):
        success, returns, truth = draw(case, rng)
        for name, found in sums.items():
            of_success = HOW[name](success, resamples, success=True)
            of_return = HOW[name](returns, resamples, success=False)
            found["success"] += (of_success.low <= truth <= of_success.high) / repeats
            found["return"] += (of_return.low <= truth <= of_return.high) / repeats
            found["width"] += (of_success.high - of_success.low) / repeats
    return {name: {k: round(v, 3) for k, v in found.items()} for name, found in sums.items()}


class Pair(NamedTuple):
    """Two arms, of chances `p` and `p + gain`; the others are as of a `Case`."""

    p: float
    gain: float
    spread: float
    difficulty: float
    seeds: int
    episodes: int


def draw_pair(pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Successes [S, E] of both arms, `pair.gain` apart; the same episodes are hard."""
    p, gain, spread, k, seeds, episodes = pair
    of_episode = rng.beta(p * k, (1 - p) * k, episodes) if k else np.full(episodes, p)
    arms = []
    for mean in (p, p + gain):
        of_seed = np.full((seeds, 1), mean)
        if spread:
            size = mean * (1 - mean) / spread**2 - 1
            of_seed = rng.beta(mean * size, (1 - mean) * size, (seeds, 1))
        worse, better = of_episode * of_seed / p, 1 - (1 - of_episode) * (1 - of_seed) / (1 - p)
        chance = np.where(of_seed <= p, worse, better)
        arms.append((rng.uniform(size=chance.shape) < chance).astype(float))
    return arms[0], arms[1]


def measure_pair(pair: Pair, repeats: int, resamples: int = 0) -> dict[str, float]:
    """Coverage and mean width of the difference, `found` (p at most .05), and those of a bootstrap."""
    rng = np.random.default_rng(0)
    sums = dict.fromkeys(("coverage", "width", "found", "detectable"), 0.0)
    sums |= dict.fromkeys(("bootstrap_coverage", "bootstrap_width"), 0.0) if resamples else {}
    for _ in range(repeats):
        base, arm = draw_pair(pair, rng)
        made = Difference.of([arm], [base], paired=True, success=True)
        sums["coverage"] += made.low <= pair.gain <= made.high
        sums["width"] += made.high - made.low
        sums["found"] += made.p <= 0.05
        sums["detectable"] += made.detectable
        if resamples:
            low, high = statistics._bootstrap([arm - base], resamples)
            sums["bootstrap_coverage"] += low <= pair.gain <= high
            sums["bootstrap_width"] += high - low
    return {name: round(float(value) / repeats, 3) for name, value in sums.items()}


def _of_pairs(repeats: int, resamples: int, seeds: list[int], episodes: list[int]) -> dict:
    rows = []
    for e, s in itertools.product(episodes, seeds):
        grid = itertools.product(
            ((0.5, 0.0), (0.5, 0.2), (0.7, 0.0), (0.7, 0.2), (0.9, 0.0), (0.9, 0.06), (0.97, 0.0)),
            (0.0, 0.03, 0.07, 0.12) if s > 1 else (0.0,), (0.0, 1.0, 0.4),
        )  # fmt: skip
        for (p, gain), spread, difficulty in grid:
            if p < 0.95 or spread < 0.1:
                pair = Pair(p, gain, spread, difficulty, s, e)
                rows.append(pair._asdict() | measure_pair(pair, repeats, resamples))
    summary = []
    for e, s in itertools.product(episodes, seeds):
        cases = [row for row in rows if (row["episodes"], row["seeds"]) == (e, s)]
        line: dict = {"episodes": e, "seeds": s, "interval": Difference.kind(s)}
        for name in ("coverage", "bootstrap_coverage"):
            values = [case[name] for case in cases]
            line[name] = [round(min(values), 3), round(float(np.mean(values)), 3)]
        line["within"] = _within([case["coverage"] for case in cases])
        line["same_found"] = round(float(np.mean([c["found"] for c in cases if not c["gain"]])), 3)
        for name in ("width", "bootstrap_width", "detectable"):
            line[name] = round(float(np.mean([case[name] for case in cases])), 3)
        summary.append(line)
    return {"repeats": repeats, "summary": summary, "cases": rows}


def _within(coverage: Sequence[float]) -> float:
    """The share of cases that cover 93 to 97 % of the time, as simulated."""
    return round(float(np.mean([0.93 <= value <= 0.97 for value in coverage])), 2)


def main() -> None:
    """Parses flags and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200, help="evaluations a case")
    parser.add_argument("--resamples", type=int, default=200, help="of a bootstrap")
    parser.add_argument("--seeds", default="2,3,5,10")
    parser.add_argument("--episodes", default="50")
    parser.add_argument("--paired", action="store_true", help="differences of two arms")
    parser.add_argument("--before", action="store_true", help="nested intervals too")
    flags = parser.parse_args()
    seeds, episodes = ([*map(int, x.split(","))] for x in (flags.seeds, flags.episodes))
    if flags.paired:
        found = _of_pairs(flags.repeats, flags.resamples, seeds, episodes)
    else:
        when = [name for name in HOW if flags.before or name == "after"]
        found = _of_means(flags.repeats, flags.resamples, seeds, episodes, when)
    print(json.dumps({"cpu_seconds": round(time.process_time(), 1), **found}, indent=1))


def _of_means(
    repeats: int, resamples: int, seeds: list[int], episodes: list[int], when: Sequence[str]
) -> dict:
    rows = []
    grid = itertools.product(
        episodes, seeds,
        (0.5, 0.7, 0.9, 0.98), (0.0, 0.05, 0.1, 0.15), (0.0, 1.0, 0.4),
    )  # fmt: skip
    for e, s, p, spread, difficulty in grid:
        if spread**2 >= p * (1 - p):
            continue  # no distribution between 0 and 1 has such a spread
        case = Case(p, spread, difficulty, s, e)
        rows.append(case._asdict() | measure(case, repeats, resamples, when))
    return {"repeats": repeats, "summary": _summary(rows, when), "cases": rows}


def _summary(rows: list[dict], when: Sequence[str]) -> list[dict]:
    """For each number of episodes and seeds: coverage of the worst case and on average, mean width."""
    groups: dict[tuple[int, int], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["episodes"], row["seeds"]), []).append(row)
    found = []
    for (episodes, seeds), cases in groups.items():
        line: dict = {"episodes": episodes, "seeds": seeds, "interval": Interval.kind(seeds)}
        for then in when:
            for name in ("success", "return"):
                values = [case[then][name] for case in cases]
                line[f"{then}_{name}"] = [round(min(values), 3), round(float(np.mean(values)), 3)]
                line[f"{then}_{name}_within"] = _within(values)
            line[f"{then}_width"] = round(float(np.mean([c[then]["width"] for c in cases])), 3)
        found.append(line)
    return found


if __name__ == "__main__":
    main()
