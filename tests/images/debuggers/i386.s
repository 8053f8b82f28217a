# A static 32-bit program: write(1, "worked\n", 7), then exit(0), by int 0x80.
        .globl  _start
_start: movl    $4, %eax
        movl    $1, %ebx
        movl    $text, %ecx
        movl    $7, %edx
        int     $0x80
        movl    $1, %eax
        xorl    %ebx, %ebx
        int     $0x80
        .section .rodata
text:   .ascii  "worked\n"
