#include <stdio.h>
#include <unistd.h>

static int orders;

int total(int pieces, int price)
{
	return pieces + price;
}

void report(int amount)
{
	printf("order %d: %d cents\n", ++orders, amount);
	fflush(stdout);
}

int main(void)
{
	for (;;) {
		report(total(3, 250));
		sleep(1);
	}
}
