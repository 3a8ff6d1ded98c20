"""Settings: dataclasses that say what their values may be; command line, JSON file and command are made from them."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from face_align_env.files import write_json


class SettingError(ValueError):
    """A setting has a value that makes no sense.

    :param name: of the setting
    :param flag: of its option, for the command line
    :param message: goes on after the name: "must be at least 1, got 0."
    """

    def __init__(self, name: str, flag: str, message: str) -> None:
        super().__init__(f"{name} {message}")
        self.flag, self.message = flag, message


def setting(
    default: Any = None,
    *,
    flag: str | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    choices: Collection[str] = (),
) -> Any:
    """A field of :class:`Settings`.

    :param flag: of its option; None: ``--`` and the field's name; "": it has none
    :param least: smallest value
    :param above: a bound that is too small itself
    :param most: largest value
    :param choices: the texts that it may be
    """
    bounds = {"least": least, "above": above, "most": most, "choices": choices}
    return field(default=default, metadata={"flag": flag, **bounds})


@dataclass(frozen=True)
class Settings:
    """Base of configurations.

    A field is a number, a text, a flag, a dictionary (KEY=VALUE on the command line), or further settings. Its
    ``:param`` line is the help of its option.

    :cvar title: of its options' group in the help
    :cvar retired: names that older versions have written, and that say nothing any more
    :raises SettingError: a value has the wrong type, or is outside of its bounds
    """

    title: ClassVar[str] = "Options"
    retired: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for own in fields(self):
            value = getattr(self, own.name)
            if nested(own) is not None:
                continue
            if not accepts(own.type, value):
                self.refuse(own.name, f"must be {_expected(own.type)}, got '{value}'.")
            problem = None if value is None else _out_of_bounds(value, own.metadata)
            if problem is not None:
                self.refuse(own.name, problem)

    def refuse(self, name: str, message: str) -> NoReturn:
        """Say that a setting makes no sense.

        :raises SettingError: always
        """
        raise SettingError(name, flag_of(type(self), name), message)

    def document(self) -> dict[str, Any]:
        """The settings as JSON has them: lists for tuples, text for paths."""
        made: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_as_text))
        return made

    @classmethod
    def from_document(cls, document: object, path: str | os.PathLike[str]) -> Self:
        """The settings of a JSON file; what it does not say is the default.

        :param path: of the file, for messages
        :raises ValueError: a key or a value makes no sense; the message names the file
        """
        try:
            return cls._from_document(document)
        except SettingError as error:
            raise ValueError(f"'{os.fspath(path)}': {error} Correct the file, or make the folder anew.") from error

    @classmethod
    def _from_document(cls, document: object) -> Self:
        if not isinstance(document, Mapping):
            raise SettingError("it", "", f"must hold the settings {', '.join(own.name for own in fields(cls))}.")
        known = {own.name: nested(own) for own in fields(cls)}
        values = {}
        for key, value in document.items():
            if key in cls.retired:
                continue
            if key not in known:
                raise SettingError(key, "", f"is no setting; there are {', '.join(known)}.")
            kind = known[key]
            values[key] = value if kind is None else kind._from_document(value)
        return cls(**values)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The settings of a JSON file.

        :raises ValueError: it holds something else; the message names the file
        """
        return cls.from_document(read_json(path), path)

    def arguments(self, always: Collection[str] = ()) -> list[str]:
        """The words of the command line that differ from the defaults.

        :param always: fields that are there even so
        """
        words: list[str] = []
        for own in fields(self):
            flag, value = flag_of(type(self), own.name), getattr(self, own.name)
            if isinstance(value, Settings):
                words += value.arguments(always)
            elif flag and (own.name in always or value != own.default):
                words += _words(flag, value)
        return words


def nested(own: Any) -> type[Settings] | None:
    """The class of a field that holds further settings; None: it holds a value."""
    kind = own.default_factory
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def flag_of(kind: type[Settings], name: str) -> str:
    """The option of a field; "": it has none."""
    own = {each.name: each for each in fields(kind)}[name]
    flag = own.metadata.get("flag")
    return f"--{name.strip('_').replace('_', '-')}" if flag is None else str(flag)


def descriptions(kind: type[Settings]) -> dict[str, str]:
    """What the ``:param`` lines say of each field."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        for part in inspect.cleandoc(each.__doc__ or "").split("\n:")[1:]:
            name, _, text = part.partition(": ")
            if name.startswith("param "):
                found[name.removeprefix("param ")] = " ".join(text.split("\n\n")[0].split())
    return found


def accepts(annotation: object, value: object) -> bool:
    """Whether a value is of an annotation's types, as far as these are numbers, texts, flags and dictionaries.

    A number must be finite. An annotation of other types accepts whatever is none of these.
    """
    kinds = {part.strip().partition("[")[0] for part in str(annotation).split("|")}
    if value is None:
        return "None" in kinds
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, Integral):
        return bool(kinds & {"int", "float"}) and abs(int(value)) < 1 << 63  # larger ones are no numbers of any library
    if isinstance(value, Real):
        return "float" in kinds and math.isfinite(value)
    if isinstance(value, str | os.PathLike):
        return bool(kinds & {"str", "Path", "os.PathLike"})
    if isinstance(value, Mapping):
        return bool(kinds & {"dict", "Mapping"})
    return bool(kinds - {"int", "float", "bool", "str", "dict", "Mapping", "None"})


def check_keywords(
    settings: Settings, name: str, made: Callable[..., object], elsewhere: Mapping[str, str] | None = None
) -> None:
    """Look at the keywords that a setting holds before anything is made of them.

    :param settings: whose setting it is
    :param name: of the setting, a dictionary or None
    :param made: what the keywords go to
    :param elsewhere: keywords of ``made`` that are set in another way, which is named
    :raises SettingError: there is no such keyword, or its value has the wrong type
    """
    given, elsewhere = getattr(settings, name) or {}, elsewhere or {}
    parameters = dict(inspect.signature(made).parameters)
    known = [key for key in parameters if key not in elsewhere]
    for key, value in given.items():
        if key in elsewhere:
            settings.refuse(name, f"cannot set '{key}': use {elsewhere[key]}.")
        if key not in known:
            settings.refuse(name, f"has no keyword '{key}'; there are {', '.join(known) or 'none'}.")
        if not accepts(parameters[key].annotation, value):
            settings.refuse(name, f"{key} must be {_expected(parameters[key].annotation)}, got '{value}'.")


def _expected(annotation: object) -> str:
    names = {"int": "a whole number", "float": "a finite number", "str": "a text", "bool": "True or False"}
    names |= {"dict": "a dictionary", "Mapping": "a dictionary", "None": ""}
    kinds = [part.strip().partition("[")[0] for part in str(annotation).split("|")]
    return " or ".join(dict.fromkeys(filter(None, (names.get(kind, kind) for kind in kinds))))


def _out_of_bounds(value: Any, bounds: Mapping[str, Any]) -> str | None:
    """What is wrong with a value; None: nothing."""
    if bounds.get("choices") and value not in bounds["choices"]:
        return f"must be one of {', '.join(bounds['choices'])}, got '{value}'."
    if bounds.get("least") is not None and value < bounds["least"]:
        return f"must be at least {bounds['least']}, got {value}."
    if bounds.get("above") is not None and value <= bounds["above"]:
        return f"must be above {bounds['above']}, got {value}."
    if bounds.get("most") is not None and value > bounds["most"]:
        return f"must be at most {bounds['most']}, got {value}."
    return None


def _words(flag: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from (flag, f"{key}={json.dumps(each) if isinstance(each, Mapping | list) else each}")
    elif isinstance(value, bool):
        yield flag if value else f"--no-{flag.removeprefix('--')}"
    else:
        yield from (flag, str(value))


def _as_text(value: object) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else type(value).__qualname__


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    :raises ValueError: it is no JSON; the message names it
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{os.fspath(path)}' is damaged: {error}. Remove it, or restore it from a copy.") from error


def require_same(where: str | os.PathLike[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the settings of what is there with those of what is about to go on.

    :param where: file or folder, for the message
    :raises ValueError: they differ; the message says in what
    """
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(f"{key}: {before.get(key)} before, {now.get(key)} now" for key in changed)
        raise ValueError(
            f"'{os.fspath(where)}' belongs to a training with other settings ({differences}). "
            "Use another folder (--name, --output), or remove this one."
        )


def settle(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Write the settings to a file; where there is one already, check that it says the same.

    :raises ValueError: see :func:`require_same`
    """
    # through JSON, where tuples are lists, paths are text, and an object (a dataset, say) is the name of its class
    now = json.loads(json.dumps(settings, default=_as_text))
    if Path(path).is_file():
        before = read_json(path)
        if not isinstance(before, dict):
            raise ValueError(
                f"'{os.fspath(path)}' is damaged: it holds no settings. Remove it, or restore it from a copy."
            )
        require_same(Path(path).parent, before, now)
    else:
        write_json(path, now)
