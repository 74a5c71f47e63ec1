"""The `qgf` command: one short file a subcommand, flags in, one call out."""

import argparse
import errno
import hashlib
import importlib
import io
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from qgf_jax import bounds
from qgf_jax.errors import SaveError, Stopped, UserError, log, unknown_name_error
from qgf_jax.runtime import backend, paths

COMMANDS = {
    "collect": "make a dataset with the benchmark's own scripted experts",
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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, where a value after a blank is the flag's even if it begins with -."""
        return super().parse_known_args(_joined(args or []), namespace)

    def error(self, message: str) -> NoReturn:
        """Raises what `main` prints."""
        raise UserError(f"{message}: see `{self.prog} --help`")


def _joined(words: Sequence[str]) -> list[str]:
    """`--flag -1,0` as `--flag=-1,0`, and `--config.key value` as `--config.key=value`."""
    joined: list[str] = []
    for i, word in enumerate(words):
        before = joined[-1] if joined else ""
        if word == "--":  # what follows are no flags
            return [*joined, *words[i:]]
        waits = before.startswith("--") and "=" not in before and not word.startswith("--")
        if waits and (before.startswith("--config.") or _NUMBERS.fullmatch(word)):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


_NUMBERS = re.compile(r"(?i)-(\d[\d.e+-]*|\.\d[\d.e+-]*|inf|nan)(,.*)?")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Whatever a user can mend is one line on standard error, and its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_standard_streams()
    backend.set_variables()
    keep_compiled()
    backend.tune(alone=words[:1] == ["train"])
    try:
        _run(words)
        _write_out()
    except UserError as error:
        log(f"qgf: error: {error}")
        sys.exit(error.code)
    except (MemoryError, RuntimeError) as error:  # JAX's own error of memory is one of the latter
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        cause = " ".join(str(error).split())[:100] or "no more is given"
        log(f"qgf: error: the memory does not suffice ({cause}): lower batch size, seeds or widths")
        sys.exit(UserError.code)
    except Stopped as stopped:
        log(f"qgf: stopped: {stopped}")
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        log("qgf: stopped; the same command goes on with what is left")
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough; not a success, and nobody is left to tell
        os._exit(141)
    except OSError as error:
        # Files of ours say where they are; what has no name is the standard output.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        log(f"qgf: error: {SaveError.at('standard output', error)}")
        os._exit(SaveError.code)  # Python would try once more, and say so


def _run(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
    elif words[0] not in COMMANDS:
        raise unknown_name_error("command", words[0], COMMANDS)
    else:
        importlib.import_module(f"qgf_jax.cli.{words[0].replace('-', '_')}").main(words[1:])


def _open_standard_streams() -> None:
    """What is closed leads nowhere, so that no file of a run takes its place; any text is printed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _write_out() -> None:
    """Writes what was printed, while an error can still be said: Python itself does so too late."""
    if sys.stdout is not None:
        sys.stdout.flush()


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
        name = hashlib.sha256(f"{platform.machine()}\n{kind}".encode()).hexdigest()[:12]
        python = ".".join(map(str, sys.version_info[:2]))
        folder = Path.home() / ".cache" / "qgf_jax" / "compiled" / name / python
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a home that cannot be written: nothing is kept
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def add_cpu_threads(parser: Parser) -> None:
    """The flag --cpu_threads, for commands that run JAX."""
    parser.add_argument(
        "--cpu_threads",
        type=kind(bounds.Count),
        help="threads of XLA on a CPU; 1 is best for small networks",
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


def kind(annotation: Any) -> Callable[[str], Any]:
    """An argparse type for a kind of `bounds`, such as `bounds.Count`."""
    bound = bounds.of(annotation)

    def parse(text: str) -> Any:
        try:
            return bounds.read("the value", text, bound)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
