"""Suggest the command that repairs a local model. Imports almost nothing."""

from __future__ import annotations

import shlex

REPAIRABLE_STATES = frozenset({"missing", "changed", "unverified"})


def suggest_fix(
    model_id: str, state: str, repo: str | None, commit: str | None, location: str | None, *, has_unproven_files: bool
) -> str:
    """Return the command that restores or verifies a model's files. `location` is that of its first file."""
    file = shlex.quote(location or "FILE")
    if state == "unverified":
        if commit is not None or has_unproven_files:
            return f"llm hf verify {model_id}"
        return f"llm hf import {file} --repo {repo or 'owner/name'}"
    return f"llm hf import {file}" if repo is None else f"llm hf pull {format_pull_ref(model_id)}"


def format_pull_ref(model_id: str) -> str:
    """Return the model ref that pulls a model again."""
    return model_id.removeprefix("hf/")
