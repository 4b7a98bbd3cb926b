/*
 * syscount: which system calls are made how often, and the time they take.
 *
 * Their names are the kernel's own: the table of system calls leads to functions, which have
 * symbols. `target_tgid`: of this process only; 0: of all. Kernels: 5.5 and later.
 */
#include "pybpf.h"

LICENSE("GPL");

extern const void sys_call_table __ksym __weak; /* data: needs CONFIG_KALLSYMS_ALL */

struct call {
	u64 begin; /* ns */
	u32 number;
};

struct total {
	u64 calls;
	u64 time_ns;
	u64 function; /* its address in the kernel; 0: not known */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u64); /* thread */
	__type(value, struct call);
} started SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32); /* number of the system call */
	__type(value, struct total);
} totals SEC(".maps");

const volatile u32 target_tgid = 0;

/* arguments: registers, number */
SEC("tp_btf/sys_enter")
int on_enter(u64 *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call call = {};

	if (target_tgid && thread >> 32 != target_tgid)
		return 0;
	call.begin = bpf_ktime_get_ns();
	call.number = ctx[1];
	bpf_map_update_elem(&started, &thread, &call, BPF_ANY);
	return 0;
}

SEC("tp_btf/sys_exit")
int on_exit(u64 *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(&started, &thread);
	struct total first = {}, *total;
	const void **table = (const void **)&sys_call_table;

	if (!call)
		return 0;
	total = bpf_map_lookup_elem(&totals, &call->number);
	if (!total) {
		if (table)
			bpf_probe_read_kernel(&first.function, sizeof(first.function),
					      table + call->number);
		bpf_map_update_elem(&totals, &call->number, &first, BPF_NOEXIST);
		total = bpf_map_lookup_elem(&totals, &call->number);
	}
	if (total) {
		add(&total->calls, 1);
		add(&total->time_ns, bpf_ktime_get_ns() - call->begin);
	}
	bpf_map_delete_elem(&started, &thread);
	return 0;
}
