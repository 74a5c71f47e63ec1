"""Runs `qgf` in processes that can be killed: forks of one that has imported JAX but not started it.

Importing takes seconds, and JAX's threads do not survive a fork, so the tests' own process is no good
for it. Run as a program, this file is that parent: one JSON line in, one out.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent


class Server:
    """The parent; a context manager."""

    def __init__(self):
        environment = dict(os.environ, NPROC="2", PYTHONPATH=str(HERE.parent))
        environment["XLA_FLAGS"] = (
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, arguments, log, call="qgf_jax.cli:main", **environment) -> int:
        """The process id of `call(ARGUMENTS)`, whose output goes to the file `log`."""
        request = {"arguments": [str(a) for a in arguments], "log": str(log), "call": call}
        return self._ask(**request, environment=environment)["pid"]

    def wait(self, pid, timeout=120.0) -> int:
        """Its exit code, negative for a signal; killed when it takes too long."""
        return self._ask(wait=pid, timeout=timeout)["code"]

    def run(self, arguments, log, timeout=120.0, **more) -> int:
        """Start and wait."""
        return self.wait(self.start(arguments, log, **more), timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(timeout=10)


def child(arguments, log, call, environment):
    """What a fork does; never returns."""
    code = 1
    try:
        os.setsid()
        # Whoever has started us in the background may have had these ignored, and that is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        if "NOBODY_READS" in environment:
            reader, writer = os.pipe()
            os.dup2(writer, 2)
            os.close(reader)
        module, _, function = call.partition(":")
        getattr(importlib.import_module(module), function)(arguments)
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # As the interpreter would: threads are waited for, buffers written.
        with contextlib.suppress(BaseException):
            threading._shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid, timeout):
    """Exit code of a child."""
    end = time.monotonic() + timeout
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.005)


def main():
    """Answers until the input ends."""
    import jax  # noqa: F401
    import orbax.checkpoint  # noqa: F401

    import qgf_jax.cli.train
    import qgf_jax.evaluation.evaluate
    import qgf_jax.training.loop  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"code": wait(request["wait"], request["timeout"])}
        else:
            pid = os.fork()
            if not pid:
                child(**request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
