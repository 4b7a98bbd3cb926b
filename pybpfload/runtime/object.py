"""Loaded objects."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pybpfload.object.spec import Named, ObjectSpec, SectionVariables
from pybpfload.runtime.loader import Loader
from pybpfload.runtime.maps import data_offset
from pybpfload.runtime.variable import Variable
from pybpfload.uapi import MapFlag, ProgType

if TYPE_CHECKING:
    from types import TracebackType

    from pybpfload.btf.classes import TypeClasses
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.struct_ops import StructOpsMap

__all__ = ["Object", "load_object"]


class Object:
    """Programs and maps in the kernel, made from an :class:`ObjectSpec` and independent of it.

    A context manager: leaving it detaches and unloads everything that is not pinned.

    Attributes:
        name: Name of the object.
        programs: Loaded programs by name.
        maps: Maps by name.
        variables: Global variables by name; their ``value`` is live.
        btf: BTF of the object, or ``None``.
        notes: Optional steps that failed while loading, oldest first.
    """

    def __init__(self, spec: ObjectSpec, loader: Loader) -> None:
        self.name = spec.name
        self.btf = spec.btf
        self.programs: Named[Program] = Named("program", loader.programs)
        self.maps: Named[Map[Any, Any]] = Named("map", loader.maps)
        self.notes = loader.notes
        self._token = loader.token
        self._autoattach = {name for name, each in spec.maps.items() if each.autoattach}
        self.variables = Named("variable", self._variables(spec))
        self._closed = False

    def _variables(self, spec: ObjectSpec) -> list[tuple[str, Variable]]:
        from pybpfload.btf.values import codec

        keys = {id(map_spec): key for key, map_spec in spec.maps.items()}
        found = []
        for name, variable in spec.variables.items():
            key = keys.get(id(variable.map))  # None when another map was put in its place
            if key is None or key not in self.maps:
                continue
            owner = self.maps[key]
            shared = bool(owner.flags & MapFlag.MMAPABLE)
            if shared:
                owner.view()  # now, so that what fails is the loading
            live = Variable(
                name,
                owner,
                variable.offset + data_offset(variable.map),
                variable.size,
                codec(variable.btf, variable.type_id),
                shared,
                variable.is_const,
                section=variable.section,
            )
            found.append((name, live))
        return found

    @property
    def links(self) -> list[Link]:
        """Open links of all programs, then of struct_ops maps."""
        owners: list[Program | StructOpsMap] = [*self.programs.values(), *self._struct_ops()]
        return [link for owner in owners for link in owner.links if not link.closed]

    @property
    def unattached(self) -> dict[str, str]:
        """Programs and struct_ops maps that are not attached now: names, and why, one clause each.

        After :meth:`attach` these are those whose section does not say where, and those whose
        ``autoattach`` is off. Programs of struct_ops maps are attached with their map.
        """
        from pybpfload.runtime.attach import left_alone

        found = {}
        for program in self.programs.values():
            if not program.attached and program.type != ProgType.STRUCT_OPS:
                automatic = program.spec.autoattach
                found[program.name] = left_alone(program.spec) or _why_not(automatic)
        for table in self._struct_ops():
            if all(link.closed for link in table.links):
                found[table.name] = _why_not(table.name in self._autoattach)
        return found

    def _struct_ops(self) -> list[StructOpsMap]:
        from pybpfload.runtime.struct_ops import StructOpsMap

        return [made for made in self.maps.values() if isinstance(made, StructOpsMap)]

    @property
    def types(self) -> TypeClasses:
        """C types of the object as Python classes: ``obj.types["event"]``."""
        from pybpfload.btf.classes import TypeClasses

        return TypeClasses(self.btf)

    @property
    def rodata(self) -> SectionVariables:
        """Constants of ``.rodata`` as attributes."""
        return self._section(".rodata")

    @property
    def data(self) -> SectionVariables:
        """Variables of ``.data`` as attributes."""
        return self._section(".data")

    @property
    def bss(self) -> SectionVariables:
        """Variables of ``.bss`` as attributes."""
        return self._section(".bss")

    def _section(self, section: str) -> SectionVariables:
        return SectionVariables(
            section, {n: v for n, v in self.variables.items() if v.section == section}
        )

    def attach(self) -> list[Link]:
        """Attach every program whose section says where and whose ``autoattach`` is on.

        Then struct_ops maps are registered, those with ``autoattach``.

        Those that are attached already stay as they are.

        Programs that need more than a section name (XDP, tc, cgroup, iterators that want
        parameters, ...) are left alone; :attr:`unattached` names them. If one fails, those attached
        by this call are detached again. (libbpf's ``bpf_object__attach_skeleton()`` leaves that to
        its caller, and does not tell what it passed over.)

        Returns:
            The links made now, in the order of the programs.

        Raises:
            AttachError, NotSupportedError, KernelError, FormatError: As :meth:`Program.attach`; the
                error names the program.
        """
        from pybpfload.runtime.attach import is_automatic

        made: list[Link] = []
        with ExitStack() as undo:
            for program in self.programs.values():
                if program.spec.autoattach and is_automatic(program.spec) and not program.attached:
                    link = program.attach()
                    undo.callback(link.close)
                    made.append(link)
            for table in self._struct_ops():
                if table.name in self._autoattach and not any(not x.closed for x in table.links):
                    link = table.attach()
                    undo.callback(link.close)
                    made.append(link)
            undo.pop_all()
        return made

    def close(self) -> None:
        """Detach and unload everything that is not pinned. Closing again does nothing."""
        self._closed = True
        with ExitStack() as stack:  # whatever fails, all the others are closed
            if self._token is not None:
                stack.callback(self._token.close)
            for map_ in reversed(self.maps.values()):
                stack.callback(map_.close)
            for program in reversed(self.programs.values()):
                stack.callback(program.close)

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed " if self._closed else ""
        return f"<{state}Object {self.name}: {len(self.programs)} programs, {len(self.maps)} maps>"


def _why_not(automatic: bool) -> str:
    return "attach() was not called, or it was detached" if automatic else "autoattach is off"


def load_object(spec: ObjectSpec, **options: Any) -> Object:
    """Load a spec into the running kernel; see :func:`pybpfload.load` for the options."""
    loader = Loader(spec, **options)
    with loader.run():
        return Object(spec, loader)
