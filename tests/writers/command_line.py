"""What the command line makes of words, without running a command."""

from __future__ import annotations

from typing import Any

import typer

from face_align_env.agents.cli.app import app


def understood(words: list[str]) -> None:
    """The command line takes these words.

    :raises Exception: typer's or click's, it does not
    """
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands"):
        assert words[:1], "no command"
        assert words[0] in command.commands, f"no command {words[0]}"
        context = command.context_class(command, parent=context, info_name=command.name)
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words), parent=context)
