"""SQL statements that create and migrate the library's tables."""

from __future__ import annotations

# Append only: a library of any age is migrated step by step.
MIGRATIONS: tuple[str, ...] = (
    """
    create table models (
        id integer primary key,
        model_id text not null unique,
        repo text, revision text, commit_hash text,
        quant text not null,
        kind text not null,
        facts text not null,
        options text not null default '{}',
        endpoint text,
        place text not null,
        hub text not null default '{}',
        added real not null,
        last_used real
    );
    create table files (
        model integer not null references models(id) on delete cascade,
        position integer not null,
        path text not null,
        role text not null,
        size integer not null,
        location text not null,
        sha256 text, git_sha1 text, mtime_ns integer,
        primary key (model, position)
    );
    create index files_location on files(location);
    create table aliases (
        alias text primary key collate nocase,
        model integer not null references models(id) on delete cascade
    );
    create table checks (
        id integer primary key,
        model integer not null references models(id) on delete cascade,
        kind text not null, result text not null, at real not null,
        detail text not null default '{}'
    );
    create index checks_model on checks(model, kind, at);
    create table downloads (
        id integer primary key autoincrement,
        ref text not null, state text not null,
        repo text not null, commit_hash text not null, quant text,
        total_bytes integer not null, done_bytes integer not null default 0,
        bytes_per_second real, attempts integer not null default 0,
        error text, asked_by text not null,
        created real not null, updated real not null,
        background integer not null default 0,
        wanted text, owner text, heartbeat real not null default 0,
        on_done text,
        plan text not null default '{}'
    );
    create index downloads_state on downloads(state, background, id);
    create table notes (
        id integer primary key autoincrement,
        download integer not null references downloads(id) on delete cascade,
        at real not null, kind text not null, message text not null
    );
    create index notes_download on notes(download, id);
    create table engines (
        fingerprint text primary key,
        model_id text not null, pid integer not null, pid_started real not null,
        address text not null, key text not null, context integer not null,
        started real not null, last_used real not null, keep_alive real not null,
        memory integer not null default 0, tokens_per_second real,
        layers text not null default '[]', log text
    );
    create table metadata (
        key text primary key, body text not null, etag text, fetched real not null
    );
    """,
    "alter table engines add column missing text not null default '{}'",
    """
    alter table downloads add column token_fingerprint text;
    create table fingerprint_key (key text not null);
    insert into fingerprint_key values (hex(randomblob(32)))
    """,
    "alter table files add column ctime_ns integer",
    """
    create table collections (
        id integer primary key,
        name text not null unique collate nocase,
        note text not null default '',
        source text,
        created real not null
    );
    create table collection_members (
        id integer primary key,
        collection integer not null references collections(id) on delete cascade,
        ref text collate nocase,
        child integer references collections(id) on delete cascade,
        role text collate nocase,
        note text not null default '',
        unique (collection, ref),
        unique (collection, child),
        check ((ref is null) <> (child is null))
    );
    create unique index collection_roles on collection_members(collection, role) where role is not null;
    create index collection_children on collection_members(child) where child is not null;
    create table versions (
        id integer primary key,
        model integer not null references models(id) on delete cascade,
        repo text, commit_hash text, facts text not null, hub text not null, files text not null,
        checks text not null,
        replaced real not null,
        state text not null
    );
    create index versions_model on versions(model, replaced);
    alter table models add column pinned integer not null default 0;
    create table trusted_signers (
        id integer primary key,
        owner text not null collate nocase,
        method text not null,
        identity text, issuer text, pem text,
        added real not null
    );
    create index trusted_signers_owner on trusted_signers(owner)
    """,
)
