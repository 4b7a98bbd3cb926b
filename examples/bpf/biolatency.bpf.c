/*
 * biolatency: how long block devices take for a request, from its issue to its completion.
 *
 * `target_device`: this device only, as the kernel writes its number (major << 20 | minor); 0: all.
 * Kernels: 5.8 and later, with tracefs.
 */
#include "pybpf.h"
#include "log2.h"

LICENSE("GPL");

struct trace_event_raw_block_rq {
	u32 dev;
	u64 sector;
	unsigned int nr_sector;
} __core;

struct trace_event_raw_block_rq_completion { /* in newer kernels */
	u32 dev;
	u64 sector;
} __core;

struct trace_event_raw_block_rq_complete { /* its old name */
	u32 dev;
	u64 sector;
} __core;

struct request {
	u64 dev;
	u64 sector;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH); /* a few never complete under their first sector */
	__uint(max_entries, 10240);
	__type(key, struct request);
	__type(value, u64); /* ns */
} issued SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, u64);
} slots SEC(".maps"); /* of microseconds */

const volatile u32 target_device = 0;

SEC("tp/block/block_rq_issue")
int on_issue(struct trace_event_raw_block_rq *ctx)
{
	struct request request = { ctx->dev, ctx->sector };
	u64 now = bpf_ktime_get_ns();

	if (target_device && request.dev != target_device)
		return 0;
	if (ctx->nr_sector) /* else it is a flush, which has no place */
		bpf_map_update_elem(&issued, &request, &now, BPF_ANY);
	return 0;
}

SEC("tp/block/block_rq_complete")
int on_complete(void *ctx)
{
	struct trace_event_raw_block_rq_completion *completion = ctx;
	struct trace_event_raw_block_rq_complete *complete = ctx;
	struct request request;
	u64 *since, *count;
	u32 slot;

	/*
	 * Clang makes one load at an offset in a register of plain loads in two branches, which older
	 * kernels do not permit for a context.
	 */
	if (type_exists(struct trace_event_raw_block_rq_completion)) {
		request.dev = core_read(completion, dev);
		request.sector = core_read(completion, sector);
	} else {
		request.dev = core_read(complete, dev);
		request.sector = core_read(complete, sector);
	}
	since = bpf_map_lookup_elem(&issued, &request);
	if (!since)
		return 0;
	slot = log2_slot((bpf_ktime_get_ns() - *since) / 1000);
	count = bpf_map_lookup_elem(&slots, &slot);
	if (count)
		add(count, 1);
	bpf_map_delete_elem(&issued, &request);
	return 0;
}
