"""Make the file trees of the tests' images, once per machine, as tar files that `docker import` takes."""

import fcntl
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
_GROUP = b"root:x:0:\nuser:x:1000:\n"
_DEBIAN_PACKAGES = "procps,python3-minimal,rsync"
_DEBIAN_SECONDS: Final = 600


class ImageUnavailable(Exception):  # says what is missing, and is no error of the tests
    """A tool that makes an image is missing or failed; the text says which."""


def make(cache: Path, name: str) -> Path:
    """Return the tar file of image `busybox`, `debian` or `scratch`, made on first use; safe in parallel.

    Raises:
        ImageUnavailable: a tool that makes it is missing or failed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    tar = cache / f"{name}.tar"
    with closing((cache / f"{name}.lock").open("w")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tar.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                made = Path(folder) / tar.name
                _MAKERS[name](made)
                made.rename(tar)
    return tar


def _busybox(tar: Path) -> None:
    binary = _static_busybox()
    applets = subprocess.run([binary, "--list"], capture_output=True, check=True, text=True).stdout.split()
    with tarfile.open(tar, "w") as archive:
        for folder in ("bin", "etc", "root", "home", "proc", "sys", "dev"):
            _add(archive, folder, folder=True)
        _add(archive, "tmp", folder=True, mode=0o1777)
        _add(archive, "home/user", folder=True, owner=1000)
        _add(archive, "etc/passwd", _PASSWD)
        _add(archive, "etc/group", _GROUP)
        _add(archive, "bin/busybox", binary.read_bytes(), mode=0o755)
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)


def _scratch(tar: Path) -> None:
    with tarfile.open(tar, "w") as archive:
        _add(archive, "etc", folder=True)
        _add(archive, "etc/passwd", _PASSWD)
        _add(archive, "sleep", _static_busybox().read_bytes(), mode=0o755)  # busybox is what argv[0] names


def _debian(tar: Path) -> None:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise ImageUnavailable("the Debian image needs debootstrap, and root to run it")
    tree = tar.with_suffix("")
    command = ["debootstrap", "--variant=minbase", f"--include={_DEBIAN_PACKAGES}", "bookworm", str(tree)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DEBIAN_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ImageUnavailable(f"debootstrap did not end within {_DEBIAN_SECONDS} s") from error
    if made.returncode != 0:
        raise ImageUnavailable(f"debootstrap failed: {made.stdout.strip().splitlines()[-1:]} {made.stderr.strip()}")
    shutil.rmtree(tree / "var/cache/apt")
    with (tree / "etc/passwd").open("ab") as passwd:
        passwd.write(b"user:x:1000:1000:user:/home/user:/bin/bash\n")
    (tree / "home/user").mkdir()
    os.chown(tree / "home/user", 1000, 1000)
    subprocess.run(["tar", "-C", str(tree), "--exclude=./dev/*", "-cf", str(tar), "."], check=True, timeout=120)
    shutil.rmtree(tree)


def _static_busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        raise ImageUnavailable("busybox is missing (package busybox-static)")
    if subprocess.run(["ldd", found], capture_output=True, check=False).returncode == 0:
        raise ImageUnavailable(f"{found} is not static (package busybox-static)")
    return Path(found).resolve()


def _add(
    archive: tarfile.TarFile, name: str, content: bytes = b"", *, folder: bool = False, mode: int = 0, owner: int = 0
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    entry.mode = mode or (0o755 if folder else 0o644)
    entry.uid = entry.gid = owner
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


_MAKERS: dict[str, Callable[[Path], None]] = {"busybox": _busybox, "debian": _debian, "scratch": _scratch}
NAMES: Final = tuple(_MAKERS)
