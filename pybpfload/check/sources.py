"""Kernels to check objects against, from any file that a kernel comes in, and the running one.

What lies beside a kernel tells more than its BTF: the configuration (``config-RELEASE``), the
symbols (``System.map-RELEASE``) and the modules, whose BTF is read only when the kernel's own lacks
something.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.btf.table import Btf
from pybpfload.check.kernel import CONFIG_HEAD, Kernel
from pybpfload.elf.deb import is_deb, members_of_deb
from pybpfload.elf.image import btf_from_image
from pybpfload.errors import BpfError, FormatError, NotSupportedError
from pybpfload.relocate import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["find_kernels", "read_kernel"]

_RUNNING = "vmlinux"
_SYSFS = Path("/sys/kernel/btf")
_IMAGE = re.compile(r"vmlinu[xz](?:-(?P<release>.+))?")
_MODULE = re.compile(r".+\.ko(?:\.(?:gz|xz|zst))?")
_IN_PACKAGE = re.compile(
    r"(?:\./)?(?:usr/lib/debug/)?(?:usr/)?"
    r"(?:boot/(?P<what>vmlinu[xz]|config|System\.map)-(?P<release>[^/]+)"
    r"|lib/modules/(?P<tree>[^/]+)/(?P<image>vmlinu[xz]|kernel/.+|updates/.+|extra/.+))"
)
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+|[.+-]?rc)[\w.+~-]*|\d+\.\d+")
_SUFFIXES = re.compile(r"(?:[._](?:amd64|arm64|all))?\.(?:btf|deb|xz|gz|zst|efi)$")
_STUB = 4096  # bytes; Debian packages a System.map that says where the real one is


def read_kernel(source: str | Path = "", *, base: str | Path = "") -> Kernel:
    """Read a kernel; :meth:`Kernel.read` says from what."""
    text = str(source)
    path = Path(source)
    if not text or (text == _RUNNING and not path.exists()) or path in (_SYSFS, _SYSFS / "vmlinux"):
        return _running(text)
    if text.startswith("id:") or ("/" not in text and not path.exists()):
        return _loaded(text)
    below = read_kernel(base) if base else None
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():  # a device has no end; what is missing says so when it is opened
        from pybpfload import read_btf

        return Kernel(text, Target(read_btf(path)))
    with path.open("rb") as file:
        start = file.read(64)
    if is_deb(start):
        return _of_package(path)
    return _of_image(path, below)


def find_kernels(source: str | Path) -> list[str]:
    """Find the kernels that a source stands for.

    Args:
        source: What :meth:`Kernel.read` takes, or a directory with several of that: ``/boot`` with
            its images, a directory of raw BTF, of packages, or of directories of kernels.

    Returns:
        A source of each kernel, in the order of versions; ``source`` itself if it is one kernel.

    Raises:
        FormatError: There is no kernel in the directory.
        OSError: The directory cannot be read.
    """
    path = Path(source)
    if not path.is_dir() or _is_one(path):
        return [str(source)]
    found = [
        each
        for each in path.iterdir()
        if (each.is_dir() and _is_one(each))
        or (each.is_file() and (_image_name(each) or each.suffix in (".btf", ".deb")))
    ]
    if not found:
        raise FormatError(
            "there is no vmlinux and no vmlinuz in it",
            file=str(source),
            hint="nor *.btf, packages, or directories with a kernel each",
        )
    return [str(each) for each in sorted(found, key=lambda each: _order(each.name))]


def _order(name: str) -> list[tuple[str, int]]:
    """Key that sorts 6.2 before 6.12, and numbers before words."""
    return [(text, int(number or 0)) for number, text in re.findall(r"(\d+)|(\D+)", name)]


def _image_name(path: Path) -> re.Match[str] | None:
    return _IMAGE.fullmatch(path.name.removesuffix(".efi"))


def _images(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob("vmlinu[xz]*") if each.is_file())


def _is_one(folder: Path) -> bool:
    """Whether a directory is that of one kernel; others have several, or none."""
    images = _images(folder)
    releases = {found["release"] for each in images if (found := _image_name(each))}
    return len(releases) == 1 or (not images and _is_modules(folder))


def _is_modules(folder: Path) -> bool:
    """Whether it is ``/lib/modules/RELEASE``."""
    return (folder / "modules.order").is_file()


def _of_folder(folder: Path) -> Kernel:
    """A kernel with what lies beside it: as ``/sys/kernel/btf``, or ``/lib/modules/RELEASE``."""
    images = _images(folder)
    if not images and _is_modules(folder):
        release = folder.name
        images = [each for each in (_boot(folder) / f"vmlinuz-{release}",) if each.is_file()]
    if not images:
        raise FormatError("there is no vmlinux and no vmlinuz in it", file=str(folder))
    kernel = _of_image(images[0], None)
    files = [
        each
        for each in sorted(folder.iterdir())
        if each not in images
        and each.is_file()
        and (each.suffix in ("", ".btf") or _MODULE.fullmatch(each.name))
    ]
    trees = [folder / name for name in ("modules", "kernel", "updates", "extra")]
    files += _modules_below(folder, *trees) or _of_release(images[0], kernel.release)
    kernel.name = str(folder)
    kernel.target = Target(kernel.target.btf, _reader(files, kernel.target.btf))
    kernel.kconfig = kernel.kconfig or _text(folder / "config")
    if kernel.symbols is None:
        kernel.symbols = _symbols(folder / "System.map")
    kernel.release = kernel.release or _release("", kernel.kconfig)
    return kernel


def _of_image(path: Path, below: Kernel | None) -> Kernel:
    """A kernel from a file with BTF; a module together with the kernel that it extends."""
    data = path.read_bytes()
    if _MODULE.fullmatch(path.name):
        if below is None:
            below = _below(path)
        module = Btf.from_image(data, base=below.target.btf, name=str(path))
        more = Target(below.target.btf, [module])
        return Kernel(
            str(path), more, kconfig=below.kconfig, symbols=below.symbols, release=below.release
        )
    blob = btf_from_image(data, str(path))
    named = _image_name(path)
    release = named["release"] if named and named["release"] else _boot_release(data)
    kconfig = symbols = None
    if release:
        kconfig = _text(path.parent / f"config-{release}")
        symbols = _symbols(path.parent / f"System.map-{release}")
    btf = Btf.from_bytes(blob, base=below.target.btf if below else None, name=str(path))
    files = _of_release(path, release) if named else []
    return Kernel(
        str(path),
        Target(btf, _reader(files, btf)) if files else Target(btf),
        kconfig=kconfig,
        symbols=symbols,
        release=release or _release("" if named else path.name, kconfig),
    )


def _below(module: Path) -> Kernel:
    """The kernel of a module that lies in a ``lib/modules/RELEASE``."""
    for folder in module.absolute().parents:
        if _is_modules(folder):
            for image in (folder / "vmlinuz", _boot(folder) / f"vmlinuz-{folder.name}"):
                if image.is_file():
                    return _of_image(image, None)
        if folder.name == "modules" and _images(folder.parent):
            return _of_folder(folder.parent)
    raise FormatError(
        "a module's BTF extends that of its kernel, which is not beside it",
        file=str(module),
        hint="give the kernel by --base",
    )


def _boot(tree: Path) -> Path:
    """The ``boot`` that belongs to a ``lib/modules/RELEASE``."""
    root = tree.absolute().parent.parent.parent
    return (root.parent if root.name == "usr" else root) / "boot"


def _of_release(image: Path, release: str) -> list[Path]:
    """The modules that belong to an image in a ``boot``."""
    root = image.absolute().parent.parent
    trees = [root / "lib/modules" / release, root / "usr/lib/modules" / release]
    return _modules_below(*trees) if release and image.parent.name == "boot" else []


def _modules_below(*folders: Path) -> list[Path]:
    found = (each for folder in folders if folder.is_dir() for each in folder.rglob("*.ko*"))
    return list(dict.fromkeys(each for each in sorted(found) if _MODULE.fullmatch(each.name)))


def _reader(files: list[Path], base: Btf | None) -> Callable[[], Iterator[Btf]]:
    """What reads the BTF of modules when it is asked for."""

    def modules() -> Iterator[Btf]:
        for path in files:
            try:
                yield Btf.from_image(path.read_bytes(), base=base, name=str(path))
            except (FormatError, NotSupportedError, OSError):
                continue  # something else, or a module without BTF

    return modules


def _of_package(path: Path) -> Kernel:
    """The kernel of a Debian package, with its configuration, symbols and modules."""
    kernel: Kernel | None = None
    data = path.read_bytes()
    kconfig = symbols = None
    for name, content in members_of_deb(data, str(path), _is_wanted):
        found = _IN_PACKAGE.fullmatch(name)
        assert found is not None
        if found["what"] == "config":
            kconfig = content.decode(errors="replace")
        elif found["what"] == "System.map":
            symbols = content if len(content) > _STUB else None
        elif kernel is None and not _MODULE.fullmatch(name):
            full = f"{path}: {name.removeprefix('./')}"
            btf = Btf.from_bytes(btf_from_image(content, full), name=full)
            release = found["release"] or found["tree"] or ""
            kernel = Kernel(str(path), Target(btf), release=release)
        if kernel is not None and _MODULE.fullmatch(name):
            break  # they come last, and many
    if kernel is None:
        raise FormatError(
            "no kernel in this package",
            file=str(path),
            hint="kernels are in packages called linux-image-VERSION or "
            "linux-image-unsigned-VERSION",
        )
    base = kernel.target.btf

    def modules() -> Iterator[Btf]:
        for name, content in members_of_deb(path.read_bytes(), str(path), _MODULE.fullmatch):
            try:
                yield Btf.from_image(content, base=base, name=str(Path(name)))
            except (FormatError, NotSupportedError):
                continue

    kernel.target = Target(base, modules)
    kernel.kconfig, kernel.symbols = kconfig, symbols
    return kernel


def _is_wanted(name: str) -> object:
    return _IN_PACKAGE.fullmatch(name)


def _running(name: str) -> Kernel:
    """The running kernel, with the modules that are loaded."""
    _need_linux()
    from pybpfload.kernel import btf as kernel_btf
    from pybpfload.kernel import door, kallsyms
    from pybpfload.kernel.kconfig import read_kernel_config

    kconfig = symbols = None
    with suppress(BpfError):  # what depends on it is unknown
        kconfig = read_kernel_config()[0].decode(errors="replace")
    with suppress(BpfError):
        symbols = kallsyms.read()
    return Kernel(
        name or _RUNNING,
        Target(kernel_btf.vmlinux(), lambda: [each.btf for each in kernel_btf.modules()]),
        kconfig=kconfig,
        symbols=symbols,
        all_symbols=True,
        release=door.uname().release,
    )


def _loaded(text: str) -> Kernel:
    """BTF of the running kernel by its id, or one of its modules by its name."""
    kind, _, number = text.rpartition(":")
    if not kind and not sys.platform.startswith("linux"):
        raise FileNotFoundError(2, "there is no such file", text)
    _need_linux()
    from pybpfload.kernel import btf as kernel_btf

    if kind:
        if not number.isdecimal():
            raise FormatError("an id is a number, as in id:1", file=text)
        found = kernel_btf.of_id(int(number))
    else:
        modules = [each for each in kernel_btf.modules() if each.name == text]
        if not modules:
            raise FileNotFoundError(2, "there is no such file, and no loaded module with BTF", text)
        found = modules[0].btf
    if found.base is None:
        return Kernel(text, Target(found))
    kernel = _running(text)
    kernel.target = Target(found.base, [found])
    return kernel


def _need_linux() -> None:
    if not sys.platform.startswith("linux"):
        raise NotSupportedError(f"this needs a running Linux kernel, and this is {sys.platform}")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _symbols(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if len(data) > _STUB else None


def _boot_release(image: bytes) -> str:
    """The release in the header of an x86 kernel (``kernel_version``, boot protocol 2.00)."""
    if image[0x202:0x206] != b"HdrS":
        return ""
    start = int.from_bytes(image[0x20E:0x210], "little") + 0x200
    words = image[start : start + 256].partition(b"\0")[0].decode("ascii", "replace").split()
    return words[0] if words else ""


def _release(name: str, kconfig: str | None) -> str:
    """What is known of a kernel's version otherwise: the head of its configuration, a file's name.

    ``6.1-6.1.0-50-cloud-amd64.btf`` names the same version twice; the longer one says more.
    """
    if head := CONFIG_HEAD.search(kconfig or ""):
        return head[1]
    return max(_VERSION.findall(_SUFFIXES.sub("", name)), key=len, default="")
