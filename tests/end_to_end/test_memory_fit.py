"""The memory estimate, compared with the memory that llama.cpp uses for a real model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm_hf_models.gguf.header import read_header
from llm_hf_models.gguf.memory_fit import assess_fit
from tests.conftest import Home
from tests.support import real_weights

GB = 1_000_000_000
# A server of its own, a prompt of half the context, and the memory that the kernel reports.
SERVE = """
import http.client, json, os, socket, sys
import psutil, xllamacpp
path, context, address = sys.argv[1], int(sys.argv[2]), sys.argv[3]
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.fit_params = path, context, 1, False
params.cpuparams.n_threads, params.cache_ram_mib, params.hostnames = 1, 0, [address]
server = xllamacpp.Server(params)
connection = http.client.HTTPConnection("engine")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(address)
prompt = {"prompt": "word " * (context // 2), "n_predict": 2}
connection.request("POST", "/completion", json.dumps(prompt), {"Content-Type": "application/json"})
assert json.loads(connection.getresponse().read())["tokens_evaluated"] >= context // 2
print(json.dumps(psutil.Process().memory_info().rss), flush=True)
os._exit(0)
"""


@pytest.mark.weights
@pytest.mark.skipif(sys.platform == "win32", reason="a unix socket")
@pytest.mark.parametrize("context", [512, 2048])
def test_llama_cpp_stays_close_below_the_memory_estimate(context: int, tmp_path: Path, home: Home) -> None:
    model = real_weights.smollm2(tmp_path)
    with model.open("rb") as source:
        facts = read_header(source).facts
    needed = assess_fit(model.stat().st_size, facts, context=context, available=8 * GB).needed
    command = [sys.executable, "-c", SERVE, str(model), str(context), str(home.runtime / "s.sock")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = json.loads(answer.stdout.splitlines()[-1])
    assert taken <= needed <= taken * 1.35
