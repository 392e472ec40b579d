"""The Hub's client over slow connections and with other certificates."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llm_hf_models.errors import TimedOutError
from llm_hf_models.hub.refs import RepoId
from tests.support import hub_repos
from tests.support.hub_repos import make_client
from tests.support.hub_server import HubServer, Throttle

server = hub_repos.server

# Network errors


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.usefixtures("home")
def test_certificates_from_the_environment_are_used_for_the_hub(variable: str) -> None:
    code = "from llm_hf_models import Library; print(Library().search('tiny').results[0].id)"
    with HubServer(tls=True) as hub:
        hub.add_repo("owner/tiny-GGUF", {"tiny-Q4_K_M.gguf": b"GGUF"})
        names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"HF_ENDPOINT": hub.endpoint, variable: str(hub.ca_file)},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.stdout.strip() == "owner/tiny-GGUF", done.stderr


def test_dripping_response_times_out(server: HubServer) -> None:
    server.add_repo("acme/long", {"README.md": b"x" * 500_000}, lfs=["README.md"])
    server.fault(Throttle(200_000), side="storage")
    with pytest.raises(TimedOutError, match="too slowly"):
        make_client(server, timeout=0.5).fetch_card(RepoId("acme", "long"), "main")
