/*
 * How far a long verb is, on a terminal: a bar with rate and time left, redrawn some times a second. And what a signal does to it:
 * the verb ends in order, and its half-written target is removed.
 */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/clock.h"
#include "base/str.h"
#include "cli/image.h"

#define BAR_WIDTH   30u
#define REDRAW_NSEC (200 * NSEC_PER_MSEC)

/* Blocked, so that nothing but looking at it is interrupted. */
void image_catch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

bool image_interrupted(void)
{
	sigset_t set;

	sigpending(&set);
	return sigismember(&set, SIGINT) == 1 || sigismember(&set, SIGTERM) == 1 ||
	       sigismember(&set, SIGHUP) == 1;
}

static void draw(const struct image_progress *p, uint64_t now)
{
	uint64_t done = MIN(p->done, p->total);
	double part = p->total ? (double)done / (double)p->total : 1;
	double seconds = (double)(now - p->started_ns) / (double)NSEC_PER_SEC;
	double rate = seconds > 0 ? (double)done / seconds : 0;
	unsigned left = rate > 0 ? (unsigned)((double)(p->total - done) / rate) : 0;
	char bar[BAR_WIDTH + 1];
	char speed[32];

	for (unsigned i = 0; i < BAR_WIDTH; i++)
		bar[i] = (double)i < part * BAR_WIDTH ? '#' : '.';
	bar[BAR_WIDTH] = '\0';
	format_size((uint64_t)rate, speed, sizeof(speed));
	fprintf(stderr, "\r%5.1f%% [%s] %s/s, %u:%02u left   ", part * 100, bar, speed, left / 60,
		left % 60);
	fflush(stderr);
}

void image_progress_begin(struct image_progress *p, const struct image_common *common,
			  uint64_t total)
{
	*p = (struct image_progress){.total = total, .started_ns = clock_monotonic_ns()};
	p->drawn_ns = p->started_ns;
	p->shown = !common->quiet && !common->json && (common->progress || isatty(STDERR_FILENO));
}

void image_progress_add(struct image_progress *p, uint64_t bytes)
{
	uint64_t now;

	p->done += bytes;
	if (!p->shown)
		return;
	now = clock_monotonic_ns();
	if (now - p->drawn_ns < REDRAW_NSEC)
		return;
	p->drawn_ns = now;
	draw(p, now);
}

void image_progress_end(struct image_progress *p)
{
	if (!p->shown)
		return;
	draw(p, clock_monotonic_ns());
	fputc('\n', stderr);
}
