/* Leaks one block, for AddressSanitizer's leak check at exit. */

#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    char *volatile block = malloc(100);
    block[0] = 1;
    block = NULL;
    puts("worked");
}
