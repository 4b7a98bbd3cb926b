"""Why the verifier says what it says, in words, and what helps.

One row for each kind of mistake. Patterns are of the verifier's own sentences, Linux 5.10 to 7.2,
and looked for in each line of the reason; the first row that fits is taken, so special ones stand
before general ones. Groups of a pattern may be used in the texts as ``{name}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CAUSES", "Cause", "find"]


@dataclass(frozen=True)
class Cause:
    """A kind of mistake.

    Attributes:
        name: A word for programs, stable.
        why: What the verifier's sentence means.
        remedies: What usually helps, the likeliest first.
    """

    name: str
    why: str
    remedies: tuple[str, ...]


def _row(name: str, pattern: str, why: str, *remedies: str) -> tuple[re.Pattern[str], Cause]:
    return re.compile(pattern), Cause(name, why, remedies)


_BOUND = (
    "test it right before the access, in the same register and unsigned: if (i >= N) return 0;",
    "or mask it: i &= N - 1, with N a power of two",
    'if the compiler tests one copy and uses another: asm volatile("" : "+r"(i)) before the test',
)
_GROUP = re.compile(r"\{(\w+)\}")
_OLD_KERNEL = "pybpfload features lists what this kernel has"

CAUSES: Sequence[tuple[re.Pattern[str], Cause]] = (
    _row(
        "core-poison",
        r"invalid CO-RE relocation|failed to resolve CO-RE relocation|unknown#195896080",
        "the kernel has no such type, member or enumerator, and the program can get there",
        "ask first: bpf_core_field_exists(), bpf_core_type_exists(), bpf_core_enum_value_exists()",
        "pybpfload relocate --btf KERNEL OBJ shows every relocation and what was found",
    ),
    _row(
        "map-poison",
        r"invalid BPF map reference|unknown#2001\d{6}",
        "the map was not created (autocreate is off), and the program can get there",
        "create the map, or keep the program from using it by a constant in .rodata",
    ),
    _row(
        "kfunc-poison",
        r"invalid kfunc call|unknown#2002\d{6}",
        "the kernel has no such kfunc, and the program can get there",
        "ask first: if (bpf_ksym_exists(function))",
    ),
    _row(
        "null-check",
        r"invalid mem access '\w*_or_null\w*'|prohibited, null-check it first|"
        r"Possibly NULL pointer passed",
        "the pointer may be NULL, and nothing has tested it on this path",
        "test the result of the lookup or helper before it is used: if (!p) return 0;",
        "test the very pointer that is used, before adding to it",
    ),
    _row(
        "uninitialized",
        r"(?P<reg>R\d+) !read_ok",
        "{reg} has no value here: it was never set, or a call has taken it (r1 to r5 do not "
        "survive calls), or a function that returns nothing is used as if it did",
        "give the variable a value on every path",
        "in assembler, keep what must survive calls in r6 to r9 or on the stack",
    ),
    _row(
        "scalar-pointer",
        r"(?P<reg>R\d+) invalid mem access '(?:scalar|inv|untrusted_ptr_\w*|rdonly_untrusted\w*)'",
        "{reg} is a number to the verifier, not a pointer that may be followed; so is every "
        "pointer that came out of memory or a context without a type, or that was given back",
        "read kernel memory with bpf_probe_read_kernel() or BPF_CORE_READ(), user memory with "
        "bpf_probe_read_user()",
        "in tp_btf, fentry and LSM programs arguments are typed: use them directly (BPF_PROG)",
        "after bpf_ringbuf_submit(), a release or an unlock the pointer is gone",
    ),
    _row(
        "released",
        r"(?P<reg>R\d+) invalid mem access '(?P<type>[^']+)'",
        "{reg} is of a kind that cannot be accessed like this: {type}",
        "read through the helper or kfunc made for it",
    ),
    _row(
        "map-bounds",
        r"invalid access to map value, value_size=(?P<size>\d+) off=(?P<off>-?\d+) size=(?P<n>\d+)",
        "{n} bytes at offset {off} are not all inside a value of {size} bytes",
        *_BOUND,
    ),
    _row(
        "memory-bounds",
        r"invalid access to memory, mem_size=(?P<size>\d+) off=(?P<off>-?\d+) size=(?P<n>\d+)",
        "{n} bytes at offset {off} are not all inside {size} bytes of memory",
        *_BOUND,
    ),
    _row(
        "packet-bounds",
        r"invalid access to packet, off=(?P<off>-?\d+) size=(?P<n>\d+), R\d+\(id=\d+,off=-?\d+,"
        r"r=(?P<known>\d+)\)",
        "the access takes {n} bytes at offset {off} of the packet, and the tests on this path show "
        "no more than {known} bytes to be there",
        "compare with data_end first: if (p + sizeof(*p) > data_end) return ...;",
        "after a helper that changes the packet (bpf_skb_pull_data, bpf_xdp_adjust_head) load data "
        "and data_end anew and test again",
    ),
    _row(
        "packet-bounds",
        r"(?P<reg>R\d+) offset is outside of the packet|invalid access to packet",
        "the access is not shown to lie inside the packet",
        "compare with data_end first: if (p + sizeof(*p) > data_end) return ...;",
    ),
    _row(
        "packet-write",
        r"cannot write into packet|the prog does not allow writes to packet data",
        "programs of this type may read packets only",
        "use a type that may write (xdp, tc), or a helper such as bpf_skb_store_bytes()",
    ),
    _row(
        "negative",
        r"(?P<reg>R\d+) min value is negative|unbounded min value is not allowed|"
        r"value (?P<value>-\d+) makes .* be out of bounds",
        "the number may be negative or too large: nothing on this path says that it is not",
        "use an unsigned type, and test the upper bound",
        "or test both ends: if (i < 0 || i >= N) return 0;",
        "for sizes of helpers: size &= MAX - 1, or if (size > MAX) size = MAX with u32 or u64",
    ),
    _row(
        "unbounded",
        r"(?P<reg>R\d+) unbounded memory access|unbounded (?:min|max|variable)|"
        r"max value is outside of the allowed memory range|"
        r"math between .* pointer and .* is not allowed|"
        r"pointer offset .* is not allowed|variable offset .* not allowed",
        "the offset or size has no upper bound that the verifier can see",
        *_BOUND,
    ),
    _row(
        "map-bounds",
        r"min value is outside of the allowed memory range|outside of the (?:allowed|map)",
        "the offset lies outside of what may be accessed",
        *_BOUND,
    ),
    _row(
        "stack-bounds",
        r"invalid (?:write to |(?:indirect )?access to |(?:zero-sized )?read from )?"
        r"(?:variable-offset )?stack (?:type )?R\d+ off=",
        "the access is outside of the function's 512 bytes of stack, or of what was written there",
        "keep large variables in a per-CPU array or, for events, in the ring buffer itself "
        "(bpf_ringbuf_reserve)",
        "initialize all of a struct before giving its address to a helper: struct event e = {};",
    ),
    _row(
        "stack-uninitialized",
        r"invalid (?:indirect )?read from stack",
        "bytes of the stack are read that were never written; padding inside structs counts",
        "initialize all of it: struct event e = {}; or __builtin_memset(&e, 0, sizeof(e))",
    ),
    _row(
        "stack-depth",
        r"combined stack size of (?P<calls>\d+) calls? (?:is|are) (?P<size>\d+)",
        "{calls} functions that call each other use {size} bytes of stack together; 512 are there "
        "(256 for each with tail calls)",
        "keep large variables in a per-CPU array",
        "let the compiler inline, so that functions share slots, or call less deep",
    ),
    _row(
        "stack-spill",
        r"corrupted spill memory|invalid size of register fill|invalid size of register spill|"
        r"attempt to corrupt spilled pointer",
        "a pointer that was kept on the stack is read or written in part",
        "keep and load pointers as whole 8 bytes; a u32 in the C code may cut one",
    ),
    _row(
        "infinite-loop",
        r"infinite loop detected|back-edge from insn",
        "the loop comes back to the same state, so it would never end; before Linux 5.3 there were "
        "no loops at all",
        "give it a bound that the verifier sees: for (int i = 0; i < N; i++)",
        "or use bpf_loop() (5.17), bpf_for() (6.4) or can_loop (6.10)",
    ),
    _row(
        "too-complex",
        r"program is too (?:complex|large)|The sequence of \d+ jumps is too complex|"
        r"too many (?:states|jumps)",
        "the verifier gave up: it follows every path, and loops by each turn",
        "move the body of long loops into bpf_loop() (5.17) or bpf_for() (6.4)",
        "split the program: global functions (not static) are verified once, tail calls apart",
        "fewer branches in unrolled code; __noinline for what is used in many places",
    ),
    _row(
        "unknown-helper",
        r"invalid func (?P<name>\S+)",
        "this kernel has no such helper: {name}",
        "it may be from a newer kernel; ask in C: bpf_core_enum_value_exists(enum bpf_func_id, "
        "BPF_FUNC_x)",
        _OLD_KERNEL,
    ),
    _row(
        "helper-type",
        r"program of this type cannot use helper (?P<name>\S+)|unknown func (?P<name2>\S+)|"
        r"helper .* (?:not supported|is not allowed)",
        "the kernel does not let programs of this type call this helper",
        "pybpfload features --json lists the helpers of each type",
        'some need a sleepable program (SEC("fentry.s/...")), a GPL licence or CAP_SYS_ADMIN',
    ),
    _row(
        "licence",
        r"cannot call GPL-restricted function",
        "the helper is for programs under the GPL",
        'char LICENSE[] SEC("license") = "GPL";',
    ),
    _row(
        "sleepable",
        r"might sleep|sleepable",
        "what may sleep is used where that is forbidden: in a program that is not sleepable, or "
        "while a lock or RCU section is held",
        'make it sleepable: SEC("fentry.s/..."), SEC("lsm.s/..."), SEC("uprobe.s")',
        "or do it outside of the lock",
    ),
    _row(
        "argument-type",
        r"(?P<reg>R\d+) type=(?P<type>\S+) expected=(?P<expected>.+)",
        "{reg} is an argument of a call, which wants {expected} there and gets {type}",
        "look at the order of the arguments; R1 is the first",
    ),
    _row(
        "trusted",
        r"must be (?:a )?(?:referenced|trusted|rcu)|is not a trusted|trusted arg|"
        r"expects refcounted|ref_obj_id",
        "a kfunc wants a pointer that is known to be valid: an argument of the program, or one "
        "that was acquired",
        "acquire it (bpf_task_acquire, bpf_get_task_exe_file, ...) and release it when done",
        "or stay inside bpf_rcu_read_lock() for pointers of that kind",
    ),
    _row(
        "context-bounds",
        r"invalid bpf_context access off=(?P<off>-?\d+) size=(?P<n>\d+)",
        "programs of this type cannot access {n} bytes at offset {off} of their context: there is "
        "nothing, nothing of this size, or nothing for this attach type",
        "compare with the type of the context in C and with the section the program is in",
        "for tracing programs, the function or tracepoint has fewer arguments than that",
    ),
    _row(
        "context-moved",
        r"dereference of modified (?:ctx|\S+) ptr|variable ctx access|ctx access .* disallowed",
        "the context may only be accessed at constant offsets",
        "keep the compiler from computing an address first: make the index a constant, or unroll",
    ),
    _row(
        "kernel-write",
        r"only read is supported|cannot write into|can't be modified|is read-only|"
        r"cannot access .* write",
        "this memory of the kernel may be read only",
        "a few members may be written in struct_ops and some contexts; nothing else",
    ),
    _row(
        "map-write",
        r"write into map forbidden|read from map forbidden|cannot be written",
        "the map forbids that to programs (BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, or .rodata)",
        "constants are set before loading: obj.variables[...].value or spec.rodata",
    ),
    _row(
        "struct-bounds",
        r"access beyond (?:the end of member \S+ .*|struct (?P<type>\S+) at off (?P<off>\d+))|"
        r"access beyond",
        "the access lies behind the end of the struct that the kernel has",
        "CO-RE moves members: is the struct marked preserve_access_index?",
    ),
    _row(
        "reference-leak",
        r"Unreleased reference(?: id=\d+ alloc_insn=(?P<insn>\d+))?|would lead to reference leak|"
        r"reference has not been acquired before|unreleased",
        "what was acquired has to be given back on every path: ring buffer records submitted or "
        "discarded, sockets and tasks released, locks unlocked",
        "bpf_ringbuf_submit() or bpf_ringbuf_discard(), bpf_sk_release(), bpf_task_release() "
        "before each return",
    ),
    _row(
        "return-value",
        r"exit the register R0 has .* should have been|R0 has (?:value|unknown).* should have been",
        "the kernel gives meaning to what this type of program returns, and takes no other numbers",
        "return a constant of the range that is named",
    ),
    _row(
        "pointer-arithmetic",
        r"bitwise operator .* on pointer|pointer (?:arithmetic|comparison|operation|[-+|&^]=) .*"
        r"prohibited|pointer comparison prohibited|tried to (?:subtract|multiply|add) ",
        "this cannot be done with a pointer: to most only bounded numbers may be added",
        "do the arithmetic with an index, and add that to the pointer",
        "a u32 variable cuts a pointer: use u64 or void *",
    ),
    _row(
        "pointer-leak",
        r"leaks addr|pointer leak|leak pointer",
        "without CAP_PERFMON addresses of the kernel may not get out",
        "do not store or return pointers; or load with CAP_PERFMON",
    ),
    _row(
        "lock",
        r"bpf_spin_(?:un)?lock|bpf_res_spin|holding lock|is missing|inside bpf_spin_lock|"
        r"function calls are not allowed while holding",
        "between bpf_spin_lock() and bpf_spin_unlock() next to nothing may be called, and every "
        "path has to unlock",
        "prepare before, take the lock, copy, unlock",
    ),
    _row(
        "iterator",
        r"expected an? (?:un)?initialized iter|iter(?:ator)?.* (?:state|should|must)",
        "an open-coded iterator is used before bpf_iter_*_new, after bpf_iter_*_destroy, or is not "
        "destroyed",
        "use the macro bpf_for_each(), which does all of it",
    ),
    _row(
        "dynptr",
        r"dynptr",
        "a dynptr is used where it has no value, a value already, or is of another kind",
        "create it once, test for errors; submit or discard those of ring buffers on every path",
    ),
    _row(
        "arguments-global",
        r"Caller passes invalid args into func#\d+|arg#(?P<n>\d+) .*|Arg#(?P<n2>\d+) .*",
        "a global function is verified by its prototype alone, and this argument does not fit that "
        "(a pointer may be NULL there, a number is anything)",
        "test inside the function, tag the argument (__arg_nonnull, __arg_ctx), or make it static",
    ),
    _row(
        "misaligned",
        r"misaligned (?P<what>\S+) access",
        "the access is not aligned to its size",
        "align the variable, or read single bytes: members of __packed structs are read so",
    ),
    _row(
        "different-pointers",
        r"same insn cannot be used with different pointers|tried to add from different",
        "two paths come together and the instruction is to work on pointers of different kinds",
        'keep the compiler from merging branches: asm volatile("" ::: "memory") in one of them',
    ),
    _row(
        "kfunc",
        r"calling kernel function (?P<name>\S+) is not allowed|kernel function call|kfunc",
        "this kernel does not let programs of this type call the kfunc",
        "pybpfload features lists kfuncs; ask in C: if (bpf_ksym_exists(function))",
    ),
    _row(
        "unreachable",
        r"unreachable insn (?P<insn>\d+)|last insn is not an exit or jmp|jump out of range|"
        r"jump into the middle|not an exit",
        "the program is not put together well: code that nothing leads to, or that leads nowhere",
        "built with -O2? __builtin_unreachable() and functions that never return leave such code",
    ),
    _row(
        "attach",
        r"attach_btf_id \d+ is not a function|is not a kernel function|FENTRY/FEXIT|"
        r"attach to unsupported member|can't attach|Cannot find|could not find",
        "the program cannot be attached to what it names",
        "pybpfload probes PATTERN shows what can be traced",
    ),
    _row(
        "jit",
        r"non-JITed programs|JIT",
        "this needs the JIT compiler",
        "sysctl net.core.bpf_jit_enable=1; some machines' JIT compilers cannot do it",
    ),
    _row(
        "instruction",
        r"unknown opcode (?P<opcode>\w+)|uses reserved fields|invalid BPF_\w+",
        "the kernel does not know this instruction, or a field of it",
        "it may be from a newer instruction set: compile with -mcpu=v3, -mcpu=v2 for old kernels",
    ),
)


def find(reasons: Sequence[str]) -> Cause | None:
    """The cause that fits what the verifier said.

    Args:
        reasons: Its sentences.

    Returns:
        The cause, with what the sentence names filled in, or ``None``.
    """
    for pattern, cause in CAUSES:
        for line in reversed(reasons):
            if found := pattern.search(line):
                # A group that several branches have is told apart by a number behind its name.
                known = {k.rstrip("0123456789"): v for k, v in found.groupdict("").items() if v}
                return Cause(cause.name, _fill(cause.why, known), cause.remedies)
    return None


def _fill(text: str, known: dict[str, str]) -> str:
    return _GROUP.sub(lambda found: known.get(found[1], "it"), text)
