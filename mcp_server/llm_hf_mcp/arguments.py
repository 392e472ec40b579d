"""What an agent gives a tool: what the tool does not know is refused, and what is wrong is said in words. Runs nothing.

The SDK ignores arguments that a tool has not, and shows pydantic's own report of those that don't fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import ErrorDetails

from llm_hf_models.text import clean_text, did_you_mean

MAX_TOLD = 5  # of what is wrong
MAX_NAME_CHARS = 60


class StrictTool(Tool):
    """A tool that takes its own arguments and no others."""

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401 - pydantic's own signature
        """Closes the schema."""
        super().model_post_init(context)
        open_model = self.fn_metadata.arg_model
        closed = create_model(open_model.__name__, __base__=open_model, __cls_kwargs__={"extra": "forbid"})
        self.fn_metadata.arg_model = closed
        self.parameters = closed.model_json_schema(by_alias=True)

    async def run(self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False) -> Any:  # noqa: ANN401 - the SDK's own signature
        """As the SDK does, once the arguments are right.

        Raises:
            ToolError: they are not.
        """
        try:
            self.fn_metadata.validate_arguments(arguments)
        except ValidationError as wrong:
            raise ToolError(_worded(self.name, self.fn_metadata.arg_model, wrong)) from None
        return await super().run(arguments, context, convert_result)


def _worded(tool: str, model: type[BaseModel], wrong: ValidationError) -> str:
    """What is wrong with the arguments; where that is a name, also which there are."""
    errors = wrong.errors(include_url=False, include_context=False, include_input=False)[:MAX_TOLD]
    text = f"{tool}: {'; '.join(map(_said, errors))}."
    if not any(error["type"] in ("missing", "extra_forbidden") for error in errors):
        return text
    guesses = [did_you_mean(_name(error), model.model_fields) for error in errors if error["type"] == "extra_forbidden"]
    return f"{text} {''.join(guesses)}It takes {', '.join(_known(model))}."


def _said(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return f"the argument {_name(error)!r} is missing"
    if error["type"] == "extra_forbidden":
        return f"there is no argument {_name(error)!r}"
    return f"{_name(error)}: {clean_text(error['msg'])}"


def _name(error: ErrorDetails) -> str:
    return clean_text(".".join(str(part) for part in error["loc"]), MAX_NAME_CHARS)


def _known(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{name} (needed)" if field.is_required() else name
