"""Settings: where they come from, what they may be, and whether they fit the machine."""

import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from kvstrata.kvstore.errors import SettingsError
from kvstrata.kvstore.machine import DiskRoom, Limit
from kvstrata.kvstore.settings import Settings, default_memory

NOTHING: dict[str, str] = {}


def load(
    file: Path | None = None,
    *,
    environ: dict[str, str] | None = None,
    arguments: dict[str, object] | None = None,
) -> Settings:
    """Settings that the test's own environment has no part in."""
    return Settings.load(file, environ=environ or NOTHING, arguments=arguments)


def toml(directory: Path, text: str) -> Path:
    """A settings file."""
    file = directory / "kvstrata.toml"
    file.write_text(text)
    return file


# Defaults


def test_the_defaults_just_work(tmp_path: Path) -> None:
    settings = load(environ={"XDG_CACHE_HOME": str(tmp_path)}, arguments={"disk": 1 << 20})
    settings.check()
    assert settings.dir == tmp_path / "kvstrata"
    assert settings.write == "behind"
    assert settings.slab_dirs == (settings.dir,)


def test_the_default_disk_is_10_gib() -> None:
    assert Settings().disk == 10 << 30


def test_the_default_directory_is_in_the_cache_of_the_user() -> None:
    assert load().dir == Path.home() / ".cache" / "kvstrata"


def test_a_relative_xdg_cache_home_is_ignored_as_its_specification_says() -> None:
    assert load(environ={"XDG_CACHE_HOME": "cache"}).dir == Path.home() / ".cache" / "kvstrata"


@pytest.mark.parametrize(
    ("limit", "memory"), [(64 << 30, 4 << 30), (8 << 30, 2 << 30), (1 << 20, 1 << 20)]
)
def test_the_default_memory_is_4_gib_or_a_quarter_of_the_limit(limit: int, memory: int) -> None:
    assert default_memory(Limit(limit, "test")) == memory


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().memory = 1  # type: ignore[misc]


# Sources


def test_the_environment_wins_over_the_file_and_arguments_over_both(tmp_path: Path) -> None:
    file = toml(tmp_path, 'memory = "1GiB"\nreaders = 2\nwriters = 2\n')
    environ = {"KVSTRATA_READERS": "3", "KVSTRATA_WRITERS": "3"}
    settings = load(file, environ=environ, arguments={"writers": 5})
    assert (settings.memory, settings.readers, settings.writers) == (1 << 30, 3, 5)


def test_every_setting_says_where_it_came_from(tmp_path: Path) -> None:
    file = toml(tmp_path, '# ours\nmemory = "1GiB"\n')
    settings = load(file, environ={"KVSTRATA_TTL": "10m"}, arguments={"disk": "2GB"})
    shown = {name: (value, source) for name, value, source in settings.describe()}
    assert shown["memory"] == ("1 GiB", f"{file}, line 2")
    assert shown["ttl"] == ("10 m", "environment variable KVSTRATA_TTL")
    assert shown["disk"] == ("1.9 GiB", "argument")
    assert shown["dir"][1] == shown["codec"][1] == "default"


def test_settings_made_by_hand_tell_arguments_from_defaults() -> None:
    sources = {name: source for name, _, source in Settings(memory=8 << 20).describe()}
    assert sources["memory"] == "argument"
    assert sources["dir"] == sources["disk"] == "default"


def test_the_process_environment_is_read_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KVSTRATA_GHOSTS", "7")
    assert Settings.load().ghosts == 7
    assert Settings.load(environ={}).ghosts == 65_536


def test_an_argument_that_is_none_was_not_given() -> None:
    assert load(environ={"KVSTRATA_READERS": "3"}, arguments={"readers": None}).readers == 3


def test_other_variables_of_the_environment_are_none_of_our_business() -> None:
    assert load(environ={"MEMORY": "x", "KVSTRATAMEMORY": "x"}) == load()


def test_stripes_are_a_list_in_toml_and_separated_in_the_environment(tmp_path: Path) -> None:
    stripes = (Path("/mnt/a"), Path("/mnt/b"))
    assert load(toml(tmp_path, 'stripes = ["/mnt/a", "/mnt/b"]\n')).stripes == stripes
    assert load(environ={"KVSTRATA_STRIPES": f"/mnt/a{os.pathsep}/mnt/b"}).stripes == stripes
    assert load(environ={"KVSTRATA_STRIPES": ""}).stripes == ()
    assert load(arguments={"stripes": stripes}).slab_dirs == stripes


def test_a_directory_is_made_absolute_and_the_home_is_filled_in() -> None:
    assert load(arguments={"dir": "~/kv"}).dir == Path.home() / "kv"
    assert load(arguments={"dir": "kv"}).dir == Path.cwd() / "kv"


# What is refused


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("memory", "20 gigs", "a size such as 20GiB"),
        ("memory", "1023KiB", "1MiB or more"),
        ("memory", 0, "1MiB or more"),
        ("memory", True, "a size"),
        ("memory", 1.5e9, "a size"),
        ("disk", -1, "0 for no disk tier"),
        ("ttl", "10min", "a duration such as 500ms"),
        ("ttl", float("nan"), "a duration"),
        ("ttl", -1, "a duration"),
        ("deadline", 0, "1ms or more"),
        ("write", "through", "behind or none"),
        ("direct_io", "on", "auto or off"),
        ("codec", "zip", "one of raw, plane-huff"),
        ("policy", "", "one of lru"),
        ("readers", 0, "from 1 to 64"),
        ("writers", 65, "from 1 to 64"),
        ("writers", "many", "from 1 to 64"),
        ("ghosts", -1, "a number of records"),
        ("log_level", "loud", "one of DEBUG, INFO, WARNING, ERROR"),
        ("dir", "", "a directory"),
        ("dir", "~nobody-of-this-name/kv", "a directory"),
        ("stripes", ["/mnt/a", "/mnt/a"], "different directories"),
        ("stripes", [1], "different directories"),
        ("stripes", 1, "different directories"),
    ],
)
def test_a_value_that_means_nothing_stops_the_program(
    name: str, value: object, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(arguments={name: value})
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} = {value!r} (argument): expected ")
    assert expected in sentence


def test_a_bad_value_made_by_hand_is_refused_as_well() -> None:
    with pytest.raises(SettingsError, match=r"^memory = 4096 \(argument\): expected a size"):
        Settings(memory=4096)


def test_a_bad_value_in_the_environment_names_the_variable() -> None:
    with pytest.raises(SettingsError, match=r"disk = '9G' \(environment variable KVSTRATA_DISK\)"):
        load(environ={"KVSTRATA_DISK": "9G"})


def test_a_bad_value_in_the_file_names_file_and_line(tmp_path: Path) -> None:
    file = toml(tmp_path, '\n# disk = "1GiB"\n"disk" = 1.5\n')
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert str(caught.value).startswith(f"disk = 1.5 ({file}, line 3): expected a size")


@pytest.mark.parametrize(
    ("environ", "arguments"),
    [
        ({"KVSTRATA_MEMRY": "1GiB"}, {}),
        ({}, {"memry": "1GiB"}),
    ],
)
def test_an_unknown_name_is_refused_with_the_one_that_was_meant(
    environ: dict[str, str], arguments: dict[str, object]
) -> None:
    with pytest.raises(SettingsError, match=r"unknown setting memry = '1GiB'.*did you mean memory"):
        load(environ=environ, arguments=arguments)


def test_a_table_in_the_file_is_an_unknown_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown setting store .*line 2"):
        load(toml(tmp_path, '\n[store]\nmemory = "1GiB"\n'))


def test_a_variable_in_the_wrong_case_is_unknown() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting KVSTRATA_disk .*mean disk"):
        load(environ={"KVSTRATA_disk": "1GiB"})


def test_sources_is_no_setting() -> None:
    with pytest.raises(SettingsError, match="unknown setting sources"):
        load(arguments={"sources": {}})


def test_a_file_that_is_not_there_stops_the_program(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"memory = \n", b"\xff\xfe", b"readers = 1\nreaders = 2\n"])
def test_a_file_that_is_no_toml_stops_the_program(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "kvstrata.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="is no TOML"):
        load(file)


def test_the_store_can_refuse_a_setting_in_the_same_words() -> None:
    settings = load(environ={"KVSTRATA_MEMORY": "8MiB"})
    assert str(settings.refuse("memory", "room for the index")) == (
        "memory = 8 MiB (environment variable KVSTRATA_MEMORY): expected room for the index"
    )


# What does not fit


def test_memory_beyond_the_cgroup_is_refused_with_the_figures() -> None:
    settings = load(environ={"KVSTRATA_MEMORY": "20GiB"})
    with pytest.raises(SettingsError) as caught:
        settings.check_memory(Limit(16 << 30, "/sys/fs/cgroup/memory.max"))
    sentence = str(caught.value)
    assert sentence.startswith("memory = 20 GiB (environment variable KVSTRATA_MEMORY): expected")
    assert "16 GiB" in sentence
    assert "/sys/fs/cgroup/memory.max" in sentence
    assert "4 GiB) is the default" in sentence


def test_memory_within_the_cgroup_is_taken() -> None:
    load(arguments={"memory": "16GiB"}).check_memory(Limit(16 << 30, "test"))


def test_disk_beyond_the_real_file_system_is_refused(tmp_path: Path) -> None:
    settings = load(arguments={"dir": tmp_path, "disk": "8000TiB"})
    with pytest.raises(SettingsError, match=r"disk = 8000 TiB .* would hold 8000 TiB.* are free"):
        settings.check()


def test_disk_beyond_the_file_system_is_refused_with_the_figures() -> None:
    settings = load(arguments={"dir": "/mnt/a", "disk": "10GiB"})
    with pytest.raises(SettingsError) as caught:
        settings.check_disk(lambda _: DiskRoom(device=1, free=3 << 30, occupied=1 << 30))
    assert str(caught.value) == (
        "disk = 10 GiB (argument): expected no more than the file system can give: /mnt/a would "
        "hold 10 GiB of it, but 3 GiB are free and 1 GiB in slab files already; 0 means no disk "
        "tier, and dir and stripes name other places"
    )


def test_two_stripes_on_one_file_system_share_its_room() -> None:
    settings = load(arguments={"stripes": ["/mnt/a", "/mnt/b"], "disk": "10GiB"})
    settings.check_disk(lambda _: DiskRoom(device=1, free=10 << 30, occupied=0))
    with pytest.raises(SettingsError, match="/mnt/a, /mnt/b would hold 10 GiB"):
        settings.check_disk(lambda _: DiskRoom(device=1, free=9 << 30, occupied=0))


def test_stripes_on_different_file_systems_each_have_their_own_room() -> None:
    rooms = {
        Path("/mnt/a"): DiskRoom(device=1, free=6 << 30, occupied=0),
        Path("/mnt/b"): DiskRoom(device=2, free=4 << 30, occupied=0),
    }
    stripes = list(rooms)
    load(arguments={"stripes": stripes, "disk": "8GiB"}).check_disk(rooms.__getitem__)
    with pytest.raises(SettingsError, match="/mnt/b would hold 5 GiB"):
        load(arguments={"stripes": stripes, "disk": "10GiB"}).check_disk(rooms.__getitem__)


def test_slab_files_of_an_earlier_start_count_as_free() -> None:
    settings = load(arguments={"disk": "10GiB"})
    settings.check_disk(lambda _: DiskRoom(device=1, free=0, occupied=10 << 30))


def test_a_larger_slab_in_one_directory_makes_no_room_in_another() -> None:
    rooms = {
        Path("/mnt/a"): DiskRoom(device=1, free=1 << 30, occupied=9 << 30),
        Path("/mnt/b"): DiskRoom(device=1, free=1 << 30, occupied=0),
    }
    settings = load(arguments={"stripes": list(rooms), "disk": "8GiB"})
    with pytest.raises(SettingsError, match="1 GiB are free and 4 GiB in slab files"):
        settings.check_disk(rooms.__getitem__)


def test_no_disk_tier_needs_no_disk() -> None:
    load(arguments={"disk": 0}).check_disk(lambda _: DiskRoom(device=1, free=0, occupied=0))


def test_the_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    settings = load(arguments={"dir": tmp_path / "new", "disk": 0, "memory": "8MiB"})
    settings.check()
    assert settings.dir.stat().st_mode & 0o777 == 0o700


def test_sizes_that_do_not_fit_leave_no_directory_behind(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        load(arguments={"dir": tmp_path / "new", "disk": "8000TiB"}).check()
    assert not (tmp_path / "new").exists()
