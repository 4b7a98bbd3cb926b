"""What the verifier says when it refuses a program, what that means, and what helps.

One row for each kind of mistake: its name, a pattern of the verifier's own sentences (Linux 5.10 to
7.2), what they mean, and remedies, the likeliest first. The first row that fits is taken, so
special ones stand before general ones. Groups of a pattern may be used in the meaning as
``{name}``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SENTENCES"]

_BOUND = (
    "test it right before the access, in the same register and unsigned: if (i >= N) return 0;",
    "or mask it: i &= N - 1, with N a power of two",
    'if the compiler tests one copy and uses another: asm volatile("" : "+r"(i)) before the test',
)
_OLD_KERNEL = "pybpfload features lists what this kernel has"


def _row(name: str, pattern: str, why: str, *remedies: str) -> tuple[str, str, str, Sequence[str]]:
    return name, pattern, why, remedies


SENTENCES = (
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
        "critical-section",
        r"cannot be used inside (?P<region>\w+)-ed region|irq flag|restore irq state|"
        r"(?:rcu_read|preempt|irq)\w* is missing|unmatched rcu read unlock",
        "what bpf_rcu_read_lock(), bpf_preempt_disable() or bpf_local_irq_save() began has to be "
        "ended on every path, in reverse order, before the program returns, throws or calls the "
        "next one",
        "end it before each return, bpf_throw() and bpf_tail_call()",
        "irq flags are variables of their own on the stack: save into one, restore from it",
    ),
    _row(
        "rcu",
        r"requires RCU critical section|expected an RCU CS|must be a rcu pointer",
        "this is only safe while RCU keeps the object: between bpf_rcu_read_lock() and "
        "bpf_rcu_read_unlock(), which programs that cannot sleep need not call",
        "take the RCU lock around it, to the last use of what it returned",
        "or use a program that is not sleepable",
    ),
    _row(
        "exception",
        r"exception c(?:all)?b(?:ack)?\b|bpf_throw\b.* cannot be called|bpf_throw is unsupported",
        "exceptions have limits: a program has one callback for them, which takes one number and "
        "returns one, is called by nobody else, and does not throw; nor do other callbacks",
        "look at what the callback takes and returns, and from where bpf_throw() is reached",
    ),
    _row(
        "jump-table",
        r"jump table|PTR_TO_INSN|insn_array",
        "a jump through a table (gotox) needs the address of an instruction of the same function, "
        "loaded as 8 bytes from a map of type insn_array",
        "compilers make such code from switch; -fno-jump-tables has them leave it",
    ),
    _row(
        "map-field",
        r"(?P<reg>R\d+) doesn't (?:point to (?:a )?map value|have constant offset)|"
        r"doesn't match map pointer|isn't map pointer|off \d+ doesn't point to 'struct|"
        r"(?P<field>bpf_(?:\w*spin_lock|timer|wq|task_work)) cannot be accessed directly",
        "timers, work queues and locks are members of map values (locks also of allocated "
        "objects), at the place that the map's BTF tells, and are touched by their helpers alone",
        "give the address of the member itself, in a value that was looked up in the same map",
    ),
    _row(
        "graph",
        r"non-owning|rbtree_|bpf_list_(?!head)|bpf_rb_(?!root)|pointer to allocated object|"
        r"\bbpf_(?:percpu_)?obj_",
        "nodes of lists and trees are owned by one: the program (bpf_obj_new) or the collection "
        "they were added to, and belong to the type that its __contains() names",
        "what was added may be read while the lock is held; remove it to own it again",
        "drop what is owned (bpf_obj_drop) on every path",
    ),
    _row(
        "kptr",
        r"kptr access|referenced kptr|kptr cannot|(?:store to|point to) [ku]ptr",
        "pointers to kernel objects in map values are exchanged or loaded whole, at the offset "
        "that the map's BTF tells, and never written as numbers",
        "put in and take out by bpf_kptr_xchg(); what comes back may be NULL and has an owner",
        "load to look at it, within bpf_rcu_read_lock(), and test for NULL",
    ),
    _row(
        "map-type",
        r"cannot pass map_type (?P<type>\d+) into func (?P<name>\w+)|expected prog array map|"
        r"cannot update sockmap",
        "this helper does not work on maps of this type, or not in programs of this type",
        "pybpfload features lists map types and helpers; the helper's page in bpf-helpers(7) tells "
        "which go together",
    ),
    _row(
        "map-reference",
        r"fd (?P<fd>-?\d+) is not pointing to valid bpf_map",
        "the instruction is to refer to a map, and {fd} is not the descriptor of one",
        'let the loader put it in: &map of a map in a SEC(".maps") section',
    ),
    _row(
        "compiler-trap",
        r"unexpected __bpf_trap",
        "the compiler found that the code can only get here by undefined behaviour, such as the "
        "use of a variable without a value, and left a trap",
        "build with -Wall -Wuninitialized; give every variable a value",
    ),
    _row(
        "division",
        r"div by zero",
        "a division by the constant 0",
        "divide by something else; divisors that are not constant may be 0: the result is 0 then",
    ),
    _row(
        "frame-pointer",
        r"frame pointer is read only|(?P<reg>R1[1-9]) is invalid",
        "r0 to r9 may be written; r10 is the frame pointer, and there are no others",
        "use another register; compilers never do this",
    ),
    _row(
        "atomic",
        r"BPF_ATOMIC \w+ (?:into|from) (?P<reg>R\d+) (?P<type>\w+) is not allowed",
        "atomic operations work on map values, the stack and allocated memory, not on {type}",
        "copy the value, or keep it in a map",
    ),
    _row(
        "constant-argument",
        r"must be a known constant|(?P<reg>R\d+) doesn't point to a const string|"
        r"is not a const|get_local_storage\(\) doesn't support non-zero flags",
        "this argument has to be known when the program is verified: a constant number, or a "
        "string in .rodata",
        'write the number itself; static const char format[] = "..."; for strings',
    ),
    _row(
        "zero-size",
        r"invalid zero-sized read",
        "the size may be 0, which this helper does not take",
        "test it: if (size == 0 || size > MAX) return 0; or keep the compiler from dropping that "
        'test: asm volatile("" : "+r"(size))',
    ),
    _row(
        "call-depth",
        r"the call stack of (?P<n>\d+) frames is too deep|recursive call",
        "functions call each other deeper than the verifier follows (8 frames; more in newer "
        "kernels), or themselves",
        "let the compiler inline (static __always_inline), or use a loop",
        "tail calls start anew",
    ),
    _row(
        "buffer-bounds",
        r"invalid (?:negative|variable) (?:\w+ )*buffer offset|invalid access to flow keys|"
        r"invalid (?P<type>\w*sock\w*) access",
        "there is nothing at this offset that may be read or written, or it is not known",
        "use a constant offset inside of the struct or buffer; bpf.h has the struct",
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
        r"value (?P<value>-?\d+) makes .* be out of bounds",
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
        r"(?:variable-offset )?stack (?:type )?R\d+ off=|"
        r"invalid variable-offset \w+ (?:from|to) stack",
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
        r"program is too (?:complex|large)|exceeded complexity limit|"
        r"The sequence of \d+ jumps is too complex|too many (?:states|jumps)",
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
        "argument-type",
        r"(?P<reg>R\d+) (?:pointer type \S+ \S+ must point to|expected for |expected pointer to "
        r"(?P<expected>STRUCT \w+))",
        "{reg} is an argument of a call, and what it points to is not what the call takes",
        "look at the call's prototype: pybpfload btf c --type NAME shows it",
    ),
    _row(
        "trusted",
        r"must be (?:a )?(?:referenced|trusted|rcu)|is not a trusted|trusted arg|"
        r"expects refcounted|expects referenced|ref_obj_id",
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
        r"dereference of modified ctx ptr|variable ctx access|ctx access .* disallowed|"
        r"negative offset ctx ptr|modified ctx ptr",
        "the context may only be accessed at constant offsets",
        "keep the compiler from computing an address first: make the index a constant, or unroll",
    ),
    _row(
        "pointer-moved",
        r"dereference of modified \S+ ptr|must have zero offset",
        "a pointer to a kernel object is wanted as it came: nothing may have been added to it",
        "give the pointer that was acquired; read members from it, do not point into it",
    ),
    _row(
        "kernel-write",
        r"only read (?:is supported|from \S+ is supported)|cannot write into|can't be modified|"
        r"is read-only|cannot access .* write|may write into memory",
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
        r"access beyond|invalid negative access|cannot access ptr member",
        "the access lies behind the end of the struct that the kernel has",
        "CO-RE moves members: is the struct marked preserve_access_index?",
    ),
    _row(
        "reference-leak",
        r"(?:Unreleased|Leaking) reference(?: id=\d+ alloc_insn=(?P<insn>\d+))?|"
        r"would lead to reference leak|argument cannot tail call|"
        r"reference has not been acquired before|unreleased",
        "what was acquired has to be given back on every path: ring buffer records submitted or "
        "discarded, sockets and tasks released, locks unlocked",
        "bpf_ringbuf_submit() or bpf_ringbuf_discard(), bpf_sk_release(), bpf_task_release() "
        "before each return",
    ),
    _row(
        "return-value",
        r"the register R\d has .* should have been|R0 has (?:value|unknown).* should have been|"
        r"R0 is not a known value|return value not void or scalar|functions that return 'int'",
        "the kernel gives meaning to what this type of program or callback returns (or sets by "
        "bpf_set_retval or bpf_throw), and takes no other numbers, nor pointers",
        "return a constant of the range that is named",
        "a number that is computed has to be tested to lie in the range before",
    ),
    _row(
        "pointer-arithmetic",
        r"bitwise operator .* on pointer|pointer (?:arithmetic|comparison|operation|[-+|&^]=) .*"
        r"prohibited|pointer comparison prohibited|tried to (?:subtract|multiply|add) |"
        r"subtraction from stack pointer",
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
        r"spin_\{lock|function calls are not allowed while holding|same lock again|"
        r"unlock of different lock|without taking a lock",
        "between bpf_spin_lock() and bpf_spin_unlock() next to nothing may be called, and every "
        "path has to unlock",
        "prepare before, take the lock, copy, unlock",
    ),
    _row(
        "iterator",
        r"expected (?:an )?(?:un)?initialized iter|expected pointer to an iterator|"
        r"iter(?:ator)?.* (?:state|should|must)",
        "an open-coded iterator is used before bpf_iter_*_new, after bpf_iter_*_destroy, or is not "
        "destroyed",
        "use the macro bpf_for_each(), which does all of it",
    ),
    _row(
        "kfunc",
        r"calling kernel function (?P<name>\S+) is not allowed|kernel function call|kfunc",
        "this kernel does not let programs of this type call the kfunc",
        "pybpfload features lists kfuncs; ask in C: if (bpf_ksym_exists(function))",
    ),
    _row(
        "dynptr",
        r"dynptr|DYNPTR",
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
        "unreachable",
        r"unreachable insn (?P<insn>\d+)|last insn is not an exit or jmp|jump out of range|"
        r"jump into the middle|not an exit",
        "the program is not put together well: code that nothing leads to, or that leads nowhere",
        "built with -O2? __builtin_unreachable() and functions that never return leave such code",
    ),
    _row(
        "attach",
        r"attach_btf_id \d+ is not a function|is not a kernel function|FENTRY/FEXIT|"
        r"attach to unsupported member|can't attach|cannot attach|Cannot find|could not find|"
        r"points to disabled hook",
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
