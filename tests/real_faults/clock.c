/* A wall clock that is off by CLOCK_OFFSET_S seconds, as a library to preload. The monotonic clock stays as it is.
 *
 * libfaketime crashes a program that has an allocator of its own linked in. This one allocates nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long offset_s(void)
{
	const char *text = getenv("CLOCK_OFFSET_S");
	return text == NULL ? 0 : strtol(text, NULL, 10);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int)syscall(SYS_clock_gettime, clock, now);
	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += offset_s();
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec time;
	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &time) != 0)
		return -1;
	now->tv_sec = time.tv_sec;
	now->tv_usec = time.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec time;
	if (clock_gettime(CLOCK_REALTIME, &time) != 0)
		return -1;
	if (now != NULL)
		*now = time.tv_sec;
	return time.tv_sec;
}

/* librdkafka waits until a moment of the wall clock, the C library by the kernel's. Without this, a clock that is behind
 * makes every wait end at once, and one that is ahead makes it longer by its offset. The C library's cnd_t and mtx_t are
 * its pthread_cond_t and pthread_mutex_t. */
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until)
{
	struct timespec moment = *until;
	moment.tv_sec -= offset_s();
	int result = pthread_cond_clockwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, CLOCK_REALTIME, &moment);
	if (result == 0)
		return thrd_success;
	return result == ETIMEDOUT ? thrd_timedout : thrd_error;
}
