"""Records data in a Gymnasium environment: a linear policy at stages of its training, with noise.

    python experiments/record.py --env=Hopper-v5 --out=data/recorded --episodes=400

Augmented random search (Mania et al., 2018, arXiv 1803.07055, version V2-t) trains the policy; no
network and no accelerator are needed. The same episodes are written twice: as a Minari dataset below
OUT/minari, and as a file of D4RL's layout in OUT.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np

STAGES = (0.25, 0.5, 0.75, 1.0)
"""Parts of the training after which a policy is kept for recording."""


class Linear:
    """An action linear in the normalised observation."""

    def __init__(self, observation: int, action: int):
        self.matrix = np.zeros((action, observation))
        self._count, self._mean, self._square = 1e-8, np.zeros(observation), np.zeros(observation)

    def watch(self, observations: np.ndarray) -> None:
        """Takes observations [T, O] into the running mean and spread."""
        for x in observations:
            self._count += 1
            away = x - self._mean
            self._mean += away / self._count
            self._square += away * (x - self._mean)

    def gain(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(gain [A, O], offset [A]): action = gain @ observation + offset."""
        spread = np.sqrt(self._square / self._count)
        gain = matrix / np.where(spread < 1e-7, 1.0, spread)
        return gain, -gain @ self._mean


def play(
    env: Any, policy: tuple[np.ndarray, np.ndarray], seed: int, noise: float = 0.0
) -> dict[str, np.ndarray | bool]:
    """One episode; `noise` is the deviation of Gaussian noise on actions, in halves of their range."""
    generator = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, states = [observation], [], [], [_state(env)]
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy[0] @ observation + policy[1]
        action = action + noise * generator.normal(size=action.shape)
        action = np.clip((low + high) / 2 + action * (high - low) / 2, low, high).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        states.append(_state(env))
    return {
        "observations": np.array(observations),
        "actions": np.array(actions),
        "rewards": np.array(rewards, np.float64),
        "terminated": terminated,
        **{key: np.array([state[key] for state in states]) for key in states[0]},
    }


def _state(env: Any) -> dict[str, np.ndarray]:
    data = getattr(env.unwrapped, "data", None)
    return {} if data is None else {"qpos": data.qpos.copy(), "qvel": data.qvel.copy()}


def search(env: Any, steps: int, *, size: float, noise: float, bonus: float) -> list[Any]:
    """Policies after each of `STAGES` of `steps` environment steps.

    Eight directions a round, of which the best four count. `bonus` is what a step gives for not having
    fallen; it is not searched for.
    """
    generator = np.random.default_rng(0)
    policy = Linear(env.observation_space.shape[0], env.action_space.shape[0])
    done, kept, seed, started = 0, [], 0, time.time()
    while len(kept) < len(STAGES):
        directions = generator.normal(size=(8, *policy.matrix.shape))
        returns = np.zeros((8, 2))
        seen = []
        for i, direction in enumerate(directions):
            for j, sign in enumerate((1, -1)):
                seed += 1
                episode = play(env, policy.gain(policy.matrix + sign * noise * direction), seed)
                returns[i, j] = (episode["rewards"] - bonus).sum()
                seen.append(episode["observations"][:-1])
        best = np.argsort(-returns.max(axis=1))[:4]
        deviation = returns[best].std() + 1e-8
        weight = (returns[best, 0] - returns[best, 1]) / deviation
        policy.matrix = policy.matrix + size / len(best) * np.tensordot(weight, directions[best], 1)
        for observations in seen:
            policy.watch(observations)
        done += sum(map(len, seen))
        if done >= STAGES[len(kept)] * steps:
            kept.append(policy.gain(policy.matrix))
            mean = np.mean([play(env, kept[-1], 10**6 + k)["rewards"].sum() for k in range(10)])
            print(f"{done} steps, {time.time() - started:.0f} s: return {mean:.0f}", flush=True)
    return kept


def record(env: Any, policies: list[Any], episodes: int, noises: tuple[float, ...]) -> list[Any]:
    """Episodes of all policies and noises in turn."""
    arms = [(policy, noise) for policy in policies for noise in noises]
    return [play(env, *_arm(arms, i)) for i in range(episodes)]


def _arm(arms: list[Any], i: int) -> tuple[Any, int, float]:
    policy, noise = arms[i % len(arms)]
    return policy, 10**7 + i, noise


def write_d4rl(path: Path, episodes: list[Any]) -> None:
    """The layout of D4RL's files, without `next_observations`."""
    last = [np.arange(len(e["actions"])) == len(e["actions"]) - 1 for e in episodes]
    columns = {key: np.concatenate([e[key][:-1] for e in episodes]) for key in ("observations",)}
    columns |= {key: np.concatenate([e[key] for e in episodes]) for key in ("actions", "rewards")}
    pairs = list(zip(last, episodes, strict=True))
    columns["terminals"] = np.concatenate([x & e["terminated"] for x, e in pairs])
    columns["timeouts"] = np.concatenate([x & (not e["terminated"]) for x, e in pairs])
    with h5py.File(path, "w") as file:
        for key, column in columns.items():
            file.create_dataset(key, data=column, compression="gzip")
        for key in ("qpos", "qvel"):
            if key in episodes[0]:
                whole = np.concatenate([e[key][:-1] for e in episodes])
                file.create_dataset(f"infos/{key}", data=whole, compression="gzip")


def write_minari(env: Any, identity: str, episodes: list[Any], scores: tuple[float, float]) -> None:
    """A dataset in MINARI_DATASETS_PATH, by Minari's own writer. `scores`: returns of 0 and 1."""
    import minari
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for i, e in enumerate(episodes):
        last = np.arange(len(e["actions"])) == len(e["actions"]) - 1
        infos = {key: e[key] for key in ("qpos", "qvel") if key in e}
        buffers.append(
            EpisodeBuffer(
                id=i,
                observations=e["observations"],
                actions=e["actions"],
                rewards=list(e["rewards"]),
                terminations=list(last & e["terminated"]),
                truncations=list(last & (not e["terminated"])),
                infos=infos or None,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(identity, buffers, env=env)
    dataset.storage.update_metadata({"ref_min_score": scores[0], "ref_max_score": scores[1]})


def main() -> None:
    """Searches, records and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--out", type=Path, default=Path("data/recorded"))
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--steps", type=int, default=2_000_000, help="of the search")
    parser.add_argument("--size", type=float, default=0.01, help="of a step of the search")
    parser.add_argument("--search-noise", type=float, default=0.025)
    parser.add_argument("--bonus", type=float, default=1.0, help="reward of a step for not falling")
    flags = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "disable")
    flags.out.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str((flags.out / "minari").resolve())
    env = gymnasium.make(flags.env, disable_env_checker=True)
    zero = np.zeros((env.action_space.shape[0], env.observation_space.shape[0]))
    idle = [play(env, (zero, zero[:, 0]), 10**8 + k, 0.5)["rewards"].sum() for k in range(20)]
    policies = search(
        env, flags.steps, size=flags.size, noise=flags.search_noise, bonus=flags.bonus
    )
    best = [play(env, policies[-1], 10**8 + k)["rewards"].sum() for k in range(20)]
    episodes = record(env, policies, flags.episodes, (0.1, 0.3, 0.6))
    name = f"{flags.env.lower()}".replace("-v", "")
    write_d4rl(flags.out / f"{name}-mixed.hdf5", episodes)
    scores = float(np.mean(idle)), float(np.mean(best))
    write_minari(env, f"{name}/mixed-v0", episodes, scores)
    returns = [float(e["rewards"].sum()) for e in episodes]
    print(json.dumps({
        "env": flags.env,
        "episodes": len(episodes),
        "transitions": sum(len(e["actions"]) for e in episodes),
        "terminated": sum(bool(e["terminated"]) for e in episodes),
        "return": {"mean": np.mean(returns), "min": min(returns), "max": max(returns)},
        "references": scores,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
