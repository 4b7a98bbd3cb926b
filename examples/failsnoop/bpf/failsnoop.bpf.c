#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct failure {
	u64 lived_ns;
	u32 pid;
	u32 status;	/* as waitpid() gives it */
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} failures SEC(".maps");

struct failure *__export_failure;	/* so that the struct is in the object's BTF */

const volatile u32 parent = 0;	/* children of this process only; 0: all */
u64 dropped;

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct failure *failure;

	if (task->pid != task->tgid || !task->exit_code)
		return 0;	/* a thread, or all is well */
	if (parent && task->real_parent->tgid != parent)
		return 0;
	failure = bpf_ringbuf_reserve(&failures, sizeof(*failure), 0);
	if (!failure) {
		__atomic_fetch_add(&dropped, 1, __ATOMIC_RELAXED);
		return 0;
	}
	failure->lived_ns = bpf_ktime_get_ns() - task->start_time;
	failure->pid = task->tgid;
	failure->status = task->exit_code;
	bpf_probe_read_kernel_str(failure->comm, sizeof(failure->comm), task->comm);
	bpf_ringbuf_submit(failure, 0);
	return 0;
}
