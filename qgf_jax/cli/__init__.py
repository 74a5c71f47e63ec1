"""The `qgf` command: one short file a subcommand, flags in, one call out."""

import argparse
import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn, get_origin

from qgf_guide.bounds import Bound, Count
from qgf_jax.errors import SaveError, Stopped, UserError, log, said
from qgf_jax.runtime import backend
from qgf_jax.runtime.plugins import ByModule

COMMANDS = {
    "collect": "make a dataset with the benchmark's own scripted experts",
    "convert": "unpack a dataset once into plain files, from which training starts at once",
    "train": "pretrain a reference flow policy and a critic, once",
    "calibrate": "choose a guidance weight from a run's data alone, for the method qgf_auto",
    "evaluate": "roll one checkpoint out under any test-time method, weight and seed",
    "sweep": "many trainings and evaluations, as many at once as there is room for",
    "report": "tables with confidence intervals, plots, pages, a site over many runs",
    "analyze": "what guidance does to actions: noise, Q reached, distance, KL, compute",
    "serve": "a guided policy over a websocket, for a robot or a simulator",
    "methods": "list the methods, and which of them one checkpoint serves",
    "export": "a checkpoint as a file for programs without this package",
    "verify": "check that the checkpoints of a run, or converted data, are what was written",
    "import-official": "make a run of a checkpoint of the public QGF code",
}


RUNS = ByModule()
"""Module, called as its command is -> what it does with the words after that."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that says what is wrong in one line."""

    def __init__(
        self,
        prog: str,
        description: str,
        epilog: str = "",
        help_on: Callable[[str], str] | None = None,
    ):
        """`help_on`: the text for `--help=TOPIC`, if there are topics."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            allow_abbrev=False,
            add_help=help_on is None,
        )
        if help_on:
            about = "show this help message, or what a KEY or section of the config is, and exit"
            self.add_argument(
                "-h",
                "--help",
                action=_HelpOn,
                help_on=help_on,
                nargs="?",
                metavar="KEY",
                help=about,
            )

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """As argparse does; a `type` may also be a kind of `bounds`, and may raise `UserError`."""
        if "type" in options:
            options["type"] = _kind(options["type"])
        return super().add_argument(*names, **options)

    def add_cpu_threads(self) -> None:
        """Adds the flag --cpu_threads, for commands that run JAX."""
        self.add_argument(
            "--cpu_threads",
            type=Count,
            action=_CpuThreads,
            help="threads of XLA on a CPU; 1 is best for small networks",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, where a value after a blank is the flag's even if it begins with -."""
        return super().parse_known_args(_joined(args or []), namespace)

    @staticmethod
    def parse_overrides(words: Sequence[str]) -> dict[str, str]:
        """`--config.a.b=c` as `{"a.b": "c"}`; `parse_known_args` makes that of `--config.a.b c` too."""
        overrides: dict[str, str] = {}
        for word in words:
            if not word.startswith("--config."):
                raise UserError(f"unknown argument {word!r}: see `qgf train --help`")
            key, equals, text = word.removeprefix("--config.").partition("=")
            if not equals:
                raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
            overrides[key] = text
        return overrides

    def error(self, message: str) -> NoReturn:
        """Raises what `main` prints."""
        raise UserError(f"{message}: see `{self.prog} --help`")


def _kind(kind: Any) -> Callable[[str], Any]:
    """An argparse type, of a kind of `bounds` or of a function that raises `UserError`."""
    read = kind
    if get_origin(kind) is Annotated:
        read = functools.partial(Bound.of(kind).read, "the value")

    def parse(text: str) -> Any:
        try:
            return read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _joined(words: Sequence[str]) -> list[str]:
    """`--flag -1,0` as `--flag=-1,0`, and `--config.key value` as `--config.key=value`."""
    joined: list[str] = []
    for i, word in enumerate(words):
        before = joined[-1] if joined else ""
        if word == "--":  # what follows are no flags
            return [*joined, *words[i:]]
        if _is_value(word, before):
            joined[-1] = f"{before}={word}"
        else:
            joined.append(word)
    return joined


def _is_value(word: str, before: str) -> bool:
    """Whether a word is the value of the one before, where argparse alone would not know."""
    if not before.startswith("--") or "=" in before or word.startswith("--"):
        return False
    return before.startswith("--config.") or bool(_NUMBERS.fullmatch(word))


_NUMBERS = re.compile(r"(?i)-(\d[\d.e+-]*|\.\d[\d.e+-]*|inf|nan)(,.*)?")


class _HelpOn(argparse.Action):
    """Prints help, on a topic if one is given, and exits."""

    def __init__(self, *args: Any, help_on: Callable[[str], str], **kwargs: Any):
        super().__init__(*args, default=argparse.SUPPRESS, **kwargs)
        self._help_on = help_on

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: Any,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        print(self._help_on(values).rstrip() if values else parser.format_help().rstrip())
        parser.exit()


class _CpuThreads(argparse.Action):
    """Sets the variable that XLA reads when JAX is imported, which is after flags are read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: Any,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        os.environ["NPROC"] = str(values)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a subcommand. Whatever a user can mend is one line on standard error, and its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_standard_streams()
    backend.set_variables()
    backend.tune(alone=words[:1] == ["train"])
    try:
        _run(words)
        _write_out()
    except (Exception, KeyboardInterrupt) as error:
        if not (ending := _ending(error)):
            raise
        if ending.line:
            log(f"qgf: {ending.line}")
        (os._exit if ending.at_once else sys.exit)(ending.code)


class _Ending(NamedTuple):
    """How the process ends after an error."""

    code: int
    line: str = ""
    at_once: bool = False
    """Whether standard output is not written out once more: it would fail again, and say so."""


def _ending(error: BaseException) -> _Ending | None:
    """None for an error that only its traceback explains."""
    match error:
        case UserError():
            return _Ending(error.code, f"error: {error}")
        case Stopped():
            return _Ending(error.code, f"stopped: {error}")
        case KeyboardInterrupt():
            return _Ending(130, "stopped; the same command resumes")
        case BrokenPipeError():  # `| head` has seen enough; not a success, and nobody reads a line
            return _Ending(141, at_once=True)
        case OSError(errno=errno.ENOSPC, filename=None):  # our files have names: standard output
            line = f"error: {SaveError.at('standard output', error)}"
            return _Ending(SaveError.code, line, at_once=True)
        case MemoryError():
            return _out_of_memory(error)
        case RuntimeError() if "RESOURCE_EXHAUSTED" in str(error):  # JAX's own error of memory
            return _out_of_memory(error)
    return None


def _out_of_memory(error: BaseException) -> _Ending:
    cause = said(error, 100) or "no more is given"
    line = f"error: the memory does not suffice ({cause}): lower batch size, seeds or widths"
    return _Ending(UserError.code, line)


def _run(words: Sequence[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
    elif words[0] not in COMMANDS:
        raise UserError.unknown("command", words[0], COMMANDS)
    else:
        RUNS.of(f"qgf_jax.cli.{words[0].replace('-', '_')}")(words[1:])


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
