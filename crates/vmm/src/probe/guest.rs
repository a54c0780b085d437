//! The small guest's code, and the memory it starts with.
//!
//! The code reports a step that worked by writing its number to port [`REPORT`], and a wrong result by the number
//! with bit 7 set. It lives at [`CODE`] of an identity-mapped megabyte.

#![allow(unsafe_code)]

use std::arch::global_asm;

/// Port on which the guest reports.
pub const REPORT: u16 = 0x500;
/// Set in a report: the step's result was wrong.
pub const WRONG: u8 = 0x80;
/// Where the code is loaded and starts, in bytes.
pub const CODE: u64 = 0x1000;
/// Size of the guest's memory in bytes.
pub const MEMORY: usize = 0x10_0000;

// Tables of 64-bit mode (Intel SDM volume 3, 4.5): one PML4, one PDPT, and page directories of 2 MiB pages for the
// first and the fourth GiB (the local APIC's).
const PML4: u64 = 0x10000;
const PDPT: u64 = 0x11000;
const LOW_GIB: u64 = 0x12000;
const APIC_GIB: u64 = 0x13000;
const PRESENT_WRITE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;
const UNCACHED: u64 = 1 << 4;

/// The tables as (address, entry).
pub fn page_tables() -> Vec<(u64, u64)> {
    let mut entries = vec![
        (PML4, PDPT | PRESENT_WRITE),
        (PDPT, LOW_GIB | PRESENT_WRITE),
        (PDPT + 3 * 8, APIC_GIB | PRESENT_WRITE),
        (LOW_GIB, PRESENT_WRITE | LARGE_PAGE),
    ];
    for i in 0..512 {
        entries.push((APIC_GIB + i * 8, (3 << 30) | (i << 21) | PRESENT_WRITE | LARGE_PAGE | UNCACHED));
    }
    entries
}

/// The code.
pub fn code() -> &'static [u8] {
    unsafe extern "C" {
        static kiln_probe_start: u8;
        static kiln_probe_end: u8;
    }
    // SAFETY: both symbols are defined below, in this order, in one read-only section that lives as long as the
    // program.
    unsafe {
        let start = &raw const kiln_probe_start;
        std::slice::from_raw_parts(start, (&raw const kiln_probe_end).offset_from_unsigned(start))
    }
}

// Weak, since a test program may hold this crate twice (as itself and below kiln-lab): the two are the same bytes.
// The GDT's selectors: 0x08 32-bit code, 0x10 data, 0x18 64-bit code. Vectors: 0x40 self-IPI, 0x41 timer.
global_asm!(
    r#"
    .pushsection .rodata.kiln_probe, "a"
    .weak kiln_probe_start
    .hidden kiln_probe_start
    .weak kiln_probe_end
    .hidden kiln_probe_end
    .set origin, kiln_probe_start - 0x1000
    .macro report step
        movb $\step, %al
        movw $0x500, %dx
        outb %al, %dx
    .endm
    .macro wrong step
        movb $(0x80 | \step), %al
        movw $0x500, %dx
        outb %al, %dx
        hlt
    .endm

    .code16
kiln_probe_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x9000, %sp
    movw $1000, %cx
1:  addw %cx, %ax
    loop 1b
    pushw %ax
    movw $0x8ffe, %si
    movw $0x8f00, %di
    movsw
    popw %bx
    cmpw $(500500 & 0xffff), 0x8f00
    jne 2f
    cmpw $(500500 & 0xffff), %bx
    je 3f
2:  wrong 0
3:  report 0
    lgdtl (gdt_register - origin)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(protected - origin)

    .code32
protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x20000, %esp
    report 1
    pushfl
    pushl $0x08
    pushl $(returned - origin)
    iretl
returned:
    report 2
    movl %cr4, %eax
    orl $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0x10000, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xfffffffb, %eax      # EM off
    orl $0x80000022, %eax       # PG, NE, MP
    movl %eax, %cr0
    ljmpl $0x18, $(long_mode - origin)

    .code64
long_mode:
    movw $0x10, %ax
    movw %ax, %ss
    movl $0x20000, %esp
    report 3

    movq $0x30000, %rsi
    movq $1, (%rsi)
    movq $2, 8(%rsi)
    movl $1, %eax
    movl $2, %edx
    movl $3, %ebx
    movl $4, %ecx
    lock cmpxchg16b (%rsi)
    jne 4f
    cmpq $3, (%rsi)
    jne 4f
    cmpq $4, 8(%rsi)
    je 5f
4:  wrong 4
5:  report 4

    movdqu (%rsi), %xmm0
    paddq %xmm0, %xmm0
    movdqu %xmm0, 16(%rsi)
    cmpq $6, 16(%rsi)
    jne 6f
    cmpq $8, 24(%rsi)
    je 7f
6:  wrong 5
7:  report 5

    movl $0x14000 + 0x40 * 16, %edi
    movl $(ipi - origin), %eax
    call gate
    movl $0x14000 + 0x41 * 16, %edi
    movl $(timer - origin), %eax
    call gate
    lidt (idt_register - origin)
    movl $0xfee00000, %ebp      # local APIC (Intel SDM volume 3, 12.4)
    movl $0x1ff, 0xf0(%rbp)     # SVR: on
    movl $0, 0x80(%rbp)         # TPR: all
    xorl %r8d, %r8d
    sti
    movl $0x00044040, 0x300(%rbp)   # ICR: self, fixed, vector 0x40
    movl $100000000, %ecx
8:  testl $1, %r8d
    jnz 9f
    pause
    decl %ecx
    jnz 8b
    wrong 6
9:  report 6

    cli
    movl $0xb, 0x3e0(%rbp)      # timer: divide by 1
    movl $0x41, 0x320(%rbp)     # one shot, vector 0x41
    movl $1000000, 0x380(%rbp)  # about a millisecond
    sti
    hlt
    cli
    testl $2, %r8d
    jnz 10f
    wrong 7
10: report 7
    hlt

    # One interrupt gate at %rdi for the handler at %eax.
gate:
    movw %ax, (%rdi)
    movw $0x18, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    shrl $16, %eax
    movw %ax, 6(%rdi)
    movq $0, 8(%rdi)
    ret
ipi:
    orl $1, %r8d
    movl $0, 0xb0(%rbp)         # EOI
    iretq
timer:
    orl $2, %r8d
    movl $0, 0xb0(%rbp)
    iretq

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdt_register:
    .word 31
    .long gdt - origin
idt_register:
    .word 0x42 * 16 - 1
    .quad 0x14000
kiln_probe_end:
    .popsection
    "#,
    options(att_syntax)
);
