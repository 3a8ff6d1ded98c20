"""From a dataclass of settings to the options of a command."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

import typer

from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import SettingError, Settings, descriptions, flag_of, nested


@dataclass(frozen=True)
class _Option:
    """An option of a command.

    :param kind: the class whose setting it is
    :param field: of that class
    :param flag: ``--num-envs``
    :param annotation: of its value
    :param default: of its value
    :param help: what it does
    """

    kind: type[Settings]
    field: str
    flag: str
    annotation: Any
    default: Any
    help: str

    @property
    def name(self) -> str:
        """Of the command's parameter; no word of Python's, as --from would be."""
        return "setting_" + self.flag.removeprefix("--").replace("-", "_")

    @property
    def holds_pairs(self) -> bool:
        """Whether it is given as KEY=VALUE, again and again."""
        return any(str(kind).startswith("dict[") for kind in (self.annotation, *get_args(self.annotation)))

    def parameter(self) -> inspect.Parameter:
        """As typer wants it."""
        flags = [self.flag]
        if self.annotation is bool:
            flags = [f"{self.flag}/--no-{self.flag.removeprefix('--')}"]
        information = typer.Option(*flags, help=self.help, rich_help_panel=self.kind.title)
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=Annotated[list[str] | None if self.holds_pairs else self.annotation, information],
        )

    def value(self, given: Any) -> Any:
        """What the command line gave, as the setting has it."""
        return (pairs(given, self.flag) or None) if self.holds_pairs else given


def settings_command(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a dataclass of settings: each of its fields becomes an option.

    :param command: ``command(settings, ...)``; its further parameters are options and arguments as they are
    """
    signature = inspect.signature(command, eval_str=True)
    first, *others = signature.parameters.values()
    kind: type[Settings] = first.annotation
    options = list(_options(kind))

    @functools.wraps(command)
    def call(**given: Any) -> None:
        values = {(option.kind, option.field): option.value(given.pop(option.name)) for option in options}
        command(_built(kind, values), **given)

    arguments = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in others]
    parameters = [*(option.parameter() for option in options), *arguments]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def _options(kind: type[Settings]) -> Iterator[_Option]:
    helps, annotations = descriptions(kind), get_type_hints(kind)
    for own in fields(kind):
        inner, flag = nested(own), flag_of(kind, own.name)
        if inner is not None:
            yield from _options(inner)
        elif flag:
            text = helps[own.name]
            yield _Option(kind, own.name, flag, annotations[own.name], own.default, f"{text[0].upper()}{text[1:]}.")


def _built(kind: type[Settings], values: Mapping[tuple[type[Settings], str], Any]) -> Settings:
    given = {}
    for own in fields(kind):
        inner = nested(own)
        if inner is not None:
            given[own.name] = _built(inner, values)
        elif (kind, own.name) in values:
            given[own.name] = values[kind, own.name]
    return kind(**given)


def pairs(given: list[str] | None, flag: str) -> dict[str, Any]:
    """The keywords that an option gave as KEY=VALUE; numbers, True, False and JSON are what they look like.

    :param given: the option's values
    :param flag: the option, for messages
    :raises SettingError: one is not KEY=VALUE, or a key is there twice
    """
    found: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingError(flag, flag, f"must be KEY=VALUE, got '{text}'.")
        if key in found:
            raise SettingError(flag, flag, f"sets '{key}' twice.")
        try:
            found[key] = _value(value)
        except ValueError as error:
            raise SettingError(flag, flag, f"has a value of '{key}' that is no JSON: {error}.") from None
    return found


def dataset_options(dataset: str, landmarks: int | None, given: list[str] | None) -> dict[str, Any]:
    """The keywords of a dataset that ``--option`` gave.

    :raises SettingError: there is no such dataset, or it takes no such keyword or number of landmarks
    """
    options = pairs(given, "--option")
    Data(dataset, None, landmarks, options or None).check()
    return options


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if text.startswith(("{", "[")):
        return json.loads(text)
    try:
        return float(text)
    except ValueError:
        return text
