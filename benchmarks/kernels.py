"""Kernels of an update, or of a guided action, compiled for a GPU on a machine that needs none.

    make kernels                                                  # the table of docs/speed.md
    python benchmarks/kernels.py --config=experiments/configs/paper.py:cube_triple --seeds 8
    python benchmarks/kernels.py --act=qgf --config.networks.ensemble=10
    python benchmarks/kernels.py --forecast --all                 # and what they say of time

XLA's own compiler for GPUs runs ahead of time against a description of a card (`--card`); nothing is
run. It needs `jax[cuda13]` and neither OGBench nor a simulator; `make kernels` installs that into an
environment of its own. There is no autotuning, so tiles of products, and which library does them, are
not those of a real run; fusions, kernels and command buffers are.

A kernel inside a command buffer is launched with all others of that buffer; one outside costs the host a
launch of its own, and for a conditional the host waits. `body` is one update, or one flow step. A loop
inside an update, such as the flow of a critic's next action, is counted apart, one round of it.

`--forecast` adds the operations and bytes of an update, or of a call that acts, and a range of times
on an H100 and an H200: `forecast.py` has the model and its constants, none of which a card has fitted.
"""

import argparse
import collections
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # or JAX would look for a card

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--config", default="", help="FILE[:VARIANT]; empty: 4 x 512, batch 256")
parser.add_argument("--act", default="", help="a test-time method: its action, not an update")
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--devices", type=int, default=1, help="cards of an update, under jit")
parser.add_argument("--batch", type=int, default=1, help="observations that act at once")
parser.add_argument("--rows", type=int, default=0, help="copies of a single one; 0: as it acts")
parser.add_argument("--obs", type=int, default=46, help="width of an observation, without its goal")
parser.add_argument("--goal", type=int, default=0, help="width of a goal; 0: a single task")
parser.add_argument("--action", type=int, default=5, help="width of an action")
parser.add_argument("--card", type=Path, default=Path(__file__).with_name("h100.txtpb"))
parser.add_argument("--list", action="store_true", help="the kernels of the body by name too")
parser.add_argument("--forecast", action="store_true", help="a range of times, see forecast.py")
parser.add_argument("--all", action="store_true", help="the cases of the table, one after another")

_TRADES = (
    ("LayerNorm", "layer norm"),
    ("is_finite", "finite check"),
    ("_checksum", "finite check"),
    ("Dense", "bias and split-K sums"),
    ("MLP", "activation"),
    ("split", "slices of parameters"),
    ("dynamic_update_slice", "metrics"),
    ("gather", "gather"),
    ("threefry", "random bits"),
    ("random", "random bits"),
)
"""What a kernel is for, by the names that JAX has given its operations."""


class Kernel(NamedTuple):
    """A launch."""

    name: str
    trade: str
    depth: int
    """of loops around it"""
    buffered: bool
    """in a command buffer"""


def cards(card: str, count: int) -> Any:
    """A mesh, with the axis "x", of `count` cards that the text describes."""
    import jax
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(
            "", "cuda", target_config=card, topology=f"1x1x{count}"
        )
    except NotImplementedError:
        sys.exit("kernels.py: error: jax[cuda13] is not installed: make kernels does it")
    return jax.sharding.Mesh(described.devices, ("x",))


def placed(mesh: Any, tree: Any, *axes: str) -> Any:
    """The shapes of `tree` on the cards: the same on each, or split along `axes`."""
    import jax

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def names_of(text: str) -> dict[str, str]:
    """{instruction: trade} of optimised HLO."""
    found = {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if match := re.match(r"\s*(?:ROOT )?%([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(", line):
            found[match[1]] = _trade(line, match[2])
    return found


def _trade(line: str, operation: str) -> str:
    name = (re.search(r'op_name="([^"]*)"', line) or ["", ""])[1]
    if operation in ("dot", "custom-call") or re.search(r"calls=%?[\w.]*gemm_fusion", line):
        return "product"
    for sign, trade in _TRADES:
        if sign in name:
            back = "transpose(jvp" in name and sign in ("LayerNorm", "Dense", "MLP")
            return trade + " backward" * back
    return "other"


def kernels(dump: Path, trades: dict[str, str]) -> Iterator[Kernel]:
    """The launches of the program whose thunks XLA has dumped in the folder."""
    listed = max(dump.glob("*thunk_sequence_after_thunk_passes.txt"), key=os.path.getsize)
    about = Path(str(listed).replace("thunk_sequence_after_thunk_passes", "thunk_metadata"))
    pairs = re.findall(r'profile_annotation: "([^"]*)"\s+thunk_id: (\d+)', about.read_text())
    instruction = {int(number): name for name, number in pairs}
    around: list[tuple[int, str]] = []  # indentation and name of what a line is inside of
    # A loop's condition is indented as if it were outside, and launches next to nothing.
    text = re.sub(r"^ *condition:\n.*?^( *body:)", r"\1", listed.read_text(), flags=re.M | re.S)
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        while around and around[-1][0] >= indent:
            around.pop()
        number, kind = re.findall(r"^\s*(?:(\d+): )?(\w*)", line)[0]
        depth = sum(name == "body" for _, name in around)
        if line.rstrip().endswith(":") or kind in ("kCommandBuffer", "kWhile", "kConditional"):
            around.append((indent, kind))
            if kind == "kConditional":
                yield Kernel("conditional", kind, depth, False)
        elif number:
            name = instruction.get(int(number), "?")
            inside = any(name == "kCommandBuffer" for _, name in around)
            yield Kernel(name, trades.get(name, "other"), depth, inside)


def update(flags: argparse.Namespace, config: Any, spec: Any, mesh: Any) -> tuple[Any, int]:
    """A training program of `_UPDATES`, traced, and the least bytes that the optimiser moves in one."""
    import jax
    import numpy as np
    from stages import limits

    from qgf_jax.methods.builder import Builder
    from qgf_jax.training import dry_run
    from qgf_jax.training.programs import Trainer

    same, split = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)) for axes in ((), "x")
    )
    learner, dataset = Builder(config, spec).learner(), dry_run._dataset_shapes(spec)
    many: dict[str, Any] = {}
    if n := flags.devices * (flags.devices > 1):
        dataset = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), dataset)
        constrain = lambda batch: jax.lax.with_sharding_constraint(batch, split)  # noqa: E731
        many = {"shards": n, "constrain": constrain}
    programs = Trainer.uncompiled(learner, config, spec, packed=True, **many)
    state = placed(mesh, jax.eval_shape(programs.init, np.arange(flags.seeds)))
    run = jax.jit(programs.run, donate_argnums=0, static_argnums=2, out_shardings=same)
    traced = run.trace(state, placed(mesh, dataset, *("x" * bool(many))), _UPDATES)
    return traced, limits.adam_bytes(state.params, state.target_params)


def action(flags: argparse.Namespace, config: Any, spec: Any, mesh: Any) -> tuple[Any, int]:
    """Actions, traced; nothing is optimised."""
    import jax
    import jax.numpy as jnp

    from qgf_jax.methods import table as algorithms
    from qgf_jax.methods.builder import Builder
    from qgf_jax.runs.blocks import FEW, alone

    method, options = algorithms.Method.parse(flags.act)
    n = algorithms.Method.named(method).best_of[0]
    sample = Builder(config, spec).sample(method, n, options)
    init = Builder(config, spec).learner().init
    params = jax.eval_shape(init, jax.random.key(0), spec.example(), jnp.zeros(spec.chunk_dim))

    @jax.jit
    def act(params: Any, obs: Any, key: Any, weight: Any) -> Any:
        def one(obs: Any, key: Any) -> Any:
            return sample(algorithms.acting_params(params, {}), obs, key, weight)

        if flags.batch == 1:  # as a policy and a server act for it
            return alone(one, n, rows=flags.rows or FEW)(jax.tree.map(lambda x: x[0], obs), key)
        return jax.vmap(one)(obs, jax.random.split(key, flags.batch))

    row = jax.ShapeDtypeStruct((flags.batch, spec.width), jnp.float32)
    obs = jax.eval_shape(spec.observation, row)
    key = jax.eval_shape(lambda: jax.random.key(0))
    weight = jax.ShapeDtypeStruct((), jnp.float32)
    return act.trace(*placed(mesh, (params, obs, key, weight))), 0


def count(flags: argparse.Namespace, overrides: dict[str, str], dump: Path) -> dict[str, Any]:
    """Kernels of one program, by where they are and by trade."""
    from qgf_jax import config as configs
    from qgf_jax.types import Spec

    base = {} if flags.config else _BASE
    config = configs.plain(configs.load(flags.config or f"{_CONFIGS}/ogbench.py", base | overrides))
    spec = Spec(
        (flags.obs,), flags.action, config["data"]["chunk"],
        goal=(flags.goal,) if flags.goal else None, n_step=config["data"]["n_step"],
    )  # fmt: skip
    for old in dump.rglob("*.txt"):
        old.unlink()
    mesh = cards(flags.card.read_text(), flags.devices)
    begun = time.process_time()
    traced, optimised = (action if flags.act else update)(flags, config, spec, mesh)
    compiled = traced.lower().compile()
    seconds = time.process_time() - begun
    found = list(kernels(dump, names_of(compiled.as_text())))
    depths = {kernel.depth for kernel in found} - {0}
    loop = max(depths, default=0) if flags.act else min(depths)
    body = [kernel for kernel in found if kernel.depth == loop]
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "what": f"action of {flags.act}" if flags.act else "update",
        "options": overrides
        | {k: getattr(flags, k) for k in (("batch",) if flags.act else ("seeds", "goal"))},
        "body": len(body),
        "body_by_trade": dict(collections.Counter(kernel.trade for kernel in body).most_common()),
        "body_outside_command_buffers": sum(not kernel.buffered for kernel in body),
        "conditionals": sum(kernel.trade == "kConditional" for kernel in found),
        "all_reduces": re.findall(r"= \(?\(?(\w+\[\d*\])\S*,? .*?all-reduce(?:-start)?\(", text),
        "in_loops_of_the_body": sum(kernel.depth > loop for kernel in found),
        "outside_the_body": sum(kernel.depth < loop for kernel in found),
        "work_bytes": getattr(memory, "temp_size_in_bytes", None),
        "compile_cpu_seconds": round(seconds, 1),
        **({"kernels": [k._asdict() for k in body]} if flags.list else {}),
        **(_forecast(flags, config, found, compiled, traced, optimised) if flags.forecast else {}),
    }


def _forecast(
    flags: argparse.Namespace,
    config: Any,
    found: list[Kernel],
    compiled: Any,
    traced: Any,
    optimised: int,
) -> dict[str, Any]:
    """`counts` of an update, or of a call that acts, and `forecast` by card."""
    import forecast
    import hlo
    from stages import limits

    flops = limits.flops(traced.jaxpr)
    read, memory = hlo.Program(compiled.as_text()), compiled.memory_analysis()
    if flags.act:
        turns, per, each, unit = config["sampler"]["num_steps"], 1, flags.batch, "chunks_per_second"
        least = memory.argument_size_in_bytes + memory.output_size_in_bytes
    else:
        turns, per, each, unit = _UPDATES, _UPDATES, flags.seeds, "seed_updates_per_second"
        least = per * optimised
    if {kernel.depth for kernel in found} - {0, 1}:
        return {"forecast": None}  # loops in loops, as bptt's, whose turns are not read

    def total(value: Any) -> float:
        return sum(value(k) * (turns if k.depth else 1) for k in found) / per

    buffers = {k.depth for k in found if k.buffered}
    counts = forecast.Counts(
        total(lambda k: k.buffered),
        total(lambda k: not k.buffered),
        sum(turns if depth else 1 for depth in buffers) / per,
        total(lambda k: k.trade == "kConditional"),
        flops / per,
        least / per,
        total(lambda k: read.traffic(k.name)),
        1.0 if flags.act else 0.0,
    )
    said = {k: float(f"{v:.4g}") for k, v in counts._asdict().items()}
    return {
        "precision": config["precision"],
        "counts": said,
        "forecast": forecast.on_cards(counts, config["precision"], each, unit),
    }


_UPDATES = 100
_CONFIGS = Path(__file__).parent.parent / "experiments" / "configs"
_WIDTHS = ("networks.policy_hidden", "networks.critic_hidden")
_BASE = dict.fromkeys(_WIDTHS, "512,512,512,512")
_PAPER = " ".join(f"--config.{key}=1024,1024,1024,1024" for key in _WIDTHS)
CASES = (
    "",
    "--config.networks.ensemble=10",
    "--seeds=8",
    f"{_PAPER} --config.train.batch_size=1024",
    f"--config={_CONFIGS}/goal_conditioned.py:cube_single_small --goal=46",
    "--config.critic=td --config.critics.td.next=reference",
    *(f"--act={method}" for method in ("reference", "qgf", "qgf_jacobian", "bptt", "best_of")),
    "--act=qgf --batch=50",
)


def main() -> None:
    flags, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as dump:
        wanted = f"--xla_dump_to={dump} --xla_dump_hlo_as_text"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {wanted}"
        from qgf_jax.cli import Parser

        results = []
        for case in CASES if flags.all else (None,):
            mine, more = (
                parser.parse_known_args(case.split()) if case is not None else (flags, rest)
            )
            mine.forecast = flags.forecast
            results.append(count(mine, Parser.parse_overrides(more), Path(dump)))
        import jax

        about = {"card": flags.card.name, "jax": jax.__version__}
        common.show({"programs": results, **about} if flags.all else results[0] | about)


main()
