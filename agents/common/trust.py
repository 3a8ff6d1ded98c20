"""Files that may hold code, loaded only where this user's own trainings have written them.

Stable-Baselines3 keeps models and replay buffers as pickles: whoever loads one runs what is in it. A signature says
that a file is as a training of this user has left it; the key of the signatures never leaves the user's home.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

TRUST = "FACE_ALIGN_TRUST"  # of the environment: load whatever it is; --trust sets it


class UntrustedFileError(ValueError):
    """A file that may hold code, and that no training of this user has written as it is."""


def key_path() -> Path:
    """Where the key of this user's signatures is."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "face-align" / "signing-key"


def sign(paths: Sequence[Path]) -> str:
    """A signature of files by their contents and order.

    :raises OSError: a file cannot be read, or the key cannot be made
    """
    code = hmac.new(_key(), digestmod=hashlib.sha256)
    for path in paths:
        code.update(hashlib.sha256(path.read_bytes()).digest())
    return code.hexdigest()


def require_trusted(paths: Sequence[Path], signature: object) -> None:
    """Look at files before they are loaded.

    :param signature: what :func:`sign` said of them when they were written, or something else
    :raises UntrustedFileError: the files have changed, and --trust was not given
    """
    if os.environ.get(TRUST) == "1":
        return
    if not isinstance(signature, str) or not hmac.compare_digest(signature, sign(paths)):
        raise UntrustedFileError(
            f"'{paths[0]}' may hold code, and no training of yours has written it as it is: it was changed, or copied "
            "from somebody else. Load it with --trust if you know where it is from, else remove it."
        )


def _key() -> bytes:
    """The user's key, made when it is first needed."""
    path = key_path()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # only its owner can read it
            file.write(secrets.token_bytes(32))
            file.flush()
            with contextlib.suppress(FileExistsError):  # another process was quicker: its key it is
                os.link(file.name, path)
    key = path.read_bytes()
    if len(key) != 32:
        raise OSError(f"'{path}' is no key (it has {len(key)} bytes, not 32). Remove it.")
    return key
