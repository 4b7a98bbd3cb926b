/*
 * oomkill: which process the kernel kills because memory ran out, and who asked for more then.
 *
 * Kernels: 5.8 and later, with tracefs. The tracepoint tells the victim's name and size since 6.9,
 * and in later releases of 6.1.
 */
#include "pybpf.h"

LICENSE("GPL");

struct trace_event_raw_mark_victim {
	int pid;
	u32 __data_loc_comm;
	unsigned long anon_rss; /* KiB */
} __core;

struct event {
	u32 tgid; /* who asked for memory */
	u32 victim_tgid;
	u64 anonymous_kib; /* memory of the victim; 0: not known */
	char comm[16];
	char victim_comm[16]; /* "": not known */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps") __record(event);

EXPORT(struct event, event);

SEC("tp/oom/mark_victim")
int on_victim(struct trace_event_raw_mark_victim *ctx)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 0;
	event->tgid = current_tgid();
	event->victim_tgid = ctx->pid;
	event->anonymous_kib = 0;
	event->victim_comm[0] = '\0';
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	if (field_exists(ctx->anon_rss)) {
		event->anonymous_kib = ctx->anon_rss;
		/* the lower half of __data_loc is where in the record the text begins */
		bpf_probe_read_kernel_str(event->victim_comm, sizeof(event->victim_comm),
					  (void *)ctx + (u16)ctx->__data_loc_comm);
	}
	bpf_ringbuf_submit(event, 0);
	return 0;
}
