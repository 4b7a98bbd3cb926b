"""Loading programs and BTF with everything that has to be done around the bare commands.

Source of the rules: libbpf, ``bpf_object_load_prog()`` and ``bpf_prog_load()``: first without a
log, which is fast; after a failure again with one, in a buffer that grows until the log fits.
"""

from __future__ import annotations

import errno
import re

from pybpfload.errors import VerifierError
from pybpfload.kernel import memlock
from pybpfload.kernel.call import refused
from pybpfload.kernel.cmd_misc import btf_load_attempt
from pybpfload.kernel.cmd_prog import prog_load_attempt
from pybpfload.kernel.errors import locked_down
from pybpfload.kernel.log import explain_poison, read_log
from pybpfload.kernel.since import too_young_attach_type, too_young_helper
from pybpfload.kernel.version import kernel_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from typing_extensions import Buffer

    from pybpfload.kernel.attrs import Attr

__all__ = ["FIRST_LOG_SIZE", "LOG_LIMIT", "accepted_name", "load_btf", "load_program"]

FIRST_LOG_SIZE = 64 << 10
"""Bytes of the first log buffer."""
LOG_LIMIT = 0x3FFFFFFF
"""Greatest log buffer the kernel takes (since 5.2; before, :data:`_OLD_LOG_LIMIT`)."""
_OLD_LOG_LIMIT = 0xFFFFFF
_ENOTSUPP = 524
_LOCKED_HELPER = re.compile(r"\bbpf_probe_(read|write)\w*#")
_UNKNOWN_HELPER = re.compile(r"invalid func \w+#(\d+)")


def load_program(
    prog_type: int,
    insns: Buffer,
    license: str = "GPL",  # noqa: A002
    *,
    name: str = "",
    log_level: int = 0,
    poisons: Mapping[int, Any] | None = None,
    **options: Any,
) -> tuple[int, str]:
    """Load a program: memory limit raised where needed, name left out on old kernels, log fetched.

    Args:
        prog_type: :class:`~pybpfload.uapi.ProgType`.
        insns: Instructions in the machine's byte order.
        license: Licence of the program.
        name: Name of the program; its first 15 bytes are given to the kernel.
        log_level: 0 for a log only after a failure; 1, 2, 4 or their sum for one in any case.
        poisons: Explains poisoned instructions; see :func:`~pybpfload.kernel.log.explain_poison`.
        **options: As for :func:`~pybpfload.kernel.bpf.prog_load`.

    Returns:
        The descriptor, which the caller owns, and the log (empty at level 0).

    Raises:
        VerifierError: The verifier refused the program; the whole log is in ``log``.
        KernelError: The kernel refused before the verifier had anything to say, for want of
            privilege (:class:`~pybpfload.errors.NotPermittedError`) or another reason.
    """
    memlock.ensure()
    options["prog_name"] = accepted_name(name)

    def attempt(log_buf: bytearray | None, level: int) -> tuple[int, Attr]:
        return _with_record_sizes(
            prog_type, insns, license, {**options, "log_level": level, "log_buf": log_buf}
        )

    fd, log, attr = _with_log(attempt, log_level)
    if fd >= 0:
        return fd, log
    kind, relocation = None, None
    if poisons:
        log, kind, relocation = explain_poison(log, poisons)
    reading = read_log(log)
    if not reading.summary and reading.insn is None:
        target = f"program {name}" if name else "a program"
        error = refused(fd, attr, target)
        if -fd in (errno.ENOMEM, _ENOTSUPP) and options.get("attach_btf_id"):
            error.hint = (
                "this program needs the JIT compiler, which this kernel lacks or has switched off "
                "(net.core.bpf_jit_enable), or there is no kernel memory"
            )
        if -fd == errno.EINVAL and error.hint is None:
            error.hint = (
                "the verifier was not even asked: the kernel probably does not know the program "
                "type, the attach type or an argument"
            )
        raise error
    raise VerifierError(
        -fd,
        name,
        log,
        summary=reading.summary,
        insn=reading.insn,
        source=reading.source,
        relocation=relocation if kind == "core" else None,
        hint=_verifier_hint(-fd, reading.summary)
        or too_young_attach_type(
            prog_type, options.get("expected_attach_type", 0), kernel_version()
        ),
    )


def load_btf(data: Buffer, *, log_level: int = 0, **options: Any) -> tuple[int, str]:
    """Load BTF as :func:`load_program` loads programs.

    Args:
        data: Raw BTF in the machine's byte order.
        log_level: 1 for a log in any case.
        **options: As for :func:`~pybpfload.kernel.bpf.btf_load`.

    Returns:
        The descriptor, which the caller owns, and the log (empty at level 0).

    Raises:
        KernelError: The kernel refused; its reason, if it gave one, is the hint.
    """
    memlock.ensure()

    def attempt(log_buf: bytearray | None, level: int) -> tuple[int, Attr]:
        return btf_load_attempt(data, log_level=level, log_buf=log_buf, **options)

    fd, log, attr = _with_log(attempt, min(log_level, 1))
    if fd < 0:
        error = refused(fd, attr, "the object's BTF")
        if lines := [line for line in log.splitlines() if line.strip()]:
            error.hint = f"the kernel says: {lines[-1].strip()}"
        raise error
    return fd, log


def accepted_name(name: str) -> bytes:
    """What the running kernel can be told of the name of a program or map.

    Nothing before Linux 4.15. Before 5.2, which brought names with dots and global data together,
    dots become ``_``; libbpf leaves them, and such a kernel refuses the map or program.
    """
    from pybpfload.kernel.probe import Feature, has

    if not name or not has(Feature.PROG_NAME):
        return b""
    given = kernel_name(name)
    if b"." in given and not has(Feature.GLOBAL_DATA):
        given = given.replace(b".", b"_")
    return given


def kernel_name(name: str) -> bytes:
    """The part of a name that the kernel takes: 15 bytes, letters, digits, ``_`` and ``.``."""
    cut = name.encode(errors="replace")[:15]
    return bytes(c if (c < 128 and chr(c).isalnum()) or c in b"_." else 95 for c in cut)


def _with_log(
    attempt: Callable[[bytearray | None, int], tuple[int, Attr]], level: int
) -> tuple[int, str, Attr]:
    """Descriptor or negative error number, the log, and the attribute of the last attempt."""
    if not level:
        fd, attr = attempt(None, 0)
        if fd >= 0:
            return fd, "", attr
    size = FIRST_LOG_SIZE
    log = b""
    while True:
        buffer = bytearray(size)
        fd, attr = attempt(buffer, level or 1)
        if fd == -errno.EINVAL and size > _OLD_LOG_LIMIT and log:
            # An old kernel: so long, no longer.
            return -errno.ENOSPC, log.decode(errors="replace"), attr
        log = bytes(buffer).partition(b"\0")[0]
        if fd != -errno.ENOSPC or size >= LOG_LIMIT:
            return fd, log.decode(errors="replace"), attr
        # Kernels since 6.4 tell how much they need; it may change a little from run to run.
        wanted = max(2 * size, attr["log_true_size"] + 4096)
        if size < _OLD_LOG_LIMIT < wanted and attr["log_true_size"] == 0:
            wanted = _OLD_LOG_LIMIT
        size = min(wanted, LOG_LIMIT)


def _with_record_sizes(
    prog_type: int,
    insns: Buffer,
    license: str,  # noqa: A002
    options: dict[str, Any],
) -> tuple[int, Attr]:
    """Load; blank what a kernel with shorter func_info and line_info records does not know."""
    while True:
        fd, attr = prog_load_attempt(prog_type, insns, license, **options)
        if fd != -errno.E2BIG or not _blank_records(options, attr):
            return fd, attr


def _blank_records(options: dict[str, Any], attr: Attr) -> bool:
    """After E2BIG the kernel has left the record sizes that it knows; whether that helped."""
    changed = False
    for name, usual in (("func_info", 8), ("line_info", 16)):
        ours = options.get(f"{name}_rec_size", usual)
        theirs = attr[f"{name}_rec_size"]
        if options.get(name) and 0 < theirs < ours:
            records = bytearray(options[name])
            for start in range(0, len(records) - ours + 1, ours):
                records[start + theirs : start + ours] = bytes(ours - theirs)
            changed |= records != options[name]
            options[name] = records
    return changed


def _verifier_hint(number: int, summary: str) -> str | None:
    from pybpfload.verifier.causes import find  # needed after a failure only

    if number == errno.ENOSPC:
        return "the log is longer than the kernel can give; this is not the verifier's last word"
    if _LOCKED_HELPER.search(summary) and (locked := locked_down()):
        return locked
    unknown = _UNKNOWN_HELPER.search(summary)
    young = too_young_helper(int(unknown[1]), kernel_version()) if unknown else None
    cause = find(summary.split("; "))
    return young or (cause.why if cause else None)
