"""Commands about running models: set, ps, stop, serve and attach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from llm_hf_models.cli import format as cli_format
from llm_hf_models.cli import output
from llm_hf_models.cli.framework import format_examples, ignore_text, open_library
from llm_hf_models.cli.params import (
    LOOPBACK,
    LocalName,
    OptionKey,
    OptionPair,
    json_option,
    listen_options,
    quiet_option,
    require_one_of,
)
from llm_hf_models.cli.views import running as running_views
from llm_hf_models.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = LocalName()
MAX_TEMPLATE_BYTES = 512 * 1024
KEY_VARIABLE = "LLM_HF_SERVE_KEY"


@dataclass(frozen=True)
class StoppedEngines:
    """The number of engines that `stop` stopped."""

    stopped: int


@click.command(epilog=format_examples("llm hf ps", "llm hf ps --json"))
@quiet_option("Print only the ids of the models.", is_passed=True)
@json_option
def ps(quiet: bool, as_json: bool) -> None:
    """List the running engines."""
    from llm_hf_models.types import EngineList

    engines = open_library().list_engines()
    if as_json:
        output.print_json(EngineList(engines))
    elif engines and quiet:
        output.emit("\n".join(dict.fromkeys(engine.id for engine in engines)))
    elif engines:
        output.emit(running_views.render_engines(engines, output.get_width()))
        if missing_layers := running_views.render_missing_layers(engines):
            output.note(missing_layers)
    else:
        output.note("No engine is running. The next prompt starts one.")


@click.command(epilog=format_examples("llm hf stop Qwen3-0.6B", "llm hf stop --all"))
@click.argument("names", metavar="[NAME]...", type=NAME, nargs=-1)
@click.option("everything", "--all", is_flag=True, help="Stop all engines.")
@quiet_option("Hide notes.")
@json_option
def stop(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Stop the engines of models.

    The next prompt starts a new one.
    """
    require_one_of(names or None, everything)
    library = open_library()
    models = [library.show(name).id for name in names]  # if a name is unknown, no engine is stopped
    count = library.stop_engines() if everything else sum(map(library.stop_engines, dict.fromkeys(models)))
    output.print_json(StoppedEngines(count)) if as_json else output.note(running_views.render_stopped(count))


@click.command(
    "set",
    context_settings={"ignore_unknown_options": True},  # so that -1 is a value
    epilog=format_examples(
        "llm hf set Qwen3-0.6B temperature 0.6 context 8192",
        "llm hf set Qwen3-0.6B system 'Answer in one sentence.'",
        "llm hf set Qwen3-0.6B template chatml.jinja keep_alive 30m",
        "llm hf set Qwen3-0.6B --unset temperature",
        "llm hf set Qwen3-0.6B            # shows all defaults",
    ),
)
@click.argument("name", type=NAME, metavar="REF")
@click.argument("pairs", type=OptionPair(), nargs=-1, metavar="[KEY VALUE]...")
@click.option(
    "unset",
    "--unset",
    type=OptionKey(),
    multiple=True,
    metavar="KEY",
    help="Remove the default of this option; repeatable.",
)
@quiet_option("Print nothing after a change.", is_passed=True)
@json_option
def set_(name: str, pairs: tuple[str, ...], unset: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Set a model's default options.

    Defaults apply to each prompt that doesn't override them with -o. KEY is an option that `llm models --options`
    lists, such as temperature or context. It can also be `system` for a default system prompt, or `template` for a
    file with a chat template that replaces the model's own. If the header does not tell them, `kind` can be chat, base
    or embedding, and `pooling` mean, cls or last. `truncate on` cuts texts to embed that are too long.
    """
    library = open_library()
    model = library.set_options(name, _parse_options(pairs), unset) if pairs or unset else library.show(name)
    if as_json:
        output.print_json(model)
    elif not (quiet and (pairs or unset)):
        output.emit(running_views.render_defaults(model.defaults, output.get_width()))


def _parse_options(pairs: Sequence[str]) -> dict[str, str]:
    if len(pairs) % 2:
        raise click.UsageError(f"{pairs[-1][:60]!r} has no VALUE: write KEY VALUE [KEY VALUE]...")
    keys = pairs[::2]
    if repeated := next((key for key in keys if keys.count(key) > 1), None):
        raise click.UsageError(f"{repeated[:60]!r} is given twice.")
    options = dict(zip(keys, pairs[1::2], strict=True))
    if "template" in options:
        options["template"] = _read_template(Path(options["template"]))
    return options


def _read_template(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"Option 'template': can't read the file {path}", cause=str(error)) from None
    if len(data) > MAX_TEMPLATE_BYTES:
        raise BadInputError(f"Option 'template': {path} is too large to be a chat template")
    return text


@click.command(
    epilog=format_examples(
        "llm hf attach big --endpoint http://gpu-box:8000/v1",
        "llm hf attach big --endpoint https://models.example/v1 --key-env BIG_KEY --model qwen3-235b",
        "llm hf attach eye --endpoint http://gpu-box:8000/v1 --model Qwen3-VL-8B --images",
        "llm hf attach vectors --endpoint http://127.0.0.1:8081 --kind embedding",
    )
)
@click.argument("name")
@click.option("--endpoint", required=True, metavar="URL", help="URL of the server, such as vLLM, TGI or llama-server.")
@click.option("--key-env", metavar="VAR", help="Environment variable that holds the API key; the key is not stored.")
@click.option("--key-name", metavar="NAME", help="Name of the API key in llm's keys (`llm keys set NAME`).")
@click.option("model", "--model", metavar="ID", help="The model's id on the server; required if it serves several.")
@click.option(
    "--kind", type=click.Choice(["chat", "embedding"]), default="chat", show_default=True, help="Kind of model."
)
@click.option("--images", is_flag=True, help="The model accepts images; needed if the server doesn't report it.")
@click.option("--audio", is_flag=True, help="The model accepts audio; needed if the server doesn't report it.")
@quiet_option("Hide notes.")
@json_option
def attach(
    name: str,
    endpoint: str,
    key_env: str | None,
    key_name: str | None,
    model: str | None,
    kind: Literal["chat", "embedding"],
    images: bool,
    audio: bool,
    as_json: bool,
) -> None:
    """Use a model on a remote endpoint as NAME.

    Any OpenAI-compatible server works. `llm -m NAME` then uses it, with tools, schemas, streaming, images and
    embeddings. `llm hf list` shows whether the server responds, `llm hf rm NAME` removes it.
    """
    modalities = [modality for modality, is_given in (("image", images), ("audio", audio)) if is_given]
    found = open_library().attach(
        name, endpoint, key_env=key_env, key_name=key_name, model=model, kind=kind, modalities=modalities
    )
    output.print_json(found) if as_json else output.note(running_views.render_attached(found))


@click.command(
    epilog=format_examples(
        "llm hf serve Qwen3-0.6B",
        "llm hf serve Qwen3-0.6B nomic-embed-text-v1.5 --port 8080",
        f"{KEY_VARIABLE}=choose-one llm hf serve Qwen3-0.6B",
        "llm hf serve --log               # all models, with a line for each request",
    )
)
@click.argument("names", type=NAME, nargs=-1, metavar="[REF]...")
@listen_options(8643)
@click.option(
    "--key", envvar=KEY_VARIABLE, metavar="KEY", help=f"Key that clients must send; {KEY_VARIABLE} hides it from `ps`."
)
@click.option("--log", "is_logged", is_flag=True, help="Print a line for each request to stderr, without its content.")
@quiet_option("Print only the address, and the lines of --log.", is_passed=True)
def serve(names: tuple[str, ...], host: str, port: int, key: str | None, is_logged: bool, quiet: bool) -> None:
    """Serve models through an OpenAI-compatible API.

    Without REF, all models are served. Prints the address, and a new key unless --key is given. Runs until Ctrl-C. Each
    model's engine starts on demand and stops when idle, as with `llm -m`. Defaults from `llm hf set` apply too.
    """
    log = output.alert if is_logged else None
    notify = ignore_text if quiet else output.note  # threads that serve a request call it
    with open_library().serve(names, host, port, key=key, notify=notify, log=log) as server:
        address = cli_format.format_server_url(server.server_address)
        output.emit(address)
        output.note(
            running_views.render_relay(address, server, key_given=key is not None, open_to_others=host not in LOOPBACK)
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            output.note("Stopped.")
