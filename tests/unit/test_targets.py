"""Names: what is one, which stack an incomplete one means, and which container it becomes."""

import string
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.config import StackSettings
from bastion.errors import NoSuchTarget, Refused, RuntimeUnreachable
from bastion.model import Identity, Name, Target
from bastion.runtimes import Runtime
from bastion.targets import SHOWN, Targets, parse
from tests.unit.memory_runtime import MemoryRuntime

ALICE = Identity("alice", "SHA256:x", "192.0.2.7")


def container(stack: str, service: str, number: int = 1) -> Target:
    name = f"{stack}-{service}-{number}"
    return Target("memory", stack, service, f"id-{name}", name, containers=(name,))


SHOP = [
    container("shop", "web"),
    container("shop", "web", 2),
    container("shop", "db"),
    container("shop", "api.2"),
    container("shop", "api"),
    container("shop", "api", 2),
    container("blog", "web"),
]


def everything(stack: str, service: str) -> bool:
    return True


def only(*allowed: tuple[str, str]) -> Callable[[str, str], bool]:
    return lambda stack, service: (stack, service) in allowed


def targets(runtime: Runtime, *stacks: StackSettings) -> Targets:
    return Targets({"default": runtime}, stacks, lambda _: "default")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("web", Name("web")),
        ("web@shop", Name("web", None, "shop")),
        ("web.2@shop", Name("web.2", None, "shop")),
        ("web+sidecar@shop", Name("web", "sidecar", "shop")),
        ("web.2+side.car@my.shop", Name("web.2", "side.car", "my.shop")),
        ("W_e-b.@S", Name("W_e-b.", None, "S")),
        ("_web@_shop", Name("_web", None, "_shop")),
        ("0", Name("0")),
        ("a" * 253, Name("a" * 253)),
        (f"{'a' * 253}@{'b' * 66}", Name("a" * 253, None, "b" * 66)),
    ],
)
def test_name_is_taken_apart(text: str, name: Name) -> None:
    """A name is `service[.N][+container][@stack]`; a trailing number stays with the service."""
    assert parse(text) == name


NO_NAMES = [
    "", " ", "@", "+", "web@", "@shop", "web+@shop", "+side@shop", "a@b@c", "a@@b", "a+b+c@d",
    "a@b+c", "a++b", "web @shop", " web@shop", "web@shop ", "web\t@shop", "web\n@shop",
    "web@shop\n", "web\r@shop", "a\0b", "\0", "web\x1b[2J@shop", "web@../shop", "../web@shop",
    "..@shop", ".@shop", "a/b@shop", "/etc/passwd@shop", "a\\b@shop", "-web@shop", ".web@shop",
    "web@-shop", "web@.shop", "%u@shop", "%h", "$(id)@shop", "`id`@shop",
    "${HOME}@shop", "a;b@shop", "a|b@shop", "a&b@shop", "a>b@shop", "'web'@shop", '"web"@shop',
    "web'--@shop", "a=b@shop", "a,b@shop", "a:b@shop", "a*@shop", "w?b@shop", "[a]@shop",
    "{a}@shop", "~@shop", "#a@shop", "!a@shop", "web＠shop", "ｗｅｂ@shop", "．．／@shop", "wéb@shop",
    "web\u00ad@shop", "web\u202e@shop", "web٢@shop", "wеb@shop", "\ud800@shop", "a" * 254,
    f"web@{'a' * 254}", f"{'a' * 253}@{'b' * 67}", "a" * 1023, "a" * 1024, "a@" * 600, "a" * 2**20,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_NAMES, ids=lambda text: ascii(text[:24]))
async def test_what_is_no_name_is_refused(text: str) -> None:
    """Anything outside of the grammar is refused with the same words, which repeat none of it."""
    with pytest.raises(NoSuchTarget) as caught:
        parse(text)
    assert caught.value.public == "that is not a name of anything here"
    assert caught.value.hint.isascii()


@given(st.text(max_size=40))
def test_parse_takes_only_what_it_can_write_again(text: str) -> None:
    """Every text is refused, or is exactly its parts put together again."""
    try:
        name = parse(text)
    except NoSuchTarget:
        return
    parts = [name.service, *(f"+{c}" for c in [name.container] if c), *(f"@{s}" for s in [name.stack] if s)]
    assert "".join(parts) == text
    assert set(text) <= {*string.ascii_letters, *string.digits, *"._-+@"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web@shop", "shop-web-1"),
        ("web.1@shop", "shop-web-1"),
        ("web.2@shop", "shop-web-2"),
        ("shop-web-2@shop", "shop-web-2"),
        ("web+shop-web-2@shop", "shop-web-2"),
        ("web.2+shop-web-2@shop", "shop-web-2"),
        ("api.2@shop", "shop-api.2-1"),
        ("api.2.1@shop", "shop-api.2-1"),
        ("api.1@shop", "shop-api-1"),
        ("web@blog", "blog-web-1"),
    ],
)
async def test_name_becomes_its_container(name: str, found: str) -> None:
    """The first replica is meant unless another is named; a name that exists as written wins over a number."""
    target = await targets(MemoryRuntime(SHOP)).resolve(parse(name), everything)
    assert target.container_name == found


@pytest.mark.parametrize(
    ("name", "public", "hint"),
    [
        ("web.3@shop", "no replica 3 of web@shop runs", "replicas that run: web.1@shop, web.2@shop"),
        ("db.2@shop", "no replica 2 of db@shop runs", "replicas that run: db.1@shop"),
        ("web.0@shop", "no replica 0 of web@shop runs", "replicas that run: web.1@shop, web.2@shop"),
        ("web.02@shop", "no service web.02 runs in shop", "web"),
        ("web.99999999999@shop", "no service web.99999999999 runs in shop", "services of shop: api, api.2, db, web"),
        ("wbe@shop", "no service wbe runs in shop", "did you mean web@shop? services of shop: api, api.2, db, web"),
        ("web@shpo", "no service web runs in shpo", "did you mean web@shop? stacks that run: blog, shop"),
        ("shop@web", "no service shop runs in web", "did you mean web@shop? stacks that run: blog, shop"),
        ("shop@shop", "no service shop runs in shop", "shop is a stack: name a service of it too, such as api@shop"),
        ("blog@shop", "no service blog runs in shop", "blog is a stack: name a service of it too, such as web@blog"),
        ("web+other@shop", "web@shop has no container other", "containers: shop-web-1, shop-web-2"),
        ("web+shop-db-1@shop", "web@shop has no container shop-db-1", "containers: shop-web-1, shop-web-2"),
        ("shop-web-1@blog", "no service shop-web-1 runs in blog", "services of blog: web"),
    ],
)
async def test_name_of_nothing_is_explained(name: str, public: str, hint: str) -> None:
    """A name that means nothing is answered with what there is and what was perhaps meant."""
    with pytest.raises(NoSuchTarget) as caught:
        await targets(MemoryRuntime(SHOP)).resolve(parse(name), everything)
    assert caught.value.public == public
    assert hint in caught.value.hint


def pod(name: str, created: float, containers: tuple[str, ...], entered: str, service: str = "web") -> list[Target]:
    """Make the targets of one pod: the container that is entered when none is named, and the others."""
    first = Target(
        "memory", "prod", service, f"{name}/{entered}", entered, pod_name=name, containers=containers, created=created,
        namespace="production", deployment_name="web-deployment", aliases=("web-deployment", "shop"),
    )  # fmt: skip
    rest = [name for name in containers if name != entered]
    return [first, *(replace(first, container_id=f"{name}/{other}", container_name=other) for other in rest)]


class PodRuntime(MemoryRuntime):
    """Finds pods as the port says: one target each, with the container that was named or the one that is entered."""

    async def find(self, stack: str, service: str, container: str | None = None) -> list[Target]:
        self.lookups.append((stack, service))
        found: dict[str | None, Target] = {}
        for target in self.containers:
            names = (target.service, *target.aliases, target.pod_name)
            if target.stack == stack and service in names and container in (None, target.container_name):
                found.setdefault(target.pod_name, target)
        return [found[name] for name in sorted(found, key=str)]


PODS = [
    *pod("web-a", 100.0, ("app", "log"), "app"),
    *pod("web-b", 300.0, ("app",), "app"),
    *pod("web-c", 200.0, ("app", "log"), "app"),
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("web@prod", "web-b/app"),
        ("web-deployment@prod", "web-b/app"),
        ("shop@prod", "web-b/app"),
        ("web.1@prod", "web-a/app"),
        ("web.2@prod", "web-b/app"),
        ("web.3@prod", "web-c/app"),
        ("web+log@prod", "web-c/log"),
        ("web.1+log@prod", "web-a/log"),
        ("web.3+log@prod", "web-c/log"),
        ("web-a@prod", "web-a/app"),
        ("web-a+log@prod", "web-a/log"),
    ],
)
async def test_newest_replica_is_meant(name: str, found: str) -> None:
    """Without a number the newest replica is meant that has the container; with one, the N-th by name of them all."""
    target = await targets(PodRuntime(PODS)).resolve(parse(name), everything)
    assert target.container_id == found


@pytest.mark.parametrize(
    ("name", "public", "hint"),
    [
        ("web+nope@prod", "web@prod has no container nope", "containers: app, log"),
        ("web.2+log@prod", "web.2@prod has no container log", "containers: app"),
        ("web-b+log@prod", "web-b@prod has no container log", "containers: app"),
        ("web.4@prod", "no replica 4 of web@prod runs", "replicas that run: web.1@prod, web.2@prod, web.3@prod"),
        ("web.4+log@prod", "no replica 4 of web@prod runs", "replicas that run: web.1@prod"),
    ],
)
async def test_container_that_is_not_there_is_explained(name: str, public: str, hint: str) -> None:
    """A container that the replica does not have is answered with those it has."""
    with pytest.raises(NoSuchTarget) as caught:
        await targets(PodRuntime(PODS)).resolve(parse(name), everything)
    assert caught.value.public == public
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("granted", ["web", "web-deployment", "shop"])
@pytest.mark.parametrize("name", ["web", "web-deployment", "shop", "web-a"])
async def test_grant_may_name_the_service_by_any_alias(granted: str, name: str) -> None:
    """A service is entered by a grant for any of its names, whatever name was asked for."""
    target = await targets(PodRuntime(PODS)).resolve(parse(f"{name}@prod"), only(("prod", granted)))
    assert target.service == "web"


@pytest.mark.parametrize("granted", ["web-a", "app", "production", "other"])
async def test_pod_and_container_names_are_no_grant(granted: str) -> None:
    """A grant for a name that is none of the service's lets nobody in."""
    with pytest.raises(Refused):
        await targets(PodRuntime(PODS)).resolve(parse("web-a@prod"), only(("prod", granted)))


async def test_hint_names_only_what_the_user_may_enter() -> None:
    """Services and stacks without a grant are in no hint."""
    places = targets(MemoryRuntime(SHOP))
    for name in ("wbe@shop", "web@shpo", "blog@shop"):
        with pytest.raises(NoSuchTarget) as caught:
            await places.resolve(parse(name), only(("shop", "db")))
        assert "web" not in caught.value.hint
        assert "blog" not in caught.value.hint
    with pytest.raises(NoSuchTarget) as caught:
        await places.resolve(parse("wbe@shop"), only())
    assert caught.value.hint == "nothing runs that you may enter"


async def test_container_of_another_service_is_refused() -> None:
    """A container's own name leads into no service that the user may not enter."""
    with pytest.raises(Refused):
        await targets(MemoryRuntime(SHOP)).resolve(
            parse("shop-db-1@shop"), only(("shop", "web"), ("shop", "shop-db-1"))
        )


async def test_hint_is_bounded_and_has_no_hostile_label() -> None:
    """However many services run and whatever their labels hold, the hint stays short and clean."""
    many = [container("shop", f"s{number:03}") for number in range(500)]
    hostile = [container("shop", "\x1b]0;owned\x07"), container("shop", "a" * 5000), container("\u202e", "web")]
    with pytest.raises(NoSuchTarget) as caught:
        await targets(MemoryRuntime([*many, *hostile])).resolve(parse("zzz@shop"), everything)
    assert caught.value.hint.count(",") == SHOWN - 1
    assert caught.value.hint.endswith("and 480 more")
    assert caught.value.hint.isprintable()


async def test_stack_settings_reach_the_target() -> None:
    """The stack's entry says on which engine it is, and the user and shell of its containers."""
    near, far = MemoryRuntime(SHOP), MemoryRuntime([container("far", "web"), container("shop", "hidden")])
    entry = StackSettings.model_validate({"name": "far", "host": "tcp://far:2375", "user": "app", "shell": "/bin/ash"})
    places = Targets(
        {"default": near, "tcp://far:2375": far},
        [entry],
        lambda stack: "tcp://far:2375" if stack == "far" else "default",
    )
    target = await places.resolve(parse("web@far"), everything)
    assert (target.runtime, target.user, target.shell) == ("tcp://far:2375", "app", "/bin/ash")
    target = await places.resolve(parse("web@shop"), everything)
    assert (target.runtime, target.user, target.shell) == ("default", None, None)
    listing = await places.listing(everything)
    assert ("far", "web") in listing
    assert ("shop", "hidden") not in listing


async def test_engine_that_does_not_answer_is_said() -> None:
    """An engine that is down is an error of its own, and no unknown name."""
    runtime = MemoryRuntime(SHOP)
    runtime.answers = False
    places = targets(runtime)
    with pytest.raises(RuntimeUnreachable):
        await places.resolve(parse("web@shop"), everything)
    with pytest.raises(RuntimeUnreachable):
        await places.choose_stack(parse("web"), ALICE, "127.0.0.1", {}, everything)
    with pytest.raises(NoSuchTarget, match="web of which stack"):
        await places.choose_stack(parse("web"), ALICE, "", {}, everything, literal_stacks={"a", "b"})


@pytest.mark.parametrize(
    ("written", "key_stack", "local_address", "environment", "stack"),
    [
        ("web@written", "key", "127.0.0.9", {"BASTION_STACK": "sent"}, "written"),
        ("web", "key", "127.0.0.9", {"BASTION_STACK": "sent"}, "listening"),
        ("web", "key", "127.0.0.1", {"BASTION_STACK": "sent"}, "key"),
        ("web", None, "127.0.0.1", {"BASTION_STACK": "sent"}, "sent"),
        ("web", None, "127.0.0.1", {}, "blog"),
        ("web", None, "::ffff:127.0.0.9", {}, "listening"),
        ("web", None, "127.0.0.9:2222", {}, "listening"),
        ("web", None, "127.0.0.8:2200", {}, "by-port"),
        ("web", None, "127.0.0.8:2201", {}, "blog"),
        ("web", None, "[::1]:22", {}, "six"),
        ("web", None, "0:0::1", {}, "six"),
    ],
)
async def test_stack_is_chosen_in_order(
    written: str, key_stack: str | None, local_address: str, environment: dict[str, str], stack: str
) -> None:
    """Written, the local address, the key's, BASTION_STACK, the only one: the first that there is counts."""
    entries = [
        StackSettings(name="listening", listen="127.0.0.9"),
        StackSettings(name="by-port", listen="127.0.0.8:2200"),
        StackSettings(name="six", listen="::1"),
    ]
    identity = replace(ALICE, key_stack=key_stack)
    places = targets(MemoryRuntime(SHOP), *entries)
    name = await places.choose_stack(parse(written), identity, local_address, environment, only(("blog", "web")))
    assert name == Name("web", None, stack)


async def test_literal_grants_ask_no_engine() -> None:
    """The one stack of the grants is taken without asking, and no grant at all is refused without asking."""
    runtime = MemoryRuntime(SHOP)
    runtime.answers = False
    name = await targets(runtime).choose_stack(parse("web"), ALICE, "", {}, everything, literal_stacks={"only"})
    assert name.stack == "only"
    with pytest.raises(Refused, match="no grant lets alice enter anything"):
        await targets(runtime).choose_stack(parse("web"), ALICE, "", {}, everything, literal_stacks=set())


async def test_several_stacks_are_listed() -> None:
    """Where several stacks could be meant, those with the service come first; a stack's own name is understood."""
    places = targets(MemoryRuntime(SHOP))
    with pytest.raises(NoSuchTarget) as caught:
        await places.choose_stack(parse("db"), ALICE, "", {}, everything)
    assert caught.value.hint == "you may name: db@shop, web@blog, api@shop, api.2@shop, web@shop"
    with pytest.raises(NoSuchTarget) as caught:
        await places.choose_stack(parse("blog"), ALICE, "", {}, everything)
    assert caught.value.hint == "you may name: web@blog"


@pytest.mark.parametrize("stack", ["", "../x", "a b", "a@b", "a\n", "é", "x" * 254, "-x"])
async def test_sent_stack_is_checked(stack: str) -> None:
    """BASTION_STACK is as hostile as the user name, and is refused before any look-up."""
    runtime = MemoryRuntime(SHOP)
    with pytest.raises(NoSuchTarget, match="BASTION_STACK is not the name of a stack"):
        await targets(runtime).choose_stack(parse("web"), ALICE, "", {"BASTION_STACK": stack}, everything)
    assert runtime.lookups == []
