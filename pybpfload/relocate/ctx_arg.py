"""Context arguments of global functions, for kernels that do not know the tag ``arg:ctx``.

A global function is verified by itself, so its BTF prototype must tell the verifier which argument
is the context. Since Linux 6.8 the declaration tag ``arg:ctx`` tells it; older kernels want a
pointer to a struct of a name that depends on the program type. Each program therefore gets a copy
of the function's BTF with such a pointer (libbpf ``bpf_program_fixup_func_info``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf import Kind
from pybpfload.btf import types as t
from pybpfload.btf.edit import BtfEditor
from pybpfload.uapi import ProgType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.btf import Btf
    from pybpfload.relocate.program import RelocatedProgram

__all__ = ["CONTEXT_TAG", "rewrite_context_arguments"]

CONTEXT_TAG = "arg:ctx"
"""Declaration tag of an argument that is the context."""

_CONTEXTS = {
    ProgType.CGROUP_DEVICE: "bpf_cgroup_dev_ctx",
    ProgType.CGROUP_SKB: "__sk_buff",
    ProgType.FLOW_DISSECTOR: "__sk_buff",
    ProgType.LWT_IN: "__sk_buff",
    ProgType.LWT_OUT: "__sk_buff",
    ProgType.LWT_XMIT: "__sk_buff",
    ProgType.LWT_SEG6LOCAL: "__sk_buff",
    ProgType.SCHED_CLS: "__sk_buff",
    ProgType.SCHED_ACT: "__sk_buff",
    ProgType.SK_SKB: "__sk_buff",
    ProgType.SOCKET_FILTER: "__sk_buff",
    ProgType.CGROUP_SOCK: "bpf_sock",
    ProgType.CGROUP_SOCK_ADDR: "bpf_sock_addr",
    ProgType.CGROUP_SOCKOPT: "bpf_sockopt",
    ProgType.CGROUP_SYSCTL: "bpf_sysctl",
    ProgType.KPROBE: "bpf_user_pt_regs_t",
    ProgType.NETFILTER: "bpf_nf_ctx",
    ProgType.PERF_EVENT: "bpf_perf_event_data",
    ProgType.RAW_TRACEPOINT: "bpf_raw_tracepoint_args",
    ProgType.RAW_TRACEPOINT_WRITABLE: "bpf_raw_tracepoint_args",
    ProgType.SK_LOOKUP: "bpf_sk_lookup",
    ProgType.SK_MSG: "sk_msg_md",
    ProgType.SK_REUSEPORT: "sk_reuseport_md",
    ProgType.SOCK_OPS: "bpf_sock_ops",
    ProgType.XDP: "xdp_md",
}
_REGISTERS = ("pt_regs", "user_pt_regs", "user_regs_struct")


def rewrite_context_arguments(btf: Btf, programs: Iterable[RelocatedProgram]) -> Btf:
    """Give tagged context arguments the types that old kernels recognise them by.

    Args:
        btf: BTF of the object.
        programs: Its programs; their ``func_info`` is made to name the copies.

    Returns:
        The BTF with copies of the functions concerned, or ``btf`` itself when there are none.
    """
    tags = [btf[type_id] for type_id in btf.find_all(CONTEXT_TAG, Kind.DECL_TAG)]
    if not tags:
        return btf
    editor = BtfEditor(btf)
    changed = False
    for program in programs:
        name = _CONTEXTS.get(program.spec.prog_type)
        if name is None or program.func_info is None:
            continue
        # Whoever reads the types by their numbers counts on libbpf's order: by tag, not by use.
        functions = program.func_info[1 :: program.func_info_rec_size // 4].tolist()
        clones: dict[int, int] = {}
        pointer = 0
        for tag in tags:
            assert isinstance(tag, t.DeclTag)
            if tag.type not in functions or not _wants_change(
                btf, tag.type, tag.component, program.spec.prog_type, name
            ):
                continue
            if tag.type not in clones:
                clones[tag.type] = _clone(btf, editor, tag.type)
            clone = clones[tag.type]
            pointer = pointer or editor.add_ptr(editor.add_struct(name, 0, []))
            editor.add_decl_tag(CONTEXT_TAG, clone, tag.component)
            editor.set_extra(clone - 1, 2 * tag.component + 1, pointer)
        for index, function in enumerate(functions):
            at = 1 + index * (program.func_info_rec_size // 4)
            program.func_info[at] = clones.get(function, function)
        changed |= bool(clones)
    return editor.finish() if changed else btf


def _wants_change(
    btf: Btf, function_id: int, component: int, prog_type: ProgType, name: str
) -> bool:
    function = btf[function_id]
    if not isinstance(function, t.Func) or function.linkage != 1:
        return False
    proto = btf[function.type]
    if not isinstance(proto, t.FuncProto) or not 0 <= component < len(proto.params):
        return False
    pointer = btf[btf.strip(proto.params[component].type)]
    if not isinstance(pointer, t.Ptr):
        return False
    pointee = btf[btf.strip(pointer.type)]
    if isinstance(pointee, t.Void):
        return True
    if isinstance(pointee, t.Int):
        return pointee.size == 8 and prog_type in (
            ProgType.RAW_TRACEPOINT,
            ProgType.RAW_TRACEPOINT_WRITABLE,
        )
    if not isinstance(pointee, t.Struct) or pointee.name == name:
        return False
    if prog_type == ProgType.KPROBE:
        return pointee.name == "pt_regs"
    return prog_type == ProgType.PERF_EVENT and pointee.name in _REGISTERS


def _clone(btf: Btf, editor: BtfEditor, function_id: int) -> int:
    """Copy a function, behind its prototype."""
    function = btf[function_id]
    assert isinstance(function, t.Func)
    proto = btf[function.type]
    assert isinstance(proto, t.FuncProto)
    params = [(param.name, param.type) for param in proto.params]
    copy = editor.add_func_proto(proto.return_type, params)
    return editor.add_func(function.name, copy, function.linkage)
