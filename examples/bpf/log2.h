/*
 * log2.h - slots of a histogram whose buckets double: slot 0 for 0 and 1, slot n for 2^n to
 * 2^(n+1)-1, the last one also for what is above.
 */
#ifndef LOG2_H
#define LOG2_H

#define SLOTS 32

static __always_inline u32 log2_slot(u64 value)
{
	u32 slot = 0;

	for (int shift = 32; shift; shift >>= 1) {
		if (value >> shift) {
			value >>= shift;
			slot += shift;
		}
	}
	return slot < SLOTS ? slot : SLOTS - 1;
}

#endif /* LOG2_H */
