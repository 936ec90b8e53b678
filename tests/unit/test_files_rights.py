"""Who may do what with which files: by the path that it really is, and by no other way round."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.errors import FileFailed
from bastion.files import Changes, Mode
from bastion.files.access import Judge
from bastion.files.recorded import RecordedFiles
from bastion.model import FileAccess, FileOperation
from tests.unit.memory_files import MemoryFiles
from tests.unit.memory_nodes import Node
from tests.unit.recorded_house import READ, House, digest, get, house, listed, opened, put

LOGS = FileAccess(("/app/log/**",))
OWN = FileAccess(("/app/log/**",), ("/app/log/**",))
BOX = FileAccess(("/out/**",), ("/in/**", "/out/**"))
DENIED = "permission denied"

Act = Callable[[RecordedFiles], Awaitable[object]]


def link(inside: House, path: bytes, target: bytes) -> None:
    """Lay a symbolic link down."""
    inside.memory.tree.attach(path, Node(0o120777, target=target))


async def refused(files: RecordedFiles, act: Act) -> None:
    with pytest.raises(FileFailed) as caught:
        await act(files)
    assert (caught.value.kind, caught.value.public) == ("permission-denied", DENIED)


async def test_what_may_be_read_is_read() -> None:
    """Within a readable folder listing, looking, reading and resolving work, also by a way through other folders."""
    async with opened(LOGS) as (house, files):
        assert files.home == b"/app/log"
        assert await get(files, b"web.log") == b"one\ntwo\n"
        assert await get(files, b"../../etc/../app/log/old/db.log") == b"old"
        assert house.last() == FileOperation("read", b"/app/log/old/db.log", size=3, sha256=digest(b"old"), stream=5)
        assert {entry.name for entry in await listed(files, b"")} == {b".", b"..", b"web.log", b"old"}
        assert await files.real_path(b".") == b"/app/log"
        assert (await files.stat(b"/app", follow=True)).mode & 0o40000
        await files.space(b"")


@pytest.mark.parametrize(
    ("act", "operation", "path"),
    [
        (lambda files: get(files, b"/etc/shadow"), "open", b"/etc/shadow"),
        (lambda files: get(files, b"../../etc/shadow"), "open", b"/etc/shadow"),
        (lambda files: get(files, b"out"), "open", b"/etc/shadow"),
        (lambda files: get(files, b"folder/shadow"), "open", b"/etc/shadow"),
        (lambda files: get(files, b"/app/logs"), "open", b"/app/logs"),
        (lambda files: put(files, b"new", b""), "open", b"/app/log/new"),
        (lambda files: put(files, b"/etc/new", b""), "open", b"/etc/new"),
        (lambda files: files.open(b"web.log", Mode(read=True, write=True)), "open", b"/app/log/web.log"),
        (lambda files: files.open(b"web.log", Mode(read=True, truncate=True)), "open", b"/app/log/web.log"),
        (lambda files: files.open(b"x", Mode(read=True, create=True)), "open", b"/app/log/x"),
        (lambda files: listed(files, b"/app"), "list", b"/app"),
        (lambda files: listed(files, b"folder"), "list", b"/etc"),
        (lambda files: files.stat(b"/etc/shadow", follow=True), "stat", b"/etc/shadow"),
        (lambda files: files.stat(b"/etc/none", follow=False), "stat", b"/etc/none"),
        (lambda files: files.stat(b"out", follow=True), "stat", b"/etc/shadow"),
        (lambda files: files.real_path(b"out"), "real-path", b"/etc/shadow"),
        (lambda files: files.read_link(b"/app/link"), "read-link", b"/app/link"),
        (lambda files: files.space(b"/etc"), "space", b"/etc"),
        (lambda files: files.remove(b"web.log"), "remove", b"/app/log/web.log"),
        (lambda files: files.remove_directory(b"old"), "remove-directory", b"/app/log/old"),
        (lambda files: files.make_directory(b"new", None), "make-directory", b"/app/log/new"),
        (lambda files: files.rename(b"web.log", b"db.log", overwrite=True), "rename", b"/app/log/web.log"),
        (lambda files: files.symlink(b"web.log", b"l"), "symlink", b"/app/log/l"),
        (lambda files: files.hard_link(b"web.log", b"l"), "link", b"/app/log/web.log"),
        (lambda files: files.change(b"web.log", Changes(size=0), follow=True), "change", b"/app/log/web.log"),
    ],
)
async def test_all_else_is_denied(act: Act, operation: str, path: bytes) -> None:
    """Outside of what may be read, and for every change of what may only be read: denied, on record, and not done."""
    inside = house()
    inside.memory.put(b"/app/logs", b"beside")
    link(inside, b"/app/log/out", b"../../etc/shadow")
    link(inside, b"/app/log/folder", b"/etc")
    link(inside, b"/app/link", b"log")
    async with opened(LOGS, inside) as (_, files):
        await refused(files, act)
        assert (inside.last().operation, inside.last().path, inside.last().result) == (operation, path, DENIED)
    assert (inside.memory.content(b"/etc/shadow"), inside.memory.content(b"/app/log/web.log")) == (
        b"secret",
        b"one\ntwo\n",
    )
    assert len(inside.memory.folder(b"/app/log").children) == 4
    assert inside.memory.opened == 0


async def test_a_denial_says_what_was_asked_for() -> None:
    """Where what was asked for is not the real path, the record has both."""
    inside = house()
    link(inside, b"/app/log/out", b"/etc/shadow")
    async with opened(LOGS, inside) as (_, files):
        await refused(files, lambda files: get(files, b"out"))
        assert inside.last() == FileOperation("open", b"/etc/shadow", DENIED, note="read, asked for as out")


async def test_a_file_that_was_opened_for_reading_is_not_changed() -> None:
    """An opened file may be changed only where its real path may be written, whatever may be read."""
    inside = house()
    link(inside, b"/app/log/out", b"/etc/shadow")
    async with opened(FileAccess(("/**",), ("/app/log/**",)), inside) as (_, files):
        file = await files.open(b"/app/log/out", READ)
        await refused(files, lambda _: file.change(Changes(permissions=0o777)))
        file = await files.open(b"/app/log/web.log", READ)
        await file.change(Changes(permissions=0o600))
    async with opened(LOGS, inside) as (_, files):
        file = await files.open(b"web.log", READ)
        await refused(files, lambda _: file.change(Changes(size=0)))


async def test_what_may_be_written_is_written() -> None:
    """Within a writable folder everything is done, and by its real paths."""
    inside = house()
    link(inside, b"/app/log/here", b".")
    async with opened(OWN, inside) as (_, files):
        await put(files, b"here/new", b"content")
        await files.make_directory(b"here/d", None)
        await files.rename(b"new", b"here/d/new", overwrite=False)
        await files.rename(b"d", b"e", overwrite=False)
        await files.symlink(b"e/new", b"l")
        await files.hard_link(b"e/new", b"e/two")
        await files.change(b"l", Changes(permissions=0o600), follow=True)
        assert await files.read_link(b"l") == b"e/new"
        assert await get(files, b"l") == b"content"
        await files.remove(b"l")
        await files.remove(b"here")
        assert [one.path for one in inside.operations][:3] == [b"/app/log/new", b"/app/log/new", b"/app/log/d"]
        assert set(inside.memory.folder(b"/app/log").children) == {b"web.log", b"old", b"e"}


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (b"web.log", True), (b"old/../web.log", True), (b"/app/log/new", True), (b"../log/x", True), (b"none/x", True),
        (b"/etc/shadow", False), (b"../x", False), (b"out/x", False), (b"../../etc", False), (b"/", False),
    ],
)  # fmt: skip
async def test_a_link_leads_only_where_may_be_written(target: bytes, *, allowed: bool) -> None:
    """A symbolic link out of what may be written is not made: a program in the container might follow it."""
    inside = house()
    link(inside, b"/app/log/out", b"/etc")
    async with opened(OWN, inside) as (_, files):
        if allowed:
            await files.symlink(target, b"l")
        else:
            await refused(files, lambda files: files.symlink(target, b"l"))
        assert (inside.last().operation, inside.last().path, inside.last().other) == ("symlink", b"/app/log/l", target)


async def test_nothing_is_made_through_a_link_to_nothing() -> None:
    """A link that leads to where there is nothing yet is judged by where it leads."""
    inside = house()
    link(inside, b"/app/log/l", b"/etc/new")
    async with opened(OWN, inside) as (_, files):
        await refused(files, lambda files: put(files, b"l", b"content"))
        assert b"new" not in inside.memory.folder(b"/etc").children


class Unlooking(MemoryFiles):
    """Resolves no last link that leads to nothing, which the port leaves open."""

    async def real_path(self, path: bytes) -> bytes:
        node, _ = self.tree.walk(path, follow=True)
        return self.tree.walk(path, follow=node is not None)[1]


async def test_nothing_is_made_through_a_link_that_was_not_resolved() -> None:
    """The same where the way to the files takes a link to nothing as it is written."""
    inside = house()
    inside.memory.__class__ = Unlooking
    link(inside, b"/app/log/l", b"/etc/new")
    async with opened(OWN, inside) as (_, files):
        await refused(files, lambda files: put(files, b"l", b"content"))
        assert b"new" not in inside.memory.folder(b"/etc").children


class Racing(MemoryFiles):
    """Puts a link in the place of a folder between the look at a path and its use."""

    async def open(self, path: bytes, mode: Mode) -> object:  # type: ignore[override] # it gives what the other gives
        folder = self.folder(b"/app/log")
        folder.children[b"old"] = Node(0o120777, target=b"/etc")
        return await super().open(path, mode)


async def test_what_was_swapped_meanwhile_is_not_given_out() -> None:
    """A file that is opened through a link which was not there when its path was judged is closed again."""
    inside = house()
    inside.memory.put(b"/app/log/old/shadow", b"innocent")
    inside.memory.__class__ = Racing
    async with opened(LOGS, inside) as (_, files):
        await refused(files, lambda files: files.open(b"old/shadow", READ))
    assert inside.memory.opened == 0
    assert inside.said() == [("open", b"/app/log/old/shadow", DENIED)]


async def test_renaming_gives_no_right() -> None:
    """What may be written and not read does not become readable under another name, by itself or in a folder."""
    inside = house()
    inside.memory.folder(b"/out")
    async with opened(BOX, inside) as (_, files):
        await put(files, b"/in/mine", b"mine")
        await put(files, b"/out/mine", b"mine")
        await refused(files, lambda files: files.rename(b"/in/letter", b"/out/letter", overwrite=False))
        assert (inside.last().path, inside.last().other) == (b"/in/letter", b"/out/letter")
        await refused(files, lambda files: files.rename(b"/in", b"/out/in", overwrite=False))
        await refused(files, lambda files: files.hard_link(b"/in/letter", b"/out/letter"))
        await refused(files, lambda files: files.hard_link(b"/out/mine", b"/in/yours"))
        await files.rename(b"/in/mine", b"/in/yours", overwrite=False)
        await files.rename(b"/out/mine", b"/in/theirs", overwrite=False)
        await files.make_directory(b"/out/d", None)
        await files.rename(b"/out/d", b"/out/e", overwrite=False)


async def test_renaming_a_folder_opens_nothing_below_it() -> None:
    """A folder of which only the name may be written is not moved to where all below may be."""
    async with opened(FileAccess((), ("/app/*", "/tmp/**"))) as (house, files):
        await refused(files, lambda files: files.rename(b"/app/log", b"/tmp/log", overwrite=False))
        await put(files, b"/app/x", b"")
        await files.rename(b"/app/x", b"/tmp/x", overwrite=False)
        assert house.last() == FileOperation("rename", b"/app/x", other=b"/tmp/x")


async def test_writing_everywhere_is_not_reading_everywhere() -> None:
    """Who may write anything and read only some cannot bring the rest to where it may be read."""
    async with opened(FileAccess(("/app/log/**",), ("/**",))) as (_, files):
        await refused(files, lambda files: files.rename(b"/etc/shadow", b"/app/log/x", overwrite=False))
        await refused(files, lambda files: files.hard_link(b"/etc/shadow", b"/app/log/x"))
        await files.symlink(b"/etc/shadow", b"/app/log/x")
        await refused(files, lambda files: get(files, b"/app/log/x"))
        await put(files, b"/etc/new", b"")


@pytest.mark.parametrize("access", [FileAccess(), FileAccess(read=("/nowhere",))])
async def test_without_a_right_nothing_is_to_be_had(access: FileAccess) -> None:
    """Where nothing that is there may be read or written, every operation is denied."""
    async with opened(access) as (_, files):
        for act in (get, listed, type(files).remove, type(files).read_link, type(files).space):
            await refused(files, lambda files, act=act: act(files, b"/app/log/web.log"))  # type: ignore[misc] # bound
        await refused(files, lambda files: put(files, b"/app/x", b""))


class Counting(MemoryFiles):
    """Counts what is looked up."""

    asked = 0

    async def real_path(self, path: bytes) -> bytes:
        self.asked += 1
        return await super().real_path(path)

    async def stat(self, path: bytes, *, follow: bool) -> object:  # type: ignore[override] # it gives what the other gives
        self.asked += 1
        return await super().stat(path, follow=follow)


async def test_whole_access_looks_nothing_up() -> None:
    """Where everything may be read and written no operation costs a look-up, and where all may be read no reading."""
    inside = house()
    inside.memory.__class__ = Counting
    async with opened(FileAccess(("/**",), ("/**",)), inside) as (_, files):
        await get(files, b"log/web.log")
        await put(files, b"new", b"")
        await files.rename(b"new", b"old", overwrite=True)
        await listed(files, b"")
    async with opened(FileAccess(("/**",)), inside) as (_, files):
        await get(files, b"/etc/shadow")
        await listed(files, b"/app/log")
        await refused(files, lambda files: put(files, b"x", b""))
    assert getattr(inside.memory, "asked", 0) == 0


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
STEPS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), max_size=6).map("/".join)
GRANTS = st.sampled_from(["/a/**", "/b/*", "/a/b/c", "/*/c", "/c/**", "/b/?/a"])


@given(
    st.lists(PATHS, max_size=6),
    st.lists(st.tuples(PATHS, st.one_of(STEPS, STEPS.map("/".__add__))), max_size=4),
    st.lists(GRANTS, min_size=1, max_size=2),
    STEPS.map("/".__add__),
)
def test_no_path_leads_to_what_is_not_allowed(
    places: list[str], links: list[tuple[str, str]], patterns: list[str], asked: str
) -> None:
    """Whatever folders and links there are: what is read or written is at a real path that a pattern fits."""

    async def try_it() -> None:
        inside = house()
        tree = inside.memory.tree
        for place in places:
            with_content = f"/{place}"
            try:
                inside.memory.put(with_content.encode(), with_content.encode())
            except (FileFailed, AssertionError, AttributeError):
                continue
        for place, target in links:
            try:
                node, real = tree.walk(f"/{place}".encode(), follow=False)
                if node is None:
                    tree.attach(real, Node(0o120777, target=target.encode()))
            except FileFailed:
                continue
        access = FileAccess(tuple(patterns), tuple(patterns))
        judge = Judge(access)
        async with RecordedFiles(inside.memory, access, inside.live, inside.record) as files:
            try:
                content = await get(files, asked.encode())
            except FileFailed:
                content = b""
            assert not content or judge.may_read(content)  # a file's content is its path
            before = everything(tree.root)
            try:
                await put(files, asked.encode(), b"!")
            except FileFailed:
                assert everything(tree.root) == before
            changed = {path for path, content in everything(tree.root).items() if before.get(path) != content}
            assert all(judge.may_write(path) for path in changed)

    asyncio.run(try_it())


def everything(node: Node, path: bytes = b"") -> dict[bytes, bytes | None]:
    """Return all paths of a tree, with the contents of files."""
    found: dict[bytes, bytes | None] = {
        path or b"/": node.content.read(0, node.content.size) if node.target is None else node.target
    }
    for name, below in node.children.items():
        found |= everything(below, path + b"/" + name)
    return found
