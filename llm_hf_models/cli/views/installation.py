"""Render the account, the state of this machine and the settings. `max_width` is in columns; None means no limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.layout import Column, format_fields, format_table
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.types import SandboxStatus, SettingView, Status, StoredItem, TokenStatus, Uninstallation


def render_login(status: TokenStatus) -> str:
    """Return the account of the stored token and the place where it is stored."""
    name = status.account.name if status.account else "unknown"
    return f"Logged in as {clean_text(name)}. The token is stored in the {status.source}."


def render_logout(places: Sequence[str]) -> str:
    """Return the places that a token was removed from."""
    return f"Removed the token from the {' and the '.join(places)}." if places else "No token was stored."


def render_account(status: TokenStatus, max_width: int | None) -> str:
    """Return the account of the active token."""
    return format_fields(_list_account_fields(status), max_width=max_width)


def _list_account_fields(status: TokenStatus) -> list[tuple[str, str | None]]:
    account = status.account
    return [
        ("Name", account.name if account else None),
        ("Organisations", ", ".join(account.organisations) if account else None),
        (
            "Token",
            cli_format.join_if_present(
                account.token_kind or "", f"({account.token_name})" if account.token_name else ""
            )
            if account
            else None,
        ),
        ("Scopes", ", ".join(account.scopes) if account else None),
        ("Token source", status.source),
        ("Problem", status.problem),
    ]


def render_status(now: Status, max_width: int | None) -> str:
    """Return an overview of this machine."""
    memory = f"{format_size(now.machine.free_memory_bytes)} free of {format_size(now.machine.total_memory_bytes)}"
    running = ", ".join(f"{engine.id} ({format_size(engine.memory_bytes)})" for engine in now.engines)
    count = f"{now.models} {'model' if now.models == 1 else 'models'}"
    return format_fields(
        [
            ("Memory", memory),
            ("Disk", f"{format_size(now.disk_free_bytes)} free of {format_size(now.disk_total_bytes)}"),
            ("Cache", f"{format_size(now.cache_bytes)} in {now.cache_dir}"),
            ("Library", now.problem or f"{count}, {format_size(now.models_bytes)}, recorded in {now.library}"),
            ("Engines", running or "none running"),
            ("Sandbox", _describe_sandbox(now.sandbox)),
            ("Endpoint", now.endpoint + (" (offline mode is on)" if now.offline else "")),
            ("Token", _describe_token(now.token)),
            ("Versions", ", ".join(f"{name} {version or '(not installed)'}" for name, version in now.versions.items())),
        ],
        max_width=max_width,
    )


def _describe_sandbox(sandbox: SandboxStatus) -> str:
    if sandbox.problem:
        return sandbox.problem
    if sandbox.layers is None:
        return str(sandbox.mode) + ("" if sandbox.mode == "off" else ", tested when the next engine starts")
    without = "".join(f"; without {layer}: {reason}" for layer, reason in sandbox.missing.items())
    return f"{sandbox.mode}: {', '.join(sandbox.layers) or 'nothing'}{without}"


def _describe_token(token: TokenStatus) -> str:
    if token.account:
        return f"{token.account.name}, from the {token.source}"
    return ", ".join(part for part in (token.source and f"from the {token.source}", token.problem) if part) or "none"


def render_settings(every: Sequence[SettingView], max_width: int | None) -> str:
    """Return a table of settings."""
    columns = [
        Column("KEY"),
        Column("VALUE", right=True),
        Column("SOURCE", 1),
        Column("DESCRIPTION", 2, min_width=60, wrap=True, below=True),
    ]
    rows = [[one.key, cli_format.format_setting(one.value, one.unit), one.source, one.description] for one in every]
    table = format_table(columns, rows, max_width=max_width)
    return f"{table}\nStored in {every[0].file}." if every else table


def render_setting(one: SettingView, max_width: int | None) -> str:
    """Return one setting with its source, default and description."""
    return format_fields(
        [
            (one.key, cli_format.format_setting(one.value, one.unit)),
            ("Source", one.source),
            ("Default", cli_format.format_setting(one.default, one.unit)),
            ("Values", one.accepts),
            ("Description", one.description),
            ("Stored in", one.file),
        ],
        max_width=max_width,
    )


def render_mirror(url: str, served: Mapping[str, int], hidden: Sequence[str], *, open_to_others: bool) -> str:
    """Return what a mirror serves and how to pull from it, with a warning if other machines can reach it.

    Args:
        url: The mirror's address.
        served: The repos, with the size of their files.
        hidden: The repos that are not served, each with the reason.
        open_to_others: Whether other machines can reach the mirror.
    """
    lines = [f"Serving {repo} ({format_size(size)})" for repo, size in sorted(served.items())]
    lines = lines or ["No model is served yet."]
    lines += [f"Not serving {repo}. Use --allow to serve it." for repo in hidden]
    if open_to_others:
        lines.append("Anyone who can reach this address can read the models it serves.")
    lines += [
        f"Pull from it: HF_ENDPOINT={url} llm hf search",
        *cli_format.explain_wildcard_host(url),
        "Press Ctrl-C to stop.",
    ]
    return "\n".join(lines)


def render_stored_files(files: Sequence[StoredItem], max_width: int | None) -> str:
    """Return each file with its size and purpose, and the sum. The path is on a line of its own if it is long."""
    if not files:
        return "Nothing is stored."
    columns = [Column("SIZE", right=True), Column("PURPOSE"), Column("PATH", below=True)]
    rows = [[format_size(file.size_bytes), file.description, file.path] for file in files]
    total = format_size(sum(file.size_bytes for file in files))
    return f"{format_table(columns, rows, max_width=max_width)}\n{len(files)} files and folders, {total} in all."


def render_uninstallation(found: Uninstallation, max_width: int | None) -> str:
    """Return the removed files, the kept ones, and the space that removing them frees."""
    lines = [f"{'Removed' if found.done else 'Would remove'} {len(found.files)} files and folders."]
    if not found.done:
        lines.insert(0, render_stored_files(found.files, max_width))
    if found.kept:
        lines.append("Kept:\n" + render_stored_files(found.kept, max_width))
    return "\n".join([*lines, f"{'Freed' if found.done else 'Would free'} {format_size(found.freed_bytes)}."])
