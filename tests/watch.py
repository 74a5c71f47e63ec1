"""An audit hook: connections but to this machine fail, and what is forbidden is noted.

On a `PYTHONPATH` with a `sitecustomize.py` that imports `everywhere`, it is in every new interpreter.
"""

import os
import sys


def _of_tensorboard():
    """Its writer hands its own events to its own thread through a queue that pickles."""
    frame = sys._getframe()
    while frame := frame.f_back:
        if "tensorboardX" in frame.f_code.co_filename:
            return True
    return False


def install(notes):
    """From now on in this process; what is noted goes to the file `notes`."""

    def hook(event, details):
        if event == "socket.connect":
            address = details[1]
            if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
                raise PermissionError(f"connection to {address}")
        if event in ("pickle.find_class", "os.system") and not _of_tensorboard():
            with open(notes, "a") as file:
                file.write(f"{event} {details}\n")

    sys.addaudithook(hook)


def everywhere():
    """`install`, in a process that somebody else has started, which leaves its command line."""
    notes = os.environ["QGF_NOTES"]
    install(notes)
    with open(f"{notes}.watched", "a") as file:
        file.write(f"{sys.orig_argv[1:]}\n")
