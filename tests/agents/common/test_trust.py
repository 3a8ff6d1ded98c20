"""Which files that may hold code are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from face_align_env.agents.common.trust import TRUST, UntrustedFileError, key_path, require_trusted, sign


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two files, and a user without a key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(TRUST, raising=False)
    made = [tmp_path / "model.zip", tmp_path / "replay_buffer.pkl"]
    for path in made:
        path.write_bytes(path.name.encode())
    return made


def test_what_this_user_has_written_is_trusted(paths: list[Path]) -> None:
    signature = sign(paths)
    assert key_path().stat().st_mode & 0o777 == 0o600
    require_trusted(paths, signature)
    assert sign(paths) == signature, "the key stays"


def test_what_was_changed_or_never_signed_is_not(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    signature = sign(paths)
    for wrong in (None, "", "0" * 64, 3):
        with pytest.raises(UntrustedFileError, match=r"model\.zip' may hold code.*--trust"):
            require_trusted(paths, wrong)
    with pytest.raises(UntrustedFileError):
        require_trusted(paths[::-1], signature)
    paths[1].write_bytes(b"code")
    with pytest.raises(UntrustedFileError):
        require_trusted(paths, signature)
    monkeypatch.setenv(TRUST, "1")
    require_trusted(paths, signature)


def test_another_users_signature_says_nothing(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = sign(paths)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(UntrustedFileError):
        require_trusted(paths, signature)


def test_a_damaged_key_is_named(paths: list[Path]) -> None:
    sign(paths)
    key_path().write_bytes(b"")
    with pytest.raises(OSError, match="signing-key' is no key"):
        sign(paths)
