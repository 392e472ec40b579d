"""Store the Hub token in the operating system's keychain. A keychain may fail in any way, or never respond."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llm_hf_models.errors import KeychainError, KeychainTimeoutError
from llm_hf_models.paths import expand_home

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")
SERVICE, USER = "llm-hf-models", "hub-token"  # name of the keychain entry
RESPONSE_SECONDS = 4.0
DIALOG_SECONDS = 60.0  # for a person who unlocks the keychain in a dialog
RETRY_SECONDS = 300.0  # after a timeout, the keychain is not called for this time
FIX_HINT = "Unlock it, set HF_TOKEN, or disable it with PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring"

_closed_until = 0.0  # by time.monotonic()


def read_token() -> str | None:
    """Return the stored token, if there is a keychain with one.

    Raises:
        KeychainError: the keychain failed.
        KeychainTimeoutError: it did not respond.
    """
    return _call_keychain(lambda keychain: keychain.get_password(SERVICE, USER))


def store_token(value: str) -> bool:
    """Store the token, and return whether the keychain has it now.

    Raises:
        KeychainError: the keychain failed, or did not respond.
    """

    def store(keychain: KeyringBackend) -> bool:
        keychain.set_password(SERVICE, USER, value)
        return keychain.get_password(SERVICE, USER) == value

    return _call_keychain(store) or False


def remove_token() -> bool:
    """Remove the token, and return whether there was one.

    Raises:
        KeychainError: the keychain failed, or did not respond.
    """

    def remove(keychain: KeyringBackend) -> bool:
        if keychain.get_password(SERVICE, USER) is None:
            return False
        keychain.delete_password(SERVICE, USER)
        return True

    return _call_keychain(remove) or False


def has_timed_out() -> bool:
    """Return whether the keychain did not respond lately."""
    return time.monotonic() < _closed_until


def _call_keychain(function: Callable[[KeyringBackend], T]) -> T | None:
    """Call a function with the keychain, in a thread. Return None if there is no keychain.

    The thread also imports keyring, because some backends connect to the keychain at their import.
    """
    global _closed_until  # noqa: PLW0603 - a keychain that does not respond would delay every call of the process
    if not _is_keychain_likely():
        return None
    seconds = _choose_timeout()
    if not has_timed_out():
        result: Future[T | None] = Future()
        threading.Thread(target=_run, args=(function, result), name="keychain", daemon=True).start()
        try:
            return result.result(seconds)
        except FutureTimeoutError:
            _closed_until = time.monotonic() + RETRY_SECONDS
        except Exception as error:  # noqa: BLE001 - D-Bus, macOS and Windows raise different exceptions
            # Leave out the exception's text: a backend may quote the token in it.
            raise KeychainError("The keychain failed", cause=type(error).__name__, hint=FIX_HINT) from None
    raise KeychainTimeoutError(f"The keychain did not respond within {seconds:.0f} s", hint=FIX_HINT)


def _run(function: Callable[[KeyringBackend], T], result: Future[T | None]) -> None:
    try:
        keychain = _find_keychain()
        result.set_result(None if keychain is None else function(keychain))
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        result.set_exception(error)


def _choose_timeout() -> float:
    has_desktop = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return DIALOG_SECONDS if has_desktop and not os.environ.get("SSH_CONNECTION") else RESPONSE_SECONDS


def _find_keychain() -> KeyringBackend | None:
    """Return the operating system's keychain.

    Return None if keyring has only backends that fail, store nothing or write plain text.
    """
    import keyring

    backend = keyring.get_keyring()
    candidates = getattr(backend, "backends", None) or [backend]  # of a chained backend, take the first keychain
    return next((candidate for candidate in candidates if _is_real_keychain(candidate)), None)


def _is_keychain_likely() -> bool:
    """Return whether a keychain may exist. If not, keyring's backends need not be loaded (8 MB, mostly cryptography).

    On Linux, keyring's own backends need a D-Bus session, which servers and containers rarely have.
    A backend that the user configured or installed is always tried.
    """
    if not os.environ.get("PYTHON_KEYRING_BACKEND") and not Path(expand_home("~")).is_absolute():
        return False  # keyring can't be imported without a home folder
    named = ("PYTHON_KEYRING_BACKEND", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY")
    loaded = "keyring.backends.SecretService" in sys.modules
    if sys.platform != "linux" or loaded or any(os.environ.get(name) for name in named):
        return True
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(Path(runtime, "bus"), os.F_OK):  # after `su`, the folder may be another user's
        return True
    from importlib.metadata import entry_points

    # The path of keyring.util.platform_.config_root(), without importing keyring. A test compares the two.
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or expand_home("~/.config"))
    config = folder / "python_keyring/keyringrc.cfg"
    others = (found.value for found in entry_points(group="keyring.backends"))
    return os.access(config, os.F_OK) or not all(value.startswith("keyring.backends") for value in others)


def _is_real_keychain(backend: KeyringBackend) -> bool:
    # keyring recommends backends of priority 1 and above. Plain-text files and placeholders are below that.
    kind = type(backend)
    placeholder = kind.__module__ in ("keyring.backends.fail", "keyring.backends.null")
    plain = kind.__module__.startswith("keyrings.alt.") or "plaintext" in kind.__name__.lower()
    return not placeholder and not plain and float(backend.priority) >= 1
