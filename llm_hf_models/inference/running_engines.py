"""List and stop running engines by comparing the library's records with the system's processes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm_hf_models.inference.engine_folder import EngineFolder
from llm_hf_models.library.database import Database
from llm_hf_models.library.records import EngineRow
from llm_hf_models.system.processes import find_running_process, wait_for_exit

if TYPE_CHECKING:
    import httpx2
    import psutil

RESPONSE_TIMEOUT_SECONDS = 5.0  # an engine responds only between two batches


def get_engine_folder(row: EngineRow) -> EngineFolder:
    """Return the folder of a recorded engine."""
    return EngineFolder(Path(row.log or row.address).parent)


def create_client(address: str, key: str, *, seconds: float = RESPONSE_TIMEOUT_SECONDS) -> httpx2.Client:
    """Create a client for an engine's own API."""
    import httpx2

    local = not address.startswith("http://")
    return httpx2.Client(
        transport=httpx2.HTTPTransport(uds=address if local else None, verify=False),
        base_url="http://engine" if local else address,
        headers={"Authorization": f"Bearer {key}"},
        timeout=seconds,
        trust_env=False,
    )


def count_busy_slots(row: EngineRow) -> int | None:
    """Return the number of requests an engine reports in progress; None if it does not respond."""
    import httpx2

    try:
        with create_client(row.address, row.key) as client:
            response = client.get("/slots")
            return sum(bool(slot["is_processing"]) for slot in response.json())
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return None


def find_process(row: EngineRow) -> psutil.Process | None:
    """Return the process of a recorded engine, or None if it has ended."""
    return find_running_process(row.pid, row.pid_started)


def _measure_memory(process: psutil.Process) -> int:
    import psutil

    try:
        return sum(int(part.memory_info().rss) for part in (process, *process.children()))  # llama-server is a child
    except psutil.Error:
        return 0


def list_running_engines(db: Database) -> list[EngineRow]:
    """Return the running engines, most recently used first.

    Also remove the rows and folders of engines that ended, unless the database is a copy for reading.
    """
    found = []
    for row in db.list_engines():
        lease = get_engine_folder(row).read_lease()
        process = find_process(row)
        if process is None or lease is None:
            if not db.is_copy:
                db.delete_engine(row.fingerprint, row.pid)
                get_engine_folder(row).remove()
            continue
        announced, keep_alive = lease
        memory = _measure_memory(process) or row.memory
        found.append(replace(row, last_used=max(row.last_used, announced), keep_alive=keep_alive, memory=memory))
    return sorted(found, key=lambda row: row.last_used, reverse=True)


def stop_engine(db: Database, row: EngineRow, *, seconds: float = 5) -> None:
    """Terminate one engine, or kill it if it has not ended in time. Also remove its row and folder.

    Args:
        db: The library that records the engine.
        row: The engine.
        seconds: How long to wait for it to end after each signal.
    """
    stop_engine_process(row, seconds=seconds)
    db.delete_engine(row.fingerprint, row.pid)


def stop_engine_process(row: EngineRow, *, seconds: float = 5) -> None:
    """Stop one engine as `stop_engine` does, but leave its row, which `list_running_engines` deletes later."""
    import psutil

    process = find_process(row)
    if process is not None:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
            if not wait_for_exit(process, seconds):
                for part in (*process.children(), process):
                    part.kill()
                wait_for_exit(process, seconds)
    get_engine_folder(row).remove()


def stop_engines(db: Database, model_id: str | None = None) -> int:
    """Stop all engines of one model, or of all models. Return how many there were."""
    rows = [row for row in list_running_engines(db) if model_id in (None, row.model_id)]
    for row in rows:
        stop_engine(db, row)
    return len(rows)
