/*
 * tcplife: TCP connections as they are made and when they end, how long they lived and what they
 * carried.
 *
 * The kernel changes a socket's state in a system call of its owner, or while it handles a packet,
 * whoever runs then. So the owner is known from when it connects (SYN_SENT); for a connection that
 * was accepted, from when it is closed on this side (FIN_WAIT1, LAST_ACK).
 *
 * `target_tgid`: connections of this process only; 0: all. Kernels: 5.8 and later.
 */
#include "pybpf.h"

LICENSE("GPL");

enum { AF_INET = 2, AF_INET6 = 10, IPPROTO_TCP = 6 };

/* states of a connection, by the kernel's numbers */
enum {
	ESTABLISHED = 1,
	SYN_SENT = 2,
	FIN_WAIT1 = 4,
	CLOSE = 7,
	LAST_ACK = 9,
};

struct in6_addr {
	u8 bytes[16];
};

struct sock_common {
	u16 skc_family;
	u32 skc_rcv_saddr;
	u32 skc_daddr;
	u16 skc_dport; /* big endian */
	struct in6_addr skc_v6_rcv_saddr;
	struct in6_addr skc_v6_daddr;
} __core;

struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
} __core;

struct inet_sock {
	u16 inet_sport; /* big endian; skc_num is already 0 when a connection is closed */
} __core;

struct tcp_sock {
	u64 bytes_received;
	u64 bytes_acked;
} __core;

enum event_kind {
	EVENT_CONNECT = 1,
	EVENT_CLOSE = 2,
};

struct event {
	enum event_kind kind;
	u32 tgid; /* 0: not known */
	char comm[16];
	u64 duration_ns; /* of connecting, or of the connection's life */
	u64 sent; /* bytes, as acknowledged */
	u64 received;
	u16 family;
	u16 local_port;
	u16 remote_port;
	u8 local[16]; /* the first four for IPv4 */
	u8 remote[16];
};

struct life {
	u64 begin; /* ns */
	u32 tgid;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, u64); /* address of the socket */
	__type(value, struct life);
} lives SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps") __record(event);

EXPORT(struct event, event);

const volatile u32 target_tgid = 0;

static __always_inline u16 ntohs(u16 value)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap16(value) : value;
}

static __always_inline void owner_is_here(struct life *life)
{
	life->tgid = current_tgid();
	bpf_get_current_comm(life->comm, sizeof(life->comm));
}

static __always_inline void send(struct sock *sk, struct life *life, enum event_kind kind)
{
	struct inet_sock *inet = (struct inet_sock *)sk;
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	struct sock_common *common = &sk->__sk_common;
	struct event *event;

	if (target_tgid && life->tgid != target_tgid)
		return;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->tgid = life->tgid;
	__builtin_memcpy(event->comm, life->comm, sizeof(event->comm));
	event->duration_ns = bpf_ktime_get_ns() - life->begin;
	event->sent = core_read(tcp, bytes_acked);
	event->received = core_read(tcp, bytes_received);
	event->family = core_read(common, skc_family);
	event->local_port = ntohs(core_read(inet, inet_sport));
	event->remote_port = ntohs(core_read(common, skc_dport));
	if (event->family == AF_INET) {
		*(u32 *)event->local = core_read(common, skc_rcv_saddr);
		*(u32 *)event->remote = core_read(common, skc_daddr);
	} else {
		*(struct in6_addr *)event->local = core_read(common, skc_v6_rcv_saddr);
		*(struct in6_addr *)event->remote = core_read(common, skc_v6_daddr);
	}
	bpf_ringbuf_submit(event, 0);
}

/* arguments: socket, state before, state now */
SEC("tp_btf/inet_sock_set_state")
int on_state(u64 *ctx)
{
	struct sock *sk = arg(ctx, 0, struct sock *);
	int state = arg(ctx, 2, int);
	u64 key = (u64)sk;
	struct life born = {}, *life;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	life = bpf_map_lookup_elem(&lives, &key);
	if (state == SYN_SENT || (state == ESTABLISHED && !life)) {
		born.begin = bpf_ktime_get_ns();
		if (state == SYN_SENT)
			owner_is_here(&born);
		bpf_map_update_elem(&lives, &key, &born, BPF_ANY);
	} else if (life && state == ESTABLISHED) {
		send(sk, life, EVENT_CONNECT);
		life->begin = bpf_ktime_get_ns();
	} else if (life && (state == FIN_WAIT1 || state == LAST_ACK)) {
		if (!life->tgid)
			owner_is_here(life);
	} else if (life && state == CLOSE) {
		send(sk, life, EVENT_CLOSE);
		bpf_map_delete_elem(&lives, &key);
	}
	return 0;
}
