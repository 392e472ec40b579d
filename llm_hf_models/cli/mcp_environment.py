"""The environment variables that a host's entry carries, so that the server finds the same models in any environment.

Hosts may start servers without the shell's environment, even without HOME. The variables listed here decide which
library, cache, Hub, proxy, certificates, keychain and engines are used. A test compares the list with the code.

Not carried: tokens, keys and passphrases, which do not belong in a host's file; `LLM_HF_...`, because settings.toml
stores settings for every process; and variables of one terminal, desktop session or GPU.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llm_hf_models import paths
from llm_hf_models.errors import BadInputError
from llm_hf_models.system.text import strip_credentials

# Paths are carried as absolute ones, because a host starts servers in a folder of its own. In the first group, `~` and
# other variables are expanded where the code that reads them does so.
EXPANDED_PATHS = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN_PATH")
PLAIN_PATHS = (
    "LLM_USER_PATH",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "OLLAMA_MODELS",
    "LLAMA_CACHE",
    "JAN_DATA_FOLDER",
    "HF_XET_CACHE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
ADDRESSES = ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
PLAIN_VALUES = ("NO_PROXY", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTHON_KEYRING_BACKEND")
SESSION_BUS = "DBUS_SESSION_BUS_ADDRESS"  # the keychain of a Linux desktop is behind it
CARRIED = frozenset({"HOME", SESSION_BUS, *EXPANDED_PATHS, *PLAIN_PATHS, *ADDRESSES, *PLAIN_VALUES})

# An empty value of these names the current folder. An empty value of any other variable is the same as none.
_EMPTY_COUNTS = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
_EITHER_CASE = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")  # programs read them in upper and lower case
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SECRETS = (*_TOKENS, "LLM_HF_PASSPHRASE", "LLM_HF_MCP_TOKEN")


@dataclass(frozen=True)
class CarriedVariables:
    """The variables for an entry, and notes about variables that it omits or changes."""

    values: Mapping[str, str]
    notes: tuple[str, ...]


def collect_variables(environment: Mapping[str, str]) -> CarriedVariables:
    """Return the variables to carry from an environment.

    Raises:
        BadInputError: a value is not valid text, so a JSON file can't hold it.
    """
    values: dict[str, str] = {}
    shortened = []
    for name, make_value in _list_readers(environment):
        value = make_value(environment[name])
        if value is not None:
            values[name] = _require_text(name, value)
        if _has_credentials(name, environment[name]):
            shortened.append(name)
    return CarriedVariables(values, tuple(_write_notes(environment, shortened)))


def strip_password(address: str) -> str | None:
    """Return an address without user name and password. None if it could still contain one.

    A proxy's address may have no scheme.
    """
    marked = address if _SCHEME.match(address) else f"http://{address}"
    clean = strip_credentials(marked)
    if clean.count("://") != 1 or any(char in clean for char in "@?#"):
        return None
    return clean if marked == address else clean.removeprefix("http://")


def _list_readers(environment: Mapping[str, str]) -> Iterator[tuple[str, Callable[[str], str | None]]]:
    """Yield the name of each set variable to carry, with the function that returns the value to write."""
    groups: tuple[tuple[tuple[str, ...], Callable[[str], str | None]], ...] = (
        (("HOME",), _describe_home),
        ((SESSION_BUS,), _keep_lasting_bus),
        (PLAIN_PATHS, _make_absolute),
        (EXPANDED_PATHS, _expand_path),
        (ADDRESSES, strip_password),
        (PLAIN_VALUES, str),
    )
    for names, make_value in groups:
        for name in names:
            spellings = (name, name.lower()) if name in _EITHER_CASE and os.name == "posix" else (name,)
            for spelling in spellings:
                value = environment.get(spelling)
                if value or (value is not None and name in _EMPTY_COUNTS):
                    yield spelling, make_value


def _describe_home(path: str) -> str | None:
    """Return HOME if a process without this variable would find another home folder."""
    if sys.platform == "win32":
        return None  # Windows needs more variables to start any process, and hosts pass them
    import pwd

    with suppress(KeyError):
        if pwd.getpwuid(os.getuid()).pw_dir == path:
            return None
    return _make_absolute(path)


def _keep_lasting_bus(address: str) -> str | None:
    """Return the address that systemd gives each session of a user. Other addresses end with the session."""
    return address if address.startswith("unix:path=/run/user/") else None


def _make_absolute(path: str) -> str:
    return str(Path(path).absolute())


def _expand_path(path: str) -> str:
    return _make_absolute(os.path.expandvars(paths.expand_home(path)))


def _require_text(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadInputError(
            f"The value of {name} is not valid UTF-8, so no host's file can contain it", hint=f"Change or unset {name}."
        ) from None
    return value


def _has_credentials(name: str, value: str) -> bool:
    return name.upper() in ADDRESSES and strip_password(value) != value


def _write_notes(environment: Mapping[str, str], shortened: list[str]) -> Iterator[str]:
    if shortened:
        yield (
            f"The user name and password in {', '.join(shortened)} are left out, because hosts' files are often "
            "shared. If they are needed, add them to the entry by hand; a later --install keeps them."
        )
    if any(environment.get(name) for name in _TOKENS):
        yield "The token in the environment is left out. Store it for the server with: llm hf login"
    settings = sorted(
        name for name, value in environment.items() if name.startswith("LLM_HF_") and value and name not in _SECRETS
    )
    if settings:
        yield (
            f"The server does not receive {', '.join(settings)} from this shell. "
            "Store settings for every program with: llm hf settings KEY VALUE"
        )
