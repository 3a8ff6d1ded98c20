"""The way to a Ray cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from face_align_env.extras import needs


@contextmanager
def connected(cluster: str) -> Iterator[None]:
    """Connect to a Ray cluster, and let go of it.

    :param cluster: ``"local"``, this machine's cores; ``"auto"``, the cluster that this machine is a node of; or the
        address of a head node, ``HOST:PORT`` or ``ray://HOST:PORT``
    :raises MissingExtraError: Ray is not installed
    :raises ValueError: there is no such cluster
    """
    with needs("cluster", "A cluster"):
        import ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster == "local":
        ray.init(address="local", include_dashboard=False, **quiet)
    else:
        try:
            _require_answer(cluster)
            ray.init(address=cluster, **quiet)
        except (ConnectionError, RuntimeError) as error:
            raise ValueError(
                f"--cluster {cluster}: no Ray cluster answers there. Start one: ray start --head; or take local, this "
                "machine's cores."
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(cluster: str) -> None:
    """Knock at a head node's door: Ray itself waits for minutes where nobody opens.

    :raises ConnectionError: nobody listens there
    """
    host, _, port = cluster.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(str(error)) from error
