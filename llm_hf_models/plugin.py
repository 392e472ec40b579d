"""llm's hooks, lazy: nothing heavy is imported until it is used, and no hook ever raises."""

import llm


@llm.hookimpl
def register_commands(cli):  # noqa: ANN001, ANN201, D103
    pass
