"""Who may do what where: the grants, the key's own bounds, and containers that are as good as the host."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import pytest
from pydantic import ValidationError

from bastion.config import GrantSettings, GroupSettings, Permission, StackSettings
from bastion.errors import Refused
from bastion.model import FileAccess, Identity, Name, Request, Target, Terminal
from bastion.policy import SHOWN, Policy, Verdict, may_have_terminal

ALICE = Identity("alice", "SHA256:x", "192.0.2.7")
TERMINAL = Terminal("xterm", 80, 24)


def grant(
    users: str, stacks: str, services: str = "*", allow: str = "shell exec", user: str | None = None
) -> GrantSettings:
    words = {"users": users, "stacks": stacks, "services": services, "allow": allow}
    return GrantSettings.model_validate({name: value.split() for name, value in words.items()} | {"user": user})


def files(
    users: str, stacks: str, *paths: str, services: str = "*", allow: str = "files:read", user: str | None = None
) -> GrantSettings:
    said = {"users": [users], "stacks": [stacks], "services": [services], "allow": allow.split()}
    return GrantSettings.model_validate(said | {"paths": paths, "user": user})


def ask(name: str, kind: Literal["shell", "exec", "subsystem"] = "shell", command: str | None = None) -> Request:
    service, _, stack = name.partition("@")
    return Request("uid", Name(service, None, stack or None), kind, command)


def allowed(policy: Policy, identity: Identity, request: Request, target: Target | None = None) -> bool:
    try:
        policy.authorize(identity, request, target)
    except Refused:
        return False
    return True


@pytest.mark.parametrize(
    ("user", "stack", "service", "kind", "expected"),
    [
        ("alice", "shop", "web", "shell", True),
        ("alice", "shop", "web", "exec", True),
        ("alice", "shop", "db", "shell", False),
        ("alice", "shop", "db", "exec", True),
        ("alice", "shop", "db.2", "exec", True),
        ("alice", "shop", "db.x", "exec", False),
        ("alice", "shop", "db.02", "exec", False),
        ("alice", "blog", "web", "shell", False),
        ("Alice", "shop", "web", "shell", False),
        ("alic", "shop", "web", "shell", False),
        ("bob", "test-1", "anything", "shell", True),
        ("bob", "test-12", "anything", "shell", False),
        ("bob", "test-", "anything", "shell", False),
        ("bob", "Test-1", "anything", "shell", False),
        ("bob", "shop", "web", "shell", False),
        ("ops-1", "anything", "db", "exec", True),
        ("ops-1", "anything", "db", "shell", False),
        ("eve", "shop", "web", "shell", False),
        ("[ab]", "shop", "web", "shell", False),
        ("c", "x", "a", "shell", False),
        ("c", "x", "[ab]", "shell", True),
        ("nobody", "shop", "web", "shell", False),
    ],
)
def test_grant_decides(user: str, stack: str, service: str, kind: Literal["shell", "exec"], *, expected: bool) -> None:
    """User, stack, service and permission must all be in one grant; only `*` and `?` are wildcards, case counts."""
    policy = Policy(
        [
            grant("alice", "shop", "web"),
            grant("alice", "shop", "db", "exec"),
            grant("bob", "test-?"),
            grant("ops-*", "*", "*", "exec"),
            grant("c", "x", "[ab]"),
            grant("nobody", "*", "*", ""),
        ]
    )
    identity = replace(ALICE, user=user)
    assert allowed(policy, identity, ask(f"{service}@{stack}", kind)) is expected
    if expected:
        assert policy.may_enter(identity, stack, service.removesuffix(".2"))


def test_no_grants_allow_nothing() -> None:
    """Without grants everybody is refused, and told whom to ask."""
    with pytest.raises(Refused, match="no grant lets alice open a shell in web@shop") as caught:
        Policy([]).authorize(ALICE, ask("web@shop"))
    assert caught.value.hint == "ask whoever runs this bastion for a grant"
    assert not Policy([]).may_enter(ALICE, "shop", "web")


def test_first_grant_with_the_permission_wins() -> None:
    """The container user comes from the first grant that matches and has the permission, not merely matches."""
    policy = Policy(
        [
            grant("alice", "shop", "*", "files:read", "reader"),
            grant("alice", "shop", "web", "exec", "app"),
            grant("*", "*", "*", "shell exec", "root"),
        ]
    )
    assert policy.authorize(ALICE, ask("web@shop", "exec", "id")).user == "app"
    assert policy.authorize(ALICE, ask("web@shop")).user == "root"
    assert policy.authorize(ALICE, ask("db@shop", "exec", "id")).user == "root"


@pytest.mark.parametrize(
    ("key_stack", "key_service", "name", "expected"),
    [
        ("shop", None, "web@shop", True),
        ("shop", None, "web@blog", False),
        (None, "web", "web@blog", True),
        (None, "web", "db@blog", False),
        (None, "web", "web.3@blog", True),
        ("shop", "web", "web@shop", True),
        ("shop", "web", "db@shop", False),
        ("s*", None, "web@shop", False),
    ],
)
def test_key_opens_no_more_than_its_line_says(
    key_stack: str | None, key_service: str | None, name: str, *, expected: bool
) -> None:
    """A key bound to a stack or service opens nothing else, whatever the grants say, and in no listing either."""
    policy = Policy([grant("*", "*")])
    identity = replace(ALICE, key_stack=key_stack, key_service=key_service)
    assert allowed(policy, identity, ask(name)) is expected
    service, _, stack = name.partition("@")
    assert policy.may_enter(identity, stack, service.removesuffix(".3")) is expected


@pytest.mark.parametrize(
    ("granted", "expected"),
    [
        ("web", True),
        ("web-deployment", True),
        ("shop", True),
        ("web-d*", True),
        ("web-5d9c-x2x7k", False),
        ("app", False),
        ("production", False),
    ],
)
def test_alias_of_a_service_is_its_name(granted: str, *, expected: bool) -> None:
    """A grant means a service by any of its names, whatever was asked for; a pod's or container's is none of them."""
    pod = Target(
        "kubernetes:", "prod", "web", "uid/id", "app", pod_name="web-5d9c-x2x7k", namespace="production",
        deployment_name="web-deployment", aliases=("web-deployment", "shop"), containers=("app", "log"),
    )  # fmt: skip
    policy = Policy([grant("alice", "prod", granted)])
    for asked in ("web", "web-deployment", "shop", "web-5d9c-x2x7k"):
        assert allowed(policy, ALICE, ask(f"{asked}@prod"), pod) is expected


def test_key_for_a_service_opens_it_by_any_of_its_names() -> None:
    """A key bound to one name of a service opens it by the others, where a grant for any of them is there."""
    pod = Target("kubernetes:", "prod", "web", "uid/id", "app", pod_name="web-1", aliases=("web-deployment",))
    for name in ("web", "web-deployment"):
        policy = Policy([grant("alice", "prod", name)])
        assert allowed(policy, replace(ALICE, key_service=name), ask("web-1@prod"), pod)
        assert not allowed(policy, replace(ALICE, key_service="db"), ask("web@prod"), pod)


def test_key_is_no_grant() -> None:
    """A key bound to a stack opens it only where a grant does too."""
    assert not allowed(Policy([grant("bob", "shop")]), replace(ALICE, key_stack="shop"), ask("web@shop"))


def test_target_is_judged_by_its_service() -> None:
    """Once the container is known its real service counts: no container's name or dotted service goes round a grant."""
    policy = Policy([grant("alice", "app", "app-*"), grant("alice", "app", "web", "shell", "app")])
    database = Target("default", "app", "db", "id", "app-db-1")
    assert allowed(policy, ALICE, ask("app-db-1@app"))
    assert not allowed(policy, ALICE, ask("app-db-1@app"), database)
    dotted = Target("default", "app", "web.2", "id", "app-web.2-1")
    assert allowed(policy, ALICE, ask("web.2@app"))
    assert not allowed(policy, ALICE, ask("web.2@app"), dotted)
    replica = Target("default", "app", "web", "id", "app-web-2")
    assert policy.authorize(ALICE, ask("web.2@app"), replica).user == "app"
    assert not allowed(policy, replace(ALICE, key_service="app-db-1"), ask("app-db-1@app"), database)


def test_request_without_a_stack_is_refused() -> None:
    """No stack is no wildcard."""
    assert not allowed(Policy([grant("*", "*")]), ALICE, ask("web"))


def test_terminal_is_refused_to_a_key_without() -> None:
    """A key with no-pty gets no terminal, and everything else that is granted."""
    policy, bound = Policy([grant("*", "*")]), replace(ALICE, may_pty=False)
    assert may_have_terminal(ALICE)
    assert not may_have_terminal(bound)
    assert allowed(policy, bound, ask("web@shop"))
    assert not allowed(policy, bound, replace(ask("web@shop"), terminal=TERMINAL))
    assert allowed(policy, ALICE, replace(ask("web@shop"), terminal=TERMINAL))


@pytest.mark.parametrize("command", ["netconf", "sftp ", "SFTP", "\x1b[2J" * 999, None])
def test_other_subsystem_is_refused_with_what_works(command: str | None) -> None:
    """No subsystem but sftp is served; the hint says how files are copied, and no word of the client's is repeated."""
    with pytest.raises(Refused, match="is not served") as caught:
        Policy([grant("*", "*", "*", "shell exec files:read files:write")]).authorize(
            ALICE, ask("web@shop", "subsystem", command)
        )
    assert "sftp, scp" in caught.value.hint
    assert caught.value.public.isprintable()


@pytest.mark.parametrize("allow", ["files:read", "files:write", "files:read files:write"])
def test_files_may_be_all_that_is_granted(allow: str) -> None:
    """Who may read or write files may start sftp, and neither a shell nor a command."""
    policy = Policy([grant("alice", "shop", "web", "forward"), grant("alice", "shop", "web", allow, "app")])
    assert policy.authorize(ALICE, ask("web@shop", "subsystem", "sftp")).user == "app"
    assert not allowed(policy, ALICE, ask("web@shop"))
    assert not allowed(policy, ALICE, ask("web@shop", "exec", "id"))
    assert not allowed(policy, ALICE, ask("db@shop", "subsystem", "sftp"))


def test_shell_is_no_right_to_files() -> None:
    """Without a grant for files sftp is refused, with what the user may do, paths and all."""
    policy = Policy([grant("alice", "shop", "web"), files("alice", "shop", "/app/log/**", "/tmp/*", services="db")])
    with pytest.raises(Refused, match="no grant lets alice copy files in web@shop") as caught:
        policy.authorize(ALICE, ask("web@shop", "subsystem", "sftp"))
    assert caught.value.hint == "you may shell, exec in web@shop; files:read of /app/log/**, /tmp/* in db@shop"


def test_access_to_files_is_what_the_grants_say_together() -> None:
    """All live grants for the service and as the same container user add up; no other grant does."""
    web = Target("docker", "shop", "web", "id", "shop-web-1", aliases=("front",))
    gone = datetime(2020, 1, 1, tzinfo=UTC)
    policy = Policy(
        [
            grant("alice", "shop", "web"),
            files("alice", "shop", "/app/log/**", user="app"),
            files("alice", "shop", "/root/**", user="root"),
            files("alice", "shop", "/etc/**"),
            files(
                "alice", "shop", "/in/**", "/app/log/**", allow="files:read files:write", user="app", services="front"
            ),
            files("alice", "shop", "/db/**", user="app", services="db"),
            files("bob", "shop", "/bob/**", user="app"),
            files("alice", "shop", "/old/**", user="app").model_copy(update={"expires": gone}),
        ]
    )
    both = FileAccess(("/app/log/**", "/in/**"), ("/in/**", "/app/log/**"))
    assert policy.file_access(ALICE, web) == both
    assert policy.file_access(ALICE, Name("web", stack="shop")) == FileAccess(("/app/log/**",))
    assert policy.file_access(replace(ALICE, key_service="front"), web) == both
    assert policy.file_access(replace(ALICE, key_service="db"), web) == FileAccess()
    assert policy.file_access(replace(ALICE, key_stack="blog"), web) == FileAccess()
    assert policy.file_access(replace(ALICE, user="eve"), web) == FileAccess()
    whole = Policy([grant("alice", "shop", "*", "files:read files:write")])
    assert whole.file_access(ALICE, web).is_whole


def test_verdict_on_files_is_as_one_container_user() -> None:
    """A grant for files as another container user than that of the first gives nothing, and no verdict names it."""
    policy = Policy(
        [files("alice", "shop", "/a/**", user="app"), files("alice", "shop", "/b", allow="files:write", user="root")]
    )
    verdicts = policy.verdicts("alice", Name("web", stack="shop"))
    assert verdicts["files:read"] == Verdict((0,))
    assert verdicts["files:write"] == Verdict(why_not="not for the container user of grants[0]: grants[1]")
    assert policy.file_access(ALICE, Name("web", stack="shop")) == FileAccess(("/a/**",))


def test_hint_says_what_the_user_may_do() -> None:
    """A refusal names the user's own grants, bounded, nobody else's, and the key's bounds."""
    mine = [grant("alice", f"stack{number}", "web db") for number in range(30)]
    policy = Policy([*mine, grant("bob", "secret")])
    with pytest.raises(Refused) as caught:
        policy.authorize(ALICE, ask("web@other"))
    assert caught.value.hint.startswith("you may shell, exec in web@stack0; shell, exec in db@stack0; ")
    assert caught.value.hint.count("@") == SHOWN
    assert caught.value.hint.endswith(f"and {60 - SHOWN} more")
    assert "secret" not in caught.value.hint
    with pytest.raises(Refused, match="this key is not for web@other") as caught:
        policy.authorize(replace(ALICE, key_stack="stack1"), ask("web@other"))
    assert caught.value.hint == "it is for *@stack1 only"


@pytest.mark.parametrize(
    ("grants", "key_stack", "expected"),
    [
        ([grant("alice", "shop blog")], None, {"shop", "blog"}),
        ([grant("alice", "shop"), grant("bob", "*")], None, {"shop"}),
        ([grant("alice", "shop"), grant("*", "test-?")], None, None),
        ([grant("alice", "shop"), grant("alice", "never", "*", "")], None, {"shop"}),
        ([grant("alice", "*")], "shop", {"shop"}),
        ([grant("alice", "blog")], "shop", set()),
        ([], None, set()),
        ([], "shop", set()),
    ],
)
def test_stacks_are_known_from_literal_grants(
    grants: list[GrantSettings], key_stack: str | None, expected: set[str] | None
) -> None:
    """The user's stacks are known without asking an engine exactly where no wildcard is in a grant."""
    assert Policy(grants).literal_stacks(replace(ALICE, key_stack=key_stack)) == expected


@pytest.mark.parametrize("hazard", ["is privileged", "shares the host's processes", "mounts the Docker socket"])
def test_container_as_good_as_the_host_is_refused(hazard: str) -> None:
    """A container with a hazard is entered only where its own stack allows it."""
    policy = Policy([], [StackSettings(name="trusted", allow_privileged=True), StackSettings(name="shop")])
    safe = Target("default", "shop", "web", "id", "shop-web-1")
    policy.admit(safe)
    policy.admit(replace(safe, stack="trusted", hazards=(hazard,)))
    for stack in ("shop", "trusted2", "docker"):
        with pytest.raises(Refused, match=hazard) as caught:
            policy.admit(replace(safe, stack=stack, hazards=(hazard,)))
        assert "allow_privileged" in caught.value.hint


def test_every_permission_is_no_other() -> None:
    """A grant of one permission is a grant of that one only."""
    every: tuple[Permission, ...] = ("shell", "exec", "files:read", "files:write", "forward", "agent", "toolbox")
    for permission in every:
        policy = Policy([grant("alice", "shop", "*", permission)])
        assert allowed(policy, ALICE, ask("web@shop")) is (permission == "shell")
        assert allowed(policy, ALICE, ask("web@shop", "exec", "id")) is (permission == "exec")
        assert allowed(policy, ALICE, ask("web@shop", "subsystem", "sftp")) is permission.startswith("files:")


def test_group_is_its_users() -> None:
    """A grant to a group is one to its users and to nobody else; an unknown group has none."""
    groups = [GroupSettings(name="ops", users=("alice", "b*")), GroupSettings(name="none", users=("eve",))]
    policy = Policy([GrantSettings(groups=("ops", "gone"), stacks=("shop",))], [], groups)
    for user, expected in {"alice": True, "bob": True, "eve": False, "ops": False, "gone": False}.items():
        assert allowed(policy, replace(ALICE, user=user), ask("web@shop")) is expected


def test_grant_expires() -> None:
    """A grant counts until the moment it expires, by the clock that the policy was given."""
    moment = datetime(2026, 12, 31, 18, tzinfo=UTC)
    clock = [moment.timestamp() - 1]
    policy = Policy([GrantSettings(users=("alice",), stacks=("shop",), expires=moment)], clock=lambda: clock[0])
    assert allowed(policy, ALICE, ask("web@shop"))
    assert policy.literal_stacks(ALICE) == {"shop"}
    assert policy.expired() == frozenset()
    clock[0] += 1
    assert policy.expired() == {0}
    assert not allowed(policy, ALICE, ask("web@shop"))
    assert not policy.may_enter(ALICE, "shop", "web")
    assert policy.literal_stacks(ALICE) == set()


def test_verdicts_name_the_grant() -> None:
    """For each permission the grant that gives it is named by its number; what no grant gives has its reason."""
    policy = Policy([grant("bob", "*"), grant("alice", "shop", "web", "shell"), grant("*", "*", "*", "shell exec")])
    missing = Verdict(why_not="not in allow of grants[1], grants[2]")
    assert policy.verdicts("alice", Name("web", stack="shop")) == {
        "shell": Verdict((1,)), "exec": Verdict((2,)), "files:read": missing, "files:write": missing,
        "forward": missing, "agent": missing, "toolbox": missing,
    }  # fmt: skip
    assert policy.verdicts("bob", Name("db", stack="shop"))["shell"] == Verdict((0,))


def test_verdicts_say_why_not() -> None:
    """A user nobody grants anything, another place, and a grant that has expired: each is refused in its own words."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    expired = grant("alice", "old", "*", "shell").model_copy(update={"expires": moment})
    policy = Policy([grant("alice", "shop", "web"), expired, expired], clock=moment.timestamp)
    assert policy.verdicts("eve", Name("web", stack="shop"))["shell"].why_not == "there is no grant for eve"
    assert policy.verdicts("alice", Name("db", stack="shop"))["exec"].why_not == "no grant for alice is for db@shop"
    old = policy.verdicts("alice", Name("web", stack="old"))
    assert (old["shell"].why_not, old["exec"].why_not) == (
        "grants[1], grants[2] have expired",
        "not in allow of grants[1], grants[2]",
    )


def test_verdicts_on_commands_name_all_that_count() -> None:
    """Grants for some commands are named with the first one for all of them, as `authorize` goes through them."""
    bound = grant("alice", "shop", "web", "exec").model_copy(update={"command": ("uptime",)})
    name = Name("web", stack="shop")
    assert Policy([bound, bound]).verdicts("alice", name)["exec"] == Verdict((0, 1))
    policy = Policy([bound, grant("alice", "shop", "web", "exec"), bound])
    assert policy.verdicts("alice", name)["exec"] == Verdict((0, 1))
    assert allowed(policy, ALICE, ask("web@shop", "exec", "id"))
    assert not allowed(Policy([bound, bound]), ALICE, ask("web@shop", "exec", "id"))


def test_permission_for_a_container() -> None:
    """A further permission counts for the service of the container that was found, by any grant."""
    policy = Policy([grant("alice", "shop"), grant("alice", "shop", "web", "toolbox")])
    web, db = (Target("kubernetes:", "shop", service, "id", service) for service in ("web", "db"))
    assert policy.allows(ALICE, "toolbox", web)
    assert not policy.allows(ALICE, "toolbox", db)
    assert not policy.allows(replace(ALICE, user="bob"), "toolbox", web)


def test_alias_of_a_service_is_granted_too() -> None:
    """A grant may mean a service by any of its names; a name that is none of them leads round no grant."""
    target = Target("kubernetes:", "shop", "web", "id", "web", aliases=("web-deployment", "frontend"))
    for name in ("web", "web-deployment", "frontend"):
        policy = Policy([grant("alice", "shop", name)])
        assert allowed(policy, ALICE, ask(f"{name}@shop"), target)
    assert not allowed(Policy([grant("alice", "shop", "web-5d4f")]), ALICE, ask("web-5d4f@shop"), target)


@pytest.mark.parametrize("allow", [None, ("shell",), ("shell", "exec")])
def test_commands_are_no_bound_where_a_shell_is_allowed(allow: tuple[str, ...] | None) -> None:
    """A grant that names commands and lets a shell be opened, as without `allow`, is refused: it bounds nothing."""
    said = {"users": ("alice",), "stacks": ("shop",), "command": ("uptime",)} | (
        {} if allow is None else {"allow": allow}
    )
    with pytest.raises(ValidationError, match="command is no bound"):
        GrantSettings.model_validate(said)
    GrantSettings.model_validate(said | {"allow": ("exec", "forward")})


def test_commands_bound_no_files() -> None:
    """The commands that a grant names are those of exec; sftp by the same grant is bounded by its paths."""
    said = {"users": ("alice",), "stacks": ("shop",), "command": ("uptime",), "allow": ("exec", "files:read")}
    policy = Policy([GrantSettings.model_validate(said | {"paths": ("/app/log/**",)})])
    assert allowed(policy, ALICE, ask("web@shop", "subsystem", "sftp"))
    assert not allowed(policy, ALICE, ask("web@shop", "exec", "id"))


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        (("exec",), "those of files"),
        (("shell", "files:read"), "no bound where any command may run"),
        (("exec", "files:write"), "no bound where any command may run"),
    ],
)
def test_paths_are_refused_where_they_bound_nothing(allow: tuple[str, ...], words: str) -> None:
    """A grant with paths and no files, or beside a shell, is refused rather than taken for a bound."""
    said = {"users": ("alice",), "stacks": ("shop",), "paths": ("/app/log/**",), "allow": allow}
    with pytest.raises(ValidationError, match=words):
        GrantSettings.model_validate(said)
    GrantSettings.model_validate(said | {"paths": ("/**",)})
