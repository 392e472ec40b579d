from __future__ import annotations

import logging

import anyio
import pytest
from llm_hf_mcp.sdk_workarounds import ignore_ended_sessions


async def fail(*errors: type[Exception]) -> None:
    async def fail_with(error: type[Exception]) -> None:
        raise error

    async with anyio.create_task_group() as tasks:
        for error in errors:
            tasks.start_soon(fail_with, error)


@pytest.mark.parametrize(
    ("errors", "logged"),
    [
        ((anyio.ClosedResourceError,), False),
        ((anyio.ClosedResourceError, anyio.BrokenResourceError), False),
        ((anyio.ClosedResourceError, ValueError), True),
        ((ValueError,), True),
    ],
)
def test_only_streams_that_a_client_closed_are_not_logged(
    errors: tuple[type[Exception], ...], logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ignore_ended_sessions()
    try:
        anyio.run(fail, *errors)
    except Exception:
        logging.getLogger("mcp.server.streamable_http").exception("SSE response error")
    assert bool(caplog.records) == logged
