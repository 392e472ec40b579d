"""The process in which load_test loads a model: confines itself, loads, asks for a few words, says how it went.

Reads its task from stdin, answers lines of JSON on stdout, and talks to nobody else. The bindings' server listens all
the same, on a socket in a private folder: it has no way not to.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from llm_hf_models.inference import engine_child
from llm_hf_models.inference.sandbox import confine as sandbox_confine
from llm_hf_models.inference.sandbox import types as sandbox_types

SAMPLE_PROMPT = "Say hello in one short sentence."
SAMPLE_TEXT = "The sky is blue, and the sea"
MIN_REPEATED_TOKENS = 8  # from so many on, one token over and over is no language


def main() -> NoReturn:
    """Reads the task, confines itself, loads, asks, leaves."""
    sys.excepthook = report_and_exit
    task = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints goes to the log, never between our lines

    def say(**line: object) -> None:
        os.write(answer, json.dumps(line).encode() + b"\n")

    import xllamacpp

    params = build_parameters(task, xllamacpp)
    report = confine(task, xllamacpp)
    say(confined={"layers": report.layers, "missing": report.missing})
    server = None
    try:
        before = time.monotonic()
        server = xllamacpp.Server(params)
        say(loaded={"load_seconds": time.monotonic() - before, "peak_memory": measure_peak_memory()})
        say(answered={**run_model(server, task), "peak_memory": measure_peak_memory()})
    except (RuntimeError, OSError, MemoryError) as error:
        say(failed={"error": f"{type(error).__name__}: {error}"[:2000], "memory": isinstance(error, MemoryError)})
    if server is None:
        sys.exit(0)  # the usual way out: llama.cpp writes the last of its log when it is torn down
    os._exit(0)  # the server can't be stopped, and its destructors wait for it


def report_and_exit(kind: type[BaseException], error: BaseException, _where: object) -> NoReturn:
    """What was not foreseen, in one line: for the parent, and without waiting for the server's destructors."""
    os.write(2, "".join(traceback.format_exception_only(kind, error)).encode("utf-8", "replace"))
    os._exit(1)


def build_parameters(task: dict[str, Any], xllamacpp: Any) -> Any:  # noqa: ANN401 - the bindings carry no types
    """The bindings' parameters: tensors checked, and nothing that loading and a few words don't need."""
    params = xllamacpp.CommonParams()
    params.model.path = task["model"]
    params.check_tensors = True
    params.hostnames = [task["socket"] or "127.0.0.1"]
    params.port = 0
    params.api_keys = [task["key"]]
    params.n_threads_http = params.n_parallel = 1
    params.n_ctx = params.n_batch = params.n_ubatch = task["context"]
    params.fit_params = params.ui = False
    params.n_gpu_layers = 0  # whether a file is sound does not depend on where it is computed
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = task["threads"]
    params.cache_ram_mib = 0
    params.use_jinja = params.offline = True
    if task["template"]:
        params.chat_template = task["template"]
    params.verbosity = 1  # errors: its last words, when it comes to that
    params.embedding = task["kind"] in ("embedding", "reranker")
    if task["kind"] == "reranker":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    return params


def confine(task: dict[str, Any], xllamacpp: Any) -> sandbox_confine.ConfinementReport:  # noqa: ANN401 - no types there
    """Closes everything but the model, unless the task says not to."""
    if not task["sandbox"]:
        return sandbox_confine.ConfinementReport((), ())
    wanted = sandbox_types.Confinement(
        read_paths=[Path(path) for path in task["read_paths"]],
        write_dirs=[Path(task["folder"])],
        max_memory_bytes=task["max_memory"],
        max_cpu_seconds=task["max_cpu"],
        allow_unix_server=True,
        allow_gpu=engine_child.has_gpu(xllamacpp),
    )
    return sandbox_confine.confine(wanted)


def run_model(server: Any, task: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - the bindings carry no types
    """Has the model do what it is for. Returns what it said, how fast, and what is wrong with it ("" if nothing is)."""
    if task["kind"] == "embedding":
        found = raise_on_error(server.handle_embeddings({"input": SAMPLE_TEXT}))
        return {"nonsense": find_number_problem(found["data"][0]["embedding"]), "output": "", "tokens_per_second": None}
    if task["kind"] == "reranker":
        found = raise_on_error(server.handle_rerank({"query": SAMPLE_TEXT, "documents": [SAMPLE_TEXT, SAMPLE_PROMPT]}))
        scores = [result["relevance_score"] for result in found["results"]]
        return {"nonsense": find_number_problem(scores), "output": "", "tokens_per_second": None}
    options = {"max_tokens": task["tokens"], "temperature": 0, "logprobs": True, "top_logprobs": 1}
    if task["kind"] == "chat":
        request = {"messages": [{"role": "user", "content": SAMPLE_PROMPT}], **options}
        found = raise_on_error(server.handle_chat_completions(request))
    else:
        found = raise_on_error(server.handle_completions({"prompt": SAMPLE_TEXT, "n_probs": 1, **options}))
    tokens = (found["choices"][0].get("logprobs") or {}).get("content") or []
    speed = found.get("timings", {}).get("predicted_per_second")
    return {
        "nonsense": find_text_problem(tokens),
        "output": "".join(token["token"] for token in tokens),
        "tokens_per_second": speed if is_finite(speed) else None,
    }


def raise_on_error(found: dict[str, Any]) -> dict[str, Any]:
    """The server's answer.

    Raises:
        RuntimeError: it is an error.
    """
    if "error" in found or "code" in found:
        raise RuntimeError(str(found.get("message") or found.get("error")))
    return found


def find_text_problem(tokens: list[dict[str, Any]]) -> str:
    """Why tokens with their probabilities are no answer; empty when they are one."""
    if not "".join(token["token"] for token in tokens).strip():
        return "It said nothing."
    if not all(is_finite(token["logprob"]) for token in tokens):
        return "Its probabilities are not numbers."
    if len(tokens) >= MIN_REPEATED_TOKENS and len({token["id"] for token in tokens}) == 1:
        return "It said the same token again and again."
    return ""


def find_number_problem(numbers: list[Any]) -> str:
    """Why an embedding or scores are none; empty when they are."""
    if not numbers or not all(is_finite(number) for number in numbers):
        return "Its output holds what is not a number."
    return "" if any(numbers) else "Its output is all zeros."


def is_finite(number: object) -> bool:
    """Whether it is a number that can be reckoned with: JSON's null stands for what is not."""
    return isinstance(number, (int, float)) and math.isfinite(number)


def measure_peak_memory() -> int:
    """The most resident memory so far, in bytes. On Linux rusage would begin with the parent's, from before exec."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    return engine_child.measure_peak_memory()


if __name__ == "__main__":
    main()
