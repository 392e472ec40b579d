"""The machine's memory and cores, and the limits of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from llm_hf_models.system.machine import count_usable_cores, read_memory

MB = 1_000_000


def test_machine_has_memory_and_never_more_free_than_total() -> None:
    seen = read_memory()
    assert 0 < seen.free_memory_bytes <= seen.total_memory_bytes <= psutil.virtual_memory().total


def group(root: Path, folder: str, limit: str, used: int, stat: dict[str, int]) -> None:
    version_1 = "/memory" in f"/{folder}"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version_1 else ("memory.max", "memory.current")
    place = root / "sys/fs/cgroup" / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / names[0]).write_text(f"{limit}\n")
    (place / names[1]).write_text(f"{used}\n")
    (place / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))


def member(root: Path, *lines: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
    return root


def test_version_2_cgroup_limits_memory_and_file_pages_are_free(tmp_path: Path) -> None:
    root = member(tmp_path, "0::/")
    group(root, "", str(300 * MB), 250 * MB, {"anon": 100 * MB, "inactive_file": 90 * MB, "active_file": 60 * MB})
    assert read_memory(root).total_memory_bytes == 300 * MB
    assert read_memory(root).free_memory_bytes == 200 * MB


def test_tightest_of_nested_cgroups_applies(tmp_path: Path) -> None:
    root = member(tmp_path, "0::/user.slice/app.scope")
    group(root, "user.slice", str(200 * MB), 150 * MB, {"inactive_file": 0, "active_file": 0})
    group(root, "user.slice/app.scope", "max", 10 * MB, {"inactive_file": 0, "active_file": 0})
    assert read_memory(root).total_memory_bytes == 200 * MB
    assert read_memory(root).free_memory_bytes == 50 * MB


def test_version_1_cgroup_seen_as_the_root_applies(tmp_path: Path) -> None:
    root = member(tmp_path, "9:name=systemd:/", "5:cpu,memory:/docker/5a0d", "0::/")
    group(root, "memory", str(400 * MB), 100 * MB, {"inactive_file": 1, "total_inactive_file": 30 * MB})
    assert read_memory(root).total_memory_bytes == 400 * MB
    assert read_memory(root).free_memory_bytes == 330 * MB


def test_use_above_the_limit_leaves_nothing_free(tmp_path: Path) -> None:
    root = member(tmp_path, "0::/")
    group(root, "", str(100 * MB), 120 * MB, {})
    assert read_memory(root).free_memory_bytes == 0


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "", "nonsense"])
def test_missing_or_unreadable_limit_changes_nothing(tmp_path: Path, limit: str) -> None:
    root = member(tmp_path, "0::/", "garbage", "4:memory:/../../etc")
    group(root, "", limit, 5, {"inactive_file": 0})
    assert read_memory(root).total_memory_bytes == psutil.virtual_memory().total


def test_system_without_cgroups_is_not_an_error(tmp_path: Path) -> None:
    assert read_memory(tmp_path / "nothing").total_memory_bytes == psutil.virtual_memory().total


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= count_usable_cores(physical=True) <= count_usable_cores() <= (psutil.cpu_count() or 1)


@pytest.mark.parametrize(
    ("limit", "cores"), [("100000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", None), ("", None)]
)
def test_cpu_share_of_a_container_limits_the_cores(tmp_path: Path, limit: str, cores: int | None) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(limit)
    assert count_usable_cores(tmp_path) == (cores or count_usable_cores(tmp_path / "nothing"))
