"""The configuration: every option from the file and the environment, every mistake named by its path."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bastion.config import (
    NO_PENALTIES,
    GrantSettings,
    GroupSettings,
    Settings,
    SshSettings,
    StackSettings,
    load,
    locate,
)
from bastion.errors import ConfigurationError

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
SECTIONS: dict[str, type[BaseModel]] = {
    name: model
    for name, field in Settings.model_fields.items()
    for model in (field.annotation, *(() if get_origin(field.annotation) is tuple else get_args(field.annotation)))
    if isinstance(model, type) and issubclass(model, BaseModel)
}
TABLES: dict[str, type[BaseModel]] = {"stacks": StackSettings, "groups": GroupSettings, "grants": GrantSettings}
OTHER: dict[str, Any] = {
    "ssh.listen": ["0.0.0.0:22", "[::]:22"],
    "ssh.login_grace": "1.5m",
    "ssh.max_startups": "5:60:70",
    "ssh.max_startups_per_source": 8,
    "ssh.max_handshakes": 50.5,
    "ssh.max_handshakes_per_source": 6,
    "ssh.penalties": "authfail:1m noauth:500ms max-sources:10",
    "ssh.penalty_exempt": ["10.0.0.0/8", "2001:db8::1"],
    "ssh.max_connections_per_user": 11,
    "ssh.max_connections_per_source": 12,
    "ssh.unused_connection_timeout": "10m",
    "ssh.max_channels": 9,
    "ssh.keepalive": "10s",
    "ssh.drain_timeout": "30m",
    "ssh.notice": False,
    "keys.home": "/etc/bastion/keys",
    "keys.store": "database",
    "keys.grace": "10s",
    "sessions.per_service": 3,
    "sessions.per_user": 4,
    "sessions.per_user_per_service": 5,
    "sessions.idle_timeout": "1m",
    "sessions.max_duration": "1h",
    "sessions.database": "postgresql://bastion@db.example/bastion",
    "sessions.history": "7d",
    "audit.directory": "/var/lib/bastion/transcripts",
    "audit.recipients": ["age1xyz"],
    "audit.input": "all",
    "audit.stream_limit": "1KiB",
    "audit.user_quota": "2GiB",
    "audit.reserve": "500MiB",
    "api.listen": ["unix:/tmp/other.sock", "127.0.0.1:8443"],
    "api.certificate": "/etc/bastion/api.pem",
    "api.private_key": "/etc/bastion/api.key",
    "docker.host": "tcp://127.0.0.1:2375",
    "docker.pause_timeout": "3s",
    "kubernetes.kubeconfig": "/etc/bastion/kubeconfig",
    "kubernetes.context": "production",
    "log.format": "console",
    "log.level": "debug",
}
FILE_GRANT = "[[grants]]\nusers = ['a']\nstacks = ['a']\nallow = ['files:read']\npaths = "
REQUIRED: dict[str, dict[str, Any]] = {
    "stacks": {"name": "x"},
    "grants": {"users": ["x"], "groups": ["y"], "stacks": ["x"]},
    "groups": {"name": "y", "users": ["x"]},
}
OPTIONS = [f"{section}.{option}" for section, model in SECTIONS.items() for option in model.model_fields]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("BASTION_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bastion.toml"
    path.write_text(text)
    return path


def at(settings: Settings, option: str) -> object:
    section, _, key = option.partition(".")
    return getattr(getattr(settings, section), key, None)  # a section that there may be none of: its options are None


def documented() -> dict[str, dict[str, str]]:
    """Read the page's tables: section → option → what stands under default."""
    sections: dict[str, dict[str, str]] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"## \[+(\w+)\]+", line):
            sections[heading[1]] = {}
        elif row := re.fullmatch(r"\| `(\w+)` \| (.+?) \| \S.* \|", line):
            sections[list(sections)[-1]][row[1]] = row[2]
    return sections


@pytest.mark.parametrize(
    ("value", "limits"), [(100, "100:100:100"), ("100", "100:100:100"), ("10:30:100", "10:30:100")]
)
def test_max_startups_is_sshds(value: object, limits: str) -> None:
    """One number is where all are refused; three are start:rate:full."""
    assert str(SshSettings.model_validate({"max_startups": value}).max_startups) == limits


def test_penalties_are_sshds() -> None:
    """What is not named keeps its default; `no` turns all of them off."""
    rules = SshSettings.model_validate({"penalties": "authfail:10s grace-exceeded:1m"}).penalties
    assert (rules.authfail, rules.noauth, rules.grace_exceeded, rules.min) == (10, 1, 60, 15)
    assert SshSettings.model_validate({"penalties": "no"}).penalties == NO_PENALTIES


def test_page_has_every_option_and_no_other() -> None:
    """docs/configuration.md has a row for each option of each model, and none for what there is not."""
    models = SECTIONS | TABLES
    assert set(models) == set(Settings.model_fields)
    assert {name: list(rows) for name, rows in documented().items()} == {
        name: list(model.model_fields) for name, model in models.items()
    }


@pytest.mark.parametrize("section", [*SECTIONS, *TABLES])
def test_page_says_the_true_defaults(section: str) -> None:
    """Each default on the page, read as TOML, is the model's own."""
    model = (SECTIONS | TABLES)[section]
    for option, cell in documented()[section].items():
        default = model.model_fields[option].default
        if cell == "required":
            assert default is PydanticUndefined
        elif cell == "none":
            assert default is None
        else:
            value = tomllib.loads(f"value = {cell.strip('`')}")["value"]
            assert getattr(model.model_validate({**REQUIRED.get(section, {}), option: value}), option) == default


def test_every_option_is_tried() -> None:
    """The table of other values above leaves no option out."""
    assert sorted(OTHER) == sorted(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS)
def test_file_sets_option(option: str, tmp_path: Path) -> None:
    """Each option of the file reaches the settings and changes no other."""
    section, _, key = option.partition(".")
    settings = load(written(tmp_path, f"[{section}]\n{key} = {json.dumps(OTHER[option])}\n"))
    expected = SECTIONS[section].model_validate({key: OTHER[option]})
    assert at(settings, option) == getattr(expected, key)
    assert at(settings, option) != SECTIONS[section].model_fields[key].default
    others = [other for other in OPTIONS if other != option]
    assert [at(settings, other) for other in others] == [at(load(None), other) for other in others]


@pytest.mark.parametrize("option", OPTIONS)
def test_environment_wins(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option is set by its variable too, over the file, and leaves the section's other options alone."""
    section, _, key = option.partition(".")
    plain, value = at(load(None), option), OTHER[option]
    file = written(tmp_path, f"[{section}]\n{key} = {json.dumps(value)}\n")
    from_file = at(load(file), option)
    variable = f"BASTION_{section}__{key}".upper()
    monkeypatch.setenv(variable, value if isinstance(value, str) else json.dumps(value))
    assert at(load(None), option) == from_file
    if plain is not None:  # nothing in the environment says None
        monkeypatch.setenv(variable, documented()[section][key].strip('`"'))
        assert at(load(file), option) == plain


def test_environment_sets_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks and grants are set as JSON."""
    monkeypatch.setenv("BASTION_STACKS", '[{"name": "shop", "shell": "/bin/ash"}]')
    monkeypatch.setenv("BASTION_GRANTS", '[{"users": ["alice"], "stacks": ["*"]}]')
    settings = load(None)
    assert settings.stacks[0].shell == "/bin/ash"
    assert settings.grants[0].allow == ("shell", "exec")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", "colour: unknown key"),
        ("[ssh]\ncolour = 1", "ssh.colour: unknown key"),
        ("[shh]\nlisten = []", "shh: unknown key"),
        ("[[stacks]]\nname = 'a'\n[[stacks]]\nname = 'b'\ncolour = 1", "stacks[1].colour: unknown key"),
        ("[[grants]]\nusers = ['a']", "grants[0].stacks: is required"),
        (FILE_GRANT + "['log/**']", "grants[0].paths: log/** must be absolute, such as /app/log/**"),
        (FILE_GRANT + "[]", "grants[0].paths: must not be empty"),
        (FILE_GRANT + "['/a', '/b/../c']", "grants[0].paths: '/b/../c' fits no real path"),
        (FILE_GRANT + "['/a//b']", "grants[0].paths: '/a//b' fits no real path"),
        (FILE_GRANT + "['/a/']", "grants[0].paths: '/a/' fits no real path"),
        (FILE_GRANT + '["/a\\u0000b"]', "grants[0].paths: '/a\\x00b' fits no real path"),
        ("[[grants]]\nusers = ['a']\nstacks = ['a']\npaths = ['/a']", "grants[0]: paths are those of files: add"),
        ("[[stacks]]\nuser = 'a'", "stacks[0].name: is required"),
        ("[[stacks]]\nname = ''", "stacks[0].name: must not be empty"),
        ("[[stacks]]\nname = 'a'\n[[stacks]]\nname = 'a'", "stacks: has more than one entry for a"),
        ("[[stacks]]\nname = 'a'\nshell = 'sh'", "stacks[0].shell: must be an absolute path"),
        ("[[stacks]]\nname = 'a'\nruntime = 'process'", 'stacks[0].runtime: must be "docker"'),
        ("[[stacks]]\nname = 'a'\nnamespace = 'Prod'", "stacks[0].namespace: is no namespace: lower-case letters"),
        ("[[stacks]]\nname = 'a'\nnamespace = '../x'", "stacks[0].namespace: is no namespace"),
        ("[[stacks]]\nname = 'a'\ncontext = ''", "stacks[0].context: must not be empty"),
        (
            "[[stacks]]\nname = 'a'\nruntime = 'kubernetes'\narchive = true",
            "stacks: a has archive, which is for stacks of docker",
        ),
        (
            "[kubernetes]\n[[stacks]]\nname = 'a'\narchive = true",
            "stacks: a has archive, which is for stacks of docker",
        ),
        ("[[stacks]]\nname = 'a'\ntoolbox = ''", "stacks[0].toolbox: must not be empty"),
        (
            "[[stacks]]\nname = 'a'\nruntime = 'docker'\nnamespace = 'b'",
            "stacks[0]: namespace is for stacks of kubernetes",
        ),
        (
            "[[stacks]]\nname = 'a'\nruntime = 'kubernetes'\nhost = 'tcp://b:1'",
            "stacks[0]: host is for stacks of docker",
        ),
        ("[[stacks]]\nname = 'a'\nruntime = 'kubernetes'\nuser = 'app'", "stacks[0]: user is for stacks of docker"),
        (
            "[[stacks]]\nname = 'a'\nhost = 'tcp://b:1'\ncontext = 'c'",
            "stacks[0]: host is for stacks of docker, context for those of kubernetes",
        ),
        (
            "[[stacks]]\nname = 'a'\nnamespace = 'prod'\n[[stacks]]\nname = 'b'\nnamespace = 'prod'",
            "stacks: a and b are both the namespace prod",
        ),
        (
            "[kubernetes]\n[[stacks]]\nname = 'prod'\n[[stacks]]\nname = 'b'\nnamespace = 'prod'",
            "stacks: prod and b are both the namespace prod",
        ),
        ("[kubernetes]\ncontext = ''", "kubernetes.context: must not be empty"),
        ("[kubernetes]\nnamespace = 'a'", "kubernetes.namespace: unknown key"),
        ("[sessions]\ndatabase = 'mysql://x/y'", "sessions.database: must be sqlite:///PATH or postgresql://…"),
        ("[sessions]\ndatabase = 'sqlite:///'", "sessions.database: must be sqlite:///PATH or postgresql://…"),
        ("[sessions]\nhistory = '90'", "sessions.history: is no time"),
        ("stacks = 3", "stacks: must be a list"),
        ("stacks = [3]", "stacks[0]: must be a table"),
        ("ssh = 3", "ssh: must be a table"),
        ("[ssh]\nlisten = '127.0.0.1:22'", "ssh.listen: must be a list"),
        ("[ssh]\nlisten = [22]", "ssh.listen[0]: must be a string"),
        ("[ssh]\nlisten = ['']", "ssh.listen[0]: must not be empty"),
        ("[ssh]\nmax_startups = 0", "ssh.max_startups: must be at least 1"),
        ("[ssh]\nmax_startups = 'many'", "ssh.max_startups: must be a whole number"),
        ("[ssh]\nmax_startups = 1.5", "ssh.max_startups: must be a whole number"),
        ("[ssh]\nmax_startups = true", "ssh.max_startups: must be a whole number"),
        ("[ssh]\nmax_startups = '10:30'", 'ssh.max_startups: must be a whole number, or "start:rate:full"'),
        ("[ssh]\nmax_startups = '20:30:10'", "ssh.max_startups: must have a start that is no more than full"),
        ("[ssh]\nmax_startups = '1:101:10'", "ssh.max_startups: must have a start"),
        ("[ssh]\npenalties = 'authfail'", "ssh.penalties: has authfail, and must be KIND:DURATION of authfail, noauth"),
        ("[ssh]\npenalties = 'sleep:1s'", "ssh.penalties: has sleep:1s, and must be KIND:DURATION"),
        ("[ssh]\npenalties = 'min:1s min:2s'", "ssh.penalties: has min twice"),
        ("[ssh]\npenalties = 'min:1h max:1m'", "ssh.penalties: must have max-sources of 1 or more, and a min"),
        ("[ssh]\npenalties = 'max-sources:10s'", "ssh.penalties: has a unit behind max-sources"),
        ("[ssh]\npenalties = 5", "ssh.penalties: must be words such as"),
        ("[ssh]\npenalty_exempt = ['10.0.0.1/8']", "ssh.penalty_exempt: has 10.0.0.1/8, which is no address"),
        ("[ssh]\nmax_startups = []", "ssh.max_startups: must be a whole number"),
        ("[ssh]\nnotice = 'perhaps'", "ssh.notice: must be true or false"),
        ("[ssh]\nlogin_grace = 'soon'", "ssh.login_grace: is no time; write a number and one of ms, s, m, h, d"),
        ("[ssh]\nlogin_grace = '30'", "ssh.login_grace: is no time"),
        ("[ssh]\nlogin_grace = true", 'ssh.login_grace: must be a time such as "30s"'),
        ("[ssh]\nlogin_grace = -1", "ssh.login_grace: must be at least 0"),
        ("[ssh]\nlogin_grace = inf", "ssh.login_grace: must be a finite number"),
        ("[ssh]\nlogin_grace = []", "ssh.login_grace: must be a number"),
        (
            "[audit]\nstream_limit = '1 MB'",
            "audit.stream_limit: is no size; write a number and one of B, KiB, MiB, GiB",
        ),
        ("[audit]\ninput = 'some'", 'audit.input: must be "all", "no-tty" or "none"'),
        ("[log]\nlevel = 'loud'", 'log.level: must be "debug", "info", "warning" or "error"'),
        ("[keys]\nhome = 3", "keys.home: must be a string"),
        ("[docker]\nhost = 3", "docker.host: must be a string"),
        ("[api]\nlisten = 'socket'", "api.listen: must be unix:/PATH or HOST:PORT"),
        ("[api]\nlisten = 3", "api.listen: must be a list"),
        ("[api]\nlisten = ['unix:/a', 'unix:/b']", "api.listen: has more than one unix:/PATH"),
        ("[api]\nlisten = '0.0.0.0:80'", "api: listening on 0.0.0.0 needs certificate and private_key"),
        ("[[grants]]\nusers = ['a']\nstacks = ['b']\nallow = ['root']", 'grants[0].allow[0]: must be "shell", "exec",'),
        ("[[grants]]\nusers = 'a'\nstacks = ['b']", "grants[0].users: must be a list"),
        *(
            (
                f"[[grants]]\nusers = ['a']\nstacks = ['b']\nallow = ['forward']\npermitopen = ['{place}']",
                f"grants[0].permitopen: {words}",
            )
            for place, words in (
                ("db", "must be HOST:PORT or HOST:*"),
                ("db:0", "must be HOST:PORT or HOST:*"),
                ("db:65536", "must be HOST:PORT or HOST:*"),
                ("*:80", "must be HOST:PORT or HOST:*"),
                ("fd00::1:80", "must be HOST:PORT or HOST:*"),
                ("[::x]:80", "must be HOST:PORT or HOST:*"),
                ("[1.2.3]:80", "is no address of IPv6"),
            )
        ),
        (
            "[[grants]]\nusers = ['a']\nstacks = ['b']\npermitopen = ['db:5432']",
            'grants[0]: permitopen opens nothing without allow = ["forward"]',
        ),
    ],
)
def test_mistake_is_named_by_its_path(text: str, words: str, tmp_path: Path) -> None:
    """A wrong value is named by file and path, in TOML's words."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert f"{path}: {words}" in caught.value.public
    assert caught.value.exit_status == 1
    assert not re.search(r"tuple|dictionary|pydantic|Settings|[Ii]nput should", caught.value.public)


def test_places_to_forward_to(tmp_path: Path) -> None:
    """Names, addresses and those of IPv6 in brackets, with a port or all of them, are what `permitopen` may hold."""
    places = ["db:5432", "192.0.2.7:80", "[2001:db8::7]:443", "cache.internal:*"]
    text = f"[[grants]]\nusers = ['a']\nstacks = ['b']\nallow = ['forward']\npermitopen = {json.dumps(places)}\n"
    assert load(written(tmp_path, text)).grants[0].permitopen == tuple(places)


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    """Two mistakes are two statements in one error."""
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, "[ssh]\ncolour = 1\nmax_startups = 0"))
    assert caught.value.public.count("; ") == 1


@pytest.mark.parametrize("option", OPTIONS)
def test_wrong_type_is_named(option: str, tmp_path: Path) -> None:
    """A table where a value must be is refused for every option, by its path."""
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, f"[{option}]\nx = 1\n"))
    assert f": {option}: must be" in caught.value.public


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BASTION_SSH__COLOUR", "1", "BASTION_SSH__COLOUR: ssh.colour: unknown key"),
        ("BASTION_SHH__LISTEN", "1", "BASTION_SHH__LISTEN: unknown key"),
        ("BASTION_SSH__MAX_STARTUPS", "0", "BASTION_SSH__MAX_STARTUPS: ssh.max_startups: must be at least 1"),
        ("BASTION_SSH__LISTEN", "0.0.0.0:22", "BASTION_SSH__LISTEN: must be JSON"),
        ("BASTION_STACKS", "shop", "BASTION_STACKS: must be JSON"),
        ("BASTION_SSH__NOTICE", "perhaps", "BASTION_SSH__NOTICE: ssh.notice: must be true or false"),
    ],
)
def test_mistake_in_the_environment_is_named(
    name: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong or unknown variable is named as the variable it is."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, ""))
    assert caught.value.public == words


def test_other_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that only begin with the same word disturb nothing."""
    for name in ("BASTION_CONFIG", "BASTION_DEBUG", "BASTION_REQUIRE_DOCKER", "BASTION_STACK", "BASTIONS__X"):
        monkeypatch.setenv(name, "1")
    assert load(None).ssh.max_channels == 10


@pytest.mark.parametrize("contents", [b"[ssh", b"a = 1\na = 2", b"\xff\xfe", b"= 3"])
def test_what_is_no_toml_is_refused(contents: bytes, tmp_path: Path) -> None:
    """A file that is no TOML is refused by its name."""
    path = tmp_path / "bastion.toml"
    path.write_bytes(contents)
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        load(path)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Relative paths start at the file's folder, and absolute ones stay."""
    (tmp_path / "etc").mkdir()
    settings = load(written(tmp_path / "etc", "[keys]\nhome = 'k'\n[audit]\ndirectory = '/t'\n"))
    assert settings.keys.home == tmp_path / "etc" / "k"
    assert settings.audit.directory == Path("/t")


ENGINES = "[docker]\nhost = 'unix:///d'\n"
CLUSTER = "[kubernetes]\ncontext = 'k'\n"
A_STACK = "[[stacks]]\nname = 'a'\n"


@pytest.mark.parametrize(
    ("text", "engine", "default"),
    [
        ("", "unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
        (ENGINES, "unix:///d", "unix:///d"),
        ("[kubernetes]\n", "kubernetes:", "kubernetes:"),
        (CLUSTER, "kubernetes:k", "kubernetes:k"),
        (ENGINES + CLUSTER, "unix:///d", "unix:///d"),
        ("[docker]\n" + CLUSTER, "unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
        (
            "[docker]\nhost = 'unix:///var/run/docker.sock'\n" + CLUSTER,
            "unix:///var/run/docker.sock",
            "unix:///var/run/docker.sock",
        ),
        (ENGINES + CLUSTER + A_STACK, "unix:///d", "unix:///d"),
        (ENGINES + CLUSTER + A_STACK + "runtime = 'kubernetes'", "kubernetes:k", "unix:///d"),
        (ENGINES + CLUSTER + A_STACK + "context = 'l'", "kubernetes:l", "unix:///d"),
        (ENGINES + CLUSTER + A_STACK + "namespace = 'n'", "kubernetes:k", "unix:///d"),
        (ENGINES + CLUSTER + A_STACK + "toolbox = 'busybox'", "unix:///d", "unix:///d"),
        (CLUSTER + A_STACK + "toolbox = 'busybox'", "kubernetes:k", "kubernetes:k"),
        (CLUSTER + A_STACK + "runtime = 'docker'", "unix:///var/run/docker.sock", "kubernetes:k"),
        (CLUSTER + A_STACK + "host = 'tcp://h:1'", "tcp://h:1", "kubernetes:k"),
        (CLUSTER + A_STACK + "user = 'app'", "kubernetes:k", "kubernetes:k"),
        (A_STACK + "runtime = 'kubernetes'", "kubernetes:", "unix:///var/run/docker.sock"),
        (A_STACK + "context = 'l'", "kubernetes:l", "unix:///var/run/docker.sock"),
    ],
)
def test_engine_of_a_stack(text: str, engine: str, default: str, tmp_path: Path) -> None:
    """A stack is on the engine its entry names; the rest on the cluster when [docker] is not there, else Docker."""
    settings = load(written(tmp_path, text))
    assert settings.engine_of("a") == engine
    assert settings.engine_of("another") == default


def test_engine_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Docker host or a context in the environment is as if it stood in the file, the default host too."""
    monkeypatch.setenv("BASTION_KUBERNETES__CONTEXT", "k")
    assert load(None).engine_of("a") == "kubernetes:k"
    monkeypatch.setenv("BASTION_DOCKER__HOST", "unix:///var/run/docker.sock")
    assert load(None).engine_of("a") == "unix:///var/run/docker.sock"


def test_one_namespace_on_two_clusters_is_two(tmp_path: Path) -> None:
    """The same namespace of another context is another place."""
    settings = load(
        written(
            tmp_path,
            f"{A_STACK}context = 'k'\nnamespace = 'prod'\n"
            "[[stacks]]\nname = 'b'\ncontext = 'l'\nnamespace = 'prod'\n[[stacks]]\nname = 'prod'\n",
        )
    )
    assert [settings.engine_of(name) for name in ("a", "b")] == ["kubernetes:k", "kubernetes:l"]


def test_database_is_a_file_beside_the_file_or_where_it_says(tmp_path: Path) -> None:
    """A relative SQLite path starts at the file's folder; without one the database lies beside the transcripts."""
    folder = tmp_path.resolve()
    for text, url in {
        "": f"sqlite:///{folder}/bastion.db",
        "[audit]\ndirectory = '/var/lib/bastion/transcripts'": "sqlite:////var/lib/bastion/bastion.db",
        "[sessions]\ndatabase = 'sqlite:///state/b.db'": f"sqlite:///{folder}/state/b.db",
        "[sessions]\ndatabase = 'sqlite:////srv/b.db'": "sqlite:////srv/b.db",
        "[sessions]\ndatabase = 'postgresql://a:b@c/d'": "postgresql://a:b@c/d",
    }.items():
        assert load(written(tmp_path, text)).database == url


def test_kubeconfig_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative kubeconfig lies beside the file, `~` is the home, and none stays none."""
    monkeypatch.setenv("HOME", "/home/bastion")
    for text, path in (("'kube/config'", tmp_path / "kube/config"), ("'~/config'", Path("/home/bastion/config"))):
        settings = load(written(tmp_path, f"[kubernetes]\nkubeconfig = {text}\n"))
        assert settings.kubernetes is not None
        assert settings.kubernetes.kubeconfig == path
    settings = load(written(tmp_path, "[kubernetes]\n"))
    assert settings.kubernetes is not None
    assert settings.kubernetes.kubeconfig is None


def test_command_pattern_that_is_an_error_names_its_chapter(tmp_path: Path) -> None:
    """Who upgrades with patterns from before is led to the page that says how to write them now."""
    grant = '[[grants]]\nusers = ["a"]\nstacks = ["s"]\ncommand = ["ls /app/*/.."]\n'
    with pytest.raises(ConfigurationError, match=r"grants\[0\]\.command: 'ls /app/\*/\.\.' fits nothing") as caught:
        load(written(tmp_path, grant))
    assert "Patterns of commands" in caught.value.hint


def test_file_is_located_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config comes before $BASTION_CONFIG, that before ./bastion.toml; one that was asked for must exist."""
    assert locate(None) in {None, Path("/etc/bastion/bastion.toml")}
    written(tmp_path, "")
    assert locate(None) == Path("bastion.toml")
    other = tmp_path / "other.toml"
    monkeypatch.setenv("BASTION_CONFIG", str(other))
    with pytest.raises(ConfigurationError, match=r"no configuration file at .*other\.toml"):
        locate(None)
    other.write_text("")
    assert locate(None) == other
    assert locate(tmp_path / "bastion.toml") == tmp_path / "bastion.toml"
    with pytest.raises(ConfigurationError, match="no configuration file"):
        locate(tmp_path / "nothing.toml")


def test_settings_cannot_be_changed() -> None:
    """What was read stays as it is."""
    with pytest.raises(ValueError, match="frozen"):
        load(None).ssh.notice = False
