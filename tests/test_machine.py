"""What the machine gives, read from folders laid out like /proc and /sys."""

import os
from pathlib import Path

import pytest

from kvstrata.kvstore.errors import SettingsError
from kvstrata.kvstore.machine import (
    Limit,
    disk_room,
    make_private_dir,
    memory_limit,
    physical_memory,
)

RAM = 64 << 30


def machine(root: Path, membership: str, files: dict[str, str]) -> Path:
    """A root folder whose process is in the cgroup that ``membership`` names."""
    for name, text in ({"proc/self/cgroup": membership} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_without_cgroups_the_ram_is_the_limit(tmp_path: Path) -> None:
    assert memory_limit(RAM, tmp_path) == Limit(RAM, "this machine's RAM")


def test_a_cgroup_of_the_second_generation_limits_the_memory(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/pod/box", {"sys/fs/cgroup/pod/box/memory.max": str(8 << 30)})
    assert memory_limit(RAM, root).nbytes == 8 << 30


def test_the_error_can_name_the_file_that_limits(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/box", {"sys/fs/cgroup/box/memory.max": "1000000"})
    assert memory_limit(RAM, root).origin.endswith("sys/fs/cgroup/box/memory.max")


def test_a_cgroup_without_a_limit_is_bound_by_the_one_above_it(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/pod/box/memory.max": "max",
        "sys/fs/cgroup/pod/memory.max": str(6 << 30),
        "sys/fs/cgroup/memory.max": str(16 << 30),
    }
    assert memory_limit(RAM, machine(tmp_path, "0::/pod/box", files)).nbytes == 6 << 30


def test_a_container_that_sees_its_own_cgroup_as_the_root_is_limited(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/outside/name", {"sys/fs/cgroup/memory.max": str(2 << 30)})
    assert memory_limit(RAM, root).nbytes == 2 << 30


def test_a_cgroup_of_the_first_generation_limits_the_memory(tmp_path: Path) -> None:
    limit = {"sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(3 << 30)}
    root = machine(tmp_path, "4:cpu,memory:/box\n0::/", limit)
    assert memory_limit(RAM, root).nbytes == 3 << 30


def test_a_limit_beyond_the_ram_is_none(tmp_path: Path) -> None:
    limit = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert memory_limit(RAM, machine(tmp_path, "4:memory:/", limit)).nbytes == RAM


def test_a_path_that_climbs_out_of_the_mount_is_read_within_it(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/../../box", {"sys/fs/cgroup/box/memory.max": str(1 << 30)})
    assert memory_limit(RAM, root).nbytes == 1 << 30


def test_this_machine_has_memory() -> None:
    assert 0 < memory_limit(physical_memory()).nbytes <= physical_memory()


def test_a_directory_that_is_not_there_yet_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    room = disk_room(tmp_path / "not" / "yet")
    assert room.device == tmp_path.stat().st_dev
    assert room.free > 0
    assert room.occupied == 0


@pytest.mark.parametrize("place", [".", "slab"])
def test_slab_files_count_with_what_they_take_on_disk(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "pages.kvs").write_bytes(os.urandom(1 << 20))
    (tmp_path / place / "other.txt").write_bytes(os.urandom(1 << 20))
    assert 1 << 20 <= disk_room(tmp_path).occupied < 3 << 19


def test_every_directory_that_is_made_is_for_its_owner_only(tmp_path: Path) -> None:
    make_private_dir(tmp_path / "cache" / "kvstrata")
    for made in (tmp_path / "cache", tmp_path / "cache" / "kvstrata"):
        assert made.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_dir(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="is no directory"):
        make_private_dir(tmp_path / "file")
    with pytest.raises(SettingsError, match="cannot be created"):
        make_private_dir(tmp_path / "file" / "below")
