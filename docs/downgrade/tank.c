#include <stdio.h>
#include <unistd.h>

int limit = 100;

void report(int level)
{
	printf("level %d of %d\n", level, limit);
	fflush(stdout);
}

int main(void)
{
	for (int level = 1;; level++) {
		report(level % limit);
		sleep(1);
	}
}
