"""qgf serve"""

import asyncio
import gc
import importlib.util
from collections.abc import Sequence

from qgf_guide.bounds import Count, Counts, Finite, Index, NonNegative
from qgf_jax.cli import RUNS, Parser
from qgf_jax.errors import UserError, log
from qgf_jax.methods.table import Method
from qgf_jax.runs.run import Run
from qgf_jax.runtime import paths
from qgf_jax.serving.access import Access


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and serves until it is asked to stop."""
    flags = _parser().parse_args(arguments)
    # All that can be wrong with flags and folder is found before JAX is imported.
    if not 0 <= flags.port < 2**16:
        raise UserError(f"--port={flags.port} is no port: choose one from 0 to 65535")
    access = Access.of(flags.host, flags.token_file, flags.cert, flags.key)
    methods = flags.methods.split(",") if flags.methods else ()
    for method in methods:
        Method.parse(method)
    _check_packages()
    Run.open(flags.workdir)
    from qgf_jax.serving.served import make_server
    from qgf_jax.serving.server import Limits

    server = make_server(
        flags.workdir,
        methods=methods,
        best_of=flags.best_of or (),
        weight=flags.weight,
        seed=flags.seed,
        step=flags.step,
        batch_sizes=flags.batch_sizes or (),
        wait=flags.wait_ms / 1e3,
        queue=flags.most_waiting,
        observations=flags.most_observations,
        access=access,
        limits=Limits(flags.most_bytes, flags.most_clients, flags.drain),
    )

    # JAX's objects are many and stay: a full collection would walk through them in some request.
    gc.collect()
    gc.freeze()

    def listening() -> None:
        host = f"[{access.host}]" if ":" in access.host else access.host
        log(f"qgf: serving {flags.workdir} on {access.scheme}://{host}:{server.port}")

    if asyncio.run(server.run(flags.port, listening)):
        log("qgf: stopped, and what was under way is answered")
    else:
        log(f"qgf: stopped; not all that was under way was answered within {flags.drain:g} s")


def _check_packages() -> None:
    for name in ("websockets", "msgpack"):
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"qgf serve needs {name}, which is not installed: run `pip install 'qgf-jax[serve]'`"
            )


def _parser() -> Parser:
    parser = Parser(
        prog="qgf serve",
        description="Serves a run's policy over a websocket, in openpi's protocol: metadata first,\n"
        "then actions for each observation. Listens once everything is compiled.",
        epilog="example: qgf serve runs/cube --port=8000 --methods=qgf,reference --weight=0.03\n"
        "docs/serving.md has the protocol, a client, and what is for other machines.",
    )
    parser.add_argument("workdir", type=paths.expand, help="run folder")
    parser.add_argument("--port", type=Index, default=8000, help="0: any that is free")
    parser.add_argument(
        "--methods",
        help="NAME or NAME:option=value, the default first; else qgf, the run's own, reference, best_of",
    )
    parser.add_argument(
        "--best_of", type=Counts, help="numbers of candidates beside each method's own"
    )
    parser.add_argument("--weight", type=Finite, default=1.0, help="of requests without one")
    parser.add_argument("--seed", type=Index, default=0, help="place of a trained seed in the run")
    parser.add_argument("--step", type=Index, help="checkpoint; else the newest sound one")
    parser.add_argument(
        "--batch_sizes",
        type=Counts,
        help="observations of a call; else 1 on a CPU, 1 to 64 by powers of 2 elsewhere",
    )
    parser.add_argument(
        "--wait_ms", type=NonNegative, default=1.0, help="that a request waits for others at most"
    )
    _add_access(parser)
    _add_limits(parser)
    parser.add_cpu_threads()
    return parser


def _add_access(parser: Parser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address; one that others reach needs token and TLS"
    )
    words = {
        "token": "file with the token that clients must send",
        "cert": "certificate chain, PEM",
        "key": "its private key, PEM",
    }
    parser.add_argument(
        "--token-file", "--token_file", type=paths.expand, metavar="FILE", help=words["token"]
    )
    for name in ("cert", "key"):
        parser.add_argument(f"--{name}", type=paths.expand, metavar="FILE", help=words[name])


def _add_limits(parser: Parser) -> None:
    parser.add_argument("--most_bytes", type=Count, default=1 << 20, help="of a message")
    parser.add_argument("--most_clients", type=Count, default=256, help="at once")
    parser.add_argument("--most_waiting", type=Count, default=256, help="requests in the queue")
    parser.add_argument(
        "--most_observations",
        type=Count,
        default=256,
        help="of one request; it may need many calls",
    )
    parser.add_argument(
        "--drain",
        type=NonNegative,
        default=10.0,
        help="seconds for what is under way when it is asked to stop",
    )
