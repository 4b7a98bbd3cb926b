/*
 * runqlat: how long threads that could run wait for a CPU.
 *
 * A thread can run from when it is woken up, or from when another one takes its CPU while it had
 * more to do, until it gets a CPU. `target_tgid`: threads of this process only; 0: all.
 * Kernels: 5.5 and later.
 */
#include "pybpf.h"
#include "log2.h"

LICENSE("GPL");

enum { TASK_RUNNING = 0 };

struct task_struct {
	int pid;
	int tgid;
	unsigned int __state; /* since 5.14 */
} __core;

struct task_struct___old {
	volatile long state;
} __core;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u32); /* thread */
	__type(value, u64); /* since when it waits, ns */
} waiting SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, u64);
} slots SEC(".maps"); /* of microseconds */

const volatile u32 target_tgid = 0;

static __always_inline bool is_running(struct task_struct *task)
{
	if (field_exists(task->__state))
		return task->__state == TASK_RUNNING;
	return ((struct task_struct___old *)task)->state == TASK_RUNNING;
}

static __always_inline int begins_to_wait(struct task_struct *task)
{
	u32 pid = task->pid;
	u64 now = bpf_ktime_get_ns();

	if (pid && (!target_tgid || task->tgid == target_tgid)) /* pid 0 is idling */
		bpf_map_update_elem(&waiting, &pid, &now, BPF_ANY);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int on_wakeup(u64 *ctx)
{
	return begins_to_wait(arg(ctx, 0, struct task_struct *));
}

SEC("tp_btf/sched_wakeup_new")
int on_wakeup_new(u64 *ctx)
{
	return begins_to_wait(arg(ctx, 0, struct task_struct *));
}

/* arguments: whether preempted, previous thread, next thread */
SEC("tp_btf/sched_switch")
int on_switch(u64 *ctx)
{
	struct task_struct *previous = arg(ctx, 1, struct task_struct *);
	struct task_struct *next = arg(ctx, 2, struct task_struct *);
	u32 pid = next->pid, slot;
	u64 *since, *count;

	if (is_running(previous))
		begins_to_wait(previous);
	since = bpf_map_lookup_elem(&waiting, &pid);
	if (!since)
		return 0;
	slot = log2_slot((bpf_ktime_get_ns() - *since) / 1000);
	count = bpf_map_lookup_elem(&slots, &slot);
	if (count)
		*count += 1; /* of this CPU, and nothing interrupts this tracepoint */
	bpf_map_delete_elem(&waiting, &pid);
	return 0;
}
