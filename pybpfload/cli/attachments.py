"""What ``net detach`` and ``cgroup detach`` share."""

from __future__ import annotations

from pybpfload.cli.failure import UsageError, did_you_mean
from pybpfload.cli.live import program_name
from pybpfload.runtime.attached import Attachment, attached, detach

__all__ = ["detach_named"]


def detach_named(target: str, program: str) -> list[Attachment]:
    """Take a program away from a network device or control group.

    Args:
        target: Name of the device, or directory of the group.
        program: Id or name of the program.

    Returns:
        What was there.

    Raises:
        UsageError: There is no such program, or there are several of that name.
        KernelError: It cannot be taken away.
    """
    found = attached(target)
    names = {each.prog_id: program_name(each.prog_id) for each in found}
    wanted = {number for number, name in names.items() if program in (name, str(number))}
    if len(wanted) > 1:
        which = ", ".join(map(str, sorted(wanted)))
        raise UsageError(f"{target} has {len(wanted)} programs {program!r}; say which id: {which}")
    if not wanted:
        close = did_you_mean(program, set(names.values()))
        raise UsageError(f"{target} has no program {program!r}{close}")
    gone = [each for each in found if each.prog_id in wanted]
    for each in gone:
        detach(target, each)
    return gone
