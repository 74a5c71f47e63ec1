"""The `qgf` command: one short file a subcommand, flags in, one call out."""

import argparse
import hashlib
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from qgf_jax import paths
from qgf_jax.errors import Stopped, UserError, say, unknown

COMMANDS = {
    "collect": "make an OGBench-format dataset from the benchmark's own scripted experts",
    "convert": "unpack a dataset once into plain files, from which training starts at once",
    "train": "pretrain a reference flow policy and a critic, once",
    "evaluate": "roll one checkpoint out under any test-time method, weight and seed",
    "report": "tables with confidence intervals, plots and one HTML page",
    "methods": "list the methods, and which of them one checkpoint serves",
    "verify": "check that the checkpoints of a run, or converted data, are what was written",
    "import-official": "make a run of a checkpoint of the public QGF code",
}


class Parser(argparse.ArgumentParser):
    """An argparse parser that says what is wrong in one line."""

    def __init__(self, prog: str, description: str, epilog: str = ""):
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises what `main` prints."""
        raise UserError(f"{message}: see `{self.prog} --help`")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Whatever a user can mend is one line on standard error, and its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    keep_compiled()
    tune_for_cpu()
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_help())
        elif words[0] not in COMMANDS:
            raise unknown("command", words[0], COMMANDS)
        else:
            importlib.import_module(f"qgf_jax.cli.{words[0].replace('-', '_')}").main(words[1:])
    except UserError as error:
        say(f"qgf: error: {error}")
        sys.exit(error.code)
    except Stopped as stopped:
        say(f"qgf: stopped: {stopped}")
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        say("qgf: stopped; the same command goes on with what is left")
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough; not a success, and nobody is left to tell
        os._exit(141)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  qgf {name:{width}}  {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: qgf COMMAND [arguments]",
            "",
            "Q-Guided Flow: pretrain a flow policy and a critic, improve the policy at test time.",
            "",
            *lines,
            "",
            "`qgf COMMAND --help` says more.",
        ]
    )


def keep_compiled() -> None:
    """Has JAX keep compiled programs on disk, so that the next start of a config is quicker.

    In ~/.cache/qgf_jax, a folder for each kind of processor, as a program is compiled for one, and
    for each Python, as JAX compresses in another way on 3.14 under the same names. A variable
    JAX_COMPILATION_CACHE_DIR of one's own is heeded, and QGF_CACHE=off keeps nothing.
    """
    if os.environ.get("QGF_CACHE") == "off":
        return
    try:
        about = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        kind = "\n".join(x for x in about.splitlines() if x.startswith(("model name", "flags")))
        home = Path.home()
    except (OSError, RuntimeError):
        return
    name = hashlib.sha256(f"{platform.machine()}\n{kind}".encode()).hexdigest()[:12]
    python = ".".join(map(str, sys.version_info[:2]))
    folder = home / ".cache" / "qgf_jax" / "compiled" / name / python
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def tune_for_cpu(widest: int = 0) -> None:
    """Tells XLA how to compile for a CPU; before JAX is imported.

    Its library of kernels does matrix products alone, as XLA's own loops do the rest quicker: an update
    takes 0.8 of the time at width 8 and 0.96 at width 512. With layers of 256 units or more
    (`widest`) these loops use the longest vectors, which saves another 2 %, while small ones lose by
    it. An unknown flag ends the process, so only versions that have these get them; the same flags
    in one's own `XLA_FLAGS` are heeded.
    """
    known = importlib.metadata.version("jaxlib").startswith(("0.10.", "0.11.", "0.12."))
    if not known or "jax" in sys.modules:
        return
    wanted = {"--xla_cpu_experimental_ynn_fusion_type": "individual_dot"}
    if widest >= 256:
        wanted["--xla_cpu_prefer_vector_width"] = "512"
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [f"{name}={value}" for name, value in wanted.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()


def add_cpu_threads(parser: Parser) -> None:
    """The flag --cpu_threads, for commands that run JAX."""
    parser.add_argument(
        "--cpu_threads", type=int, help="threads of XLA on a CPU; 1 is best for small networks"
    )


def limit_cpu_threads(count: int | None) -> None:
    """Heeds the flag. XLA reads the variable when JAX is imported, so before that."""
    if count:
        os.environ["NPROC"] = str(count)


def path(text: str) -> Path:
    """An argparse type: a path, `~` expanded."""
    try:
        return paths.expand(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def several_paths(text: str) -> list[Path]:
    """An argparse type: "a,b" as two paths, but as one if there is a file or folder of that name."""
    return [path(one) for one in paths.split(text, ",")]


def numbers(kind: type) -> Callable[[str], Any]:
    """An argparse type: "1,3" as a tuple of `kind`."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(word) for word in text.split(",") if word)

    parse.__name__ = f"comma-separated {kind.__name__}"
    return parse
