"""struct_ops values for a kernel: an object's structs, laid out as the kernel has them.

Members are found by name, so an object may have some of the kernel's members, in any order (libbpf
``bpf_map__init_kern_struct_ops``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.table import essential_name
from pybpfload.errors import NotSupportedError, RelocationError
from pybpfload.uapi import ProgType

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.object.spec import MapSpec, ObjectSpec, ProgramSpec
    from pybpfload.object.struct_ops import StructOpsSpec
    from pybpfload.relocate.core.candidates import Target

__all__ = ["MissingStructOpsError", "StructOpsMember", "StructOpsValue", "match_struct_ops"]

_VALUE_PREFIX = "bpf_struct_ops_"

# Struct -> first version of Linux with it, and what it must be built with.
_SINCE = {
    "tcp_congestion_ops": ("5.6", ""),
    "hid_bpf_ops": ("6.11", "CONFIG_HID_BPF"),
    "sched_ext_ops": ("6.12", "CONFIG_SCHED_CLASS_EXT"),
    "Qdisc_ops": ("6.16", "CONFIG_NET_SCH_BPF"),
}


class MissingStructOpsError(RelocationError, NotSupportedError):
    """The kernel has no struct_ops of a name: too old, built without it, or a module is missing.

    Attributes:
        feature: Name of the struct.
        since: First kernel version that has it, as far as is known.
    """


@dataclass(frozen=True, slots=True)
class StructOpsMember:
    """A function pointer of the kernel's struct, and the program for it.

    Attributes:
        program: The program.
        type_id: The kernel's struct: the program's ``attach_btf_id``.
        index: Which member: its ``expected_attach_type``.
        offset: Where its descriptor goes in the value, in bytes.
    """

    program: ProgramSpec
    type_id: int
    index: int
    offset: int


@dataclass(slots=True)
class StructOpsValue:
    """Value of a struct_ops map for a kernel.

    Attributes:
        map: The map.
        btf: BTF of the kernel, or of the module that has the struct.
        type_id: Type of the value there, ``struct bpf_struct_ops_NAME``.
        contents: The value, without what its programs will be.
        members: Its programs.
    """

    map: MapSpec
    btf: Btf
    type_id: int
    contents: bytearray
    members: list[StructOpsMember] = field(default_factory=list)


def match_struct_ops(spec: ObjectSpec, target: Target) -> list[StructOpsValue]:
    """Lay out the struct_ops maps of an object, those with ``autocreate`` on, for a kernel.

    Args:
        spec: The object.
        target: BTF of the kernel and its modules.

    Returns:
        A value for each map, in the object's order.

    Raises:
        MissingStructOpsError: The kernel has no such struct.
        RelocationError: A member does not fit.
    """
    wanted = [each for each in spec.struct_ops if each.map.autocreate]
    values = [_Matcher(spec, each, target).match() for each in wanted]
    places: dict[int, StructOpsMember] = {}
    for value in values:
        for member in value.members:
            first = places.setdefault(id(member.program), member)
            if (first.type_id, first.index) != (member.type_id, member.index):
                raise RelocationError(
                    f"map {value.map.name} has it as another member than a map before",
                    program=member.program.name,
                    file=spec.path,
                    hint="write a program for each member",
                )
    return values


class _Matcher:
    """Matches one struct with the kernel's."""

    def __init__(self, spec: ObjectSpec, ours: StructOpsSpec, target: Target) -> None:
        self.spec, self.ours, self.target = spec, ours, target
        self.local = spec.require_btf("struct_ops")
        struct = self.local[ours.type_id]
        assert isinstance(struct, t.Struct)
        self.struct = struct
        self.name = essential_name(struct.name)

    def refuse(self, message: str, hint: str | None = None) -> RelocationError:
        made = self.ours.map
        return RelocationError(
            message, file=self.spec.path, section=made.section, symbol=made.name, hint=hint
        )

    def match(self) -> StructOpsValue:
        btf, value_id = self.value_type()
        struct_id = btf.find(self.name, t.Kind.STRUCT)
        value, theirs = btf[value_id], btf[struct_id]
        assert isinstance(value, t.Struct)
        data = next((m for m in value.members if m.type == struct_id), None) if struct_id else None
        if data is None or not isinstance(theirs, t.Struct):
            raise self.refuse(f"{value.name} of {btf.name} holds no struct {self.name}")
        made = StructOpsValue(self.ours.map, btf, value_id, bytearray(value.size))
        indices = {m.name: at for at, m in reversed(list(enumerate(theirs.members)))}
        start = data.bit_offset // 8
        for member in self.struct.members:
            if member.name in indices:
                index = indices[member.name]
                self.copy(member, theirs.members[index], made, start, struct_id, index)
            elif any(self.bytes_of(member)) or self.ours.programs.get(member.name) is not None:
                raise self.refuse(
                    f"the kernel's struct {self.name} has no member {member.name!r}",
                    hint="leave the member zero for kernels that do not have it",
                )
        return made

    def value_type(self) -> tuple[Btf, int]:
        """Find the type of the kernel's value: in vmlinux, else in a module."""
        wanted = _VALUE_PREFIX + self.name
        if self.target.btf is not None:
            if found := self.target.btf.find(wanted, t.Kind.STRUCT):
                return self.target.btf, found
            for module in self.target.modules:
                if found := module.find_own(wanted, t.Kind.STRUCT):
                    return module, found
        since, option = _SINCE.get(self.name, (None, ""))
        needed = f"Linux {since}" if since else "another kernel or a module"
        made = self.ours.map
        error = MissingStructOpsError(
            f"the kernel has no struct_ops called {self.name}",
            file=self.spec.path,
            section=made.section,
            symbol=made.name,
            hint=f"it needs {needed}{f' built with {option}' if option else ''}, or autocreate = "
            "False of the map",
        )
        error.feature, error.since = self.name, since
        raise error

    def bytes_of(self, member: t.Member) -> bytes:
        """Content of a member of ours."""
        start = member.bit_offset // 8
        contents = bytes(self.ours.map.contents or b"")
        return contents[start : start + self.local.size(member.type)]

    def copy(
        self,
        ours: t.Member,
        theirs: t.Member,
        made: StructOpsValue,
        start: int,
        struct_id: int,
        index: int,
    ) -> None:
        """Put a member of ours where the kernel has it."""
        what = f"member {ours.name!r}"
        if ours.bitfield_size or theirs.bitfield_size:
            raise self.refuse(f"{what} is a bit field, which cannot be copied")
        one = self.local[self.local.strip(ours.type)]
        other = made.btf[made.btf.strip(theirs.type)]
        if one.kind != other.kind:
            raise self.refuse(f"{what} is {one}, in the kernel {other}")
        offset = start + theirs.bit_offset // 8
        if not isinstance(other, t.Ptr):
            contents, size = self.bytes_of(ours), made.btf.size(theirs.type)
            if len(contents) != size:
                raise self.refuse(f"{what} has {len(contents)} bytes, in the kernel {size}")
            made.contents[offset : offset + size] = contents
            return
        program = self.ours.programs.get(ours.name)
        if program is None:
            return
        if program.prog_type != ProgType.STRUCT_OPS:
            raise self.refuse(f"{what} is set to {program.name}, which is no struct_ops program")
        if not isinstance(made.btf[made.btf.strip(other.type)], t.FuncProto):
            raise self.refuse(f"{what} is no pointer to a function in the kernel")
        made.members.append(StructOpsMember(program, struct_id, index, offset))
