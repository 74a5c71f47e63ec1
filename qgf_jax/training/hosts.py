"""Hosts: the processes that train one run together."""

import contextlib
import itertools
import json
import re
import time
from collections.abc import Generator, Mapping
from typing import Any

import jax

from qgf_jax.errors import UserError, said
from qgf_jax.runtime import backend


class Hosts:
    """How this process finds the others, and how all of them keep in step."""

    @staticmethod
    def parse(text: str) -> tuple[Any, ...]:
        """Reads "auto" or "ADDRESS:PORT,COUNT,INDEX". Raises `UserError` for anything else.

        The address is the first process's, COUNT the number of processes, INDEX that of this one. "auto"
        gives (), and JAX takes what Slurm, Open MPI, Kubernetes or a TPU pod provide.
        """
        if text == "auto":
            return ()
        parts = re.fullmatch(r"([^,\s]+:\d+),(\d+),(\d+)", text)
        if not parts or int(parts[3]) >= int(parts[2]):
            raise UserError(
                f"--hosts={text}: it must be auto or ADDRESS:PORT,COUNT,INDEX, with INDEX < COUNT"
            )
        return parts[1], int(parts[2]), int(parts[3])

    @classmethod
    def initialize(cls, text: str) -> bool:
        """Connects this process to the others, before JAX looks at its devices.

        `text` is as for `parse`. Returns whether this is the first process. Raises `UserError` if the
        processes do not find each other.
        """
        address = cls.parse(text)
        try:
            jax.distributed.initialize(*address, initialization_timeout=_TO_CONNECT)
        except (RuntimeError, ValueError) as error:
            cause = said(error, 120)
            raise UserError(
                f"--hosts={text}: the processes did not find each other: {cause}"
            ) from None
        backend.devices()
        return jax.process_index() == 0

    @staticmethod
    def shutdown() -> None:
        """Disconnects from the other processes, if there are any."""
        if jax.process_count() > 1:
            jax.distributed.shutdown()

    @staticmethod
    def barrier(record: Mapping[str, Any]) -> None:
        """Waits for all processes; raises `UserError` on all if they disagree on `record`.

        It raises too if one of them has failed in a `setup_phase`. It goes by way of JAX's coordination
        service, which waits long.
        """
        if jax.process_count() == 1:
            return
        answers = _exchange({"record": record})
        for i, answer in enumerate(answers):
            if "error" in answer:
                raise UserError(f"process {i} could not begin: {answer['error']}")
        for i, answer in enumerate(answers):
            for key, first in answers[0]["record"].items():
                if (other := answer["record"].get(key)) != first:
                    raise UserError(
                        f"processes 0 and {i} do not train the same: {key} is {first} and {other}"
                    )

    @staticmethod
    @contextlib.contextmanager
    def setup_phase() -> Generator[None]:
        """What a process does alone before the next `barrier`; if it fails, the others hear why."""
        try:
            yield
        except BaseException as error:
            if jax.process_count() > 1:
                # A process that leaves before the others have heard ends them without a message.
                with contextlib.suppress(UserError):
                    _exchange({"error": " ".join(f"{error}".split()) or type(error).__name__})
            raise


_TO_CONNECT = 300  # seconds
_TO_BEGIN = 3600  # seconds: loading may take one host so much longer
_exchanges = itertools.count()


def _exchange(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every process's answer, once all have given one. Raises `UserError` after `_TO_BEGIN`."""
    from orbax.checkpoint import multihost

    client, number = multihost.get_jax_distributed_client(), next(_exchanges)
    client.key_value_set(f"qgf/{number}/{jax.process_index()}", json.dumps(answer))
    answers: list[dict[str, Any]] = []
    end = time.monotonic() + _TO_BEGIN
    while len(answers) < jax.process_count():
        try:
            # One second, so that signals are handled in between.
            text = client.blocking_key_value_get(f"qgf/{number}/{len(answers)}", 1000)
            answers.append(json.loads(text))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > end:
                cause = said(error, 120)
                raise UserError(f"process {len(answers)} did not begin: {cause}") from None
    return answers
