/*
 * For guests on arm64, without any library: reads blocks of a disk past the guest's cache for some time, one after the
 * other or at random places, and prints the bytes and the microseconds.
 *
 *   disk-read DEVICE sequential|random BLOCK_BYTES MILLISECONDS
 */
typedef unsigned long u64;

enum { OPENAT = 56, LSEEK = 62, WRITE = 64, PREAD64 = 67, EXIT_GROUP = 94, CLOCK_GETTIME = 113 };
enum { O_DIRECT = 0x10000, SEEK_END = 2, CLOCK_MONOTONIC = 1, MOST = 1 << 20 };

static char buffer[MOST] __attribute__((aligned(4096)));

static long call(long number, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory", "cc");
	return x0;
}

static void end(long status)
{
	for (;;)
		call(EXIT_GROUP, status, 0, 0, 0);
}

static u64 microseconds(void)
{
	long now[2];

	call(CLOCK_GETTIME, CLOCK_MONOTONIC, (long)now, 0, 0);
	return now[0] * 1000000ul + now[1] / 1000;
}

static u64 number(const char *text)
{
	u64 value = 0;

	while (*text >= '0' && *text <= '9')
		value = value * 10 + (*text++ - '0');
	return value;
}

static void print(u64 value, char last)
{
	char text[24];
	int at = sizeof(text);

	text[--at] = last;
	do
		text[--at] = '0' + value % 10;
	while ((value /= 10) > 0);
	call(WRITE, 1, (long)(text + at), sizeof(text) - at, 0);
}

__attribute__((used)) void run(long *stack)
{
	char **arguments = (char **)(stack + 1);
	u64 bytes = 0, places, block, start, now, limit, sequence = 0, random = 1;
	long disk;

	if (stack[0] != 5)
		end(2);
	disk = call(OPENAT, -100, (long)arguments[1], O_DIRECT, 0);
	block = number(arguments[3]);
	limit = number(arguments[4]) * 1000;
	if (disk < 0 || block < 512 || block > MOST)
		end(3);
	places = call(LSEEK, disk, 0, SEEK_END, 0) / block;
	start = now = microseconds();
	while (now - start < limit) {
		u64 place = sequence++;

		if (arguments[2][0] == 'r') {
			/* xorshift64 */
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			place = random;
		}
		if (call(PREAD64, disk, (long)buffer, block, place % places * block) != (long)block)
			end(4);
		bytes += block;
		now = microseconds();
	}
	print(bytes, ' ');
	print(now - start, '\n');
	end(0);
}

__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl run\n");
