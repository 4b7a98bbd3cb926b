"""The running kernel's version, as old kernels want it in ``kern_version`` of kprobe programs."""

from __future__ import annotations

import re

from pybpfload.kernel import door

__all__ = ["kernel_version", "parse_version", "version_text"]


def parse_version(text: str) -> int | None:
    """``A.B.C`` at the start of a text as ``A << 16 | B << 8 | C``; C is capped at 255."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        return None
    major, minor, patch = (int(group) for group in match.groups())
    return major << 16 | minor << 8 | min(patch, 255)


def kernel_version() -> int:
    """Version of the running kernel (``LINUX_VERSION_CODE``), 0 if it cannot be told.

    Ubuntu and Debian have other numbers in the release than the kernel was built with, so the
    sources are, first that answers: the third word of ``/proc/version_signature``, ``Debian A.B.C``
    in the version text of uname(2), its release. Source of the rule: libbpf,
    ``get_kernel_version()``.
    """
    cache = door.cache()
    found: int | None = cache.get("version")
    if found is None:
        found = cache["version"] = _find()
    return found


def _find() -> int:
    try:
        words = door.read_file("/proc/version_signature", 256).decode(errors="replace").split()
        if len(words) >= 3 and (version := parse_version(words[2])) is not None:
            return version
    except OSError:
        pass
    names = door.uname()
    _, found, debian = names.version.partition("Debian ")
    if found and (version := parse_version(debian)) is not None:
        return version
    return parse_version(names.release) or 0


def version_text(version: int) -> str:
    """``0x60c05`` as ``"6.12.5"``."""
    return f"{version >> 16}.{version >> 8 & 255}.{version & 255}"
