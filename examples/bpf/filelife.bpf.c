/*
 * filelife: files that were created and removed while it ran, and how long they lived.
 *
 * No tracepoint tells of either. The two functions that ask security modules for their consent
 * know the directory entry, and their arguments have not changed since BPF programs can be
 * attached to them. `target_tgid`: files that this process removes; 0: everybody.
 * Kernels: 5.8 and later with the BPF JIT and CONFIG_SECURITY.
 */
#include "pybpf.h"

LICENSE("GPL");

struct qstr {
	const unsigned char *name;
} __core;

struct dentry {
	struct qstr d_name;
} __core;

struct event {
	u32 tgid; /* who removes it */
	char comm[16];
	u64 age_ns;
	char name[256]; /* without its folder */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* most files are not removed */
	__uint(max_entries, 65536);
	__type(key, u64); /* address of the directory entry */
	__type(value, u64); /* ns */
} created SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps") __record(event);

EXPORT(struct event, event);

const volatile u32 target_tgid = 0;

/* arguments: folder, directory entry, mode; result */
SEC("fexit/security_inode_create")
int on_create(u64 *ctx)
{
	u64 dentry = ctx[1], now = bpf_ktime_get_ns();

	if (!arg(ctx, 3, int))
		bpf_map_update_elem(&created, &dentry, &now, BPF_ANY);
	return 0;
}

/* arguments: folder, directory entry; result */
SEC("fexit/security_inode_unlink")
int on_unlink(u64 *ctx)
{
	struct dentry *dentry = arg(ctx, 1, struct dentry *);
	u64 key = ctx[1], *since;
	struct event *event;

	if (arg(ctx, 2, int) || (target_tgid && current_tgid() != target_tgid))
		return 0;
	since = bpf_map_lookup_elem(&created, &key);
	if (!since)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (event) {
		event->tgid = current_tgid();
		bpf_get_current_comm(event->comm, sizeof(event->comm));
		event->age_ns = bpf_ktime_get_ns() - *since;
		event->name[0] = '\0';
		bpf_probe_read_kernel_str(event->name, sizeof(event->name), dentry->d_name.name);
		bpf_ringbuf_submit(event, 0);
	}
	bpf_map_delete_elem(&created, &key);
	return 0;
}
