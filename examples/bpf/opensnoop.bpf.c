/*
 * opensnoop: which files a process opens, and what comes of it.
 *
 * The name is read when the system call ends: by then the kernel has brought its page into memory.
 * `target_tgid`: this process only; 0: everybody. Kernels: 5.8 and later, with tracefs and
 * CONFIG_FTRACE_SYSCALLS.
 */
#include "pybpf.h"

LICENSE("GPL");

struct trace_event_raw_sys_enter {
	unsigned long args[6];
} __core;

struct trace_event_raw_sys_exit {
	long ret;
} __core;

struct event {
	u32 tgid;
	s32 ret; /* file descriptor, or a negative error */
	char comm[16];
	char filename[256];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, u64); /* thread */
	__type(value, u64); /* address of the name */
} started SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps") __record(event);

EXPORT(struct event, event);

const volatile u32 target_tgid = 0;

static __always_inline int enter(u64 filename)
{
	u64 thread = bpf_get_current_pid_tgid();

	if (!target_tgid || thread >> 32 == target_tgid)
		bpf_map_update_elem(&started, &thread, &filename, BPF_ANY);
	return 0;
}

static __always_inline int leave(struct trace_event_raw_sys_exit *ctx)
{
	u64 thread = bpf_get_current_pid_tgid(), *filename;
	struct event *event;

	filename = bpf_map_lookup_elem(&started, &thread);
	if (!filename)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		event->tgid = thread >> 32;
		event->ret = ctx->ret;
		bpf_get_current_comm(event->comm, sizeof(event->comm));
		event->filename[0] = '\0';
		bpf_probe_read_user_str(event->filename, sizeof(event->filename),
					(const void *)*filename);
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&started, &thread);
	return 0;
}

SEC("tp/syscalls/sys_enter_openat")
int enter_openat(struct trace_event_raw_sys_enter *ctx)
{
	return enter(ctx->args[1]);
}

SEC("tp/syscalls/sys_exit_openat")
int exit_openat(struct trace_event_raw_sys_exit *ctx)
{
	return leave(ctx);
}

SEC("tp/syscalls/sys_enter_openat2")
int enter_openat2(struct trace_event_raw_sys_enter *ctx)
{
	return enter(ctx->args[1]);
}

SEC("tp/syscalls/sys_exit_openat2")
int exit_openat2(struct trace_event_raw_sys_exit *ctx)
{
	return leave(ctx);
}

/* Younger architectures, as arm64 and riscv64, have no open(). */
SEC("?tp/syscalls/sys_enter_open")
int enter_open(struct trace_event_raw_sys_enter *ctx)
{
	return enter(ctx->args[0]);
}

SEC("?tp/syscalls/sys_exit_open")
int exit_open(struct trace_event_raw_sys_exit *ctx)
{
	return leave(ctx);
}
