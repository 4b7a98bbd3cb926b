/*
 * The limit that tools/bench compares with: libbpf used from C.
 *
 *     bench_peer_libbpf OBJECT SEQUENCE_OFFSET TARGET_OFFSET
 *
 * Loads fixtures/bench.bpf.c, then does one job for each line "JOB COUNT" of its input and answers with
 * a line of JSON; bench_peer.py says which jobs there are and what the answers mean. The library's
 * functions are declared here, because the package that is unpacked for the tests has no headers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct bpf_object;
struct bpf_program;
struct bpf_map;
struct bpf_link;
struct ring_buffer;
struct perf_buffer;

struct bpf_test_run_opts {
	size_t sz;
	const void *data_in;
	void *data_out;
	uint32_t data_size_in, data_size_out;
	const void *ctx_in;
	void *ctx_out;
	uint32_t ctx_size_in, ctx_size_out;
	uint32_t retval;
	int repeat;
	uint32_t duration, flags, cpu, batch_size;
};

struct bpf_object *bpf_object__open_file(const char *path, const void *opts);
int bpf_object__load(struct bpf_object *object);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *object, const char *name);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *object, const char *name);
int bpf_program__fd(const struct bpf_program *program);
struct bpf_link *bpf_program__attach(const struct bpf_program *program);
int bpf_link__destroy(struct bpf_link *link);
int bpf_map__fd(const struct bpf_map *map);
void *bpf_map__initial_value(const struct bpf_map *map, size_t *size);
int bpf_prog_test_run_opts(int fd, struct bpf_test_run_opts *opts);
const char *libbpf_version_string(void);
struct ring_buffer *ring_buffer__new(int fd, int (*sample)(void *, void *, size_t), void *ctx,
				     const void *opts);
int ring_buffer__consume(struct ring_buffer *ring);
int ring_buffer__poll(struct ring_buffer *ring, int timeout_ms);
struct perf_buffer *perf_buffer__new(int fd, size_t pages, void (*sample)(void *, int, void *, uint32_t),
				     void (*lost)(void *, int, uint64_t), void *ctx, const void *opts);
int perf_buffer__consume(struct perf_buffer *buffer);

struct record {
	uint64_t sequence, time_ns;
	uint32_t pid, cpu;
	int64_t result;
	uint64_t address;
	uint32_t kind, flags;
	char comm[16];
};

enum { PERF_PAGES = 4096 };

static struct bpf_object *object;
static uint64_t *sequence;
static uint32_t *target;
static int64_t events, total;

static void fail(const char *what)
{
	fprintf(stderr, "libbpf peer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void read_record(const struct record *record)
{
	total += record->sequence + record->pid + record->result;
	events++;
}

static int on_record(void *ctx, void *data, size_t size)
{
	read_record(data);
	return 0;
}

static void on_sample(void *ctx, int cpu, void *data, uint32_t size)
{
	read_record(data);
}

static struct bpf_program *program(const char *name)
{
	struct bpf_program *found = bpf_object__find_program_by_name(object, name);

	if (!found)
		fail(name);
	return found;
}

static int map_fd(const char *name)
{
	struct bpf_map *found = bpf_object__find_map_by_name(object, name);

	if (!found)
		fail(name);
	return bpf_map__fd(found);
}

static void fill(const char *name, int count)
{
	char packet[14] = {};
	struct bpf_test_run_opts opts = {
		.sz = sizeof(opts), .data_in = packet, .data_size_in = sizeof(packet), .repeat = count,
	};

	*sequence = 0;
	if (bpf_prog_test_run_opts(bpf_program__fd(program(name)), &opts))
		fail(name);
}

static double drain_ring(struct ring_buffer *ring, int count)
{
	double start;

	fill("fill", count);
	start = now(CLOCK_PROCESS_CPUTIME_ID);
	ring_buffer__consume(ring);
	return now(CLOCK_PROCESS_CPUTIME_ID) - start;
}

static double drain_perf(struct perf_buffer *buffer, int count)
{
	double start;

	fill("fill_perf", count);
	start = now(CLOCK_PROCESS_CPUTIME_ID);
	perf_buffer__consume(buffer);
	return now(CLOCK_PROCESS_CPUTIME_ID) - start;
}

static double first_event(struct ring_buffer *ring)
{
	struct bpf_link *link;
	double start, seconds;

	*target = getpid();
	start = now(CLOCK_MONOTONIC);
	link = bpf_program__attach(program("first"));
	if (!link)
		fail("attach");
	while (!events)
		ring_buffer__poll(ring, 1000);
	seconds = now(CLOCK_MONOTONIC) - start;
	bpf_link__destroy(link);
	*target = 0;
	ring_buffer__consume(ring);
	return seconds;
}

int main(int argc, char **argv)
{
	struct perf_buffer *buffer = NULL;
	struct ring_buffer *ring;
	struct bpf_map *bss;
	char job[32], *data;
	double seconds;
	size_t size;
	int count;

	if (argc != 4)
		return 2;
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object))
		fail(argv[1]);
	bss = bpf_object__find_map_by_name(object, ".bss");
	data = bss ? bpf_map__initial_value(bss, &size) : NULL;
	if (!data)
		fail(".bss");
	sequence = (void *)(data + atoi(argv[2]));
	target = (void *)(data + atoi(argv[3]));
	ring = ring_buffer__new(map_fd("events"), on_record, NULL, NULL);
	if (!ring)
		fail("ring_buffer__new");
	printf("{\"ready\": \"libbpf %s in C\"}\n", libbpf_version_string());
	fflush(stdout);
	while (scanf("%31s %d", job, &count) == 2) {
		events = total = 0;
		if (!strcmp(job, "records")) {
			seconds = drain_ring(ring, count);
		} else if (!strcmp(job, "samples")) {
			if (!buffer)
				buffer = perf_buffer__new(map_fd("samples"), PERF_PAGES, on_sample, NULL,
							  NULL, NULL);
			if (!buffer)
				fail("perf_buffer__new");
			seconds = drain_perf(buffer, count);
		} else if (!strcmp(job, "first")) {
			seconds = first_event(ring);
		} else {
			errno = ENOSYS;
			fail(job);
		}
		printf("{\"seconds\": %.9f, \"events\": %lld, \"total\": %lld}\n", seconds,
		       (long long)events, (long long)total);
		fflush(stdout);
	}
	return 0;
}
