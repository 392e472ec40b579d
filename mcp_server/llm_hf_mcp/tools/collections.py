"""The tools for collections: hf_list_collections and hf_edit_collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, ElicitationResult, Resolve
from mcp_types import CallToolResult
from pydantic import Field

from llm_hf_mcp.answers import build_result, call, measure_room, select_page
from llm_hf_mcp.consent import Agreement, SettledConsent, record_answer, request_agreement
from llm_hf_mcp.library_access import OpenLibrary
from llm_hf_mcp.results import EditCollectionResult, ListCollectionsResult, Totals
from llm_hf_mcp.texts.collections import format_collection, format_collections, format_edit
from llm_hf_mcp.tools.hub import Confirm, Cursor
from llm_hf_models.agent_library import PreparedChange
from llm_hf_models.models.collections.types import CollectionDeletion, CollectionMember, SkippedItem

MAX_MEMBERS = 50
CollectionName = Annotated[str, Field(max_length=200, description="A collection, such as coding or coding/small")]
Member = Annotated[str, Field(max_length=1000)]
Action = Literal["create", "add", "remove", "rename", "import", "delete"]


async def list_collections(
    library: OpenLibrary,
    name: Annotated[str, Field(max_length=200, description="Show the models of this collection")] = "",
    limit: Annotated[int, Field(ge=1, le=50, description="Maximum number of rows per page")] = 30,
    cursor: Cursor = None,
) -> CallToolResult:
    """List the user's collections of models, or with `name` the models of one, and which are on this machine.

    A collection may contain others, whose models are included. A model with a role has the name COLLECTION/ROLE, such
    as coding/best, in every tool. Notes and names may be by others.
    """
    if not name:
        every = await call(library.list_collections)
        rows, after = select_page(every, cursor, limit=limit, kind="collections")
        found = ListCollectionsResult(rows, next_cursor=after, totals={"collections": Totals(len(every), len(rows))})
        return build_result(found, format_collections)
    view = await call(library.show_collection, name)
    (summary,) = [row for row in await call(library.list_collections) if row.name == view.name]
    rest = ListCollectionsResult((summary,), view.collections, totals={"members": Totals(len(view.members), 0)})
    members, after = select_page(view.members, cursor, limit=limit, room=measure_room(rest), kind="members")
    totals = {"members": Totals(len(view.members), len(members))}
    found = ListCollectionsResult((summary,), view.collections, members, after, totals)
    return build_result(found, format_collection)


async def prepare_edit(library: OpenLibrary, name: str, action: Action) -> PreparedChange[CollectionDeletion | None]:
    """Plan the deletion of a collection, if that is the action. The other actions need no consent."""
    return await call(library.prepare_collection_edit, name, deletes=action == "delete")


PreparedEdit = Annotated[PreparedChange[CollectionDeletion | None], Resolve(prepare_edit)]


async def ask_before_edit(
    ctx: Context, library: OpenLibrary, change: PreparedEdit, confirm: str | None
) -> Elicit[Agreement] | SettledConsent:
    """Ask the user to agree to a deletion, if the policy requires it."""
    return await request_agreement(ctx, library, change, confirm)


async def edit_collection(
    library: OpenLibrary,
    action: Annotated[Action, Field(description="What to do with the collection")],
    name: CollectionName,
    change: PreparedEdit,
    answer: Annotated[ElicitationResult[Agreement], Resolve(ask_before_edit)],
    members: Annotated[
        list[Member],
        Field(max_length=50, description="For add and remove: local models, owner/name:QUANT, or other collections"),
    ] = [],  # noqa: B006 - never modified
    role: Annotated[
        str | None, Field(max_length=100, description="For add: the role of one model, such as best; empty removes it")
    ] = None,
    note: Annotated[str | None, Field(max_length=500, description="For create and add")] = None,
    new_name: Annotated[str | None, Field(max_length=200, description="For rename: the new name")] = None,
    source: Annotated[
        str | None,
        Field(max_length=1000, description="For import: owner/title-ID or URL of a collection on the Hub"),
    ] = None,
    confirm: Confirm = None,
) -> CallToolResult:
    """Create, change, rename or delete one of the user's collections, or import one of the Hub's.

    Nothing is downloaded, and models stay on this machine. The user is asked before a collection is deleted. Use it
    only if the user wants it.
    """
    del confirm
    if action == "delete":
        deletion = await call(library.delete_collection, await record_answer(library, change, answer))
        return build_result(EditCollectionResult(deletion.name, deletion=deletion), format_edit)
    _check_arguments(action, members, new_name, source)
    skipped: Sequence[SkippedItem] = ()
    match action:
        case "create":
            view = await call(library.create_collection, name, note=note or "")
        case "add":
            view = await call(library.add_to_collection, name, *members, role=role, note=note)
        case "remove":
            view = await call(library.remove_from_collection, name, *members)
        case "rename":
            view = await call(library.rename_collection, name, new_name)
        case "import":
            done = await call(library.import_collection, source, name=name)
            view, skipped = await call(library.show_collection, done.name), done.skipped
    found = _make_result(view.name, view.members, view.messages, skipped)
    return build_result(found, format_edit)


def _check_arguments(action: Action, members: Sequence[str], new_name: str | None, source: str | None) -> None:
    """Check that an action has the argument that it needs.

    Raises:
        ToolError: It is missing.
    """
    needed = {"add": ("members", members), "remove": ("members", members), "rename": ("new_name", new_name),
              "import": ("source", source)}  # fmt: skip
    if action in needed and not needed[action][1]:
        raise ToolError(f"The action {action} needs the argument {needed[action][0]!r}.")


def _make_result(
    name: str, members: Sequence[CollectionMember], messages: Sequence[str], skipped: Sequence[SkippedItem]
) -> EditCollectionResult:
    shown, left_out = tuple(members[:MAX_MEMBERS]), tuple(skipped[:MAX_MEMBERS])
    totals = {"members": Totals(len(members), len(shown)), "skipped": Totals(len(skipped), len(left_out))}
    return EditCollectionResult(name, shown, tuple(messages), left_out, totals=totals)
