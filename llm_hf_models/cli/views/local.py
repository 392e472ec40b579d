"""What is on this machine, as text for a person. `limit` is in columns, None is no limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli.output import Column, format_fields, format_table
from llm_hf_models.cli.views import running as running_views
from llm_hf_models.system.text import clean_text
from llm_hf_models.system.units import format_size

if TYPE_CHECKING:
    from llm_hf_models.library.records import Check
    from llm_hf_models.models.types import ImportResult, LocalModelView, Removal, Verification
    from llm_hf_models.types import EngineView, SettingView, Status, TokenStatus

MAX_LINE_CHARS = 400


def render_local_models(models: Sequence[LocalModelView], limit: int | None) -> str:
    """A row for each local model."""
    columns = [
        Column("ID", min_width=24),
        Column("ALIASES", 3, min_width=12),
        Column("SIZE", 2, right=True),
        Column("QUANT", 5),
        Column("REVISION", 6),
        Column("USED", 4, right=True),
        Column("STATE", 1),
        Column("KIND", 7),
    ]
    rows = [
        [
            model.model_id,
            ", ".join(model.aliases),
            format_size(model.size) if model.files else "",
            model.quant,
            _format_revision(model),
            cli_format.format_age(model.last_used) or "never",
            running_views.format_state(model),
            model.kind,
        ]
        for model in models
    ]
    return format_table(columns, rows, max_width=limit)


def _format_revision(model: LocalModelView) -> str:
    commit = (model.commit or "")[: cli_format.SHORT_COMMIT]
    return f"{model.revision} {commit}".strip() if model.revision and model.revision != model.commit else commit


def render_repairs(models: Sequence[LocalModelView]) -> str:
    """What to do about each model that is not ready, a line each; empty where all are."""
    lines = [f"{model.model_id} is {model.state}: {model.fix}" for model in models if model.fix]
    asked = [model.health for model in models if model.health and model.health.problem]
    lines += [running_views.format_problem(health) for health in asked]
    return "\n".join(clean_text(line, MAX_LINE_CHARS) for line in lines)


def render_aliases(models: Sequence[LocalModelView], limit: int | None) -> str:
    """A row for each alias."""
    rows = [[alias, model.model_id] for model in models for alias in model.aliases]
    return format_table([Column("ALIAS"), Column("MODEL", min_width=24)], sorted(rows), max_width=limit)


def render_local_model(model: LocalModelView, limit: int | None) -> str:
    """One local model: what it is, each fact with its date, its files. Never a sum of the facts."""
    facts = model.facts
    told = format_fields(
        [
            ("Model", model.model_id),
            ("Aliases", ", ".join(model.aliases)),
            ("State", model.state + (f": {model.fix}" if model.fix else "")),
            ("Kind", model.kind),
            ("Endpoint", model.endpoint),
            ("Called there", model.endpoint_model),
            ("Key from", _describe_key_source(model)),
            ("Repo", model.repo),
            ("Commit", cli_format.join_if_present(model.commit, f"({model.revision})" if model.revision else "")),
            ("Quantization", model.quant),
            ("Size", format_size(model.size) if model.files else None),
            ("Architecture", facts.architecture),
            ("Parameters", cli_format.format_parameters(facts.parameters)),
            ("Context", cli_format.format_tokens(facts.context_length)),
            ("Chat template", _describe_template(model)),
            ("Input", ", ".join(("text", *facts.modalities)) if facts.modalities else None),
            ("Licence", facts.license or str(model.hub.get("license") or "")),
            ("Base model", ", ".join(facts.base_models)),
            ("Added", cli_format.format_date(model.added)),
            ("Last used", cli_format.format_date(model.last_used) or "never"),
            *((f"{_format_check_title(check)}", _format_check(check)) for check in _select_newest(model.checks)),
        ],
        max_width=limit,
    )
    columns = [
        Column("FILE"),
        Column("ROLE", 2),
        Column("SIZE", 1, right=True),
        Column("LOCATION", 3, min_width=30, wrap=True),
    ]
    rows = [[file.path, file.role, format_size(file.size), file.location] for file in model.files]
    parts = [format_table(columns, rows, max_width=limit)] if rows else []
    if model.defaults:
        parts.append(running_views.render_defaults(model.defaults, limit))
    return "\n\n".join([told, *parts])


def _describe_template(model: LocalModelView) -> str | None:
    """Whether there is one, and what it can do; of a server elsewhere nobody knows."""
    if model.endpoint or model.kind not in ("chat", "base"):
        return None
    return cli_format.describe_template(model.facts.chat_template, model.facts)


def _describe_key_source(model: LocalModelView) -> str | None:
    if model.key_env:
        return f"the environment variable {model.key_env}"
    return f"llm's keys: {model.key_name}" if model.key_name else None


def _select_newest(checks: Sequence[Check]) -> list[Check]:
    newest: dict[str, Check] = {}
    for check in checks:
        if check.kind not in newest or check.at > newest[check.kind].at:
            newest[check.kind] = check
    return list(newest.values())


def _format_check_title(check: Check) -> str:
    titles = {"scan": "Hub scan", "load_test": "Load test"}
    return titles.get(check.kind, check.kind.capitalize())


def _format_check(check: Check) -> str:
    detail: Mapping[str, Any] = check.detail
    source = (
        f" {detail['repo']}@{str(detail['commit'])[: cli_format.SHORT_COMMIT]}"
        if detail.get("repo") and detail.get("commit")
        else ""
    )
    findings = [f"\n{finding['severity']}: {finding['message']}" for finding in detail.get("findings", ())]
    files = detail.get("files", ()) if check.kind == "scan" else ()
    findings += [f"\n{line}" for line in cli_format.summarize_scans(files)]
    if detail.get("doubt"):
        findings.append(f"\n{detail['doubt']}")
    if detail.get("unsafe"):
        findings.append(f"\npulled all the same (--allow-unsafe): {', '.join(detail['unsafe'])}")
    return f"{check.result}{source}, {cli_format.format_date(check.at)}" + "".join(findings)


def render_verification(done: Verification) -> str:
    """A line for each file, and what to do where one is not as recorded."""
    lines = [f"{done.model_id}: {path}: {result}" for path, result in done.files]
    if done.scan is not None:
        lines.append(f"{done.model_id}: Hub scan: " + _format_check(done.scan).replace("\n", "; "))
    if done.fix:
        lines.append(f"{'Prove' if done.unchanged else 'Mend'} it: {done.fix}")
    return "\n".join(map(clean_text, lines))


def render_removal(removed: Removal) -> str:
    """What goes (or went), what is freed, what stays."""
    lines = [f"{'Removed' if removed.done else 'Would remove'} {removed.model_id}"]
    lines += [f"  {path}" for path in removed.files]
    lines += [f"  kept: {path}" for path in removed.kept]
    lines.append(f"{'Freed' if removed.done else 'Frees'} {format_size(removed.freed_bytes)}.")
    return "\n".join(lines)


def render_import(done: ImportResult, asked: Sequence[str] = ()) -> str:
    """What a file on the disk has become, and how to use it by the name that was asked for, if one was."""
    model = done.model
    talk = cli_format.suggest_usage(model.model_id, asked or model.aliases, model.kind)
    projector = next((file.path for file in model.files if file.role == "mmproj"), None)
    along = f" With {projector}: it takes {' and '.join(model.facts.modalities)}." if projector else ""
    return f"Registered {model.model_id}. Digest: {done.digest}.{along}\n{talk}"


def render_engines(running: Sequence[EngineView], limit: int | None) -> str:
    """A row for each engine."""
    columns = [
        Column("MODEL", min_width=24),
        Column("MEMORY", 1, right=True),
        Column("CONTEXT", 5, right=True),
        Column("SINCE", 3, right=True),
        Column("IDLE", 2, right=True),
        Column("SPEED", 4, right=True),
        Column("PID", 6, right=True),
        Column("CONFINED BY", 7, min_width=16),
        Column("ADDRESS", 8),
    ]
    rows = [
        [
            engine.model_id,
            format_size(engine.memory) if engine.memory else "",
            str(engine.context),
            cli_format.format_age(engine.started),
            cli_format.format_age(engine.last_used),
            f"{engine.tokens_per_second:.1f} tokens/s" if engine.tokens_per_second else "",
            str(engine.pid),
            ", ".join(engine.layers) or "nothing",
            engine.address,
        ]
        for engine in running
    ]
    return format_table(columns, rows, max_width=limit)


def render_missing_layers(running: Sequence[EngineView]) -> str:
    """Why layers are missing, a line for each; empty where none is."""
    return "\n".join(
        clean_text(f"{engine.model_id} (PID {engine.pid}) without {layer}: {why}")
        for engine in running
        for layer, why in engine.missing.items()
    )


def render_stopped(count: int) -> str:
    """How many engines were stopped."""
    return f"Stopped {count} {'engine' if count == 1 else 'engines'}." if count else "No engine was running."


# The account and this installation


def render_login(status: TokenStatus) -> str:
    """Whose token was kept, and where."""
    name = status.account.name if status.account else "unknown"
    return f"Logged in as {clean_text(name)}. The token is kept in the {status.source}."


def render_logout(places: Sequence[str]) -> str:
    """Where a token was removed from."""
    return f"Removed the token from the {' and the '.join(places)}." if places else "There was no token of ours."


def render_account(status: TokenStatus, limit: int | None) -> str:
    """Whose token is in force."""
    return format_fields(_list_account_fields(status), max_width=limit)


def _list_account_fields(status: TokenStatus) -> list[tuple[str, str | None]]:
    who = status.account
    return [
        ("Name", who.name if who else None),
        ("Organisations", ", ".join(who.organisations) if who else None),
        (
            "Token",
            cli_format.join_if_present(who.token_kind or "", f"({who.token_name})" if who.token_name else "")
            if who
            else None,
        ),
        ("Scopes", ", ".join(who.scopes) if who else None),
        ("Token from", status.source),
        ("Problem", status.problem),
    ]


def render_status(now: Status, limit: int | None) -> str:
    """This machine at a glance."""
    memory = f"{format_size(now.machine.free_memory)} free of {format_size(now.machine.total_memory)}"
    running = ", ".join(f"{engine.model_id} ({format_size(engine.memory)})" for engine in now.engines)
    count = f"{now.models} {'model' if now.models == 1 else 'models'}"
    return format_fields(
        [
            ("Memory", memory),
            ("Disk", f"{format_size(now.disk_free)} free of {format_size(now.disk_total)}"),
            ("Cache", f"{format_size(now.cache_bytes)} in {now.cache_dir}"),
            ("Library", now.problem or f"{count}, {format_size(now.models_bytes)}, recorded in {now.library}"),
            ("Engines", running or "none running"),
            ("Endpoint", now.endpoint + (" (offline mode is on)" if now.offline else "")),
            ("Token", _describe_token(now.token)),
            ("Versions", ", ".join(f"{name} {version or '(not installed)'}" for name, version in now.versions.items())),
        ],
        max_width=limit,
    )


def _describe_token(token: TokenStatus) -> str:
    if token.account:
        return f"{token.account.name}, from the {token.source}"
    return ", ".join(part for part in (token.source and f"from the {token.source}", token.problem) if part) or "none"


def render_settings(every: Sequence[SettingView], limit: int | None) -> str:
    """A row for each setting."""
    columns = [
        Column("KEY"),
        Column("VALUE", right=True),
        Column("FROM", 1),
        Column("WHAT IT DOES", 2, min_width=30, wrap=True),
    ]
    rows = [[one.key, cli_format.format_setting(one.value), one.source, one.description] for one in every]
    return format_table(columns, rows, max_width=limit)


def render_setting(one: SettingView, limit: int | None) -> str:
    """One setting."""
    return format_fields(
        [
            (one.key, cli_format.format_setting(one.value)),
            ("From", one.source),
            ("Default", cli_format.format_setting(one.default)),
            ("Takes", one.accepts),
            ("What it does", one.description),
        ],
        max_width=limit,
    )


def render_mirror(url: str, *, open_to_others: bool) -> str:
    """How to pull from a mirror, and who can."""
    lines = [
        f"Pull from it: HF_ENDPOINT={url} llm hf search",
        *cli_format.explain_wildcard_host(url),
        "Ctrl-C ends it.",
    ]
    if open_to_others:
        lines.insert(0, "Whoever can reach this address can read the models it serves.")
    return "\n".join(lines)
