"""The child process of load_test: confines itself, loads a model, runs it on a short input and reports the result.

It reads its task from stdin and writes lines of JSON to stdout. The bindings' server can't be prevented from listening,
so it listens on a socket in a private folder.
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

from llm_hf_models.inference import confinement, engine_child

SAMPLE_PROMPT = "Say hello in one short sentence."
SAMPLE_TEXT = "The sky is blue, and the sea"
MIN_REPEATED_TOKENS = 8  # a shorter output may repeat one token and still be language


def main() -> NoReturn:
    """Read the task, confine this process, load the model, run it, report and exit."""
    sys.excepthook = log_and_exit
    task = json.load(sys.stdin)
    report_file = os.dup(1)
    os.dup2(2, 1)  # llama.cpp's output goes to the log, never into the report

    def write_line(**line: object) -> None:
        os.write(report_file, json.dumps(line).encode() + b"\n")

    import xllamacpp

    params = build_parameters(task, xllamacpp)
    try:
        report = confinement.confine(task, gpu=engine_child.has_gpu(xllamacpp))
    except RuntimeError as error:
        write_line(failed={"error": str(error), "memory": False})
        sys.exit(0)
    write_line(confined={"layers": report.layers, "missing": report.missing})
    server = None
    try:
        started = time.monotonic()
        server = xllamacpp.Server(params)
        write_line(loaded={"load_seconds": time.monotonic() - started, "peak_memory": measure_peak_memory()})
        write_line(answered={**run_model(server, task), "peak_memory": measure_peak_memory()})
    except (RuntimeError, OSError, MemoryError) as error:
        write_line(
            failed={"error": f"{type(error).__name__}: {error}"[:2000], "memory": isinstance(error, MemoryError)}
        )
    if server is None:
        sys.exit(0)  # a regular exit: llama.cpp writes the end of its log during teardown
    os._exit(0)  # a regular exit would hang: the server can't be stopped, and its destructors wait for it


def log_and_exit(kind: type[BaseException], error: BaseException, _where: object) -> NoReturn:
    """Log an unexpected exception in one line and exit without waiting for the server's destructors."""
    os.write(2, "".join(traceback.format_exception_only(kind, error)).encode("utf-8", "replace"))
    os._exit(1)


def build_parameters(task: dict[str, Any], xllamacpp: Any) -> Any:  # noqa: ANN401 - the bindings carry no types
    """Return the bindings' parameters: tensors are checked, and everything optional is turned off."""
    params = xllamacpp.CommonParams()
    params.model.path = task["model"]
    if task["mmproj"]:
        params.mmproj.path = task["mmproj"]
    params.check_tensors = True
    params.hostnames = [task["socket"] or "127.0.0.1"]
    params.port = 0
    params.api_keys = [task["key"]]
    params.n_threads_http = params.n_parallel = 1
    params.n_ctx = params.n_batch = params.n_ubatch = task["context"]
    params.fit_params = params.ui = False
    params.n_gpu_layers = 0  # a file's validity does not depend on the device
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = task["threads"]
    params.cache_ram_mib = 0
    params.use_jinja = params.offline = True
    if task["template"]:
        params.chat_template = task["template"]
    params.verbosity = 1  # errors only, for the message if loading fails
    params.embedding = task["kind"] in ("embedding", "reranker")
    if task["kind"] == "reranker":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    return params


def run_model(server: Any, task: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - the bindings carry no types
    """Run the model once. Its kind determines whether to chat, complete, embed or rank.

    Returns:
        The fields of the report's `answered` line: the output, the speed, and the problem found ("" if none).
    """
    if task["kind"] == "embedding":
        response = get_result_or_raise(server.handle_embeddings({"input": SAMPLE_TEXT}))
        return {
            "nonsense": find_number_problem(response["data"][0]["embedding"]),
            "output": "",
            "tokens_per_second": None,
        }
    if task["kind"] == "reranker":
        response = get_result_or_raise(
            server.handle_rerank({"query": SAMPLE_TEXT, "documents": [SAMPLE_TEXT, SAMPLE_PROMPT]})
        )
        scores = [result["relevance_score"] for result in response["results"]]
        return {"nonsense": find_number_problem(scores), "output": "", "tokens_per_second": None}
    options = {"max_tokens": task["tokens"], "temperature": 0, "logprobs": True, "top_logprobs": 1}
    if task["kind"] == "chat":
        request = {"messages": [{"role": "user", "content": SAMPLE_PROMPT}], **options}
        response = get_result_or_raise(server.handle_chat_completions(request))
    else:
        response = get_result_or_raise(server.handle_completions({"prompt": SAMPLE_TEXT, "n_probs": 1, **options}))
    tokens = (response["choices"][0].get("logprobs") or {}).get("content") or []
    speed = response.get("timings", {}).get("predicted_per_second")
    return {
        "nonsense": find_text_problem(tokens),
        "output": "".join(token["token"] for token in tokens),
        "tokens_per_second": speed if is_finite(speed) else None,
    }


def get_result_or_raise(response: dict[str, Any]) -> dict[str, Any]:
    """Return the server's response.

    Raises:
        RuntimeError: The response is an error.
    """
    if "error" in response or "code" in response:
        raise RuntimeError(str(response.get("message") or response.get("error")))
    return response


def find_text_problem(tokens: list[dict[str, Any]]) -> str:
    """Return the problem with generated tokens and their probabilities; empty if there is none."""
    if not "".join(token["token"] for token in tokens).strip():
        return "The model generated no text."
    if not all(is_finite(token["logprob"]) for token in tokens):
        return "The model's probabilities are not finite numbers."
    if len(tokens) >= MIN_REPEATED_TOKENS and len({token["id"] for token in tokens}) == 1:
        return "The model generated the same token repeatedly."
    return ""


def find_number_problem(numbers: list[Any]) -> str:
    """Return the problem with an embedding or with scores; empty if there is none."""
    if not numbers or not all(is_finite(number) for number in numbers):
        return "The model's output contains values that are not finite numbers."
    return "" if any(numbers) else "The model's output is all zeros."


def is_finite(number: object) -> bool:
    """Return whether a JSON value is a finite number. llama.cpp writes NaN and infinity as null."""
    return isinstance(number, (int, float)) and math.isfinite(number)


def measure_peak_memory() -> int:
    """Return the peak resident memory in bytes. On Linux, rusage would include the parent's memory from before exec."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    return engine_child.measure_peak_memory()


if __name__ == "__main__":
    main()
