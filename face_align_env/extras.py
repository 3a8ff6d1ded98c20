"""Optional dependencies: the one message where one of them is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gymnasium.error import DependencyNotInstalled


class MissingExtraError(ModuleNotFoundError, DependencyNotInstalled):
    """A package that one of the extras of ``face-align-env`` brings is not installed."""


@contextmanager
def needs(extra: str, subject: str) -> Iterator[None]:
    """Import optional packages under it, as in ``with needs("train", "Supervised training"): import lightning``.

    :param extra: the extra of this project that brings the packages (``pyproject.toml``)
    :param subject: what needs them, the beginning of the message
    :raises MissingExtraError: one of them is not installed; the message says how to get it
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'{subject} needs the package {error.name}, which is not installed: pip install "face-align-env[{extra}]"',
            name=error.name,
        ) from error
