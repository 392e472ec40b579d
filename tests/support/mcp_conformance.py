"""The scenarios of the MCP conformance suite that this server can't pass, with the reason of each.

Nearly all of them call tools, read resources and get prompts that only the suite's own example server has."""

from __future__ import annotations

SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"  # the first with the protocol of 2026-07-28

_TOOLS = "calls a tool of the suite's example server"
_RESOURCES = "reads a resource of the suite's example server"
_PROMPTS = "gets a prompt of the suite's example server"
_ASKING = "calls a tool of the suite's example server, to see it ask (ours ask: tests/end_to_end/mcp/test_tools.py)"
_TASKS = "is of an extension, tasks, which is not offered: a download has its own id, and outlives the server"

_BOTH = {
    "tools-call-image": _TOOLS,
    "tools-call-audio": _TOOLS,
    "tools-call-embedded-resource": _TOOLS,
    "tools-call-mixed-content": _TOOLS,
    "tools-call-with-progress": _TOOLS,
    "json-schema-2020-12": "looks for a tool of the suite's example server",
    "resources-read-text": _RESOURCES,
    "resources-read-binary": _RESOURCES,
    "resources-templates-read": _RESOURCES,
    "prompts-get-simple": _PROMPTS,
    "prompts-get-with-args": _PROMPTS,
    "prompts-get-embedded-resource": _PROMPTS,
    "prompts-get-with-image": _PROMPTS,
}
# The scenarios that don't pass, for each revision of the protocol.
NOT_PASSED = {
    "2025-11-25": {
        **_BOTH,
        "tools-call-with-logging": _TOOLS,
        "tools-call-sampling": _TOOLS,
        "tools-call-elicitation": _ASKING,
        "elicitation-sep1034-defaults": _ASKING,
        "elicitation-sep1330-enums": _ASKING,
        "server-sse-polling": _TOOLS,
    },
    "2026-07-28": {
        **_BOTH,
        "server-stateless": _TOOLS,
        "input-required-result-basic-elicitation": _ASKING,
        "input-required-result-basic-sampling": _ASKING,
        "input-required-result-basic-list-roots": _ASKING,
        "input-required-result-request-state": _ASKING,
        "input-required-result-multiple-input-requests": _ASKING,
        "input-required-result-multi-round": _ASKING,
        "input-required-result-non-tool-request": _PROMPTS,
        "input-required-result-result-type": _ASKING,
        "input-required-result-tampered-state": _ASKING,
        "input-required-result-capability-check": _ASKING,
        "http-custom-header-server-validation": "looks for a tool that takes arguments from headers; none does",
        "tasks-lifecycle": _TASKS,
        "tasks-capability-negotiation": _TASKS,
        "tasks-wire-fields": _TASKS,
        "tasks-request-state-removal": _TASKS,
        "tasks-mrtr-input": _TASKS,
        "tasks-request-headers": _TASKS,
        "tasks-dispatch-and-envelope": _TASKS,
        "tasks-required-task-error": _TASKS,
        "tasks-mrtr-composition": _TASKS,
    },
}
# The only checks of these that don't pass. A scenario that is not listed does nothing without its example.
PARTLY = {"server-stateless": {"sep-2575-server-rejects-undeclared-capability", "sep-2575-missing-capability-http-400"}}
