/*
 * offcputime: where threads wait, and how long: in which call, of user space and of the kernel.
 *
 * When a thread leaves its CPU, its stacks are taken; when it is back, the time between is added to
 * them. `target_tgid`: threads of this process only; 0: all. Kernels: 5.5 and later.
 */
#include "pybpf.h"

LICENSE("GPL");

enum { BPF_F_USER_STACK = 1 << 8 };

struct task_struct {
	int pid;
	int tgid;
} __core;

struct stack_key {
	u32 tgid;
	s32 user_stack; /* key in `stacks`, or a negative error */
	s32 kernel_stack;
	char comm[16];
};

struct pause {
	u64 begin; /* ns */
	struct stack_key where;
};

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(u32));
	__uint(value_size, 127 * sizeof(u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u32); /* thread */
	__type(value, struct pause);
} pauses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct stack_key);
	__type(value, u64);
} times SEC(".maps"); /* ns */

const volatile u32 target_tgid = 0;

static __always_inline void leaves(void *ctx, struct task_struct *task)
{
	struct pause pause = {};
	u32 pid = task->pid;

	pause.where.tgid = task->tgid;
	if (!pid || (target_tgid && pause.where.tgid != target_tgid)) /* pid 0 is idling */
		return;
	pause.begin = bpf_ktime_get_ns();
	pause.where.user_stack = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	pause.where.kernel_stack = bpf_get_stackid(ctx, &stacks, 0);
	bpf_get_current_comm(pause.where.comm, sizeof(pause.where.comm));
	bpf_map_update_elem(&pauses, &pid, &pause, BPF_ANY);
}

static __always_inline void is_back(struct task_struct *task)
{
	u32 pid = task->pid;
	struct pause *pause = bpf_map_lookup_elem(&pauses, &pid);
	u64 duration, *time;

	if (!pause)
		return;
	duration = bpf_ktime_get_ns() - pause->begin;
	time = bpf_map_lookup_elem(&times, &pause->where);
	if (time)
		add(time, duration);
	else
		bpf_map_update_elem(&times, &pause->where, &duration, BPF_NOEXIST);
	bpf_map_delete_elem(&pauses, &pid);
}

/* arguments: whether preempted, previous thread (the current one still), next thread */
SEC("tp_btf/sched_switch")
int on_switch(u64 *ctx)
{
	leaves(ctx, arg(ctx, 1, struct task_struct *));
	is_back(arg(ctx, 2, struct task_struct *));
	return 0;
}
