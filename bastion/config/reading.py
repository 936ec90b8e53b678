"""Find the file, read it with the environment over it, and name what is unknown or wrong by its path."""

import errno
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from bastion.config.sections import KubernetesSettings, SessionsSettings
from bastion.config.settings import PREFIX, Settings
from bastion.errors import ConfigurationError

SEARCH_PATH = (Path("bastion.toml"), Path("/etc/bastion/bastion.toml"))

_TOML_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "is required",
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "string_type": "must be a string",
    "path_type": "must be a string",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "timezone_aware": "needs a time zone, such as 2026-12-31T18:00:00Z",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}


def locate(explicit: Path | None) -> Path | None:
    """Return the configuration file: the one given, $BASTION_CONFIG, or the first of the search path, if there is one.

    Raises:
        ConfigurationError: the file that was asked for does not exist.
    """
    if asked := explicit or (Path(os.environ["BASTION_CONFIG"]) if os.environ.get("BASTION_CONFIG") else None):
        if not _may_be_file(asked):
            raise ConfigurationError(
                f"no configuration file at {asked}", "bastion check --config FILE tells whether one is right"
            )
        return asked
    return next((path for path in SEARCH_PATH if _may_be_file(path)), None)


def _may_be_file(path: Path) -> bool:
    """Tell whether a file exists; return True too if stat(2) fails otherwise: `load` reports the error."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return error.errno not in {errno.ENOENT, errno.ENOTDIR}


def load(path: Path | None) -> Settings:
    """Read the file, lay the environment over it, and make every path absolute.

    Raises:
        ConfigurationError: it is unreadable, no TOML, or a key is unknown or wrong; names the key by its path.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # tomllib lets the last two of hostile files through
            raise ConfigurationError(
                f"{path}: {error}", "docs/configuration.md has an example of every section"
            ) from error
    hint = "docs/configuration.md lists every key"
    if strangers := _unknown_variables():
        raise ConfigurationError("; ".join(f"{name}: unknown key" for name in strangers), hint)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        if all("command" in problem["loc"] for problem in error.errors(include_url=False, include_input=False)):
            hint = 'docs/configuration.md, "Patterns of commands", says how to write it'
        raise ConfigurationError("; ".join(_problems(error, path)), hint) from error
    except SettingsError as error:
        raise ConfigurationError(
            f"{', '.join(_variables_of(str(error)))}: must be JSON",
            'a list is written as ["a", "b"], a table as {"a": "b"}',
        ) from error
    folder = (path.parent if path else Path()).resolve()
    return settings.model_copy(
        update={
            "keys": settings.keys.model_copy(update={"home": folder / settings.keys.home}),
            "audit": settings.audit.model_copy(update={"directory": folder / settings.audit.directory}),
            "sessions": _absolute_database(settings.sessions, folder),
            "api": settings.api.model_copy(
                update={
                    name: path and folder / path
                    for name in ("certificate", "private_key")
                    for path in [getattr(settings.api, name)]
                }
            ),
            "kubernetes": settings.kubernetes and _absolute_kubeconfig(settings.kubernetes, folder),
        }
    )


def _absolute_database(settings: SessionsSettings, folder: Path) -> SessionsSettings:
    scheme, _, path = (settings.database or "").partition("///")
    return settings.model_copy(update={"database": f"{scheme}///{folder / path}"}) if scheme == "sqlite:" else settings


def _absolute_kubeconfig(settings: KubernetesSettings, folder: Path) -> KubernetesSettings:
    if settings.kubeconfig is None:
        return settings
    return settings.model_copy(update={"kubeconfig": folder / settings.kubeconfig.expanduser()})


def _unknown_variables() -> list[str]:
    """Name the variables of the environment that are meant for a section there is not."""
    sections = "|".join(name.upper() for name in Settings.model_fields)
    return sorted(name for name in os.environ if re.match(rf"{PREFIX}(?!({sections})__)[A-Z]+__", name.upper()))


def _variables_of(message: str) -> list[str]:
    """Name the variables that are set for the field that pydantic-settings could not parse; it says the field only."""
    match = re.search(r'field "(\w+)"', message)
    start = f"{PREFIX}{match[1] if match else ''}".upper()
    return sorted(name for name in os.environ if name.upper().startswith(start))


def _problems(error: ValidationError, path: Path | None) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        parts = problem["loc"]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
        variable = PREFIX + "__".join(str(part) for part in parts[:2]).upper()
        where = f"{variable}: " if variable in os.environ else f"{path}: " if path else ""
        lines.append(where + ": ".join(filter(None, (key, _words(problem)))))
    return lines


def _words(problem: ErrorDetails) -> str:
    """Say in TOML's words what pydantic found."""
    context = problem.get("ctx", {})
    kind = problem["type"]
    if kind == "greater_than_equal":
        return f"must be at least {context['ge']}"
    if kind == "literal_error":
        return "must be " + str(context["expected"]).replace("'", '"')
    if kind in _TOML_WORDS:
        return _TOML_WORDS[kind]
    text = problem["msg"].removeprefix("Value error, ")
    return f"{text[:1].lower()}{text[1:]}"
