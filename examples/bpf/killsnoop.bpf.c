/*
 * killsnoop: who sends which signal to whom.
 *
 * `target_tgid`: only signals that this process sends or gets; 0: all. `target_signal`: only this
 * one; 0: all. Kernels: 5.8 and later.
 */
#include "pybpf.h"

LICENSE("GPL");

struct task_struct {
	int tgid;
	char comm[16];
} __core;

/* What became of a signal: TRACE_SIGNAL_* of the kernel, whose numbers these are. */
enum outcome {
	DELIVERED = 0,
	IGNORED = 1,
	ALREADY_PENDING = 2,
	OVERFLOW_FAIL = 3,
	LOSE_INFO = 4,
};

struct event {
	u32 signal;
	u32 tgid; /* sender: the process that ran when the signal was sent */
	u32 target_tgid;
	enum outcome outcome;
	char comm[16];
	char target_comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps") __record(event);

EXPORT(struct event, event);

const volatile u32 target_tgid = 0;
const volatile u32 target_signal = 0;

/* arguments: signal, siginfo, task, whether to the whole process, outcome */
SEC("tp_btf/signal_generate")
int on_signal(u64 *ctx)
{
	struct task_struct *task = arg(ctx, 2, struct task_struct *);
	u32 signal = arg(ctx, 0, int), sender = current_tgid(), target = task->tgid;
	struct event *event;

	if (target_tgid && sender != target_tgid && target != target_tgid)
		return 0;
	if (target_signal && signal != target_signal)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->signal = signal;
	event->tgid = sender;
	event->target_tgid = target;
	event->outcome = arg(ctx, 4, int);
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	core_read_str(event->target_comm, task, comm);
	bpf_ringbuf_submit(event, 0);
	return 0;
}
