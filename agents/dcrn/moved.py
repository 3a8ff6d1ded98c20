"""Saved models from before ``agents`` became ``face_align_env.agents``."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

from stable_baselines3.common.save_util import open_path

from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.dcrn.policy import DCRNPolicy


def moved_classes(path: str | Path | io.BufferedIOBase) -> dict[str, type]:
    """The classes that a saved model names by the modules in which they were before, as ``custom_objects`` of ``load``.

    A saved model holds its classes as pickles, which find them by module and name.

    :param path: a file of Stable-Baselines3's ``save``, also one that is no such file: ``load`` says so
    :return: empty where the model is not from before
    """
    stream = open_path(path, "r", suffix="zip")
    try:
        with zipfile.ZipFile(stream) as archive:
            attributes = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError):
        return {}
    finally:
        if stream is path:
            stream.seek(0)
        else:
            stream.close()
    if attributes.get("policy_class", {}).get("__module__") != "agents.policy":
        return {}
    return {"policy_class": DCRNPolicy, "replay_buffer_class": FaceReplayBuffer}
