"""Calling bpf(2): the few lines that all commands share."""

from __future__ import annotations

import errno

from pybpfload.errors import KernelTooOldError
from pybpfload.kernel import door, token
from pybpfload.kernel.attrs import Attr, layout
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import at_least_3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pybpfload.errors import KernelError

__all__ = ["Record", "call", "call_fd", "invoke", "refused", "retried", "run"]


class Record:
    """Base of the small result classes: slots, shown and compared by their fields."""

    __slots__ = ()

    def __init__(self, **fields: Any) -> None:
        for name in self.field_names():
            setattr(self, name, fields.pop(name))
        if fields:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(fields)}")

    @classmethod
    def field_names(cls) -> list[str]:
        """Names of the fields, in the order of the class's text."""
        return list(cls.__annotations__)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: getattr(self, name) for name in self.field_names()}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        body = ", ".join(f"{name}={value!r}" for name, value in self.as_dict().items())
        return f"{type(self).__name__}({body})"


def invoke(attr: Attr) -> int:
    """Make the call, with the token that is shown now; the result or the negative error number."""
    token.show(attr)
    return door.bpf(attr.command, attr.data, attr.size)


def run(attr: Attr, target: str | None = None) -> int:
    """Make the call; the result.

    Raises:
        KernelError: The kernel refused.
    """
    result = invoke(attr)
    if result < 0:
        raise refused(result, attr, target)
    return result


def refused(result: int, attr: Attr, target: str | None = None) -> KernelError:
    """The error of a call that failed, with a hint if the kernel is too old, or a token too weak.

    Args:
        result: The negative error number.
        attr: The attribute of the call.
        target: On what, for example ``"map events"``.

    Returns:
        A :class:`KernelTooOldError` if the kernel is too old for it, otherwise as
        :func:`kernel_error`.
    """
    hint = None
    if result in (-errno.EINVAL, -errno.E2BIG):
        from pybpfload.kernel.since import came_later, too_young
        from pybpfload.kernel.version import kernel_version

        running = kernel_version()
        if (young := too_young(attr, running)) is not None:
            return KernelTooOldError(
                -result,
                f"BPF_{attr.command.name}",
                target,
                hint=came_later(young.what, young.since, running),
                feature=young.what,
                since=young.since,
            )
    elif result == -errno.EPERM:
        from pybpfload.kernel import privilege

        hint = token.lacking(attr) or privilege.lacking(attr)
    return kernel_error(result, f"BPF_{attr.command.name}", target, hint=hint)


def call(name: str, target: str | None = None, /, **fields: Any) -> int:
    """Build the attribute of the command ``name`` and make the call.

    Raises:
        KernelError: The kernel refused.
        ValueError: A number does not fit its field.
    """
    return run(layout(name).build(**fields), target)


def call_fd(name: str, target: str | None = None, /, **fields: Any) -> int:
    """As :func:`call` for commands that give a descriptor, which is 3 or higher.

    The kernel makes all of them close-on-exec.
    """
    fd = at_least_3(call(name, target, **fields))
    if fd < 0:
        raise kernel_error(fd, "fcntl(F_DUPFD_CLOEXEC)", target)
    return fd


def retried(attr: Attr, number: int, attempts: int) -> int:
    """Make the call again while it fails with ``number``, at most ``attempts`` times in all.

    Python's signal handlers run between the attempts.
    """
    result = invoke(attr)
    while result == -number and attempts > 1:
        attempts -= 1
        result = invoke(attr)
    return result


EAGAIN = errno.EAGAIN
EINTR = errno.EINTR
